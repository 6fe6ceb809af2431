"""Keeps the processes of one machine running: starts each anew when it ends, stops all of them together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: a process that ends at once is started again later and later
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
#: after SIGTERM; longer than a worker's own deadline
_STOP_S = 30.0
#: a process that ends more often than this within so many seconds is spoken of
_MOST_ENDS, _ENDS_WITHIN_S = 3, 60.0
#: of a log's last line, so many bytes are read and so many letters shown
_TAIL_BYTES, _LINE_LETTERS = 8192, 400


@dataclass(slots=True)
class Supervised:
    """One process and how it is kept."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    started_at: float = 0.0
    wait_s: float = _FIRST_WAIT_S
    has_ended: bool = False
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_ENDS + 1))


@dataclass(slots=True)
class Supervisor:
    """Use as a context: processes run inside, and are gone after it.

    `say` is told, in one line, of a process that cannot be started or ends again and again.
    """

    environment: Mapping[str, str]
    log_dir: Path
    say: Callable[[str], None] | None = None
    processes: list[Supervised] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def add(self, name: str, *module_and_arguments: str) -> None:
        """Registers `python -m MODULE ARGUMENTS…`; started on entering the context."""
        self.processes.append(Supervised(name, [sys.executable, "-m", *module_and_arguments]))

    def __enter__(self) -> Supervisor:
        for one in self.processes:
            self._start(one)
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        running = self._running()
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

    def restart(self) -> None:
        """Asks every process to end; each is started anew, in the environment as it is then."""
        for process in self._running():
            process.send_signal(signal.SIGTERM)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [one.process for one in self.processes if one.process and one.process.poll() is None]

    def _log(self, one: Supervised) -> Path:
        return self.log_dir / f"{one.name}.log"

    def _start(self, one: Supervised) -> None:
        """Starts it, or says why not; then it is tried again later."""
        one.started_at = time.monotonic()
        try:
            # Again at each start: a folder of logs may be cleared away under us.
            self.log_dir.mkdir(parents=True, exist_ok=True)
            with self._log(one).open("ab") as log:
                one.process = subprocess.Popen(  # noqa: S603 - our own modules
                    one.command,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=os.getcwd(),
                    start_new_session=True,  # Ctrl-C is for us: we stop them in order
                )
        except OSError as error:
            self._tell(f"{one.name} cannot be started ({error.strerror}); it is tried again. Logs: {self.log_dir}")
            return
        one.starts += 1
        one.has_ended = False

    def _keep(self) -> None:
        while not self._stopping.wait(0.1):
            for one in self.processes:
                if one.process is None or one.process.poll() is not None:
                    self._bring_back(one, time.monotonic())

    def _bring_back(self, one: Supervised, now: float) -> None:
        if one.process is not None and not one.has_ended:
            one.has_ended = True
            self._note_end(one, one.process.returncode, now)
            if now - one.started_at > _LONGEST_WAIT_S:
                one.wait_s = _FIRST_WAIT_S
        if now - one.started_at >= one.wait_s:
            one.wait_s = min(one.wait_s * 2, _LONGEST_WAIT_S)
            self._start(one)

    def _note_end(self, one: Supervised, status: int, now: float) -> None:
        one.ends.append(now)
        if len(one.ends) > _MOST_ENDS and now - one.ends[0] < _ENDS_WITHIN_S:
            one.ends.clear()
            self._tell(f"{one.name} ends again and again (exit status {status}): {last_line(self._log(one))}")

    def _tell(self, line: str) -> None:
        if self.say is not None:
            self.say(line)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, shortened; "no log" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:_LINE_LETTERS] if said else "no log"


def engine(supervisor: Supervisor, email_workers: int = 1, sms_workers: int = 1) -> None:
    """Registers the API, a feeder, a sweeper, the process for test sends and the workers of each channel."""
    supervisor.add("api", "notifier.api")
    supervisor.add("control", "workers.main", "control")
    supervisor.add("feeder", "workers.main", "feeder")
    supervisor.add("sweeper", "workers.main", "sweeper")
    for number in range(email_workers):
        supervisor.add(f"email-{number}", "workers.main", "worker", "--channel", "email")
    for number in range(sms_workers):
        supervisor.add(f"sms-{number}", "workers.main", "worker", "--channel", "sms")
