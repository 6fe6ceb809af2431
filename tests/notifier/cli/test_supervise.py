"""Processes are kept running whatever happens to their logs, and one that cannot run is spoken of."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from notifier.cli.supervise import Supervisor, last_line

#: a module that runs until it is told to end, and prints nothing
LASTING = ("http.server", "0", "--bind", "127.0.0.1")


def wait_until(seen: Callable[[], object]) -> None:
    """Returns once it is so; the test's own time limit bounds it."""
    while not seen():
        threading.Event().wait(0.05)


def make_supervisor(log_dir: Path, said: list[str], *module: str) -> Supervisor:
    supervisor = Supervisor(os.environ, log_dir, said.append)
    supervisor.add("one", *module)
    return supervisor


def kill(supervisor: Supervisor) -> int:
    """SIGKILL to the process "one"; returns its number."""
    pid = supervisor.pid("one")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_process_is_started_anew_after_its_log_folder_has_gone(tmp_path: Path) -> None:
    with make_supervisor(tmp_path / "log", [], *LASTING) as supervisor:
        shutil.rmtree(tmp_path / "log")
        killed = kill(supervisor)
        wait_until(lambda: supervisor.pid("one") not in (None, killed))
        assert (tmp_path / "log" / "one.log").exists()


def test_a_log_that_cannot_be_opened_is_said_and_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    with make_supervisor(tmp_path / "log", said, *LASTING) as supervisor:
        shutil.rmtree(tmp_path / "log")
        (tmp_path / "log").write_text("in the way")
        kill(supervisor)
        wait_until(lambda: said)
        assert said[0].startswith("one cannot be started (")
        (tmp_path / "log").unlink()
        wait_until(lambda: supervisor.pid("one"))


def test_a_first_start_that_fails_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    with make_supervisor(tmp_path / "log", [], *LASTING) as supervisor:
        assert supervisor.pid("one") is None
        (tmp_path / "log").unlink()
        wait_until(lambda: supervisor.pid("one"))


def test_one_that_ends_again_and_again_is_named_with_its_status_and_last_words(tmp_path: Path) -> None:
    said: list[str] = []
    with make_supervisor(tmp_path / "log", said, "json.tool", str(tmp_path / "none.json")) as supervisor:
        wait_until(lambda: said)
        (one,) = supervisor.processes
        assert one.starts == 4
    assert len(said) == 1
    assert said[0].startswith("one ends again and again (exit status 2): ")
    assert "none.json" in said[0]


def test_a_restart_brings_every_process_back_in_the_environment_of_then(tmp_path: Path) -> None:
    environment = dict(os.environ)
    supervisor = Supervisor(environment, tmp_path / "log")
    supervisor.add("one", *LASTING)
    supervisor.add("two", *LASTING)
    with supervisor:
        before = {supervisor.pid("one"), supervisor.pid("two")}
        environment["CHANGED"] = "yes"
        supervisor.restart()
        for name in ("one", "two"):
            wait_until(lambda name=name: supervisor.pid(name) not in {None, *before})
            pid = supervisor.pid(name)
            wait_until(lambda pid=pid: psutil.Process(pid).environ().get("CHANGED") == "yes")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no log"),
        (b"\n\n", "no log"),
        (b"first\nlast\n\n", "last"),
        (b"cut \xff", "cut \ufffd"),
        (b"x" * 20_000, "x" * 400),
    ],
)
def test_the_last_line_of_a_log(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.log").write_bytes(content)
    assert last_line(tmp_path / "a.log") == expected
    assert last_line(tmp_path / "none.log") == "no log"
