"""`notifier queue …`: whether everything moves and how fast; what is stopped; stop, and let go on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.orm import Session

from notifier import controlling, standing, watching
from notifier.cli import common
from notifier.errors import InputError, ServiceError
from notifier.watching import EVERYTHING, span

if TYPE_CHECKING:
    from notifier.settings import Settings
    from notifier.store import Database

app = typer.Typer(no_args_is_help=True, help="See whether everything moves; stop and let go on.")

_Scope = Annotated[str, typer.Option(help="everything, channel:email, channel:sms or provider:NAME.")]


# --- what is said ----------------------------------------------------------------------------------------


@app.command()
def status(as_json: common.Json = False) -> None:
    """Show what waits, what is under way, who is at work, and everything that is wrong."""
    with common.work() as work:
        document = read(work.session, work.settings)
    common.emit(document, as_json, lambda out: out.print(picture(document)))


@app.command()
def watch(
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05)] = 1.0,
    as_json: common.Json = False,
) -> None:
    """Watch the queue until Ctrl-C; with --json, one document a line. It goes on while a server is away."""
    with common.database() as (database, settings), _shown(as_json) as show:
        try:
            while True:
                show(_look(database, settings))
                threading.Event().wait(every)
        except KeyboardInterrupt:
            return


def _look(database: Database, settings: Settings) -> dict[str, Any]:
    try:
        with common.transaction(database) as session:
            return read(session, settings)
    except ServiceError as error:
        return {"error": error.message}


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What shows one look after the other: a line of JSON, a picture redrawn in place, or one below the other."""
    out = common.console()
    if as_json:
        yield _print_line
    elif out.is_terminal:
        with Live(console=out, auto_refresh=False, screen=True) as live:
            yield lambda document: live.update(picture(document), refresh=True)
    else:
        yield lambda document: out.print(picture(document))


def _print_line(document: Mapping[str, Any]) -> None:
    common.emit(document, True, lambda _: None)
    sys.stdout.flush()


@app.command()
def holds(as_json: common.Json = False) -> None:
    """List what is stopped, by whom and why."""
    with common.work() as work:
        found = _holds(work.session)
    common.emit({"holds": found}, as_json, lambda out: _print_holds(out, found))


@app.command()
def stop(
    reason: Annotated[str, typer.Option(help="Kept in the journal.")],
    scope: _Scope = EVERYTHING,
    until: Annotated[
        str | None, typer.Option(help="Until then (2026-11-25T18:00, local time); without it, until `go`.")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Stop sending within a second: everything, one channel or one provider."""
    with common.work() as work:
        end = _instant(until) if until is not None else None
        controlling.hold(work.session, scope, actor=work.actor, reason=reason, now=work.now, until=end)
        work.session.flush()
        found = _holds(work.session)
    common.emit({"stopped": scope, "holds": found}, as_json, lambda out: _print_holds(out, found))


@app.command()
def go(scope: _Scope = EVERYTHING, as_json: common.Json = False) -> None:
    """Let a scope that was stopped go on. Others that are stopped stay so."""
    with common.work() as work:
        controlling.lift(work.session, scope, actor=work.actor)
        work.session.flush()
        found = _holds(work.session)
    common.emit({"lifted": scope, "holds": found}, as_json, lambda out: _print_holds(out, found))


# --- reading ---------------------------------------------------------------------------------------------


def read(session: Session, settings: Settings) -> dict[str, Any]:
    """How the engine and Redis stand, and what is wrong."""
    document = watching.read(session, settings)
    document["problems"] = [*problems(document), *map(watching.said, watching.unheard(settings))]
    return document


def problems(status: Mapping[str, Any]) -> list[str]:
    """What is wrong, each in one sentence with what to do; empty when everything moves."""
    return [watching.said(one) for one in watching.wrong(status)]


def _holds(session: Session) -> list[dict[str, Any]]:
    found = standing.holds(session)
    return [common.columns_of(hold, "scope", "reason", "by", "since", "until") for hold in found]


# --- showing ---------------------------------------------------------------------------------------------

#: of longer lists the first are shown
_FIRST = 12


def picture(document: Mapping[str, Any]) -> RenderableType:
    """One look, for people."""
    if "error" in document:
        return Text(f"! {document['error']}", style="bold red")
    parts: list[RenderableType] = [
        common.table("by channel", _CHANNEL_COLUMNS, _channel_rows(document)),
        common.table("by provider", _PROVIDER_COLUMNS, _provider_rows(document)),
        common.facts("queue", _facts(document)),
    ]
    for title, columns, rows in (
        ("workers", ["process", "channels", "age_s"], document["workers"]),
        ("at their own limit", ["campaign", "until"], document["throttled"]),
        ("breakers", ["scope", "state", "level", "until", "reason"], document["breakers"]),
        ("stopped", ["scope", "reason", "by", "since", "until"], document["holds"]),
    ):
        if rows:
            more = f" ({len(rows)}, the first {_FIRST})" if len(rows) > _FIRST else ""
            parts.append(common.table(title + more, columns, rows[:_FIRST]))
    parts += [Text(f"! {problem}", style="bold red") for problem in document["problems"]]
    if not document["problems"]:
        parts.append(Text("Nothing is wrong."))
    return Group(*parts)


_CHANNEL_COLUMNS = ["channel", "waiting", "due", "oldest_due", "per_s", "done_in", "at_best_in", "tickets"]
_PROVIDER_COLUMNS = ["provider", "accepted_per_min", "ended_per_min", "limit_per_s"]


def _channel_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    tickets = document["tickets"] or {}
    return [
        {
            "channel": channel,
            "waiting": counts["pending"],
            "due": counts["due"],
            "oldest_due": span(counts["oldest_due_s"]),
            "per_s": document["forecast"][channel]["per_s"],
            "done_in": span(document["forecast"][channel]["done_in_s"]),
            "at_best_in": span(document["forecast"][channel]["at_best_s"]),
            "tickets": tickets.get(channel),
        }
        for channel, counts in document["due"].items()
    ]


def _provider_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "provider": name,
            "accepted_per_min": accepted,
            "ended_per_min": document["ended_per_min"][name],
            "limit_per_s": document["limit_per_s"].get(name),
        }
        for name, accepted in document["rate_per_min"].items()
    ]


def _facts(document: Mapping[str, Any]) -> dict[str, Any]:
    plain = ("sending", "unknown", "quarantined", "leases", "claimed", "expired_leases", "receipts_waiting")
    ages = {name: span(document[f"{name}_age_s"]) for name in ("feeder", "sweeper")}
    return {name: document[name] for name in plain} | {
        "campaigns": document["campaigns"],
        "last seen": {"workers alive": document["workers_alive"]} | ages,
    }


def _print_holds(out: Console, found: list[dict[str, Any]]) -> None:
    if found:
        out.print(common.table("stopped", ["scope", "reason", "by", "since", "until"], found))
    else:
        out.print("Nothing is stopped.")


def _instant(written: str) -> datetime:
    """Raises InputError for what is no time."""
    try:
        return datetime.fromisoformat(written).astimezone(UTC)
    except ValueError as error:
        raise InputError(f"{written!r} is not a time: write it as 2026-11-25T18:00.") from error
