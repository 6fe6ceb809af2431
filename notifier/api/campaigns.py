"""Campaigns: created by operations; imported, previewed, approved, started and stopped by their doctor too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier import acts, controlling, store, testsends
from notifier.api import answers
from notifier.api.answers import UNCHANGED, Id, PathId, single
from notifier.api.auth import Known, operations
from notifier.api.idempotency import Act
from notifier.api.pages import Page, Paging, page
from notifier.api.problems import documented
from notifier.errors import NotFoundError
from notifier.models import Campaign, ListFile
from notifier.notices import MAX_NAME
from notifier.states import Campaign as State
from notifier.states import Channel, Variant

router = APIRouter(prefix="/api/v1/campaigns", tags=["Campaigns"], responses=documented(401, 422, 503))


class CampaignQuery(Paging):
    """Which campaigns to list."""

    incident: Id | None = None
    """Only of this incident."""
    doctor: Id | None = None
    """Only of this doctor."""
    state: State | None = None
    """Only in this state."""


@router.post(
    "",
    summary="Create a campaign",
    status_code=201,
    response_model=answers.CampaignLine,
    responses=documented(400, 403, 404, 409, 413, 415),
    dependencies=[Depends(operations)],
)
def create_campaign(new: answers.NewCampaign, act: Act) -> Response:
    """One doctor has one campaign for one incident."""
    master = act.caller.context.settings.master

    def create(session: Session) -> answers.CampaignLine:
        made = controlling.create(session, master, new.incident, new.doctor, actor=act.caller.actor)
        return _line(session, made)

    return act.once(201, create, location="/api/v1/campaigns/{id}")


@router.get("", summary="List campaigns", response_model=Page[answers.CampaignLine])
def list_campaigns(known: Known, asked: Annotated[CampaignQuery, Query()]) -> Page[answers.CampaignLine]:
    """A doctor sees their own. Counts come with a single campaign."""
    statement = select(Campaign)
    if asked.incident is not None:
        statement = statement.where(Campaign.incident_id == asked.incident)
    if asked.doctor is not None:
        statement = statement.where(Campaign.doctor_id == asked.doctor)
    if asked.state is not None:
        statement = statement.where(Campaign.state == asked.state)
    with known.transaction() as session:
        return page(session, statement, Campaign.id, asked, "campaigns", answers.CampaignLine.model_validate)


@router.get(
    "/{campaign_id}",
    summary="Look at a campaign",
    response_model=answers.CampaignStatus,
    responses=documented(404) | UNCHANGED,
)
def get_campaign(campaign_id: PathId, known: Known, request: Request) -> Response:
    """With counts that add up, deliveries by channel and state, and its lists."""
    with known.transaction() as session:
        campaign = session.get(Campaign, campaign_id)
        if campaign is None:
            raise NotFoundError(f"There is no campaign {campaign_id}.")
        lists = session.scalars(
            select(ListFile).where(ListFile.campaign_id == campaign_id).order_by(ListFile.id)
        ).all()
        whole = answers.CampaignStatus.model_validate(
            {
                **answers.CampaignLine.model_validate(campaign).model_dump(),
                "counts": store.outcome_counts(session, campaign_id),
                "deliveries": store.delivery_counts(session, campaign_id),
                "lists": lists,
            }
        )
    return single(request, whole)


class PreviewQuery(answers.Heard):
    """For whom to preview. Use a made-up name."""

    name: Annotated[str, Field(max_length=MAX_NAME, description="A made-up name; empty: as without a name.")] = ""
    language: Annotated[
        str | None, Field(pattern="^[a-z]{2}$", description="By default the first the patients need.")
    ] = None
    variant: Variant | None = None
    """By default the first the patients need."""


@router.get(
    "/{campaign_id}/preview",
    summary="Preview the notice",
    response_model=answers.Preview,
    responses=documented(404) | UNCHANGED,
)
def preview_notice(
    campaign_id: PathId, known: Known, asked: Annotated[PreviewQuery, Query()], request: Request
) -> Response:
    """The texts as one person would get them, what is missing, and the hash to approve. Changes nothing."""
    with known.transaction() as session:
        draft = acts.draft(session, known.context.settings, campaign_id)
    written = draft.composed.notices
    language = asked.language or written[0].language
    variant = asked.variant or written[0].variant
    shown = answers.Preview.model_validate(
        {
            "hash": draft.hash,
            "complete": not draft.composed.missing,
            "texts": draft.preview(asked.name, language, variant),
            "missing": draft.composed.missing,
            "warnings": draft.composed.warnings,
            "written": written,
        }
    )
    return single(request, shown)


class NewTest(answers.Heard):
    """Where to send the notice as it stands: an address of your own."""

    to: Annotated[str, StringConstraints(min_length=3, max_length=320), Field(examples=["me@example.org"])]
    """An email address or a mobile number."""
    channel: Channel | None = None
    """By default what the address is."""
    language: Annotated[str, StringConstraints(pattern="^[a-z]{2}$")] | None = None
    """By default the first the patients need."""
    variant: Variant | None = None


class Test(answers.Said):
    """One test send. Where it went is sealed and told to nobody."""

    id: int
    campaign: int = Field(validation_alias="campaign_id")
    channel: Channel
    language: str
    variant: Variant
    state: testsends.State
    code: str | None
    """How it ended; "on_hold:…": not sent, because that is on hold."""
    hash: Annotated[answers.Hex, Field(validation_alias="notice_hash")]
    """The notice that was sent: what would be approved."""
    asked_at: answers.Instant
    ended_at: answers.Instant | None


@router.post(
    "/{campaign_id}/tests",
    summary="Send yourself a test",
    status_code=202,
    response_model=Test,
    responses=documented(400, 404, 409, 413, 415),
)
def send_test(campaign_id: PathId, new: NewTest, act: Act) -> Response:
    """Queues one message with the notice as it stands, marked as a test; its own address says how it ended."""
    settings = act.caller.context.settings

    def ask(session: Session) -> Test:
        draft = acts.draft(session, settings, campaign_id)
        first = draft.composed.notices[0]
        made = testsends.ask(
            session,
            settings.master,
            draft.campaign,
            draft.preview(testsends.MADE_UP_NAME, new.language or first.language, new.variant or first.variant),
            to=new.to,
            channel=new.channel,
            notice_hash=draft.hash,
            region=settings.default_region,
            actor=act.caller.actor,
            now=datetime.now(UTC),
        )
        return Test.model_validate(made)

    return act.once(202, ask, location=f"/api/v1/campaigns/{campaign_id}/tests/{{id}}")


@router.get(
    "/{campaign_id}/tests/{test_id}",
    summary="Look at a test",
    response_model=Test,
    responses=documented(404) | UNCHANGED,
)
def get_test(campaign_id: PathId, test_id: PathId, known: Known, request: Request) -> Response:
    """Queued, sending, then accepted, refused or unknown; none is ever repeated by itself."""
    with known.transaction() as session:
        return single(request, Test.model_validate(testsends.find(session, campaign_id, test_id)))


@router.post(
    "/{campaign_id}/approve",
    summary="Approve the notice",
    response_model=answers.CampaignLine,
    responses=documented(400, 404, 409, 413, 415),
)
def approve_notice(campaign_id: PathId, approval: answers.Approval, act: Act) -> Response:
    """Freezes the text that was previewed; if it has changed since, or lacks a part, nothing happens (409)."""

    def approve(session: Session) -> answers.CampaignLine:
        campaign = acts.approve(
            session,
            act.caller.context.settings,
            campaign_id,
            expected_hash=approval.hash,
            actor=act.caller.actor,
            now=datetime.now(UTC),
        )
        return _line(session, campaign)

    return act.once(200, approve)


@router.post(
    "/{campaign_id}/start",
    summary="Start sending",
    response_model=answers.Started,
    responses=documented(400, 404, 409, 413, 415),
)
def start_campaign(campaign_id: PathId, act: Act) -> Response:
    """Makes a delivery for every patient who can be reached, and sends; the campaign must be approved."""

    def start(session: Session) -> answers.Started:
        made = acts.start(session, campaign_id, actor=act.caller.actor, now=datetime.now(UTC))
        line = _line(session, session.get_one(Campaign, campaign_id))
        return answers.Started(**line.model_dump(), deliveries=made)

    return act.once(200, start)


@router.post(
    "/{campaign_id}/pause",
    summary="Pause sending",
    response_model=answers.CampaignLine,
    responses=documented(400, 404, 409, 413, 415),
)
def pause_campaign(campaign_id: PathId, why: answers.Reason, act: Act) -> Response:
    """No message of this campaign goes out later than a second after the answer."""
    return act.once(
        200,
        lambda session: _line(
            session, controlling.pause(session, campaign_id, actor=act.caller.actor, reason=why.reason)
        ),
    )


@router.post(
    "/{campaign_id}/resume",
    summary="Resume sending",
    response_model=answers.CampaignLine,
    responses=documented(400, 404, 409, 413, 415),
)
def resume_campaign(campaign_id: PathId, act: Act) -> Response:
    """Goes on where it stopped; nobody who was told is told again."""
    return act.once(
        200, lambda session: _line(session, controlling.resume(session, campaign_id, actor=act.caller.actor))
    )


@router.post(
    "/{campaign_id}/cancel",
    summary="Cancel for good",
    response_model=answers.CampaignLine,
    responses=documented(400, 404, 409, 413, 415),
)
def cancel_campaign(campaign_id: PathId, why: answers.Reason, act: Act) -> Response:
    """Who was told stays told, nobody else will be; a cancelled campaign cannot be taken up again."""

    def cancel(session: Session) -> answers.CampaignLine:
        campaign = controlling.cancel(
            session, campaign_id, actor=act.caller.actor, reason=why.reason, now=datetime.now(UTC)
        )
        return _line(session, campaign)

    return act.once(200, cancel)


def _line(session: Session, campaign: Campaign) -> answers.CampaignLine:
    session.flush()
    session.refresh(campaign)
    return answers.CampaignLine.model_validate(campaign)
