"""Where each patient and each delivery stands. No name and no contact is ever told: they are sealed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select

from notifier.api import answers
from notifier.api.answers import UNCHANGED, Id, PathId, single
from notifier.api.auth import Known
from notifier.api.lists import OwnCampaign
from notifier.api.pages import Page, Paging, page
from notifier.api.problems import documented
from notifier.errors import NotFoundError
from notifier.models import Attempt, Campaign, Delivery, DeliveryPatient, Patient, Receipt
from notifier.states import Channel, Outcome
from notifier.states import Delivery as DeliveryState

patients = APIRouter(prefix="/api/v1", tags=["Patients"], responses=documented(401, 404, 422, 503))
deliveries = APIRouter(prefix="/api/v1/deliveries", tags=["Deliveries"], responses=documented(401, 422, 503))


class PatientQuery(Paging):
    """Which patients to list."""

    outcome: Outcome | None = None


class DeliveryQuery(Paging):
    """Which deliveries to list."""

    campaign: Id | None = None
    channel: Channel | None = None
    state: DeliveryState | None = None


@patients.get(
    "/campaigns/{campaign_id}/patients", summary="List a campaign's patients", response_model=Page[answers.Patient]
)
def list_patients(
    own: OwnCampaign, known: Known, asked: Annotated[PatientQuery, Query()]
) -> Page[answers.Patient]:
    """Each by the row of the list that names them, with where they stand."""
    statement = select(Patient).where(Patient.campaign_id == own)
    if asked.outcome is not None:
        statement = statement.where(Patient.outcome == asked.outcome)
    with known.transaction() as session:
        return page(session, statement, Patient.id, asked, f"patients/{own}", answers.Patient.model_validate)


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


@deliveries.get(
    "/{delivery_id}",
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
        attempts = select(Attempt).where(Attempt.delivery_id == delivery_id).order_by(Attempt.id)
        status.attempts = [answers.Attempt.model_validate(row) for row in session.scalars(attempts)]
        receipts = select(Receipt).where(Receipt.delivery_id == delivery_id).order_by(Receipt.event_at, Receipt.id)
        status.receipts = [answers.Receipt.model_validate(row) for row in session.scalars(receipts)]
    return single(request, status)
