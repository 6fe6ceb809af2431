"""The embedded servers are real ones, so they are really killed here."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis

from notifier.errors import ServiceError
from notifier.rehearsal.servers import Postgres, Valkey, start_all, stop_all


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    stop_all(tmp_path)


def write(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")


def read(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def test_postgres_returns_with_its_data_after_kill_9(data_dir: Path) -> None:
    url = Postgres(data_dir).start()
    write(url)
    Postgres(data_dir).kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    assert Postgres(data_dir).start() == url
    assert read(url) == 42


def test_postgres_returns_when_only_its_first_process_was_killed(data_dir: Path) -> None:
    server = Postgres(data_dir, durable=False)
    url = server.start()
    write(url)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert server.start() == url
    assert read(url) == 42


def test_a_stale_pid_file_naming_another_program_does_not_keep_postgres_down(data_dir: Path) -> None:
    server = Postgres(data_dir, durable=False)
    write(server.start())
    lines = (server.folder / "postmaster.pid").read_text().splitlines()
    server.kill()
    (server.folder / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert read(server.start()) == 42


def test_postgres_is_18_and_keeps_personal_data_out_of_its_log(data_dir: Path) -> None:
    url = Postgres(data_dir, durable=False).start()
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.info.server_version >= 180000
        connection.execute("CREATE TABLE person (name text UNIQUE)")
        connection.execute("INSERT INTO person VALUES ('canary-value')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO person VALUES ('canary-value')")
    log = (data_dir / "postgres" / "log").read_text()
    assert "duplicate key" in log
    assert "canary-value" not in log


def test_a_creation_cut_short_is_set_aside_and_done_again(data_dir: Path) -> None:
    unfinished = data_dir / "postgres"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    write(Postgres(data_dir, durable=False).start())
    assert len(list(data_dir.glob("postgres.unfinished-*"))) == 1


def test_a_long_data_folder_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    server = Postgres(folder, durable=False)
    try:
        write(server.start())
        assert read(server.restart()) == 42
    finally:
        server.stop()


def test_a_postgres_that_cannot_start_says_where_to_look(data_dir: Path) -> None:
    server = Postgres(data_dir, durable=False)
    server.start()
    server.stop()
    (server.folder / "global" / "pg_control").unlink()
    with pytest.raises(ServiceError, match="log"):
        server.start()


def test_valkey_returns_with_its_data_and_port_after_kill_9(data_dir: Path) -> None:
    url = Valkey(data_dir).start()
    client = redis.Redis.from_url(url)
    client.set("kept", "42")
    client.execute_command("WAITAOF", 1, 0, 10_000)
    Valkey(data_dir).kill()
    assert Valkey(data_dir).start() == url
    assert redis.Redis.from_url(url).get("kept") == b"42"


def test_valkey_loads_a_log_whose_tail_was_cut_off(data_dir: Path) -> None:
    server = Valkey(data_dir)
    client = redis.Redis.from_url(server.start())
    client.set("kept", "42")
    client.execute_command("WAITAOF", 1, 0, 10_000)
    server.kill()
    log = next((server.folder / "appendonlydir").glob("*.incr.aof"))
    log.write_bytes(log.read_bytes() + b"*3\r\n$3\r\nSET\r\n$4\r\nlo")
    assert redis.Redis.from_url(server.start()).get("kept") == b"42"


def test_valkey_takes_a_new_port_when_the_old_one_was_taken(data_dir: Path) -> None:
    server = Valkey(data_dir)
    first = server.start()
    server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(first.split(":")[2].split("/")[0])))
        other.listen()
        second = server.start()
    assert second != first
    assert redis.Redis.from_url(second).ping()


def test_valkey_keeps_everything_and_answers_only_this_machine(data_dir: Path) -> None:
    client = redis.Redis.from_url(Valkey(data_dir).start())
    settings = client.config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["bind"] == "127.0.0.1"


def test_a_wrong_eviction_policy_can_be_asked_for(data_dir: Path) -> None:
    client = redis.Redis.from_url(Valkey(data_dir, maxmemory_policy="allkeys-lru").start())
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


def test_a_server_can_be_stalled_only_where_that_was_asked_for(data_dir: Path) -> None:
    server = Valkey(data_dir, durable=False)
    with pytest.raises(redis.ResponseError, match="DEBUG"):
        redis.Redis.from_url(server.start()).execute_command("DEBUG", "SLEEP", 0)
    server.stop()
    assert redis.Redis.from_url(Valkey(data_dir, debug=True).start()).execute_command("DEBUG", "SLEEP", 0)


def test_both_servers_outlive_the_process_that_started_them(data_dir: Path) -> None:
    code = (
        "import sys, pathlib; from notifier.rehearsal.servers import start_all; "
        "print(*start_all(pathlib.Path(sys.argv[1]), durable=False), sep='\\n')"
    )
    started = subprocess.run(
        [sys.executable, "-c", code, str(data_dir)], capture_output=True, text=True, timeout=60
    )
    assert started.returncode == 0, started.stderr
    pids = Postgres(data_dir).pid, Valkey(data_dir).pid
    assert None not in pids
    assert list(start_all(data_dir)) == started.stdout.split()
    assert (Postgres(data_dir).pid, Valkey(data_dir).pid) == pids


def test_several_that_start_at_once_find_the_same_servers(data_dir: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: start_all(data_dir, durable=False), range(4)))
    assert len(set(started)) == 1
    with psycopg.connect(started[0].database_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_stopping_where_nothing_runs_does_nothing(tmp_path: Path) -> None:
    stop_all(tmp_path)
    assert Postgres(tmp_path).pid is None
    assert Valkey(tmp_path).pid is None
