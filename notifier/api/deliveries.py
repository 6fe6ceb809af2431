"""Where each patient and each delivery stands. No name and no contact is ever told: they are sealed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ConfigDict, Field, StrictBool, model_validator
from pydantic.config import JsonDict
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.convertors import Convertor, register_url_convertor

from notifier import controlling, store
from notifier.api import answers
from notifier.api.answers import UNCHANGED, BodyId, Id, PathId, Words, single
from notifier.api.auth import Known, Operations, operations
from notifier.api.idempotency import Act, Acting
from notifier.api.lists import OwnCampaign
from notifier.api.pages import Page, Paging, after_of, page
from notifier.api.problems import documented
from notifier.controlling import Again, Chosen
from notifier.errors import NotFoundError
from notifier.models import Attempt, Campaign, Delivery, DeliveryPatient, Patient, Receipt, Tally
from notifier.states import Channel, Outcome
from notifier.states import Delivery as DeliveryState

patients = APIRouter(prefix="/api/v1", tags=["Patients"], responses=documented(401, 404, 422, 503))


class _Number(Convertor[str]):
    """Digits alone, so that a GET of `/replay` is a method not allowed, and not a delivery of that name."""

    regex = "[0-9]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("number", _Number())
deliveries = APIRouter(prefix="/api/v1/deliveries", tags=["Deliveries"], responses=documented(401, 422, 503))


class PatientQuery(Paging):
    """Which patients to list."""

    outcome: Outcome | None = None
    """Only those who stand here."""


class DeliveryQuery(Paging):
    """Which deliveries to list."""

    campaign: Id | None = None
    """Only of this campaign."""
    channel: Channel | None = None
    """Only over this channel."""
    state: DeliveryState | None = None
    """Only in this state."""


@patients.get(
    "/campaigns/{campaign_id}/patients", summary="List a campaign's patients", response_model=Page[answers.Patient]
)
def list_patients(
    own: OwnCampaign, known: Known, asked: Annotated[PatientQuery, Query()]
) -> Page[answers.Patient]:
    """Each by the row of the list that names them, with where they stand."""
    listing, outcomes = f"patients/{own}", Outcome if asked.outcome is None else (asked.outcome,)
    numbers = store.next_patients(own, after_of(listing, asked.cursor), asked.limit + 1, outcomes)
    with known.transaction() as session:
        statement = select(Patient).where(Patient.id.in_(numbers))
        return page(session, statement, Patient.id, asked, listing, answers.Patient.model_validate)


@patients.get(
    "/patients/{patient_id}",
    summary="Look at a patient",
    response_model=answers.PatientStatus,
    responses=UNCHANGED,
)
def get_patient(patient_id: PathId, known: Known, request: Request) -> Response:
    """Where one person stands, with every delivery for them."""
    theirs = (
        select(Delivery)
        .join(DeliveryPatient, DeliveryPatient.delivery_id == Delivery.id)
        .where(DeliveryPatient.patient_id == patient_id)
        .order_by(Delivery.id)
    )
    with known.transaction() as session:
        patient = session.get(Patient, patient_id)
        if patient is None:
            raise NotFoundError(f"There is no patient {patient_id}.")
        status = answers.PatientStatus.model_validate(patient)
        status.deliveries = [answers.DeliveryLine.model_validate(row) for row in session.scalars(theirs)]
    return single(request, status)


@deliveries.get("", summary="List deliveries", response_model=Page[answers.DeliveryLine])
def list_deliveries(known: Known, asked: Annotated[DeliveryQuery, Query()]) -> Page[answers.DeliveryLine]:
    """Of all campaigns the caller may see, or of one; by channel and state."""
    statement = select(Delivery)
    if asked.campaign is not None:
        statement = statement.where(Delivery.campaign_id == asked.campaign)
    elif known.doctor_id is not None:
        # Row-level security alone would walk through everybody's deliveries: ix_delivery_campaign finds theirs.
        statement = statement.where(Delivery.campaign_id.in_(select(Campaign.id)))
    if asked.channel is not None:
        statement = statement.where(Delivery.channel == asked.channel)
    if asked.state is not None:
        statement = statement.where(Delivery.state == asked.state)
    with known.transaction() as session:
        return page(session, statement, Delivery.id, asked, "deliveries", answers.DeliveryLine.model_validate)


# --- sending again; these paths stand before that of one delivery -----------------------------------------


def _either(*nulls_of_numbers: str) -> JsonDict:
    """What `_is_one_of_both` asks, for the OpenAPI document: a null is as good as nothing."""
    null: JsonDict = {"type": "null"}
    numbers: JsonDict = {
        "deliveries": {"type": "array", "items": {}},
        **dict.fromkeys(("campaign", *nulls_of_numbers), null),
    }
    campaign: JsonDict = {"deliveries": null, "campaign": {"type": "integer"}}
    return {
        "anyOf": [
            {"required": ["deliveries"], "properties": numbers},
            {"required": ["campaign"], "properties": campaign},
        ]
    }


class ChosenDeliveries(answers.Heard):
    """Some deliveries by their numbers, or all of one campaign."""

    model_config = ConfigDict(json_schema_extra=_either())

    deliveries: Annotated[list[BodyId], Field(min_length=1, max_length=1000)] | None = None
    campaign: BodyId | None = None
    """Instead of numbers."""
    reason: Words
    """Kept in the journal."""
    dry_run: StrictBool = False
    """Only say what would be done."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.deliveries is None) == (self.campaign is None):
            raise ValueError("either deliveries or a campaign is needed")
        return self


class Release(ChosenDeliveries):
    """What was set aside and is to be sent again."""

    even_told: StrictBool = False
    """Also to those whom another message told, or is about to tell."""


class Replay(Release):
    """What has failed and is to be sent again."""

    model_config = ConfigDict(json_schema_extra=_either("code"))

    state: Annotated[DeliveryState, Field(examples=["failed"])] = DeliveryState.FAILED
    """Of a campaign: failed, or unknown if it may go out twice."""
    code: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Of a campaign: only those that ended with this code."""
    possibly_twice: StrictBool = False
    """Also what may have arrived; it is then marked so."""

    @model_validator(mode="after")
    def _code_is_of_a_campaign(self) -> Self:
        if self.code is not None and self.campaign is None:
            raise ValueError("code goes with a campaign")
        return self


class ActedOn(answers.Said):
    """What was done with the chosen deliveries, or would be."""

    dry_run: bool
    count: int
    deliveries: list[int]
    """Of very many, the first thousand."""
    left: dict[str, int]
    """How many were left alone, by the reason."""


ACTING = documented(400, 403, 404, 409, 413, 415)


@deliveries.post(
    "/replay",
    summary="Send failed deliveries again",
    response_model=ActedOn,
    responses=ACTING,
    dependencies=[Depends(operations)],
)
def replay_deliveries(asked: Replay, act: Act) -> Response:
    """As if they had never been tried. Left alone is what may have arrived, and what nobody needs."""
    return _acted(
        act,
        asked,
        lambda session, chosen: controlling.replay(
            session,
            chosen,
            asked.state,
            actor=act.caller.actor,
            reason=asked.reason,
            now=datetime.now(UTC),
            possibly_twice=asked.possibly_twice,
            even_told=asked.even_told,
            dry_run=asked.dry_run,
        ),
        code=asked.code,
    )


@deliveries.get("/quarantine", summary="List what was set aside", response_model=Page[answers.DeliveryLine])
def list_quarantine(caller: Operations, asked: Annotated[Paging, Query()]) -> Page[answers.DeliveryLine]:
    """Deliveries that ended their worker again and again, or cannot be read; `reason` says which."""
    # Only campaigns that have some are looked through: `tally` names them.
    some = (
        select(Tally.campaign_id)
        .where(Tally.state == DeliveryState.QUARANTINED)
        .group_by(Tally.campaign_id)
        .having(func.sum(Tally.n) > 0)
    )
    statement = select(Delivery).where(Delivery.state == DeliveryState.QUARANTINED, Delivery.campaign_id.in_(some))
    with caller.transaction() as session:
        return page(session, statement, Delivery.id, asked, "quarantine", answers.DeliveryLine.model_validate)


@deliveries.post(
    "/quarantine/release",
    summary="Send again what was set aside",
    response_model=ActedOn,
    responses=ACTING,
    dependencies=[Depends(operations)],
)
def release_quarantine(asked: Release, act: Act) -> Response:
    """Once what it died of is mended. Its count of crashes begins anew."""
    return _acted(
        act,
        asked,
        lambda session, chosen: controlling.release(
            session,
            chosen,
            actor=act.caller.actor,
            reason=asked.reason,
            now=datetime.now(UTC),
            even_told=asked.even_told,
            dry_run=asked.dry_run,
        ),
    )


@deliveries.post(
    "/quarantine/give-up",
    summary="Give up what was set aside",
    response_model=ActedOn,
    responses=ACTING,
    dependencies=[Depends(operations)],
)
def give_up_quarantine(asked: ChosenDeliveries, act: Act) -> Response:
    """It has failed: the next channel takes over, or the letter list."""
    return _acted(
        act,
        asked,
        lambda session, chosen: controlling.give_up(
            session,
            chosen,
            actor=act.caller.actor,
            reason=asked.reason,
            now=datetime.now(UTC),
            dry_run=asked.dry_run,
        ),
    )


def _acted(
    act: Acting, asked: ChosenDeliveries, does: Callable[[Session, Chosen], Again], code: str | None = None
) -> Response:
    chosen = Chosen(ids=tuple(asked.deliveries or ()), campaign_id=asked.campaign, code=code)

    def run(session: Session) -> ActedOn:
        done = does(session, chosen)
        return ActedOn(dry_run=asked.dry_run, count=len(done.ids), deliveries=done.ids[:1000], left=done.left)

    return act.once(200, run)


@deliveries.get(
    "/{delivery_id:number}",
    summary="Look at a delivery",
    response_model=answers.DeliveryStatus,
    responses=documented(404) | UNCHANGED,
)
def get_delivery(delivery_id: PathId, known: Known, request: Request) -> Response:
    """With every attempt and every receipt: providers, codes and times, never the contact."""
    of_it = DeliveryPatient.delivery_id == delivery_id
    with known.transaction() as session:
        delivery = session.get(Delivery, delivery_id)
        if delivery is None:
            raise NotFoundError(f"There is no delivery {delivery_id}.")
        status = answers.DeliveryStatus.model_validate(delivery)
        status.patients = list(
            session.scalars(select(DeliveryPatient.patient_id).where(of_it).order_by(DeliveryPatient.patient_id))
        )
        attempts = select(Attempt).where(Attempt.delivery_id == delivery_id).order_by(Attempt.fence)
        status.attempts = [answers.Attempt.model_validate(row) for row in session.scalars(attempts)]
        receipts = select(Receipt).where(Receipt.delivery_id == delivery_id).order_by(Receipt.event_at, Receipt.id)
        status.receipts = [answers.Receipt.model_validate(row) for row in session.scalars(receipts)]
    return single(request, status)
