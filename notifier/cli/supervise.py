"""Keeps the processes of one machine running: starts each anew when it ends, stops all of them together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: a process that ends at once is started again later and later
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
#: after SIGTERM; longer than a worker's own deadline
_STOP_S = 30.0


@dataclass(slots=True)
class Supervised:
    """One process and how it is kept."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    started_at: float = 0.0
    wait_s: float = _FIRST_WAIT_S


@dataclass(slots=True)
class Supervisor:
    """Use as a context: processes run inside, and are gone after it."""

    environment: Mapping[str, str]
    log_dir: Path
    processes: list[Supervised] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def add(self, name: str, *module_and_arguments: str) -> None:
        """Registers `python -m MODULE ARGUMENTS…`; started on entering the context."""
        self.processes.append(Supervised(name, [sys.executable, "-m", *module_and_arguments]))

    def __enter__(self) -> Supervisor:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        for one in self.processes:
            self._start(one)
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        running = [one.process for one in self.processes if one.process and one.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def pid(self, name: str) -> int | None:
        """The running process of this name."""
        one = next(one for one in self.processes if one.name == name)
        return one.process.pid if one.process and one.process.poll() is None else None

    def _start(self, one: Supervised) -> None:
        with (self.log_dir / f"{one.name}.log").open("ab") as log:
            one.process = subprocess.Popen(  # noqa: S603 - our own modules
                one.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=os.getcwd(),
                start_new_session=True,  # Ctrl-C is for us: we stop them in order
            )
        one.starts += 1
        one.started_at = time.monotonic()

    def _keep(self) -> None:
        while not self._stopping.wait(0.1):
            for one in self.processes:
                if one.process is None or one.process.poll() is None:
                    continue
                ran_s = time.monotonic() - one.started_at
                if ran_s > _LONGEST_WAIT_S:
                    one.wait_s = _FIRST_WAIT_S
                if ran_s < one.wait_s:
                    continue
                one.wait_s = min(one.wait_s * 2, _LONGEST_WAIT_S)
                self._start(one)


def engine(supervisor: Supervisor, email_workers: int = 1, sms_workers: int = 1) -> None:
    """Registers the API, a feeder, a sweeper and the workers of each channel."""
    supervisor.add("api", "notifier.api")
    supervisor.add("feeder", "workers.main", "feeder")
    supervisor.add("sweeper", "workers.main", "sweeper")
    for number in range(email_workers):
        supervisor.add(f"email-{number}", "workers.main", "worker", "--channel", "email")
    for number in range(sms_workers):
        supervisor.add(f"sms-{number}", "workers.main", "worker", "--channel", "sms")
