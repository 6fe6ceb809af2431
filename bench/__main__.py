"""`make bench`: the real product, end to end, per recipient: rates, CPU by process, queries, bytes.

Each figure is the median of several runs on fresh databases. The receiver is `bench.sink`; everything else is what
a deployment runs: import, approval, fan-out, feeder, workers, PostgreSQL, Valkey, sealed data, leases, attempts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis
from sqlalchemy import text

from notifier import acts, controlling, settings, store
from notifier.cli.supervise import Supervisor
from notifier.rehearsal import servers

ROOT = Path(__file__).resolve().parent.parent
FACTS = json.loads((ROOT / "tests" / "notifier" / "facts.json").read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what one recipient costs.")
    parser.add_argument("--recipients", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run of 5,000")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--only", choices=["email", "sms"], action="append")
    options = parser.parse_args()
    recipients, runs = (5_000, 1) if options.quick else (options.recipients, options.runs)
    results: dict[str, Any] = {"machine": machine(), "recipients": recipients, "runs": runs}
    for channel in options.only or ["email", "sms"]:
        measured = [run(channel, recipients) for _ in range(runs)]
        results[channel] = median(measured)
    (ROOT / "bench" / "results.md").write_text(report(results), encoding="utf-8")
    print(json.dumps(results) if options.json else report(results))
    return 0


def run(channel: str, recipients: int) -> dict[str, float]:
    """One campaign of so many recipients on fresh servers, each with one contact of the channel."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pn-")))
        folder.chmod(0o755)
        sink = subprocess.Popen([sys.executable, "-m", "bench.sink"], stdout=subprocess.PIPE, cwd=ROOT)
        stack.callback(sink.kill)
        assert sink.stdout is not None
        ports = json.loads(sink.stdout.readline())
        urls = servers.start_all(folder)
        stack.callback(servers.stop_all, folder)
        environment = os.environ | {
            "DATABASE_URL": urls.database_url,
            "REDIS_URL": urls.redis_url,
            "NOTIFIER_MASTER_KEY": secrets.token_hex(32),
            "NOTIFIER_SMTP__PORT": str(ports["smtp"]),
            "NOTIFIER_SMTP__SECURITY": "none",
            "NOTIFIER_SMTP__RATE_PER_S": "1000000",
            "NOTIFIER_SMTP__MESSAGES_PER_CONNECTION": "1000000",
            "NOTIFIER_BREVO_SMS__BASE_URL": f"http://127.0.0.1:{ports['http']}/v3",
            "NOTIFIER_BREVO_SMS__RATE_PER_S": "1000000",
        }
        os.environ.update(environment)
        current = settings.load()
        store.migrate(current.sqlalchemy_url)
        database = store.Database(current.sqlalchemy_url)
        stack.callback(database.dispose)
        measured: dict[str, float] = {}
        campaign_id = prepare(database, current, folder, channel, recipients, measured)
        supervisor = Supervisor(environment, folder / "log")
        supervisor.add("feeder", "workers.main", "feeder")
        for number in range(2):
            supervisor.add(f"worker-{number}", "workers.main", "worker", "--channel", channel)
        stack.enter_context(supervisor)
        wait_for_workers(database)
        send(database, supervisor, campaign_id, recipients, ports["http"], urls.redis_url, sink.pid, measured)
        return measured


def prepare(
    database: store.Database, current: Any, folder: Path, channel: str, recipients: int, measured: dict[str, float]
) -> int:
    """Imports, approves and fans out; measures each."""
    path = folder / "list.csv"
    with path.open("w", encoding="utf-8") as out:
        out.write("id;nom;prenom;date de naissance;email;portable;adresse;code postal;ville\n")
        for number in range(recipients):
            mail = f"patient{number}@example.org" if channel == "email" else ""
            # The range reserved for fiction holds 10,000 numbers; overseas ones are as good for a sink.
            phone = f"+33639{980000 + number:06}" if channel == "sms" and number < 10_000 else ""
            phone = phone or (f"+33612{number:06}" if channel == "sms" else "")
            out.write(f"P{number};Nom{number};Prénom;12/03/1975;{mail};{phone};2 rue des Lilas;75002;Paris\n")
    now = datetime.now(UTC)
    with database.staff() as session:
        doctor = acts.create_doctor(
            session,
            actor="bench",
            reference="D1",
            name="Dr Camille Exemple",
            practice="Cabinet Exemple",
            address="1 rue de l'Exemple, 75001 Paris",
            phone="01 99 00 12 34",
            email="cabinet@example.org",
        )
        incident = acts.create_incident(session, current, "bench", "eu-gdpr-fr", FACTS, actor="bench")
        campaign = controlling.create(session, current.master, incident.id, doctor.id, actor="bench")
        campaign_id: int = campaign.id
    cpu, started = time.process_time(), time.perf_counter()
    with database.staff() as session:
        list_file = acts.import_list(session, current, campaign_id, path, actor="bench", now=now)
        assert list_file.accepted == recipients, list_file.accepted
    measured["import_rows_per_s"] = recipients / (time.perf_counter() - started)
    measured["import_us_cpu_per_row"] = (time.process_time() - cpu) / recipients * 1e6
    with database.staff() as session:
        shown = acts.draft(session, current, campaign_id)
        acts.approve(session, current, campaign_id, expected_hash=shown.hash, actor="bench", now=now)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
    return campaign_id


def send(
    database: store.Database,
    supervisor: Supervisor,
    campaign_id: int,
    recipients: int,
    port: int,
    redis_url: str,
    sink: int,
    measured: dict[str, float],
) -> None:
    """From the start of the campaign until the sink has all and every row is written."""
    pids = {one.name: one.process.pid for one in supervisor.processes if one.process}
    before = {name: cpu_of([psutil.Process(pid)]) for name, pid in pids.items()}
    postgres = cpu_of(named("postgres"))
    valkey = cpu_of(named("valkey-server"))
    lsn, commits = progress(database)
    started = time.perf_counter()
    with database.staff() as session:
        acts.start(session, campaign_id, actor="bench", now=datetime.now(UTC))
    measured["fan_out_per_s"] = recipients / (time.perf_counter() - started)
    fanned_lsn, _ = progress(database)
    peak_rss, queue_bytes = 0.0, 0
    client = redis.Redis.from_url(redis_url)
    base_bytes = client.info("memory")["used_memory"]
    first = None
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        while True:
            counts = http.get("/counts").json()
            if first is None and counts["distinct"]:
                first = time.perf_counter() - started
            if counts["distinct"] >= recipients:
                with database.staff() as session:
                    left = session.scalar(
                        text("SELECT count(*) FROM delivery WHERE state IN ('pending', 'leased', 'sending')")
                    )
                if not left:
                    break
            peak_rss = max(peak_rss, *(psutil.Process(pid).memory_info().rss for pid in pids.values()))
            queue_bytes = max(queue_bytes, client.info("memory")["used_memory"] - base_bytes)
            time.sleep(0.05)
    seconds = time.perf_counter() - started
    client.close()
    assert counts["again"] == 0, "the sink saw a message twice"
    end_lsn, end_commits = progress(database)
    measured["recipients_per_s"] = recipients / seconds
    measured["first_message_s"] = first or seconds
    for name, pid in pids.items():
        key = "workers" if name.startswith("worker") else name
        used = cpu_of([psutil.Process(pid)]) - before[name]
        measured[f"{key}_us_cpu"] = measured.get(f"{key}_us_cpu", 0.0) + used / recipients * 1e6
    measured["postgres_us_cpu"] = (cpu_of(named("postgres")) - postgres) / recipients * 1e6
    measured["valkey_us_cpu"] = (cpu_of(named("valkey-server")) - valkey) / recipients * 1e6
    measured["wal_bytes"] = (end_lsn - fanned_lsn) / recipients
    measured["fan_out_wal_bytes"] = (fanned_lsn - lsn) / recipients
    measured["transactions"] = (end_commits - commits) / recipients
    measured["peak_rss_mb"] = peak_rss / 2**20
    measured["valkey_bytes"] = queue_bytes / recipients


def wait_for_workers(database: store.Database) -> None:
    while True:
        with database.engine.connect() as connection:
            if store.live_workers(connection, 60) >= 2:
                return
        time.sleep(0.05)


def progress(database: store.Database) -> tuple[int, int]:
    """Bytes of log written and transactions committed so far."""
    with database.engine.connect() as connection:
        row = connection.execute(
            text(
                "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), pg_stat_get_db_xact_commit(oid) "
                "FROM pg_database WHERE datname = current_database()"
            )
        ).one()
        return int(row[0]), int(row[1])


def named(name: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["name"]) if process.info["name"] == name]


def cpu_of(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(one[key] for one in runs), 3) for key in runs[0]}


def machine() -> dict[str, str]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "system": platform.system(),
        "on": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def report(results: dict[str, Any]) -> str:
    lines = [
        "# What one recipient costs",
        "",
        "Made by `make bench`; the median of "
        f"{results['runs']} runs of {results['recipients']:,} recipients, everything on one machine "
        f"({results['machine']['cores']} cores, Python {results['machine']['python']}, "
        f"{results['machine']['on']}).",
        "",
    ]
    for channel in ("email", "sms"):
        if channel in results:
            lines += [f"## {channel}", "", "| figure | median |", "| --- | ---: |"]
            lines += [
                f"| {name.replace('_', ' ')} | {value:,.3g} |"
                if value < 100
                else f"| {name.replace('_', ' ')} | {value:,.0f} |"
                for name, value in results[channel].items()
            ]
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
