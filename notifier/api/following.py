"""For programs that follow: what has changed since a cursor, the whole of a campaign at once, and callbacks."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from notifier import feed, store
from notifier.api import answers
from notifier.api.answers import BodyId, Id, Instant, PathId
from notifier.api.auth import Caller, Known
from notifier.api.caller import Caller as Messenger
from notifier.api.idempotency import Act
from notifier.api.lists import OwnCampaign
from notifier.api.pages import Page, Paging, page
from notifier.api.problems import documented
from notifier.errors import ForbiddenError, NotFoundError
from notifier.feed import Cursor
from notifier.models import Callback, Campaign
from notifier.states import Campaign as State
from notifier.states import Channel, Outcome
from notifier.states import Delivery as DeliveryState

changes = APIRouter(prefix="/api/v1", tags=["Changes"], responses=documented(401, 422, 503))
callbacks = APIRouter(prefix="/api/v1/callbacks", tags=["Callbacks"], responses=documented(401, 422, 503))

#: how long a caller may wait for something new
MOST_WAIT_S = 25
_LOOK_S = 1.0
_AT_ONCE = 1000
#: of zlib: with gzip's header, and the largest window
_GZIP = 16 + zlib.MAX_WBITS


#: a cursor of `/changes`
Place = Annotated[str, Field(max_length=50, json_schema_extra={"pattern": feed.CURSOR})]


class PatientChange(answers.Said):
    """Where a patient stands now."""

    patient: int
    row: int
    outcome: Outcome
    reason: str | None
    at: Instant | None


class CampaignChange(answers.Said):
    """A campaign of which something has changed, with the patients whose outcome has."""

    campaign: int
    doctor: int
    state: State
    reason: str | None
    patients: list[PatientChange]


class Changes(answers.Said):
    """What has changed; `next` is the `after` of the next question."""

    campaigns: list[CampaignChange]
    next: str
    has_more: bool
    """Ask again at once."""


class ChangesQuery(BaseModel):
    """Since when, of what, and how long to wait."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    after: Annotated[Place | None, Field(description="`next` of the last answer; without it, from now on.")] = None
    campaign: Id | None = None
    """Only of this campaign."""
    wait: Annotated[
        int, Field(ge=0, le=MOST_WAIT_S, description="Seconds to wait for a change if there is none yet.")
    ] = 0


@changes.get("/changes", summary="What has changed", response_model=Changes, responses=documented(404))
async def list_changes(known: Known, asked: Annotated[ChangesQuery, Query()], request: Request) -> Changes:
    """Outcomes of patients and states of campaigns, as they stand now, in the order in which they changed. Without
    `after` nothing but a cursor: read the listings then, and follow from it. A change may be told twice, none is
    left out for 30 days."""
    deadline = asyncio.get_running_loop().time() + asked.wait
    while True:
        found = await run_in_threadpool(_look, known, asked)
        left = deadline - asyncio.get_running_loop().time()
        if found.campaigns or asked.after is None or left <= 0 or await request.is_disconnected():
            return found
        await asyncio.sleep(min(left, _LOOK_S))


def _look(known: Caller, asked: ChangesQuery) -> Changes:
    with known.transaction() as session:
        if asked.campaign is not None and session.get(Campaign, asked.campaign) is None:
            raise NotFoundError(f"There is no campaign {asked.campaign}.")
        if asked.after is None:
            return Changes(campaigns=[], next=str(feed.now_cursor(session)), has_more=False)
        found = feed.read(session, Cursor.parse(asked.after), campaign=asked.campaign, doctor=known.doctor_id)
    return Changes(
        campaigns=[CampaignChange.model_validate(one) for one in found.campaigns],
        next=str(found.next),
        has_more=found.has_more,
    )


class ExportedDelivery(answers.Said):
    """One notice to one contact over one channel."""

    id: int
    channel: Channel
    state: DeliveryState
    reason: str | None
    tries: int
    possibly_twice: bool
    first_tried_at: Instant | None
    receipt_at: Instant | None


class ExportedPatient(answers.Said):
    """A line of an export: one person with every delivery for them."""

    id: int
    row: int
    outcome: Outcome
    reason: str | None
    at: Instant | None
    language: str
    has_postal: bool
    deliveries: list[ExportedDelivery]


class ExportEnd(answers.Said):
    """The last line of an export that is whole."""

    end: Literal[True]
    patients: int
    """How many lines came before."""


#: of a stream there is no word in OpenAPI 3.1 for "each line": it is described as the list of its lines
_NDJSON: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One JSON object a line.",
        "content": {
            "application/x-ndjson": {
                "schema": {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            {"$ref": f"#/components/schemas/{model.__name__}"}
                            for model in (ExportedPatient, ExportEnd)
                        ]
                    },
                }
            }
        },
    }
}
#: a patient and every delivery for them
_EXPORT = text(
    """
    SELECT p.id, p.row, p.outcome, p.outcome_reason AS reason, p.outcome_at AS at, p.language, p.has_postal,
           coalesce((
               SELECT jsonb_agg(jsonb_build_object(
                   'id', d.id, 'channel', d.channel, 'state', d.state, 'reason', d.reason, 'tries', d.tries,
                   'possibly_twice', d.possibly_twice, 'first_tried_at', d.first_tried_at,
                   'receipt_at', d.receipt_at) ORDER BY d.id)
               FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id WHERE dp.patient_id = p.id
           ), '[]') AS deliveries
    FROM patient p WHERE p.id = ANY(:ids) ORDER BY p.id
    """
)


@changes.get(
    "/campaigns/{campaign_id}/export",
    summary="All patients of a campaign",
    response_class=StreamingResponse,
    responses=documented(404) | _NDJSON,
)
def export(own: OwnCampaign, known: Known, request: Request) -> StreamingResponse:
    """Each with their deliveries, one JSON object a line (NDJSON), compressed if the caller takes gzip. Streamed:
    a campaign of any size. The last line is `{"end": true, "patients": n}`: without it, something broke off."""
    headers = {"Vary": "Accept-Encoding"}
    lines = _lines(known, own)
    accepted = {part.partition(";")[0].strip() for part in request.headers.get("accept-encoding", "").split(",")}
    if "gzip" in accepted:
        headers["Content-Encoding"] = "gzip"
        lines = _gzipped(lines)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    # One member for all: RFC 1952 §2.2 allows several, but curl and httpx stop after the first, and say nothing.
    packed = zlib.compressobj(level=5, wbits=_GZIP)
    for piece in pieces:
        yield packed.compress(piece) + packed.flush(zlib.Z_SYNC_FLUSH)
    yield packed.flush()


def _lines(known: Caller, campaign_id: int) -> Iterator[bytes]:
    after, patients = 0, 0
    while True:
        with known.transaction() as session:
            ids = session.scalars(store.next_patients(campaign_id, after, _AT_ONCE)).all()
            rows = [dict(row) for row in session.execute(_EXPORT, {"ids": ids}).mappings()]
        patients += len(rows)
        piece = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z) for row in rows)
        if len(rows) < _AT_ONCE:
            yield piece + orjson.dumps({"end": True, "patients": patients}) + b"\n"
            return
        yield piece
        after = rows[-1]["id"]


# --- callbacks -------------------------------------------------------------------------------------------


_URI: dict[str, JsonValue] = {"format": "uri"}


class NewCallback(answers.Heard):
    """Where your software takes messages."""

    url: Annotated[
        str,
        Field(
            min_length=1, max_length=500, examples=["https://practice.example.org/notices"], json_schema_extra=_URI
        ),
    ]
    """https://host/path"""
    doctor: BodyId | None = None
    """Only this doctor's; by a doctor's key always their own."""


class CallbackLine(answers.Said):
    """An address that is told of changes."""

    id: int
    doctor: int | None = Field(validation_alias="doctor_id")
    url: str
    state: Annotated[str, Field(examples=["active"])]
    """"stopped": it took nothing for too long, or asked for no more."""
    tries: int
    """How often the message at hand was not taken."""
    failing_since: Instant | None
    due_at: Instant
    """When it is tried next, if there is anything new."""
    last_code: str | None
    """How the last message ended: http_200, timeout, connect_failed, unknown_host, private_address."""
    last_at: Instant | None
    created_at: Instant


class MadeCallback(CallbackLine):
    secret: str | None = None
    """`whsec_…`: signs each message (Standard Webhooks). Told in this answer only."""


class Tried(answers.Said):
    """How a test message ended."""

    code: str
    taken: bool


class FromWhere(answers.Heard):
    """From where to tell again."""

    after: Place = str(feed.START)
    """A cursor of `/changes`; without it everything of the last 30 days."""


@callbacks.post(
    "",
    summary="Be told of changes",
    status_code=201,
    response_model=MadeCallback,
    responses=documented(400, 403, 404, 409, 413, 415),
)
def create_callback(new: NewCallback, act: Act) -> Response:
    """Each change from now on is sent to this address as a POST, signed, until it answers 2xx; see the guide."""
    caller = act.caller
    if caller.doctor_id is not None and new.doctor not in (None, caller.doctor_id):
        raise ForbiddenError("A doctor's key makes callbacks of that doctor only.")
    settings = caller.context.settings

    def create(session: Session) -> MadeCallback:
        made, secret = feed.create(
            session,
            settings.master,
            new.url,
            caller.doctor_id or new.doctor,
            actor=caller.actor,
            allow_private=settings.callbacks.allow_private,
        )
        answer = MadeCallback.model_validate(made)
        answer.secret = secret
        return answer

    return act.once(201, create, location="/api/v1/callbacks/{id}", kept=_without_secret)


def _without_secret(answer: BaseModel) -> BaseModel:
    return answer.model_copy(update={"secret": None})


@callbacks.get("", summary="List callbacks", response_model=Page[CallbackLine])
def list_callbacks(known: Known, asked: Annotated[Paging, Query()]) -> Page[CallbackLine]:
    """With how the last message to each ended."""
    with known.transaction() as session:
        return page(session, select(Callback), Callback.id, asked, "callbacks", CallbackLine.model_validate)


@callbacks.get(
    "/{callback_id}",
    summary="Look at a callback",
    response_model=CallbackLine,
    responses=documented(404) | answers.UNCHANGED,
)
def get_callback(callback_id: PathId, known: Known, request: Request) -> Response:
    """How it stands."""
    with known.transaction() as session:
        found = session.get(Callback, callback_id)
        if found is None:
            raise NotFoundError(f"There is no callback {callback_id}.")
        return answers.single(request, CallbackLine.model_validate(found))


@callbacks.delete("/{callback_id}", summary="Be told no more", status_code=204, responses=documented(404))
def delete_callback(callback_id: PathId, known: Known) -> Response:
    """A message that is on its way still arrives."""
    with known.transaction() as session:
        feed.delete(session, callback_id, actor=known.actor)
    return Response(status_code=204)


@callbacks.post(
    "/{callback_id}/test",
    summary="Send a test message",
    response_model=Tried,
    responses=documented(400, 404, 413, 415),
)
async def test_callback(callback_id: PathId, known: Known) -> Tried:
    """A message of type `ping`, sent now and once; how it ended is told, and nothing is kept."""
    context = known.context

    def made() -> feed.Call:
        with known.transaction() as session:
            return feed.ping(session, context.settings.master, callback_id, now=datetime.now(UTC))

    call = await run_in_threadpool(made)
    answer = await Messenger(context.settings, context.database).ping(call)
    return Tried(code=answer.code, taken=answer.taken)


@callbacks.post(
    "/{callback_id}/replay",
    summary="Tell again from a place",
    response_model=CallbackLine,
    responses=documented(400, 404, 409, 413, 415),
)
def replay_callback(callback_id: PathId, wanted: FromWhere, act: Act) -> Response:
    """Also one that was stopped. What is told is where patients stand now."""
    after = Cursor.parse(wanted.after)

    def replay(session: Session) -> CallbackLine:
        found = feed.replay(session, callback_id, after, actor=act.caller.actor, now=datetime.now(UTC))
        session.refresh(found)
        return CallbackLine.model_validate(found)

    return act.once(200, replay)


@callbacks.post(
    "/{callback_id}/resume",
    summary="Try again now",
    response_model=CallbackLine,
    responses=documented(400, 404, 409, 413, 415),
)
def resume_callback(callback_id: PathId, act: Act) -> Response:
    """From where it stopped; nothing of the last 30 days is left out."""

    def resume(session: Session) -> CallbackLine:
        found = feed.resume(session, callback_id, actor=act.caller.actor, now=datetime.now(UTC))
        session.refresh(found)
        return CallbackLine.model_validate(found)

    return act.once(200, resume)
