"""What an operator does: each act has a page that says what will happen and asks for a reason, then one POST."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import breakers, controlling, standing
from notifier.accounts import Role
from notifier.controlling import LEFT, SCOPES, Again, Chosen
from notifier.errors import ConflictError, InputError, MoveError, NotFoundError
from notifier.models import Campaign
from notifier.states import Delivery
from notifier.web.operations import words
from notifier.web.pages import Pages, Visit

pages = Pages()
OPERATORS = {Role.OPERATOR}
#: deliveries chosen one by one, at a time
MOST_CHOSEN = 200

Do = Callable[[Session, str], None]


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that can be done: what its page says, and where it leads."""

    #: names its words: title, text and button
    key: str
    #: where the form is sent, and where one goes if not
    path: str
    back: str
    #: what goes into the words
    values: dict[str, Any]
    do: Do
    #: fields that the form sends along
    fields: tuple[tuple[str, str], ...] = ()
    #: what will not be done, and why
    left: tuple[str, ...] = ()
    #: nothing can be done
    is_empty: bool = False
    #: cannot be taken back
    is_final: bool = False
    #: asks for a yes to "it may go out twice"
    may_double: bool = False


def _ask(visit: Visit, act: Act, wrong: str = "", status: int = 200) -> Response:
    with visit.transaction() as session:
        stopped = words.held(session)
    return words.shown(
        visit, "operations/act.html", stopped, status, act=act, wrong=wrong, reason=visit.text("reason")
    )


def _done(visit: Visit, act: Act) -> Response:
    """Does it, or shows the page again with what is missing."""
    reason = visit.text("reason")
    if not reason:
        return _ask(visit, act, visit.say("operations.reason_missing"), 422)
    try:
        with visit.transaction() as session:
            act.do(session, reason)
    except (ConflictError, MoveError, InputError) as error:
        return _ask(visit, act, f"{visit.say('operations.not_possible')} {error.message}", 409)
    return visit.redirect(act.back, said=f"operations.done.{act.key}")


# --- stop and let go on -----------------------------------------------------------------------------------


@pages.get("/operations/stop/{scope}", allow=OPERATORS)
def ask_stop(visit: Visit) -> Response:
    return _ask(visit, _stop(visit))


@pages.post("/operations/stop/{scope}", allow=OPERATORS)
def stop(visit: Visit) -> Response:
    """No call to a provider starts later than a second after the commit."""
    return _done(visit, _stop(visit))


def _stop(visit: Visit) -> Act:
    scope = visit.request.path_params["scope"]
    if scope not in SCOPES:
        raise NotFoundError("There is no such scope.")

    def do(session: Session, reason: str) -> None:
        controlling.hold(session, scope, actor=visit.actor, reason=reason, now=visit.now)

    key = "stop_everything" if scope == "everything" else "stop"
    return Act(key, f"/operations/stop/{scope}", "/operations", {"name": words.scope_name(visit, scope)}, do)


@pages.get("/operations/go/{scope}", allow=OPERATORS)
def ask_go(visit: Visit) -> Response:
    return _ask(visit, _go(visit))


@pages.post("/operations/go/{scope}", allow=OPERATORS)
def go(visit: Visit) -> Response:
    """Lifts a hold, closes a breaker."""
    return _done(visit, _go(visit))


def _go(visit: Visit) -> Act:
    scope = visit.request.path_params["scope"]
    with visit.transaction() as session:
        held = {hold.scope for hold in standing.holds(session)}
        opened = {breaker.scope for breaker in breakers.open_scopes(session)}
    if scope not in held | opened or scope.startswith("campaign:"):
        raise NotFoundError("This is not stopped.")

    def do(session: Session, reason: str) -> None:
        controlling.lift(session, scope, actor=visit.actor, reason=reason)

    key = "go" if scope in held else "close"
    return Act(key, f"/operations/go/{scope}", "/operations", {"name": words.scope_name(visit, scope)}, do)


# --- one campaign -------------------------------------------------------------------------------------------


@pages.get("/operations/campaigns/{campaign_id:int}/pause", allow=OPERATORS)
def ask_pause(visit: Visit) -> Response:
    return _ask(visit, _on_campaign(visit, "pause"))


@pages.post("/operations/campaigns/{campaign_id:int}/pause", allow=OPERATORS)
def pause(visit: Visit) -> Response:
    return _done(visit, _on_campaign(visit, "pause"))


@pages.get("/operations/campaigns/{campaign_id:int}/resume", allow=OPERATORS)
def ask_resume(visit: Visit) -> Response:
    return _ask(visit, _on_campaign(visit, "resume"))


@pages.post("/operations/campaigns/{campaign_id:int}/resume", allow=OPERATORS)
def resume(visit: Visit) -> Response:
    return _done(visit, _on_campaign(visit, "resume"))


@pages.get("/operations/campaigns/{campaign_id:int}/cancel", allow=OPERATORS)
def ask_cancel(visit: Visit) -> Response:
    return _ask(visit, _on_campaign(visit, "cancel"))


@pages.post("/operations/campaigns/{campaign_id:int}/cancel", allow=OPERATORS)
def cancel(visit: Visit) -> Response:
    return _done(visit, _on_campaign(visit, "cancel"))


def _on_campaign(visit: Visit, what: str) -> Act:
    number = visit.number("campaign_id")
    with visit.transaction() as session:
        if session.get(Campaign, number) is None:
            raise NotFoundError(f"There is no campaign {number}.")

    def do(session: Session, reason: str) -> None:
        match what:
            case "pause":
                controlling.pause(session, number, actor=visit.actor, reason=reason)
            case "resume":
                controlling.resume(session, number, actor=visit.actor, reason=reason)
            case _:
                controlling.cancel(session, number, actor=visit.actor, reason=reason, now=visit.now)

    back = f"/operations/campaigns/{number}"
    return Act(what, f"{back}/{what}", back, {"number": number}, do, is_final=what == "cancel")


# --- deliveries: send again, release, give up ---------------------------------------------------------------


@pages.get("/operations/again/{what}", allow=OPERATORS)
def ask_again(visit: Visit) -> Response:
    """Says what would be done: how many, and why others are left alone."""
    return _ask(visit, _again(visit, visit.request.query_params.getlist("id"), visit.request.query_params))


@pages.post("/operations/again/{what}", allow=OPERATORS)
def again(visit: Visit) -> Response:
    ids = [value for value in visit.form.getlist("id") if isinstance(value, str)]
    return _done(visit, _again(visit, ids, {name: visit.text(name) for name in ("campaign", "code", "twice")}))


def _again(visit: Visit, ids: list[str], asked: Any) -> Act:
    what = visit.request.path_params["what"]
    if what not in ("replay", "release", "give_up"):
        raise NotFoundError("There is no such act.")
    chosen = _chosen(visit, ids, asked.get("campaign") or "", asked.get("code") or "")
    twice = bool(asked.get("twice"))

    def run(session: Session, reason: str, dry_run: bool) -> Again:
        common: dict[str, Any] = {"actor": visit.actor, "reason": reason, "now": visit.now, "dry_run": dry_run}
        match what:
            case "replay":
                return controlling.replay(session, chosen, Delivery.FAILED, possibly_twice=twice, **common)
            case "release":
                return controlling.release(session, chosen, **common)
            case _:
                return controlling.give_up(session, chosen, **common)

    with visit.transaction() as session:
        found = run(session, "a look", True)
    left = tuple(
        visit.say("operations.left", n=words.number(visit, n), why=visit.say(f"operations.why.{why}"))
        for why, n in sorted(found.left.items(), key=lambda one: list(LEFT).index(one[0]))
    )
    fields = [("id", str(number)) for number in chosen.ids]
    fields += [
        (name, value)
        for name, value in (("campaign", str(chosen.campaign_id or "")), ("code", chosen.code or ""))
        if value
    ]
    back = f"/operations/campaigns/{chosen.campaign_id}" if chosen.campaign_id else "/operations/set-aside"
    if what == "replay" and chosen.ids:
        back = f"/operations/deliveries/{chosen.ids[0]}"
    return Act(
        what,
        f"/operations/again/{what}",
        back,
        {"n": words.number(visit, len(found.ids))},
        lambda session, reason: _sent(run(session, reason, False)),
        tuple(fields),
        left,
        is_empty=not found.ids and not found.left.get("may_have_arrived"),
        may_double=what == "replay" and (twice or bool(found.left.get("may_have_arrived"))),
    )


def _sent(done: Again) -> None:
    """Raises ConflictError if nothing was done: things have changed since the page was made."""
    if not done.ids:
        raise ConflictError("Nothing was left to do.")


def _chosen(visit: Visit, ids: list[str], campaign: str, code: str) -> Chosen:
    numbers = tuple(sorted({int(one) for one in ids if one.isascii() and one.isdigit() and len(one) < 19}))
    if numbers:
        return Chosen(ids=numbers[:MOST_CHOSEN])
    if campaign.isascii() and campaign.isdigit() and len(campaign) < 19:
        return Chosen(campaign_id=int(campaign), code=code or None)
    raise InputError(visit.say("operations.nothing_chosen"))
