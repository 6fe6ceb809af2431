"""`notifier queue …`: whether everything moves and how fast; what is stopped; stop, and let go on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.orm import Session

from notifier import controlling, standing, startup
from notifier.cli import common
from notifier.cli.provider import OUR_FAULT, PROVIDERS, advice
from notifier.errors import InputError, ServiceError
from notifier.states import Campaign as State
from notifier.states import Channel

if TYPE_CHECKING:
    from notifier.settings import Settings
    from notifier.store import Database

app = typer.Typer(no_args_is_help=True, help="See whether everything moves; stop and let go on.")

EVERYTHING = "everything"
#: dramatiq's keys begin with it: see `workers.broker`
_NAMESPACE = "notifier"
#: the sweeper speaks once a round, which may be long
_SWEEPER_ALIVE_S = 60.0
#: a due delivery is taken within a second or two when all is well
_LATE_S = 60.0
#: refusals by our own fault are a problem from so many of one kind on
_MANY_REFUSED = 10

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
    document = standing.read(session, PROVIDERS, limits(settings)) | _redis(settings.redis_url or "")
    document["refused"] = standing.refused(session, OUR_FAULT, _MANY_REFUSED)
    document["problems"] = [*problems(document), *_unheard_said(settings)]
    return document


def _unheard_said(settings: Settings) -> Iterator[str]:
    if settings.email_provider == "brevo-email" and settings.brevo_email.webhook_token is None:
        yield (
            "Nobody hears what becomes of emails after Brevo took them: set NOTIFIER_BREVO_EMAIL__WEBHOOK_TOKEN "
            "and give Brevo the address of its webhook."
        )


def limits(settings: Settings) -> dict[str, float]:
    """Messages a second that each provider in use may be handed, as it is set."""
    email: dict[str, tuple[float, float]] = {
        "smtp": (settings.smtp.rate_per_s, settings.smtp.sender_rate_per_s),
        "brevo-email": (settings.brevo_email.rate_per_s * settings.brevo_email.batch, 0),
    }
    found = {
        settings.email_provider: email[settings.email_provider],
        "brevo-sms": (settings.brevo_sms.rate_per_s, settings.brevo_sms.sender_rate_per_s),
    }
    return {name: min(account, sender or account) for name, (account, sender) in found.items()}


def problems(status: Mapping[str, Any]) -> list[str]:
    """What is wrong, each in one sentence with what to do; empty when everything moves."""
    found = []
    has_work = bool(status["campaigns"].get(State.SENDING))
    if status["redis_unfit"]:
        found.append(status["redis_unfit"])
    if status["tickets"] is None:
        found.append("Redis cannot be used: nothing new is sent. Nothing is lost; bring it back.")
    if has_work and not status["workers_alive"]:
        found.append("No worker is at work: start one by notifier worker.")
    found += _uncarried_said(status)
    if has_work and not _is_alive(status["feeder_age_s"], standing.ALIVE_S):
        found.append(f"The feeder {_last_seen(status['feeder_age_s'])}: start one by notifier feeder.")
    if (has_work or status["receipts_waiting"]) and not _is_alive(status["sweeper_age_s"], _SWEEPER_ALIVE_S):
        found.append(f"The sweeper {_last_seen(status['sweeper_age_s'])}: start one by notifier sweeper.")
    if status["tests_waiting"] and not _is_alive(status["test_sender_age_s"], standing.ALIVE_S):
        said = _last_seen(status["test_sender_age_s"])
        found.append(f"The process that sends tests {said}: start one by notifier worker --control.")
    stopped = {hold["scope"] for hold in status["holds"]}
    found += [_hold_said(hold) for hold in status["holds"]]
    found += [
        f"{breaker['scope']} is {_BREAKER_WORDS.get(breaker['state'], breaker['state'])}: {breaker['reason']}"
        for breaker in status["breakers"]
    ]
    found += _paused_said(status["paused"])
    found += [
        f"{refused['provider']} refused {refused['count']} in the last 15 minutes by no person's fault "
        f"({refused['code']}): {advice(refused['code'])}."
        for refused in status["refused"]
    ]
    for channel, counts in status["due"].items():
        is_held = stopped & {EVERYTHING, f"channel:{channel}"} or any(
            f"provider:{name}" in stopped for name, carried in PROVIDERS.items() if carried == channel
        )
        if not is_held and (counts["oldest_due_s"] or 0) > _LATE_S:
            found.append(f"{channel}: {counts['due']} are due, the oldest for {counts['oldest_due_s']:.0f} s.")
    if status["quarantined"]:
        found.append(f"{status['quarantined']} deliveries are set aside for a person: notifier quarantine list.")
    return found


#: states of a breaker as a person reads them
_BREAKER_WORDS = {
    "open": "stopped by its breaker",
    "probing": "stopped by its breaker and being probed",
    "healing": "coming back, with a part of its rate",
}


def _uncarried_said(status: Mapping[str, Any]) -> Iterator[str]:
    """Channels with work that no worker carries; nothing while a worker's channels are not known."""
    alive = [set(worker["channels"]) for worker in status["workers"] if worker["age_s"] <= standing.ALIVE_S]
    if alive and all(alive):
        for channel in status["due"].keys() - set().union(*alive):
            if status["due"][channel]["pending"]:
                yield f"No worker carries {channel}: start one by notifier worker --channel {channel}."


def _hold_said(hold: Mapping[str, Any]) -> str:
    scope, until = hold["scope"], hold["until"]
    end = f"until {common.in_words(until)}" if until else "until a person lets it go on"
    said = f"Stopped: {scope}, by {hold['by']}, {end} ({hold['reason']})"
    if hold["by"] == controlling.ENGINE:
        return f"{said}: it goes on by itself then; {advice(hold['reason'])}."
    return f"{said}. Let it go on by notifier queue go --scope {scope}."


def _paused_said(paused: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each reason, however many campaigns have it."""
    by_reason: dict[str, list[str]] = {}
    for one in paused:
        by_reason.setdefault(one["reason"] or "no reason given", []).append(str(one["campaign"]))
    return [
        f"Paused: campaign {', '.join(numbers[:5])}{f' and {len(numbers) - 5} more' if numbers[5:] else ''} "
        f"({reason}). When that is mended: notifier campaign resume {numbers[0]}."
        for reason, numbers in by_reason.items()
    ]


def _is_alive(age_s: float | None, within_s: float) -> bool:
    return age_s is not None and age_s <= within_s


def _last_seen(age_s: float | None) -> str:
    return "was never seen" if age_s is None else f"was last seen {age_s:.0f} s ago"


def _redis(url: str) -> dict[str, Any]:
    """What Redis holds, and what is wrong with it. Raises SettingsError for a malformed URL."""
    try:
        startup.check_redis(url)
    except ServiceError as error:
        return {"tickets": _tickets(url), "redis_unfit": error.message}
    return {"tickets": _tickets(url), "redis_unfit": None}


def _tickets(url: str) -> dict[str, dict[str, int]] | None:
    """Tickets waiting and in workers' hands, by channel; None if Redis does not answer."""
    client = startup.client(url)
    try:
        counts: dict[str, dict[str, int]] = {}
        for channel in Channel:
            waiting = int(client.llen(f"{_NAMESPACE}:{channel}"))
            known = int(client.hlen(f"{_NAMESPACE}:{channel}.msgs"))
            counts[str(channel)] = {"waiting": waiting, "taken": max(known - waiting, 0)}
        return counts
    except redis.RedisError:
        return None
    finally:
        client.close()


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


def span(seconds: float | None) -> str:
    """Seconds as a person says them: "35 s", "14 min", "3 h 20 min", "2 days 4 h"; "–" for None."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


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
