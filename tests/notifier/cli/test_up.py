"""`notifier up` with real processes: alone in its folder, servers brought back, unfit surroundings refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from notifier.cli import up as ups
from notifier.cli.supervise import Supervisor
from notifier.rehearsal import servers
from notifier.store import Database
from tests.factories import make_campaign, make_settings, person
from tests.notifier.cli.test_common import COMMAND, typed
from tests.notifier.cli.test_processes import free_port
from tests.notifier.cli.test_supervise import wait_until

#: said once everything is started
STARTED = "Ctrl-C ends everything"


class Up:
    """One running `notifier up` and what it says."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen([*COMMAND, "up"], env=os.environ | environment, stderr=file)
        wait_until(lambda: STARTED in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self.log.read_text()

    def children(self) -> set[psutil.Process]:
        return set(psutil.Process(self.process.pid).children())

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder; what still runs in it at the end is ended."""
    made = Path(tempfile.mkdtemp(prefix="pn-"))
    made.chmod(0o755)
    yield made
    ups.end_orphans(made)
    servers.stop_all(made)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def start(environment: dict[str, str], folder: Path) -> Iterator[Callable[..., Up]]:
    """Starts `notifier up` in the folder, on the test's own servers unless they are taken away."""
    started: list[Up] = []

    def run(*without: str) -> Up:
        given = {name: value for name, value in environment.items() if name not in without}
        given |= {"NOTIFIER_DATA_DIR": str(folder), "NOTIFIER_API_PORT": str(free_port())}
        started.append(Up(given, folder / f"up-{len(started)}.txt"))
        return started[-1]

    yield run
    for one in started:
        one.kill()


def test_a_second_up_in_one_folder_is_refused_and_harms_nothing(
    start: Callable[..., Up], environment: dict[str, str], folder: Path
) -> None:
    first = start()
    before = first.children()
    second = typed("up", **environment | {"NOTIFIER_DATA_DIR": str(folder)})
    assert second.returncode == 1
    assert second.stderr.startswith(f"notifier up already runs in {folder}, pid {first.process.pid}: end it")
    assert second.stderr.count("\n") == 1
    assert first.children() == before
    assert len(before) == 6
    assert first.end() == 0


def test_what_a_killed_up_left_running_is_ended_by_the_next(start: Callable[..., Up]) -> None:
    first = start()
    orphans = first.children()
    first.kill()
    assert all(orphan.is_running() for orphan in orphans)
    second = start()
    assert "6 processes of an earlier notifier up still run" in second.said()
    assert not any(orphan.is_running() for orphan in orphans)
    assert len(second.children()) == 6
    assert second.end() == 0


def test_no_stranger_is_taken_for_an_orphan(folder: Path) -> None:
    """Processes of an `up` in another folder, and those that nobody marked, are left alone."""
    environments = [os.environ | {ups.MARK: str(folder / "another")}, dict(os.environ)]
    strangers = [subprocess.Popen(["/bin/sleep", "600"], env=one) for one in environments]
    try:
        ups.end_orphans(folder)
        assert [stranger.poll() for stranger in strangers] == [None, None]
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()


def test_embedded_servers_that_are_killed_come_back(start: Callable[..., Up], folder: Path) -> None:
    running = start("DATABASE_URL", "REDIS_URL")
    embedded = (servers.Postgres(folder), servers.Valkey(folder))
    before = [server.pid for server in embedded]
    for server in embedded:
        server.kill()
    for server, killed in zip(embedded, before, strict=True):
        wait_until(lambda server=server, killed=killed: server.pid not in (None, killed))
    wait_until(lambda: running.said().count("was gone and has been started again") == 2)
    assert running.end() == 0
    assert [server.pid for server in embedded] == [None, None]


def test_a_server_that_comes_back_elsewhere_is_told_to_every_process(folder: Path) -> None:
    class Moved(servers.Valkey):
        """Its port was taken by another program meanwhile."""

        @property
        def pid(self) -> int | None:
            return None

        def start(self) -> str:
            return "redis://127.0.0.1:2/0"

    environment = dict(os.environ) | {"REDIS_URL": "redis://127.0.0.1:1/0"}
    supervisor = Supervisor(environment, folder / "log")
    supervisor.add("one", "http.server", "0", "--bind", "127.0.0.1")
    with supervisor:
        before = supervisor.pid("one")
        ups.keep("REDIS_URL", Moved(folder), environment, supervisor)
        wait_until(lambda: supervisor.pid("one") not in (None, before))
    assert environment["REDIS_URL"] == "redis://127.0.0.1:2/0"


def test_a_server_that_will_not_start_is_said_and_ends_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "valkey").write_text("in the way")
    supervisor = Supervisor({}, folder / "log")
    ups.keep("REDIS_URL", servers.Valkey(folder), {"REDIS_URL": ""}, supervisor)
    assert "Valkey is gone and cannot be started, which is tried again: " in capsys.readouterr().err
    (folder / "valkey").unlink()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"REDIS_URL": "http://x"}, "REDIS_URL is not the address of a Redis"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "Redis does not answer at REDIS_URL"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "PostgreSQL does not answer at DATABASE_URL"),
        ({"NOTIFIER_MASTER_KEY": "ff" * 32}, "is NOTIFIER_MASTER_KEY the one this database was made with?"),
        ({"NOTIFIER_MASTER_KEY": "short"}, "NOTIFIER_MASTER_KEY must be 64 hexadecimal digits"),
    ],
)
def test_where_no_process_could_work_none_is_started_and_one_line_says_why(
    environment: dict[str, str], folder: Path, database: Database, changes: dict[str, str], said: str
) -> None:
    make_campaign(database, make_settings(environment["DATABASE_URL"]), [person(1)])
    ended = typed("up", **environment | {"NOTIFIER_DATA_DIR": str(folder)} | changes)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (folder / "log").exists()


def test_a_redis_that_drops_keys_is_refused_before_anything_starts(
    environment: dict[str, str], folder: Path
) -> None:
    lossy = servers.Valkey(folder / "lossy", maxmemory_policy="allkeys-lru")
    try:
        ended = typed("up", **environment | {"NOTIFIER_DATA_DIR": str(folder), "REDIS_URL": lossy.start()})
    finally:
        lossy.stop()
    assert ended.returncode == 1
    assert "maxmemory-policy allkeys-lru" in ended.stderr
    assert not (folder / "log").exists()
