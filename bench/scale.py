"""The whole incident in one database: 15 million patients of 1,500 doctors, or as many as the disk holds.

In steps, each of which finds what the one before left in the data folder: `prepare` fills and approves, `start`
starts every campaign while workers send, `sample` measures what a recipient costs then, `explain` keeps the plans
of the engine's statements, `pages` times pages and the API and keeps their plans, `baseline` measures the same
recipient's cost among 20,000. Figures found are kept beside the data.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench import deployment as deployments
from bench import generate, pages, sinks
from bench.deployment import Deployment, deployed, engine, groups, temporary, valkey_bytes
from bench.explained import busiest
from bench.machine import MB, Usage
from bench.modes import Mode
from bench.sinks import Sink
from notifier.cli.supervise import Supervisor

STEPS = ("prepare", "start", "sample", "explain", "pages", "baseline")
BASELINE = 20_000
#: campaigns that are being started at the same moment
STARTERS = 2
#: disk a patient takes with everything that belongs to them, and what the log needs besides; measured, rounded up
BYTES_PER_PATIENT, BYTES_BESIDES = 2_200, 10 * 2**30
SAMPLES = 3

#: when each campaign's first attempt was written
_FIRST = text(
    """
    SELECT d.campaign_id, extract(epoch FROM min(a.started_at))::float8
    FROM attempt a JOIN delivery d ON d.id = a.delivery_id GROUP BY d.campaign_id
    """
)
_SIZES = text(
    """
    SELECT c.relname, c.relkind, pg_relation_size(c.oid), c.reltuples
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'i', 'm', 'p') ORDER BY pg_relation_size(c.oid) DESC
    """
)


def run(
    mode: Mode,
    folder: Path,
    patients: int,
    campaigns: int,
    sample: int,
    steps: Iterable[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Does the steps named, and returns all figures the folder has by then."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    known = _Known(folder / "figures.json")
    known.add({"patients": patients, "campaigns": campaigns, "sample": sample, "mode": mode.name})
    check_disk(folder, patients)
    with ExitStack() as stack:
        sink = stack.enter_context(sinks.running(with_token=mode.has_token))
        deployment = stack.enter_context(deployed(folder, mode, sink))
        if "prepare" in steps:
            begun = time.perf_counter()
            generate.fill(deployment, patients, campaigns, say)
            known.add({"prepare_s": known.get("prepare_s") + time.perf_counter() - begun})
        if "start" in steps:
            known.add(start_all(deployment, mode, sink, say))
        if "sample" in steps:
            known.add(sample_cost(deployment, mode, sink, sample, say))
            known.add({"relations": relations(deployment)})
        if "explain" in steps:
            known.add({"plans": explain(deployment, mode, sink, min(sample, 5_000))})
        if "pages" in steps:
            known.add(pages.run(deployment))
    if "baseline" in steps:
        say(f"the same among {BASELINE:,}")
        known.add(baseline(mode))
    if known.has("cpu_s", "baseline_cpu_s"):
        known.add({"cost_ratio": known.get("cpu_s") / known.get("baseline_cpu_s")})
    return known.figures


class _Known:
    """Figures that outlive a step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, figures: dict[str, Any]) -> None:
        self.figures |= figures
        self._path.write_text(json.dumps(self.figures, indent=1))

    def get(self, name: str) -> float:
        return float(self.figures.get(name, 0.0))

    def has(self, *names: str) -> bool:
        return all(name in self.figures for name in names)


def check_disk(folder: Path, patients: int) -> None:
    """Raises ValueError, with the number that would fit, where the disk is too small for what is missing."""
    free = shutil.disk_usage(folder).free
    held = sum(path.stat().st_size for path in (folder / "postgres" / "base").rglob("*") if path.is_file())
    needed = patients * BYTES_PER_PATIENT + BYTES_BESIDES - held
    if needed > free:
        fits = max(free + held - BYTES_BESIDES, 0) // BYTES_PER_PATIENT
        raise ValueError(
            f"{patients:,} patients need about {needed / 2**30:.0f} GiB in {folder}, {free / 2**30:.0f} are free: "
            f"about {fits // 100_000 * 100_000:,} would fit"
        )


def start_all(deployment: Deployment, mode: Mode, sink: Sink, say: Callable[[str], None]) -> dict[str, Any]:
    """Starts every approved campaign, the largest first, while workers send; nothing where all have started."""
    with deployment.database.engine.connect() as connection:
        waiting = [
            row[0]
            for row in connection.exec_driver_sql("SELECT id FROM campaign WHERE state = 'approved' ORDER BY id")
        ]
    if not waiting:
        return {}
    deployment.tidy()
    called: dict[int, float] = {}
    committed: dict[int, float] = {}

    def start_one(campaign_id: int) -> int:
        called[campaign_id] = time.time()
        made = deployments.start(deployment, campaign_id)
        committed[campaign_id] = time.time()
        return made

    say(f"starting {len(waiting):,} campaigns")
    with engine(deployment, mode) as supervisor:
        usage = Usage(groups(deployment, supervisor, sink))
        wal, _ = deployment.progress()
        begun, clock = time.time(), time.perf_counter()
        with ThreadPoolExecutor(STARTERS) as pool:
            made = sum(pool.map(start_one, waiting))
        fan_out_s = time.perf_counter() - clock
        fanned_wal, _ = deployment.progress()
        sent = sink.counts().distinct
        used, _ = usage.read()
        say(f"{made:,} deliveries made in {fan_out_s:.1f} s, {sent:,} sent meanwhile")
        firsts = _await_firsts(deployment, set(waiting))
        memory = deployment.memory(supervisor)
    lags = sorted(firsts[one] - called[one] for one in waiting)
    return {
        "deliveries": made,
        "fan_out_s": fan_out_s,
        "fan_out_per_s": made / fan_out_s,
        "fan_out_wal_bytes": (fanned_wal - wal) / made,
        "fan_out_postgres_cpu_s": used["postgres"] / made * 1000,
        "sent_meanwhile": sent,
        #: from asking for the start of a campaign, its fan-out included
        "slowest_first_s": lags[-1],
        "median_first_s": statistics.median(lags),
        "slowest_first_after_commit_s": max(firsts[one] - committed[one] for one in waiting),
        "largest_start_s": committed[waiting[0]] - called[waiting[0]],
        "first_of_last_s": max(firsts.values()) - begun,
    } | {f"start_{name}": value for name, value in memory.items()}


def _await_firsts(deployment: Deployment, wanted: set[int], patience_s: float = 300) -> dict[int, float]:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with deployment.database.staff() as session:
            firsts = {row[0]: row[1] for row in session.execute(_FIRST)}
        if wanted <= firsts.keys():
            return firsts
        time.sleep(1)
    raise RuntimeError(f"{len(wanted - firsts.keys())} campaigns had no first message within {patience_s:.0f} s")


def sample_cost(
    deployment: Deployment, mode: Mode, sink: Sink, recipients: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """What so many recipients cost while all campaigns send; the median of a few such stretches."""
    deployment.tidy()
    left = deployment.ask("SELECT count(*) FROM delivery WHERE state = 'pending'")
    if left < (SAMPLES + 1) * recipients:
        raise ValueError(f"{left:,} deliveries are left to send, too few for {SAMPLES} samples of {recipients:,}")
    with engine(deployment, mode, idle=False) as supervisor:
        _await_count(sink, sink.counts().distinct + recipients // 5)
        measured = []
        for _ in range(SAMPLES):
            measured.append(stretch(deployment, supervisor, sink, recipients))
            say(f"{measured[-1]['recipients_per_s']:,.0f}/s, {measured[-1]['cpu_s']:.3f} CPU-s per 1,000")
        memory = deployment.memory(supervisor)
        valkey_mb = valkey_bytes(deployment.urls.redis_url) / MB
    median = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    return median | memory | {"valkey_mb": valkey_mb, "samples": [one["cpu_s"] for one in measured]}


def stretch(deployment: Deployment, supervisor: Supervisor, sink: Sink, recipients: int) -> dict[str, float]:
    """Cost of the next so many recipients at the sink, per 1,000, whatever came before and comes after."""
    usage = Usage(groups(deployment, supervisor, sink))
    wal, transactions = deployment.progress()
    first, begun = sink.counts().distinct, time.perf_counter()
    _await_count(sink, first + recipients)
    done, seconds = sink.counts().distinct - first, time.perf_counter() - begun
    used, others = usage.read()
    end_wal, end_transactions = deployment.progress()
    each = 1000 / done
    figures = {f"{name}_cpu_s": value * each for name, value in used.items()}
    return figures | {
        "recipients_per_s": done / seconds,
        "cpu_s": sum(value for name, value in used.items() if name != "sink") * each,
        "wal_bytes": (end_wal - wal) / done,
        "transactions": (end_transactions - transactions) / done,
        "others_share": others / seconds / (os.cpu_count() or 1),
    }


def _await_count(sink: Sink, wanted: int, patience_s: float = 60) -> None:
    """Raises RuntimeError if nothing comes for so long."""
    seen, moved_at = -1, time.monotonic()
    while (now := sink.counts().distinct) < wanted:
        if now > seen:
            seen, moved_at = now, time.monotonic()
        if time.monotonic() - moved_at > patience_s:
            raise RuntimeError(f"the sink has {now:,}, not {wanted:,}, and nothing came for {patience_s:.0f} s")
        time.sleep(0.02)


def baseline(mode: Mode) -> dict[str, Any]:
    """The same recipient's cost among 20,000 of one doctor: the middle of a run, the median of a few."""
    measured = []
    for _ in range(SAMPLES):
        with ExitStack() as stack:
            folder = stack.enter_context(temporary())
            sink = stack.enter_context(sinks.running(with_token=mode.has_token))
            deployment = stack.enter_context(deployed(folder, mode, sink))
            (campaign_id,) = generate.fill(deployment, BASELINE, 1, lambda _: None)
            deployment.tidy()
            supervisor = stack.enter_context(engine(deployment, mode))
            deployments.start(deployment, campaign_id)
            _await_count(sink, BASELINE // 10)
            measured.append(stretch(deployment, supervisor, sink, BASELINE * 7 // 10))
    return {f"baseline_{name}": statistics.median(one[name] for one in measured) for name in measured[0]} | {
        "baseline_samples": [one["cpu_s"] for one in measured]
    }


def relations(deployment: Deployment) -> list[dict[str, Any]]:
    """Tables and indexes with their bytes and rows, the largest first."""
    with deployment.database.engine.connect() as connection:
        rows = connection.execute(_SIZES).all()
    return [
        {"name": name, "kind": "index" if kind == "i" else "table", "bytes": size, "rows": max(int(tuples), 0)}
        for name, kind, size, tuples in rows
        if size >= MB
    ]


def explain(deployment: Deployment, mode: Mode, sink: Sink, recipients: int) -> list[dict[str, Any]]:
    """The plans of what the engine asks at this size: of each statement the one that touched most pages."""
    path = deployment.folder / "plans.jsonl"
    path.unlink(missing_ok=True)
    watched = deployments.Deployment(
        deployment.folder,
        deployment.urls,
        deployment.current,
        deployment.database,
        dict(deployment.environment) | {"BENCH_PLANS": str(path)},
    )
    with engine(watched, mode, "bench.explained", idle=False):
        _await_count(sink, sink.counts().distinct + recipients)
        # long enough for a round of the sweeper
        time.sleep(deployment.current.engine.sweeper_ms / 1000 + 1)
    return busiest(path.read_text(encoding="utf-8").splitlines())
