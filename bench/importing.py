"""How fast one process takes a list in, and how much memory it needs for it."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from bench import deployment as deployments
from bench.deployment import ACTOR, deployed, temporary
from bench.machine import MB, Usage, cpu_s, peak_bytes
from bench.modes import MODES
from bench.product import write_list
from notifier import acts, settings, store
from notifier.states import Channel


def run(rows: int) -> dict[str, float]:
    """One list of so many people, into an empty database, by a process of its own."""
    mode = MODES["email"]
    with ExitStack() as stack:
        folder = stack.enter_context(temporary())
        deployment = stack.enter_context(deployed(folder, mode, None))
        campaign_id = deployments.create_campaign(deployment, deployments.open_incident(deployment), 0)
        path = write_list(folder / "list.csv", Channel.EMAIL, 0, rows)
        # Not forked: it begins with what a command begins with, and no memory of ours.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_import, args=(theirs, campaign_id, path))
        process.start()
        usage = Usage(deployment.pids | {"importer": [process.pid]})
        try:
            seconds, own_s, peak_mb, accepted = ours.recv()
            used, others = usage.read()
        finally:
            process.join()
        if accepted != rows:
            raise RuntimeError(f"{accepted} of {rows} rows were accepted")
        return {
            "rows_per_s": rows / seconds,
            "own_us_cpu": own_s / rows * 1e6,
            "postgres_us_cpu": used["postgres"] / rows * 1e6,
            f"peak_mb_at_{rows}": peak_mb,
            "others_share": others / seconds / (os.cpu_count() or 1),
            "file_mb": path.stat().st_size / MB,
        }


def _import(pipe: multiprocessing.connection.Connection, campaign_id: int, path: Path) -> None:
    current = settings.load()
    database = store.Database(current.sqlalchemy_url)
    with database.staff() as session:
        session.connection()
        cpu, begun = cpu_s(os.getpid()), time.perf_counter()
        list_file = acts.import_list(session, current, campaign_id, path, actor=ACTOR, now=datetime.now(UTC))
        accepted = list_file.accepted
    seconds = time.perf_counter() - begun
    pipe.send((seconds, cpu_s(os.getpid()) - cpu, peak_bytes(os.getpid()) / MB, accepted))
