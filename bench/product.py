"""The real product on one mode, from the start of its campaigns until every row says it was sent.

Everything a deployment runs is there: lists imported and judged, texts approved and frozen, fan-out, feeder,
worker and sweeper processes, PostgreSQL that waits for its disk, Valkey with its log, sealed data, leases and
attempts.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from bench import deployment as deployments
from bench import sinks
from bench.deployment import ACTOR, Deployment, deployed, engine, groups, ours, temporary, valkey_bytes
from bench.machine import MB, Highest, Usage, peak_bytes
from bench.modes import Mode
from bench.sinks import Sink
from notifier import acts
from notifier.cli.supervise import Supervisor
from notifier.states import Channel

#: numbers reserved for fiction, of which each campaign may use all: 06 39 98 00 00 to 06 39 98 99 99
_NUMBERS = 10_000
_FIRST_BORN = date(1935, 1, 1)
#: a run that takes longer has failed
LIMIT_S = 240.0
_LINE = re.compile(
    r"^(?P<who>[^|]*)\|LOG:  duration: (?P<ms>[\d.]+) ms  (?P<kind>\w+)[^:]*: (?P<text>.*)$", re.DOTALL
)
_NO_STATEMENT = ("BEGIN", "COMMIT", "ROLLBACK", "DEALLOCATE")


class IncompleteError(Exception):
    """The sink's count or ours is not what it must be."""


def run(mode: Mode, recipients: int) -> dict[str, float]:
    """One run on fresh servers. Raises IncompleteError where anything was lost, doubled or not written."""
    with ExitStack() as stack:
        folder = stack.enter_context(temporary())
        sink = stack.enter_context(sinks.running(with_token=mode.has_token, latency_ms=mode.latency_ms))
        deployment = stack.enter_context(deployed(folder, mode, sink))
        campaigns, figures = prepare(deployment, mode, recipients)
        supervisor = stack.enter_context(engine(deployment, mode))
        return figures | send(deployment, supervisor, sink, campaigns, recipients)


def prepare(deployment: Deployment, mode: Mode, recipients: int) -> tuple[list[int], dict[str, float]]:
    """Campaigns that are imported and approved; an SMS campaign has no more people than there are numbers."""
    most = _NUMBERS if mode.channel is Channel.SMS else recipients
    incident_id = deployments.open_incident(deployment)
    campaigns: list[int] = []
    seconds = 0.0
    for number, first in enumerate(range(0, recipients, most)):
        campaign_id = deployments.create_campaign(deployment, incident_id, number)
        rows = min(most, recipients - first)
        path = write_list(deployment.folder / f"{number}.csv", mode.channel, first, rows)
        begun = time.perf_counter()
        with deployment.database.staff() as session:
            list_file = acts.import_list(
                session, deployment.current, campaign_id, path, actor=ACTOR, now=datetime.now(UTC)
            )
        seconds += time.perf_counter() - begun
        if list_file.accepted != rows:
            raise IncompleteError(f"{list_file.accepted} of {rows} rows were accepted")
        deployments.approve(deployment, campaign_id)
        campaigns.append(campaign_id)
    deployment.tidy()
    return campaigns, {"import_rows_per_s": recipients / seconds}


def write_list(path: Path, channel: Channel, first: int, rows: int) -> Path:
    """A made-up list; the sink knows an email by the token in its address."""
    with path.open("w", encoding="utf-8") as out:
        out.write("id;nom;prenom;date de naissance;email;portable;adresse;code postal;ville\n")
        out.writelines(_lines(channel, first, rows))
    return path


def _lines(channel: Channel, first: int, rows: int) -> Iterator[str]:
    for number in range(first, first + rows):
        mail = f"rid-{number:08}@example.org" if channel is Channel.EMAIL else ""
        phone = f"063998{number % _NUMBERS:04}" if channel is Channel.SMS else ""
        # Names and dates come again, but never together: namesakes of one birthday are rare in a real list too.
        born = _FIRST_BORN + timedelta(days=number % 31_013)
        yield f"P{number};Nom{number % 9973};Prénom;{born:%d/%m/%Y};{mail};{phone};2 rue des Lilas;75002;Paris\n"


def send(
    deployment: Deployment, supervisor: Supervisor, sink: Sink, campaigns: list[int], recipients: int
) -> dict[str, float]:
    """Starts the campaigns and measures until the sink has all and every row is written."""
    usage = Usage(groups(deployment, supervisor, sink))
    wal, transactions = deployment.progress()
    begun = time.perf_counter()
    with Highest(lambda: valkey_bytes(deployment.urls.redis_url)) as valkey:
        for campaign_id in campaigns:
            deployments.start(deployment, campaign_id)
        fan_out_s = time.perf_counter() - begun
        fanned_wal, _ = deployment.progress()
        first_s = await_all(deployment, sink, recipients, begun)
        seconds = time.perf_counter() - begun
    used, others = usage.read()
    end_wal, end_transactions = deployment.progress()
    check(deployment, sink, recipients)
    each = 1000 / recipients
    figures = {
        "recipients_per_s": recipients / seconds,
        "ours_cpu_s": ours(used) * each,
        "servers_cpu_s": sum(used[name] for name in ("postgres", "valkey", "sink")) * each,
        "first_message_s": first_s,
        "fan_out_per_s": recipients / fan_out_s,
        "wal_bytes": (end_wal - fanned_wal) / recipients,
        "fan_out_wal_bytes": (fanned_wal - wal) / recipients,
        "transactions": (end_transactions - transactions) / recipients,
        "sink_mb": peak_bytes(sink.pid) / MB,
        "valkey_mb": valkey.value / MB,
        "others_share": others / seconds / (os.cpu_count() or 1),
    }
    figures |= {f"{name}_cpu_s": value * each for name, value in used.items()}
    return figures | deployment.memory(supervisor)


def await_all(deployment: Deployment, sink: Sink, recipients: int, begun: float) -> float:
    """Waits for the sink's count, then for ours; returns seconds to the first message."""
    first_s = 0.0
    while time.perf_counter() - begun < LIMIT_S:
        distinct = sink.counts().distinct
        if not first_s and distinct:
            first_s = time.perf_counter() - begun
        if distinct >= recipients and sent(deployment) >= recipients:
            return first_s
        time.sleep(0.05 if first_s else 0.01)
    raise IncompleteError(
        f"after {LIMIT_S:.0f} s the sink has {sink.counts().distinct} of {recipients}, "
        f"and {sent(deployment)} rows say so"
    )


def sent(deployment: Deployment) -> int:
    """Deliveries that are known to have been taken."""
    return int(deployment.ask("SELECT count(*) FROM delivery WHERE state IN ('accepted', 'delivered')"))


def check(deployment: Deployment, sink: Sink, recipients: int) -> None:
    """The sink's count equals ours: each person once, one closed attempt each, nothing else."""
    counts = sink.counts()
    rows = deployment.ask("SELECT count(*) FROM delivery")
    attempts = deployment.ask("SELECT count(*) FROM attempt WHERE outcome = 'accepted'")
    if (counts.distinct, counts.again, rows, attempts) != (recipients, 0, recipients, recipients):
        raise IncompleteError(
            f"{recipients} recipients: the sink has {counts.distinct} and {counts.again} twice, "
            f"there are {rows} deliveries and {attempts} accepted attempts"
        )


def statements(mode: Mode, recipients: int) -> tuple[float, list[dict[str, float | str]]]:
    """Statements per recipient by the server's own log, and the ten that take most of its time.

    A run of its own, because writing the log costs time.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(temporary())
        sink = stack.enter_context(sinks.running(with_token=mode.has_token, latency_ms=mode.latency_ms))
        deployment = stack.enter_context(deployed(folder, mode, sink, deployments.LOG_STATEMENTS))
        campaigns, _ = prepare(deployment, mode, recipients)
        log = folder / "postgres" / "log"
        supervisor = stack.enter_context(engine(deployment, mode))
        begun = log.stat().st_size
        send(deployment, supervisor, sink, campaigns, recipients)
        with log.open("rb") as file:
            file.seek(begun)
            written = file.read().decode("utf-8", "replace")
    return summed(written, recipients)


def summed(log: str, recipients: int) -> tuple[float, list[dict[str, float | str]]]:
    """What the engine's own connections asked, from a log written with LOG_STATEMENTS."""
    calls: dict[str, int] = {}
    times: dict[str, float] = {}
    # A statement of several lines goes on after a tab.
    for entry in log.replace("\n\t", " ").splitlines():
        found = _LINE.match(entry)
        if found is None or found["who"] != deployments.ENGINES:
            continue
        asked = " ".join(found["text"].split())
        # parse and bind cost time too, but are no statement of their own
        calls[asked] = calls.get(asked, 0) + (found["kind"] in ("execute", "statement"))
        times[asked] = times.get(asked, 0.0) + float(found["ms"])
    total = sum(count for asked, count in calls.items() if not asked.startswith(_NO_STATEMENT))
    most = sorted(times, key=lambda asked: -times[asked])[:10]
    return total / recipients, [
        {"text": asked[:160], "calls": calls[asked], "ms_per_1000": times[asked] / recipients * 1000}
        for asked in most
    ]
