"""What a drill runs on: servers, the engine's processes, the rehearsal servers, and all that can be done to them.

Everything is this machine's and this folder's own, whatever the environment says: a drill kills its servers.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import text

from notifier import settings, store
from notifier.cli.supervise import Supervised, Supervisor
from notifier.cli.up import MARK, end_orphans
from notifier.errors import ServiceError
from notifier.rehearsal import main as rehearsal
from notifier.rehearsal.faults import Both, Faults
from notifier.rehearsal.servers import Postgres, Valkey, free_port, stop_all
from notifier.settings import ROOT, Settings

#: as `workers.broker` has it
NAMESPACE = "notifier"
QUEUES = ("email", "sms")
WORKERS = ("worker-0", "worker-1")
#: the worker's exit status when its watchdog ended it, as `workers.main` has it
STUCK = 70
#: hours of the profile become seconds
SCALE = 3600
LEASE_S = 5.0
SHUTDOWN_S = 6.0
WATCHDOG_S = 6.0
#: some contacts never work, so that people fall back to their next one in every scenario
FATES = Both(
    email=Faults(latency_s=0.02, refused=0.05),
    sms=Faults(latency_s=0.02, refused=0.03, hard_bounced=0.04, receipt_delay_s=0.1),
)
_ENGINE = {
    "NOTIFIER_TIME_SCALE": str(SCALE),
    # A lease must exceed three time-outs.
    "NOTIFIER_SMTP__TIMEOUT_S": "1.5",
    "NOTIFIER_BREVO_SMS__TIMEOUT_S": "1.5",
    "NOTIFIER_SMTP__CONNECTIONS": "8",
    "NOTIFIER_BREVO_SMS__CONCURRENCY": "8",
    "NOTIFIER_SMTP__RATE_PER_S": "1000",
    "NOTIFIER_BREVO_SMS__RATE_PER_S": "1000",
    "NOTIFIER_ENGINE__LEASE_S": str(LEASE_S),
    # Small incidents in small portions, so that several tickets are at work when something happens.
    "NOTIFIER_ENGINE__CLAIM_ROWS": "24",
    "NOTIFIER_ENGINE__INTENT_ROWS": "8",
    "NOTIFIER_ENGINE__RESULT_ROWS": "8",
    "NOTIFIER_ENGINE__SWEEPER_MS": "250",
    "NOTIFIER_ENGINE__FEEDER_MS": "100",
    "NOTIFIER_ENGINE__SHUTDOWN_S": str(SHUTDOWN_S),
    "NOTIFIER_ENGINE__WATCHDOG_S": str(WATCHDOG_S),
}
#: the profile's waits in this rehearsal, by section and key; all but `unknown_quiet` are divided by SCALE
_WAITS = {
    ("", "unknown_quiet"): "PT2S",
    ("silence.email", "after"): "PT1H",
    ("silence.sms", "after"): "PT20H",
    ("retry.email", "first_wait"): "PT30M",
    ("retry.email", "longest_wait"): "PT8H",
    ("retry.sms", "first_wait"): "PT30M",
    ("retry.sms", "longest_wait"): "PT8H",
}
#: looks at a condition come so often
_LOOK_S = 0.1
_BOOT_S = 60.0
#: Alembic knows one migration of a process at a time
_MIGRATING = threading.Lock()
#: what of a caller's environment would reach somebody else's servers, relay or keys
_FOREIGN = ("NOTIFIER_", "DATABASE_URL", "REDIS_URL")


class Stage:
    """Use as a context: everything runs inside, and is gone after it."""

    def __init__(self, folder: Path, seed: int, stop: threading.Event) -> None:
        self.folder = folder.resolve()
        self.seed = seed
        #: set when the whole drill is to end
        self.stop = stop
        self.postgres = Postgres(self.folder, durable=False)
        self.valkey = Valkey(self.folder, durable=False, debug=True)
        #: the next message of the servers that no incident has been judged by
        self.next_message = 0
        #: requests the servers had seen when the last incident was judged
        self.asked_before = 0
        self._frozen: set[int] = set()
        self._closing: list[Callable[[], None]] = []

    # --- coming and going ---------------------------------------------------------------------------------

    def __enter__(self) -> Stage:
        self._clear()
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _clear(self) -> None:
        """What an earlier drill left behind, running or not."""
        end_orphans(self.folder)
        rehearsal.stop(self.folder)
        stop_all(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def _open(self) -> None:
        self._closing.append(lambda: stop_all(self.folder))
        self._closing.append(lambda: rehearsal.stop(self.folder))
        self.here = rehearsal.start(self.folder, faults="none", seed=self.seed)
        self.api = httpx.Client(base_url=self.here.page_url, timeout=30)
        self._closing.append(self.api.close)
        self.environment = self._environment()
        self.settings: Settings = settings.load(
            database_url=self.environment["DATABASE_URL"],
            redis_url=self.environment["REDIS_URL"],
            master_key=self.environment["NOTIFIER_MASTER_KEY"],
            config_dir=self.environment["NOTIFIER_CONFIG_DIR"],
            data_dir=self.folder,
        )
        with _MIGRATING:
            store.migrate(self.settings.sqlalchemy_url)
        self.database = store.Database(self.settings.sqlalchemy_url, pool_size=3)
        self._closing.append(self.database.dispose)
        self.supervisor = Supervisor(self.environment, self.folder / "log")
        self.supervisor.add("api", "notifier.api")
        self.supervisor.add("feeder", "workers.main", "feeder")
        self.supervisor.add("sweeper", "workers.main", "sweeper")
        for name in WORKERS:
            self.supervisor.add(name, "workers.main", "worker")
        self.supervisor.__enter__()
        self._closing.append(lambda: self.supervisor.__exit__())
        self._closing.append(self.thaw)
        self.restore()

    def _close(self) -> None:
        while self._closing:
            self._closing.pop()()

    def _environment(self) -> dict[str, str]:
        """What every process runs with; see `forget_environment` for what it does not hold."""
        port = free_port()
        config = self.folder / "config"
        shutil.copytree(ROOT / "config", config)
        profile = config / "profiles" / "eu-gdpr-fr.toml"
        profile.write_text(shortened(profile.read_text(encoding="utf-8")), encoding="utf-8")
        return (
            dict(os.environ)
            | _ENGINE
            | {
                MARK: str(self.folder),
                "DATABASE_URL": self.postgres.start(),
                "REDIS_URL": self.valkey.start(),
                "NOTIFIER_MASTER_KEY": secrets.token_hex(32),
                "NOTIFIER_DATA_DIR": str(self.folder),
                "NOTIFIER_CONFIG_DIR": str(config),
                "NOTIFIER_API_PORT": str(port),
                "NOTIFIER_PUBLIC_URL": f"http://127.0.0.1:{port}",
                "NOTIFIER_SMTP__HOST": self.here.smtp_host,
                "NOTIFIER_SMTP__PORT": str(self.here.smtp_port),
                "NOTIFIER_SMTP__SECURITY": "none",
                "NOTIFIER_BREVO_SMS__BASE_URL": self.here.brevo_url,
                "NOTIFIER_BREVO_SMS__API_KEY": self.here.api_key,
            }
        )

    def restore(self) -> None:
        """All as before the first scenario: servers up, processes the real ones and at work, faults off."""
        self.thaw()
        self.postgres.start()
        self.valkey.start()
        with self.redis() as client:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            # Not FLUSHALL: limits that find their books gone wait until nobody can have spent anything.
            for queue in (*QUEUES, "__acks__"):
                for key in client.scan_iter(f"{NAMESPACE}:{queue}*"):
                    client.delete(key)
        for one in list(self.supervisor.processes):
            if one.name.startswith("feeder-"):
                self.remove(one.name)
        for name in WORKERS:
            if self._one(name).command[2:] != ["workers.main", "worker"]:
                self.run_as(name)
        self.faults(FATES)
        with self.database.staff() as session:
            session.execute(text("DELETE FROM hold"))
            session.execute(text("DELETE FROM breaker"))
        self.until("the workers, the feeder and the sweeper are at work", self.is_at_work, _BOOT_S)

    # --- waiting and looking ------------------------------------------------------------------------------

    def until(self, what: str, condition: Callable[[], bool], within_s: float) -> float:
        """Waits until `condition` holds; returns how long it took. Raises ServiceError if it does not in time."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > within_s:
                raise ServiceError(f"Within {within_s:.0f} s it did not come to this: {what}.")
            if self.stop.wait(_LOOK_S):
                raise ServiceError("The drill was ended.")
        return time.monotonic() - started

    def pause(self, seconds: float) -> None:
        """A disturbance that lasts: nothing is waited for, time itself is the point."""
        if self.stop.wait(seconds):
            raise ServiceError("The drill was ended.")

    def scalar(self, statement: str, **values: object) -> Any:
        """One value from the database, as staff."""
        with self.database.staff() as session:
            return session.scalar(text(statement), values)

    def is_at_work(self) -> bool:
        """Whether every process has spoken since it was started."""
        if any(self.supervisor.pid(one.name) is None for one in self.supervisor.processes):
            return False
        owners = [f"worker:%:{self.supervisor.pid(name)}:%" for name in WORKERS]
        heard = self.scalar(
            "SELECT count(*) FROM unnest(CAST(:owners AS text[])) o "
            "WHERE EXISTS (SELECT FROM heartbeat WHERE process LIKE o AND at > now() - interval '5 seconds')",
            owners=owners,
        )
        others = self.scalar(
            "SELECT count(*) FROM heartbeat "
            "WHERE process IN ('feeder', 'sweeper') AND at > now() - interval '3 seconds'"
        )
        return bool(heard == len(owners) and others == 2)

    def taken(self) -> int:
        """Messages the servers have taken so far, by their own count."""
        known = self.counts()
        return int(known["email"]["taken"] + known["sms"]["taken"])

    def asked(self) -> int:
        """Hand-overs the servers have been asked for so far."""
        return int(sum(self.counts()["tries"].values()))

    def counts(self) -> dict[str, Any]:
        answer = self.api.get("/counts.json", params={"brief": ""})
        answer.raise_for_status()
        known: dict[str, Any] = answer.json()
        return known

    # --- the outside world --------------------------------------------------------------------------------

    def faults(self, both: Both) -> None:
        """Sets what goes wrong at the providers from now on."""
        answer = self.api.put("/faults", json=both.model_dump(mode="json"))
        answer.raise_for_status()

    def trouble(
        self, *, email: Mapping[str, object] | None = None, sms: Mapping[str, object] | None = None
    ) -> None:
        """The usual fates with these faults added."""
        self.faults(
            Both(
                email=FATES.email.model_copy(update=dict(email or {})),
                sms=FATES.sms.model_copy(update=dict(sms or {})),
            )
        )

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """A client without time-outs: a stalled server is waited for."""
        client = redis.Redis.from_url(
            self.environment["REDIS_URL"], socket_timeout=None, retry=Retry(NoBackoff(), 0)
        )
        try:
            yield client
        finally:
            client.close()

    def stall_redis(self, seconds: float) -> threading.Thread:
        """Redis answers nobody for so long; returns at once, with the thread that waits for the end."""

        def sleep() -> None:
            with self.redis() as client:
                client.execute_command("DEBUG", "SLEEP", seconds)  # type: ignore[no-untyped-call]  # redis' own

        thread = threading.Thread(target=sleep, daemon=True)
        thread.start()
        return thread

    def restart_postgres(self) -> None:
        self.postgres.start()
        self.database.engine.dispose()

    def left_in_queue(self) -> dict[str, int]:
        """What must never be anywhere: delayed messages and dead letters."""
        with self.redis() as client:
            return {
                f"{what} of {queue}": int(number)
                for queue in QUEUES
                for what, number in (
                    ("delayed messages", client.llen(f"{NAMESPACE}:{queue}.DQ")),
                    ("delayed messages kept", client.hlen(f"{NAMESPACE}:{queue}.DQ.msgs")),
                    ("dead letters", client.zcard(f"{NAMESPACE}:{queue}.XQ")),
                )
            }

    def waiting(self, queue: str) -> int:
        """Tickets that no worker has fetched yet."""
        with self.redis() as client:
            return int(client.llen(f"{NAMESPACE}:{queue}"))

    @contextmanager
    def broken_heartbeats(self) -> Iterator[None]:
        """Redis answers every command of the queue with an error that is no lost connection."""
        key = f"{NAMESPACE}:__heartbeats__"
        with self.redis() as client:
            client.set(key, "not a sorted set")
        try:
            yield
        finally:
            with self.redis() as client:
                client.delete(key)

    # --- processes ----------------------------------------------------------------------------------------

    def _one(self, name: str) -> Supervised:
        return next(one for one in self.supervisor.processes if one.name == name)

    def pid(self, name: str) -> int:
        """The process of this name, which is waited for if it is just being started."""
        self.until(f"{name} runs", lambda: self.supervisor.pid(name) is not None, _BOOT_S)
        return self.supervisor.pid(name) or 0

    def signal(self, name: str, number: int) -> int:
        """Sends a signal to a process, which the supervisor starts anew without waiting longer each time."""
        pid = self.pid(name)
        self.forgive(name)
        os.kill(pid, number)
        return pid

    def forgive(self, name: str) -> None:
        """The next end of this process is ours: the supervisor is not to wait longer after it."""
        self._one(name).wait_s = 0.1

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """Stops a process as a paused virtual machine would; it goes on, without knowing, at `thaw`."""
        self._frozen.add(self.pid(name))
        os.kill(self.pid(name), signal.SIGSTOP)

    def thaw(self) -> None:
        while self._frozen:
            try:
                os.kill(self._frozen.pop(), signal.SIGCONT)
            except ProcessLookupError:
                continue

    def run_as(self, name: str, *faults: str) -> None:
        """Starts a worker anew with something wrong inside (see `inside`), or as the real one without faults."""
        program = ["notifier.cli.drill.inside", *faults, "--", "worker"] if faults else ["workers.main", "worker"]
        self._one(name).command[1:] = ["-m", *program]
        self.kill(name)

    def add_feeder(self, name: str) -> None:
        """One more feeder: the supervisor starts it with its next look."""
        self.supervisor.add(name, "workers.main", "feeder")
        self.pid(name)

    def remove(self, name: str) -> None:
        one = self._one(name)
        self.supervisor.processes.remove(one)
        if one.process is not None:
            one.process.kill()
            one.process.wait()

    def ended(self, pid: int, within_s: float) -> float:
        """How long a process took to end. Raises ServiceError if it has not in time."""
        return self.until(f"process {pid} has ended", lambda: self.is_gone(pid), within_s)

    @staticmethod
    def is_gone(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def starts(self) -> dict[str, int]:
        """How often each process has been started."""
        return {one.name: one.starts for one in self.supervisor.processes}

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `notifier ARGUMENTS…` to its end, as a person would type it."""
        return subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-c", "from notifier.cli import main; main()", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=_BOOT_S,
            check=False,
        )


def shortened(profile: str) -> str:
    """A legal profile with the waits of a drill. Raises ServiceError if one of them is not in it."""
    section, left, lines = "", dict(_WAITS), []
    for line in profile.splitlines():
        if found := re.fullmatch(r"\[([a-z._]+)\]", line.strip()):
            section = found[1]
        key = line.partition("=")[0].strip()
        value = left.pop((section, key), None)
        lines.append(line if value is None else f"{key} = {json.dumps(value)}")
    if left:
        raise ServiceError(f"The legal profile has other keys than the drill knows: {sorted(left)} are missing.")
    return "\n".join(lines) + "\n"


def forget_environment() -> None:
    """Takes a deployment's own settings out of this process and all it starts."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
