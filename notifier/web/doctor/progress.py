"""How the sending goes: six numbers that add up and move by themselves; start, pause, resume, cancel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import acts, controlling, standing, store
from notifier.accounts import DOCTORS
from notifier.errors import ConflictError, InputError
from notifier.models import Campaign
from notifier.states import Campaign as State
from notifier.states import Channel, Delivery
from notifier.watching import EVERYTHING
from notifier.web.doctor.common import BEFORE_START, DECIDES, campaign_of, page
from notifier.web.pages import Pages, Visit

pages = Pages()

_PATH = "/doctor/campaigns/{campaign_id:int}/progress"
#: states of a campaign in which its numbers move
_MOVING = (State.SENDING, State.PAUSED)
#: how many characters of a reason are kept
_MOST_REASON = 300

#: what a message's states come to, for a doctor
STAGES = {
    "waiting": (Delivery.PENDING,),
    "sent": (Delivery.SENDING, Delivery.UNKNOWN, Delivery.ACCEPTED),
    "delivered": (Delivery.DELIVERED,),
    "failed": (Delivery.FAILED,),
    "stopped": (Delivery.CANCELLED, Delivery.QUARANTINED),
}


@pages.get(_PATH, allow=DOCTORS)
def progress(visit: Visit) -> Response:
    """With `?still=1` it does not move by itself (WCAG 2.2, 2.2.2)."""
    with visit.transaction() as session:
        return _page(visit, session, campaign_of(visit, session))


@pages.part(f"{_PATH}/numbers", allow=DOCTORS)
def numbers(visit: Visit) -> Response:
    """The numbers alone, and what becomes of the campaign."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        return page(visit, "numbers_part.html", campaign, **_numbers(visit, session, campaign))


def _page(visit: Visit, session: Session, campaign: Campaign, status: int = 200, wrong: str = "") -> Response:
    state = State(campaign.state)
    return page(
        visit,
        "progress.html",
        campaign,
        status,
        decides=visit.standing in DECIDES,
        can_pause=state == State.SENDING,
        can_resume=state == State.PAUSED,
        can_cancel=state in (State.SENDING, State.PAUSED),
        wrong=visit.say(wrong) if wrong else "",
        **_numbers(visit, session, campaign),
    )


def _numbers(visit: Visit, session: Session, campaign: Campaign) -> dict[str, object]:
    counts = store.outcome_counts(session, campaign.id)
    by_state = store.delivery_counts(session, campaign.id)
    is_moving = campaign.state in _MOVING
    stops = _stops(session, campaign) if is_moving else {}
    to_tell = counts["informed"] + counts["on_the_way"] + counts["unreached"]
    return {
        "counts": counts,
        "to_tell": to_tell,
        # rounded down: nobody reads "100 %" while somebody is left
        "percent": counts["informed"] * 100 // to_tell if to_tell else 0,
        "stages": {
            str(channel): {
                name: sum(by_state[channel][state] for state in states) for name, states in STAGES.items()
            }
            for channel in Channel
            if any(by_state[channel].values())
        },
        "stops": stops,
        "stops_all": EVERYTHING in stops or stops.keys() >= set(campaign.plan),
        "is_before": campaign.state in BEFORE_START,
        "is_moving": is_moving,
        "is_still": visit.request.query_params.get("still") == "1",
        "seen_at": visit.now,
    }


def _stops(session: Session, campaign: Campaign) -> dict[str, datetime]:
    """What operations have stopped of this campaign, and since when: everything, or channels of its plan."""
    since = {hold.scope: hold.since for hold in standing.holds(session)}
    if EVERYTHING in since:
        return {EVERYTHING: since[EVERYTHING]}
    scopes = {channel: f"channel:{channel}" for channel in campaign.plan}
    return {channel: since[scope] for channel, scope in scopes.items() if scope in since}


@pages.post(f"{_PATH}/start", allow=DECIDES)
def start(visit: Visit) -> Response:
    return _act(
        visit,
        "start",
        lambda session, campaign_id: acts.start(session, campaign_id, actor=visit.actor, now=visit.now),
    )


@pages.post(f"{_PATH}/pause", allow=DOCTORS)
def pause(visit: Visit) -> Response:
    """A secretary may stop, too: whoever sees something wrong first."""
    reason = visit.text("reason")[:_MOST_REASON]
    return _act(
        visit,
        "pause",
        lambda session, campaign_id: controlling.pause(session, campaign_id, actor=visit.actor, reason=reason),
    )


@pages.post(f"{_PATH}/resume", allow=DECIDES)
def resume(visit: Visit) -> Response:
    return _act(
        visit, "resume", lambda session, campaign_id: controlling.resume(session, campaign_id, actor=visit.actor)
    )


@pages.post(f"{_PATH}/cancel", allow=DECIDES)
def cancel(visit: Visit) -> Response:
    reason = visit.text("reason")[:_MOST_REASON]
    return _act(
        visit,
        "cancel",
        lambda session, campaign_id: controlling.cancel(
            session, campaign_id, actor=visit.actor, reason=reason, now=visit.now
        ),
        is_sure=visit.text("sure") == "yes",
    )


def _act(visit: Visit, name: str, act: Callable[[Session, int], object], *, is_sure: bool = True) -> Response:
    """Does it, or shows the page again with why not; the words of both are the act's."""
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        if not is_sure:
            return _page(visit, session, campaign, 422, "doctor.progress_tick")
        try:
            with session.begin_nested():
                act(session, campaign.id)
        except InputError:
            session.refresh(campaign)
            return _page(visit, session, campaign, 422, "doctor.progress_reason")
        except ConflictError:
            session.refresh(campaign)
            return _page(visit, session, campaign, 409, f"doctor.progress_not_{name}")
    return visit.redirect(f"/doctor/campaigns/{campaign.id}/progress", said=f"doctor.progress_did_{name}")
