"""What a process used of the machine, read from the kernel; and how much others used meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
MB = 2**20
#: libraries whose version moves a figure
_PACKAGES = ("dramatiq", "aiohttp", "aiosmtplib", "httpx", "psycopg", "sqlalchemy", "uvloop", "cryptography")


def facts() -> dict[str, str]:
    """The machine, the versions and the commit that were measured."""
    return {
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES),
        "commit": _commit(),
        "on": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def tree(pid: int | None) -> list[psutil.Process]:
    """The process and all below it; empty where it is gone."""
    if pid is None:
        return []
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int | None) -> float:
    """CPU seconds of a process and its children, those that ended included."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def peak_bytes(pid: int) -> int:
    """The most memory one process ever held (Linux's high-water mark), else what it holds now."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return now_bytes(pid)


def now_bytes(pid: int) -> int:
    """What one process holds now; 0 where it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def own_bytes(pid: int | None) -> int:
    """What a family of processes holds, each shared page counted once; 0 where the kernel will not say."""
    total = 0
    for process in tree(pid):
        try:
            total += getattr(process.memory_full_info(), "pss", 0)
        except psutil.Error:
            continue
    return total


def busy_s() -> float:
    """CPU seconds that the whole machine has worked, whoever for."""
    times = psutil.cpu_times()
    names = ("user", "system", "nice", "softirq", "irq", "steal")
    return float(sum(getattr(times, name, 0.0) for name in names))


class Usage:
    """CPU by group of processes between its making and `read`, and how much others took of the machine."""

    def __init__(self, groups: Mapping[str, Iterable[int | None]]) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self._before = self._now()
        self._own = _own_s()
        self._busy = busy_s()

    def _now(self) -> dict[str, float]:
        return {name: sum(cpu_s(pid) for pid in pids) for name, pids in self._groups.items()}

    def read(self) -> tuple[dict[str, float], float]:
        """CPU seconds by group, and those of everybody else, this process not counted."""
        used = {name: total - self._before[name] for name, total in self._now().items()}
        others = busy_s() - self._busy - sum(used.values()) - (_own_s() - self._own)
        return used, max(others, 0.0)


def _own_s() -> float:
    times = os.times()
    return times.user + times.system


class Highest:
    """Looks at a figure in the background until its end, and keeps the highest."""

    def __init__(self, look: Callable[[], float], every_s: float = 0.25) -> None:
        self.value = 0.0
        self._look = look
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.value = max(self.value, self._look())

    def __enter__(self) -> Highest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
