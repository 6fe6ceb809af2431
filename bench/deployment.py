"""One machine's deployment to measure on: servers, settings, database and the engine's own processes."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import redis
from sqlalchemy import text

from bench.machine import MB, ROOT, cpu_s, own_bytes, peak_bytes
from bench.modes import Mode
from bench.sinks import Sink
from notifier import acts, controlling, settings, store
from notifier.cli import supervise
from notifier.cli.supervise import Supervisor
from notifier.rehearsal import servers
from notifier.states import Channel

FACTS = json.loads((ROOT / "tests" / "notifier" / "facts.json").read_text(encoding="utf-8"))
ACTOR = "bench"
#: what the rivals' harness gives its PostgreSQL; commits wait for the disk on both sides
SERVER_SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
#: every statement with its duration, and who asked; no values
LOG_STATEMENTS = {
    "log_min_duration_statement": "0",
    "log_parameter_max_length": "0",
    "log_line_prefix": "%a|",
}
#: names of our connections and of the engine's in the server's log
OURS, ENGINES = "bench", "engine"


#: a new book of limits waits for its grace, then for the longest window of these modes
_NEW_BOOK_S = 2.5


class EngineError(Exception):
    """A process of the engine did not start, did not come to rest, or ended."""


@dataclass(slots=True)
class Deployment:
    """Servers that run, a migrated database, and settings for one mode."""

    folder: Path
    urls: servers.Urls
    current: settings.Settings
    database: store.Database
    environment: Mapping[str, str]

    @property
    def pids(self) -> dict[str, list[int | None]]:
        """The servers' processes."""
        return {
            "postgres": [servers.Postgres(self.folder).pid],
            "valkey": [servers.Valkey(self.folder).pid],
        }

    def ask(self, statement: str, **values: object) -> Any:
        """The one value a statement gives, asked as operations."""
        with self.database.staff() as session:
            return session.scalar(text(statement), values)

    def tidy(self) -> None:
        """What a database that has run for a while has behind it."""
        with psycopg.connect(self.urls.database_url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")

    def progress(self) -> tuple[int, int]:
        """Bytes of log written and transactions that wrote something, so far.

        By transaction numbers: the server's own statistics come up to ten seconds late.
        """
        with self.database.engine.connect() as connection:
            row = connection.execute(
                text(
                    "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'), "
                    "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
                )
            ).one()
            return int(row[0]), int(row[1])

    def memory(self, supervisor: Supervisor) -> dict[str, float]:
        """Peak MB of the engine's processes (the largest worker) and MB of the servers now."""
        peaks: dict[str, float] = {}
        for name, pid in engine_pids(supervisor).items():
            figure = f"{role(name)}_mb"
            peaks[figure] = max(peaks.get(figure, 0.0), peak_bytes(pid) / MB)
        return peaks | {"postgres_mb": own_bytes(self.pids["postgres"][0]) / MB}


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder the server's own user may pass through; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="pn-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def deployed(
    folder: Path, mode: Mode, sink: Sink | None, server_settings: Mapping[str, str] | None = None
) -> Iterator[Deployment]:
    """Starts servers in `folder` with what it holds, or fresh ones, and brings the database up to date."""
    with ExitStack() as stack:
        urls = servers.start_all(folder)
        stack.callback(servers.stop_all, folder)
        _set_up(urls.database_url, SERVER_SETTINGS | dict(server_settings or {}))
        database_url = servers.Postgres(folder).restart()
        ports = {"smtp": sink.smtp_port, "http": sink.http_port} if sink else {"smtp": 1, "http": 1}
        changes = {name: value.format(**ports) for name, value in mode.settings.items()} | {
            "DATABASE_URL": database_url,
            "REDIS_URL": urls.redis_url,
            "NOTIFIER_MASTER_KEY": _master_key(folder),
        }
        stack.enter_context(environment(changes | {"PGAPPNAME": OURS}))
        current = settings.load()
        store.migrate(current.sqlalchemy_url)
        database = store.Database(current.sqlalchemy_url)
        stack.callback(database.dispose)
        engines = os.environ | {"PGAPPNAME": ENGINES}
        yield Deployment(folder, servers.Urls(database_url, urls.redis_url), current, database, engines)


def versions() -> dict[str, str]:
    """Of the two servers, as they say it themselves."""
    with temporary() as folder:
        urls = servers.start_all(folder)
        try:
            with psycopg.connect(urls.database_url) as connection, redis.Redis.from_url(urls.redis_url) as client:
                info = client.info("server")
                postgres = connection.info.parameter_status("server_version") or "unknown"
                return {"postgres": postgres, "valkey": str(info.get("valkey_version", info["redis_version"]))}
        finally:
            servers.stop_all(folder)


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """This process's own settings, put back at the end."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def engine(
    deployment: Deployment, mode: Mode, module: str = "workers.main", *, idle: bool = True
) -> Iterator[Supervisor]:
    """All that a deployment runs to send, with the mode's workers, started when the block begins.

    Only the API is left out: it takes no part in sending. `module` replaces the engine's own entry. `idle` says
    that nothing is due yet: then the block begins when all are at rest.
    """
    supervisor = Supervisor(deployment.environment, deployment.folder / "log")
    is_email = mode.channel is Channel.EMAIL
    supervise.engine(supervisor, mode.workers if is_email else 0, 0 if is_email else mode.workers)
    supervisor.processes = [one for one in supervisor.processes if one.name != "api"]
    for one in supervisor.processes:
        one.command = [module if part == "workers.main" else part for part in one.command]
    begun = datetime.now(UTC)
    with supervisor:
        try:
            _await_heartbeats(deployment, mode.workers, begun)
            if idle:
                _await_calm(list(engine_pids(supervisor).values()))
            yield supervisor
            if restarted := [one.name for one in supervisor.processes if one.starts != 1]:
                raise EngineError(f"{', '.join(restarted)} ended and was started anew")
        except Exception as error:
            # The folder is about to go: what the processes said last goes with the error.
            for one in supervisor.processes:
                error.add_note(f"{one.name}: {supervise.last_line(supervisor.log_dir / f'{one.name}.log')}")
            raise


def engine_pids(supervisor: Supervisor) -> dict[str, int]:
    """The engine's processes by name."""
    return {one.name: one.process.pid for one in supervisor.processes if one.process}


def role(name: str) -> str:
    """What a process is: all that send are workers."""
    return "worker" if name.partition("-")[0] in list(Channel) else name


def groups(deployment: Deployment, supervisor: Supervisor, sink: Sink) -> dict[str, list[int | None]]:
    """All processes of a run, by what they are."""
    found = deployment.pids | {"sink": [sink.pid]}
    for name, pid in engine_pids(supervisor).items():
        found.setdefault(role(name), []).append(pid)
    return found


def ours(used: Mapping[str, float]) -> float:
    """Of what groups used: all but the servers and the sink."""
    return sum(value for name, value in used.items() if name not in ("postgres", "valkey", "sink"))


def valkey_bytes(url: str) -> int:
    """What Valkey says it holds; 0 while it is away."""
    try:
        with redis.Redis.from_url(url, socket_timeout=2) as client:
            return int(client.info("memory")["used_memory"])
    except redis.RedisError:
        return 0


def open_incident(deployment: Deployment) -> int:
    """The made-up incident, made once."""
    known = deployment.ask("SELECT id FROM incident WHERE reference = 'bench'")
    if known is not None:
        return int(known)
    with deployment.database.staff() as session:
        incident = acts.create_incident(session, deployment.current, "bench", "eu-gdpr-fr", FACTS, actor=ACTOR)
        return int(incident.id)


def create_campaign(deployment: Deployment, incident_id: int, number: int) -> int:
    """A made-up doctor's campaign."""
    with deployment.database.staff() as session:
        doctor = acts.create_doctor(
            session,
            actor=ACTOR,
            reference=f"D{number:05}",
            name="Dr Camille Exemple",
            practice=f"Cabinet Exemple {number}",
            address="1 rue de l'Exemple, 75001 Paris",
            phone="01 99 00 12 34",
            email="cabinet@example.org",
        )
        campaign = controlling.create(session, deployment.current.master, incident_id, doctor.id, actor=ACTOR)
        return int(campaign.id)


def approve(deployment: Deployment, campaign_id: int) -> None:
    """Freezes the texts as they would be composed now."""
    with deployment.database.staff() as session:
        shown = acts.draft(session, deployment.current, campaign_id)
        acts.approve(
            session,
            deployment.current,
            campaign_id,
            expected_hash=shown.hash,
            actor=ACTOR,
            now=datetime.now(UTC),
        )


def start(deployment: Deployment, campaign_id: int) -> int:
    """Starts a campaign and commits; returns its deliveries."""
    with deployment.database.staff() as session:
        return acts.start(session, campaign_id, actor=ACTOR, now=datetime.now(UTC))


def _set_up(url: str, wanted: Mapping[str, str]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET ALL")
        for name, value in wanted.items():
            connection.execute(
                psycopg.sql.SQL("ALTER SYSTEM SET {} = {}").format(
                    psycopg.sql.Identifier(name), psycopg.sql.Literal(value)
                )
            )


def _master_key(folder: Path) -> str:
    """Kept with the data it opens: all of it is made up."""
    path = folder / "master.key"
    if not path.exists():
        path.write_text(secrets.token_hex(32))
    return path.read_text()


def _await_heartbeats(deployment: Deployment, workers: int, since: datetime, patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        seen = deployment.ask(
            "SELECT count(*) FILTER (WHERE process LIKE 'worker:%') >= :workers "
            "AND count(*) FILTER (WHERE process LIKE 'feeder%') >= 1 FROM heartbeat WHERE at > :since",
            workers=workers,
            since=since,
        )
        if seen:
            return
        time.sleep(0.05)
    raise EngineError(f"the engine did not start within {patience_s:.0f} s")


def _await_calm(pids: Sequence[int], patience_s: float = 30) -> None:
    """Until imports and first connections are done: they are not what a recipient costs.

    And until the rate limits of a new Redis grant anything, which is after their window (`workers/books.py`).
    """
    deadline = time.monotonic() + patience_s
    time.sleep(_NEW_BOOK_S)
    before = sum(map(cpu_s, pids))
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = sum(map(cpu_s, pids))
        if now - before <= 0.02 * len(pids):
            return
        before = now
    raise EngineError(f"the engine did not come to rest within {patience_s:.0f} s, with nothing to send")
