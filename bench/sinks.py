"""Who receives what is sent, and keeps its own count: the rivals' sink where there is one, else ours."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.machine import ROOT

#: the rivals' harness, where it is beside the project
PEERS = ROOT.parent / "shared" / "bench" / "peers"
#: where that harness keeps what it installed and built
PEERS_WORK = Path(os.environ.get("PERF_DIR") or Path(tempfile.gettempdir()) / "notifier-peers")
#: as C source has it, of about the same length: the buffer it is written into holds 80 bytes
_ANSWER, _OUR_ANSWER = r"\"status\":\"queued\"", r"\"messageId\":\"queued\""


class Counts(NamedTuple):
    """What the sink saw: different recipients, and messages to one it had seen already."""

    distinct: int
    again: int


@dataclass(slots=True)
class Sink:
    """A running sink."""

    kind: str
    pid: int
    smtp_port: int
    http_port: int
    _http: http.client.HTTPConnection | None = None

    def counts(self) -> Counts:
        """Its own count, over a kept connection."""
        if self._http is None:
            self._http = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        self._http.request("GET", "/stat" if self.kind == "c" else "/counts")
        answer = json.loads(self._http.getresponse().read())
        if self.kind == "c":
            return Counts(answer["delivered"], answer["duplicates"])
        return Counts(answer["distinct"], answer["again"])

    def stall(self) -> None:
        """Takes and answers nothing any more, its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def running(*, with_token: bool, latency_ms: int = 0) -> Iterator[Sink]:
    """A sink of its own; the rivals' one only for messages that carry its token."""
    binary = c_sink() if with_token else None
    make = _c_process(binary, latency_ms) if binary else _own_process(latency_ms)
    sink, process = make
    try:
        yield sink
    finally:
        sink.go_on()
        process.kill()
        process.wait()


def c_sink() -> Path | None:
    """The rivals' sink, built if there is a compiler; None where the harness is not beside the project.

    Its answer to HTTP carries the id under a second name as well, the one that the email API we use has; rivals
    are measured against this same binary.
    """
    if not PEERS.is_dir():
        return None
    source = (PEERS / "sink.c").read_text(encoding="utf-8")
    if _ANSWER not in source:
        return None
    source = source.replace(_ANSWER, _OUR_ANSWER)
    built = PEERS_WORK / f"sink-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if not built.exists():
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            return None
        built.parent.mkdir(parents=True, exist_ok=True)
        written = built.with_suffix(".c")
        written.write_text(source, encoding="utf-8")
        subprocess.run([compiler, "-O2", "-w", "-o", str(built), str(written)], check=True)
    return built


def _c_process(binary: Path, latency_ms: int) -> tuple[Sink, subprocess.Popen[bytes]]:
    # It takes ports as arguments and says none: 0 lets the system choose, and the kernel tells which it was.
    process = subprocess.Popen([str(binary), "0", "0", str(latency_ms)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        listening = [one for one in psutil.Process(process.pid).net_connections("tcp") if one.status == "LISTEN"]
        if len(listening) == 2:
            # HTTP is opened first, so it has the lower descriptor.
            web, mail = (one.laddr.port for one in sorted(listening, key=lambda one: one.fd))
            return Sink("c", process.pid, mail, web), process
        time.sleep(0.01)
    process.kill()
    raise RuntimeError(f"the sink {binary} did not start")


def _own_process(latency_ms: int) -> tuple[Sink, subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.sink", str(latency_ms)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    ports = json.loads(process.stdout.readline())
    return Sink("python", process.pid, ports["smtp"], ports["http"]), process
