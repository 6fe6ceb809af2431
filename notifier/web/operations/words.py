"""What all operators' pages share: numbers, spans and scopes in the reader's language, and the frame's values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import standing, watching
from notifier.models import Hold
from notifier.states import Channel
from notifier.watching import EVERYTHING
from notifier.web.pages import Visit


def shown(visit: Visit, template: str, stopped: Hold | None, /, status: int = 200, **values: Any) -> Response:
    """A page of this area. `stopped` is what holds everything, for the bar on top."""
    return visit.page(template, status, **tools(visit), stopped_all=stopped, **values)


def held(session: Session) -> Hold | None:
    """What stops everything now."""
    return next((hold for hold in standing.holds(session) if hold.scope == EVERYTHING), None)


def tools(visit: Visit) -> dict[str, Any]:
    """Functions that pages of this area write with."""
    return {
        "number": lambda value: number(visit, value),
        "span": lambda seconds: span(visit, seconds),
        "clock": lambda at: clock(visit, at),
        "scope_name": lambda scope: scope_name(visit, scope),
        "state_name": lambda state: visit.say(f"operations.state_{state}"),
        "percent": lambda share: f"{share * 100:.1f}".replace(".", visit.say("operations.point")),
    }


def number(visit: Visit, value: float | None) -> str:
    """1 234 567 or 1,234,567; small rates keep a digit after the point."""
    if value is None:
        return "–"
    written = f"{value:,.1f}" if isinstance(value, float) and value < 100 and value % 1 else f"{value:,.0f}"
    point = visit.say("operations.point")
    return written.replace(",", " ").replace(".", point) if visit.language == "fr" else written


def span(visit: Visit, seconds: float | None) -> str:
    return watching.span(seconds, visit.say("operations.days"))


def clock(visit: Visit, at: datetime) -> str:
    """The time of the deployment's zone, with the day if it is not today."""
    local, today = at.astimezone(visit.site.zone), visit.now.astimezone(visit.site.zone)
    hour = f"{local:%H:%M}"
    if local.date() == today.date():
        return hour
    return f"{local:%d/%m} {hour}" if visit.language == "fr" else f"{local:%d %b} {hour}"


def scope_name(visit: Visit, scope: str) -> str:
    """ "channel:sms" as a person says it."""
    kind, _, name = scope.partition(":")
    known = {"everything", "channel", "provider", "receiver", "campaign"}
    if kind not in known:
        return scope
    if kind == "channel":
        name = visit.say(f"operations.channel_{name}") if name in set(Channel) else name
    return visit.say(f"operations.scope_{kind}", name=name)


def seconds_ago(at: datetime) -> float:
    return (datetime.now(UTC) - at).total_seconds()
