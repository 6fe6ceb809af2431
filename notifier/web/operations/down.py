"""From all campaigns down to one delivery's whole life, without seeing whom it is for."""

from __future__ import annotations

from starlette.responses import Response

from notifier import following
from notifier.accounts import STAFF, Role
from notifier.errors import MissingKeyError, NotFoundError, SealingError
from notifier.following import PAGE
from notifier.states import Campaign as State
from notifier.states import Channel
from notifier.states import Delivery as DeliveryState
from notifier.web.operations import words
from notifier.web.pages import Pages, Visit

pages = Pages()


def _after(visit: Visit) -> int:
    asked = visit.request.query_params.get("after", "")
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else 0


@pages.get("/operations/campaigns", allow=STAFF)
def campaigns(visit: Visit) -> Response:
    """All campaigns, or those in one state or of one doctor, in pages."""
    asked = visit.request.query_params
    state = asked.get("state", "")
    chosen = State(state) if state in set(State) else None
    doctor = asked.get("doctor", "").strip()[:100]
    with visit.transaction() as session:
        found = following.campaigns(session, state=chosen, doctor=doctor, after=_after(visit), most=PAGE + 1)
        stopped = words.held(session)
    return words.shown(
        visit,
        "operations/campaigns.html",
        stopped,
        rows=found[:PAGE],
        after=found[PAGE - 1].id if len(found) > PAGE else None,
        state=chosen or "",
        doctor=doctor,
        states=list(State),
    )


@pages.get("/operations/find", allow=STAFF)
def find(visit: Visit) -> Response:
    """Straight to a campaign or a delivery by its number."""
    asked = visit.request.query_params
    number = asked.get("number", "").strip()
    kind = "deliveries" if asked.get("what") == "delivery" else "campaigns"
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise NotFoundError("That is no number.")
    return visit.redirect(f"/operations/{kind}/{int(number)}")


@pages.get("/operations/campaigns/{campaign_id:int}", allow=STAFF)
def campaign(visit: Visit) -> Response:
    with visit.transaction() as session:
        found = following.whole(session, visit.number("campaign_id"))
        stopped = words.held(session)
    return words.shown(
        visit,
        "operations/campaign.html",
        stopped,
        whole=found,
        states=list(DeliveryState),
        most=following.MOST_FAILED,
    )


@pages.get("/operations/campaigns/{campaign_id:int}/deliveries", allow=STAFF)
def deliveries(visit: Visit) -> Response:
    """Of one campaign, by state and code, in pages."""
    number = visit.number("campaign_id")
    asked = visit.request.query_params
    state = asked.get("state", "")
    chosen = DeliveryState(state) if state in set(DeliveryState) else None
    code = asked.get("code", "").strip()[:100]
    with visit.transaction() as session:
        whole = following.brief(session, number)
        found = following.deliveries(session, number, state=chosen, code=code, after=_after(visit), most=PAGE + 1)
        stopped = words.held(session)
    return words.shown(
        visit,
        "operations/deliveries.html",
        stopped,
        campaign=whole,
        rows=found[:PAGE],
        after=found[PAGE - 1].id if len(found) > PAGE else None,
        state=chosen or "",
        code=code,
        states=list(DeliveryState),
    )


@pages.get("/operations/set-aside", allow=STAFF)
def set_aside(visit: Visit) -> Response:
    """What was quarantined: to be released or given up."""
    with visit.transaction() as session:
        found = following.set_aside(session, after=_after(visit), most=PAGE + 1)
        stopped = words.held(session)
    return words.shown(
        visit,
        "operations/set_aside.html",
        stopped,
        rows=found[:PAGE],
        after=found[PAGE - 1].id if len(found) > PAGE else None,
    )


@pages.get("/operations/failed", allow=STAFF)
def failed(visit: Visit) -> Response:
    """Campaigns with failed deliveries, most of them first."""
    with visit.transaction() as session:
        found = following.failing(session)
        stopped = words.held(session)
    return words.shown(visit, "operations/failed.html", stopped, rows=found)


@pages.get("/operations/deliveries/{delivery_id:int}", allow=STAFF)
def delivery(visit: Visit) -> Response:
    return _life(visit)


def _life(visit: Visit, contact: str = "", wrong: str = "", status: int = 200) -> Response:
    carries = {str(Channel.EMAIL): visit.site.settings.email_provider, str(Channel.SMS): "brevo-sms"}
    with visit.transaction() as session:
        found = following.life(session, visit.number("delivery_id"), carries)
        stopped = words.held(session)
    return words.shown(
        visit, "operations/delivery.html", stopped, status, life=found, contact=contact, wrong=wrong
    )


@pages.post("/operations/deliveries/{delivery_id:int}/contact", allow={Role.OPERATOR})
def unmask(visit: Visit) -> Response:
    """Shows the contact in this answer alone, which nobody keeps; the journal has it before anybody sees it."""
    reason = visit.text("reason")
    if not reason:
        return _life(visit, wrong=visit.say("operations.reason_missing"), status=422)
    try:
        with visit.transaction() as session:
            contact = following.unmask(
                session,
                visit.site.settings.master,
                visit.number("delivery_id"),
                actor=visit.actor,
                reason=reason,
            )
    except MissingKeyError:
        raise
    except SealingError:
        return _life(visit, wrong=visit.say("operations.erased"), status=409)
    return _life(visit, contact=contact)
