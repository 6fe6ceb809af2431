"""`notifier queue …`: whether everything moves; what is stopped; stop, and let go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import redis
import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from notifier import controlling, startup
from notifier.cli import common
from notifier.cli.provider import OUR_FAULT, PROVIDERS, advice
from notifier.errors import InputError, ServiceError
from notifier.models import Campaign, Hold
from notifier.states import Campaign as State
from notifier.states import Channel
from notifier.states import Delivery as DeliveryState

app = typer.Typer(no_args_is_help=True, help="See whether everything moves; stop and let go on.")

EVERYTHING = "everything"
#: dramatiq's keys begin with it: see `workers.broker`
_NAMESPACE = "notifier"
#: a process not heard of for so long is taken for gone; the sweeper speaks once a round, which may be long
_ALIVE_S, _SWEEPER_ALIVE_S = 10.0, 60.0
#: a due delivery is taken within a second or two when all is well
_LATE_S = 60.0
#: refusals by our own fault are a problem from so many of one kind on
_MANY_REFUSED = 10
#: the youngest attempts looked at: more than the fastest deployment makes in the 15 minutes asked for
_ATTEMPTS = 500_000

_Scope = Annotated[str, typer.Option(help="everything, channel:email, channel:sms or provider:NAME.")]


# --- what is said ----------------------------------------------------------------------------------------


@app.command()
def status(as_json: common.Json = False) -> None:
    """Show what waits, what is under way, who is at work, and everything that is wrong."""
    with common.work() as work:
        document = read(work.session) | _redis(work.settings.redis_url or "")
    document["problems"] = problems(document)

    def show(out: Console) -> None:
        nested = ("holds", "problems", "paused", "refused", "redis_unfit")
        out.print(common.facts("queue", {name: document[name] for name in document if name not in nested}))
        if document["holds"]:
            _print_holds(out, document["holds"])
        for problem in document["problems"]:
            out.print(Text(f"! {problem}", style="bold red"), soft_wrap=True)
        if not document["problems"]:
            out.print("Nothing is wrong.")

    common.emit(document, as_json, show)


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

_DUE = text(
    f"""
    SELECT d.channel, count(*) AS pending, count(*) FILTER (WHERE d.due_at <= now()) AS due,
           extract(epoch FROM now() - min(d.due_at) FILTER (WHERE d.due_at <= now()))::float8 AS oldest_due_s
    FROM delivery d JOIN campaign c ON c.id = d.campaign_id
    WHERE d.state = '{DeliveryState.PENDING}' AND c.state = '{State.SENDING}'
    GROUP BY d.channel
    """  # noqa: S608 - put together from our own states
)
_UNDER_WAY = text(
    f"""
    SELECT state, count(*) AS n, count(*) FILTER (WHERE lease_until < now()) AS expired FROM delivery
    WHERE state IN ('{DeliveryState.LEASED}', '{DeliveryState.SENDING}') GROUP BY state
    UNION ALL
    SELECT state, count(*), 0 FROM delivery
    WHERE due_at IS NOT NULL AND state = '{DeliveryState.UNKNOWN}' GROUP BY state
    """  # noqa: S608 - as above
)
_PROCESSES = text(
    """
    SELECT count(*) FILTER (
               WHERE process LIKE 'worker:%' AND at > now() - make_interval(secs => :alive_s)
           ) AS workers,
           extract(epoch FROM now() - max(at) FILTER (WHERE process = 'feeder'))::float8 AS feeder_s,
           extract(epoch FROM now() - max(at) FILTER (WHERE process = 'sweeper'))::float8 AS sweeper_s
    FROM heartbeat
    """
)
_ATTEMPTS_LATELY = text(
    f"""
    WITH lately AS (
        SELECT a.provider, a.code, a.outcome, a.ended_at, d.state
        FROM attempt a JOIN delivery d ON d.id = a.delivery_id
        WHERE a.id > (SELECT coalesce(max(id), 0) - {_ATTEMPTS} FROM attempt)
          AND a.ended_at > now() - interval '15 minutes'
    )
    SELECT provider, NULL AS code, count(*) AS n FROM lately
    WHERE outcome = 'accepted' AND ended_at > now() - interval '1 minute' GROUP BY provider
    UNION ALL
    SELECT provider, code, count(*) FROM lately
    WHERE outcome = 'refused' AND code ~ :our_fault
      -- the person has no part in it: the notice still waits to go out
      AND state IN ('{DeliveryState.PENDING}', '{DeliveryState.LEASED}', '{DeliveryState.SENDING}')
    GROUP BY provider, code HAVING count(*) >= {_MANY_REFUSED}
    ORDER BY provider, code
    """  # noqa: S608 - as above
)


def read(session: Session) -> dict[str, Any]:
    """How the engine stands, from the database alone; times in seconds on its clock."""
    due: dict[str, dict[str, Any]] = {
        str(channel): {"pending": 0, "due": 0, "oldest_due_s": None} for channel in Channel
    }
    for row in session.execute(_DUE):
        due[row.channel] = {"pending": row.pending, "due": row.due, "oldest_due_s": _seconds(row.oldest_due_s)}
    under_way = {row.state: row for row in session.execute(_UNDER_WAY)}
    processes = session.execute(_PROCESSES, {"alive_s": _ALIVE_S}).one()
    campaigns = select(Campaign.state, func.count()).group_by(Campaign.state)
    unapplied = text("SELECT count(*) FROM receipt WHERE applied_at IS NULL")
    lately = session.execute(_ATTEMPTS_LATELY, {"our_fault": OUR_FAULT}).all()
    paused = session.execute(
        select(Campaign.id, Campaign.reason).where(Campaign.state == State.PAUSED).order_by(Campaign.id)
    )
    quarantined = text(f"SELECT count(*) FROM delivery WHERE state = '{DeliveryState.QUARANTINED}'")  # noqa: S608
    return {
        "due": due,
        **{
            str(state): under_way[state].n if state in under_way else 0
            for state in (DeliveryState.LEASED, DeliveryState.SENDING, DeliveryState.UNKNOWN)
        },
        "expired_leases": sum(row.expired for row in under_way.values()),
        "quarantined": session.scalar(quarantined),
        "receipts_waiting": session.scalar(unapplied),
        "workers_alive": processes.workers,
        "feeder_age_s": _seconds(processes.feeder_s),
        "sweeper_age_s": _seconds(processes.sweeper_s),
        "campaigns": {str(state): count for state, count in session.execute(campaigns)},
        "paused": [{"campaign": row.id, "reason": row.reason} for row in paused],
        "rate_per_min": dict.fromkeys(PROVIDERS, 0) | {row.provider: row.n for row in lately if row.code is None},
        "refused": [
            {"provider": row.provider, "code": row.code, "count": row.n} for row in lately if row.code is not None
        ],
        "holds": _holds(session),
    }


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
    if has_work and not _is_alive(status["feeder_age_s"], _ALIVE_S):
        found.append(f"The feeder {_last_seen(status['feeder_age_s'])}: start one by notifier feeder.")
    if (has_work or status["receipts_waiting"]) and not _is_alive(status["sweeper_age_s"], _SWEEPER_ALIVE_S):
        found.append(f"The sweeper {_last_seen(status['sweeper_age_s'])}: start one by notifier sweeper.")
    stopped = {hold["scope"] for hold in status["holds"]}
    found += [_hold_said(hold) for hold in status["holds"]]
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
        found.append(
            f"{status['quarantined']} deliveries are set aside for a person: "
            "notifier delivery list CAMPAIGN --state quarantined."
        )
    return found


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
    found = session.scalars(
        select(Hold).where((Hold.until.is_(None)) | (Hold.until > func.now())).order_by(Hold.scope)
    ).all()
    return [common.columns_of(hold, "scope", "reason", "by", "since", "until") for hold in found]


def _print_holds(out: Console, found: list[dict[str, Any]]) -> None:
    if found:
        out.print(common.table("stopped", ["scope", "reason", "by", "since", "until"], found))
    else:
        out.print("Nothing is stopped.")


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(max(value, 0.0), 1)


def _instant(written: str) -> datetime:
    """Raises InputError for what is no time."""
    try:
        return datetime.fromisoformat(written).astimezone(UTC)
    except ValueError as error:
        raise InputError(f"{written!r} is not a time: write it as 2026-11-25T18:00.") from error
