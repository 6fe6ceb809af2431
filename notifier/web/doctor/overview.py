"""What happened, what is asked of me, where I stand: one screen, one next step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import acts, store
from notifier.accounts import DOCTORS
from notifier.composing import Facts
from notifier.models import Campaign, Doctor, Incident, Journal, ListFile, TestSend
from notifier.profiles import Profile
from notifier.states import Campaign as State
from notifier.states import Outcome
from notifier.testsends import State as Sent
from notifier.web.doctor.common import DECIDES, campaign_of, clock, in_words, incident_of, page
from notifier.web.pages import Pages, Visit

pages = Pages()


class Step(StrEnum):
    """The way, in order."""

    LIST = "list"
    NOTICE = "notice"
    TEST = "test"
    APPROVE = "approve"
    SEND = "send"
    REST = "rest"


class Next(StrEnum):
    """The one thing to do now."""

    LIST = "list"
    #: the text lacks something only operations can give
    INCOMPLETE = "incomplete"
    TEST = "test"
    APPROVE = "approve"
    START = "start"
    FOLLOW = "follow"
    PAUSED = "paused"
    REST = "rest"
    PROOF = "proof"
    NOTHING = "nothing"


#: where each leads, below the campaign
LEADS = {
    Next.LIST: "/list",
    Next.INCOMPLETE: "/notice",
    Next.TEST: "/notice",
    Next.APPROVE: "/notice#approve",
    Next.START: "/progress",
    Next.FOLLOW: "/progress",
    Next.PAUSED: "/progress",
    Next.REST: "/unreached",
    Next.PROOF: "/proof",
}
STEP_LEADS = {
    Step.LIST: "/list",
    Step.NOTICE: "/notice",
    Step.TEST: "/notice#test",
    Step.APPROVE: "/notice#approve",
    Step.SEND: "/progress",
    Step.REST: "/unreached",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides where a campaign stands."""

    state: State
    has_list: bool
    is_complete: bool
    is_tested: bool
    is_started: bool
    unreached: int
    has_proof: bool

    @property
    def done(self) -> frozenset[Step]:
        """The steps that are behind."""
        is_approved = self.state not in (State.DRAFT, State.READY) and (
            self.is_started or self.state == State.APPROVED
        )
        facts = {
            Step.LIST: self.has_list,
            Step.NOTICE: self.is_complete and self.has_list,
            Step.TEST: self.is_tested or is_approved,
            Step.APPROVE: is_approved,
            Step.SEND: self.state == State.COMPLETED,
            Step.REST: self.state == State.COMPLETED and not self.unreached and self.has_proof,
        }
        return frozenset(step for step, is_done in facts.items() if is_done)

    @property
    def next(self) -> Next:
        """What is asked of the doctor now."""
        match self.state:
            case State.DRAFT | State.READY if not self.has_list:
                return Next.LIST
            case State.DRAFT | State.READY if not self.is_complete:
                return Next.INCOMPLETE
            case State.DRAFT | State.READY:
                return Next.APPROVE if self.is_tested else Next.TEST
            case State.APPROVED:
                return Next.START
            case State.SENDING:
                return Next.FOLLOW
            case State.PAUSED:
                return Next.PAUSED
            case State.COMPLETED | State.CANCELLED if self.is_started and self.unreached:
                return Next.REST
            case State.COMPLETED | State.CANCELLED if self.is_started and not self.has_proof:
                return Next.PROOF
            case _:
                return Next.NOTHING

    @property
    def current(self) -> Step | None:
        """The step that the next thing belongs to."""
        return next((step for step in Step if step not in self.done), None)


@pages.get("/doctor", allow=DOCTORS)
def home(visit: Visit) -> Response:
    with visit.transaction() as session:
        doctor = session.get_one(Doctor, visit.user.doctor_id)
        campaigns = session.execute(
            select(Campaign, Incident)
            .join(Incident, Incident.id == Campaign.incident_id)
            .order_by(Campaign.id.desc())
        ).all()
        if len(campaigns) == 1:
            return _overview(visit, session, campaigns[0][0])
        shown = [
            (campaign, incident, in_words(Facts.read(incident.facts).what_happened, visit.language))
            for campaign, incident in campaigns
        ]
    return visit.page("doctor/home.html", doctor=doctor, campaigns=shown)


@pages.get("/doctor/campaigns/{campaign_id:int}", allow=DOCTORS)
def overview(visit: Visit) -> Response:
    with visit.transaction() as session:
        return _overview(visit, session, campaign_of(visit, session))


def _overview(visit: Visit, session: Session, campaign: Campaign) -> Response:
    doctor = session.get_one(Doctor, campaign.doctor_id)
    incident, facts, profile = incident_of(visit, session, campaign)
    counts = store.outcome_counts(session, campaign.id)
    standing = standing_of(visit, session, campaign, counts[Outcome.UNREACHED])
    words = {name: in_words(getattr(facts, name), visit.language) for name in ("what_happened", "not_concerned")}
    return page(
        visit,
        "overview.html",
        campaign,
        doctor=doctor,
        incident=incident,
        facts=facts,
        words=words,
        categories=[line for category in facts.categories for line in in_words(category, visit.language)],
        counts=counts,
        standing=standing,
        steps=list(Step),
        leads=STEP_LEADS,
        lead=LEADS.get(standing.next, ""),
        is_mine=visit.standing in DECIDES or standing.next not in (Next.APPROVE, Next.START),
        **clock_values(visit, campaign, profile),
    )


def clock_values(visit: Visit, campaign: Campaign, profile: Profile) -> dict[str, object]:
    """The clock to the authority, and its name."""
    limit = profile.deadlines.authority
    authority = profile.authority.name.get(visit.language) or next(iter(profile.authority.name.values()))
    return {
        "clock": clock(campaign.created_at, limit, visit.now),
        "limit_h": int(limit.total_seconds() // 3600),
        "authority": authority,
        "authority_short": authority.split(" (")[0],
    }


def standing_of(visit: Visit, session: Session, campaign: Campaign, unreached: int) -> Standing:
    """Reads what decides; the notice is composed only while that can matter."""
    state = State(campaign.state)
    has_list = session.scalar(select(ListFile.id).where(ListFile.campaign_id == campaign.id).limit(1)) is not None
    is_complete = is_tested = True
    if state in (State.DRAFT, State.READY):
        draft = acts.draft(session, visit.site.settings, campaign.id)
        is_complete = not draft.composed.missing
        is_tested = bool(
            session.scalar(
                select(func.count()).where(
                    TestSend.campaign_id == campaign.id,
                    TestSend.state == Sent.ACCEPTED,
                    TestSend.notice_hash == draft.composed.hash,
                )
            )
        )
    proof = select(Journal.id).where(
        Journal.subject == f"campaign:{campaign.id}", Journal.action == "evidence.export"
    )
    return Standing(
        state,
        has_list,
        is_complete,
        is_tested,
        campaign.started_at is not None,
        unreached,
        session.scalar(proof.limit(1)) is not None,
    )
