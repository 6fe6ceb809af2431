"""`notifier keys`: shows what each master key seals and changes it, whatever ends it on the way."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text

from notifier import keys
from notifier.sealing import MasterKey
from notifier.store import Database
from tests.conftest import MASTER_KEY as OLD
from tests.factories import make_campaign, make_settings, person
from tests.notifier.cli.conftest import Cli
from tests.notifier.cli.test_common import COMMAND

NEW = "fedcba9876543210" * 4
OLD_MARK, NEW_MARK = (MasterKey(bytes.fromhex(key)).fingerprint for key in (OLD, NEW))


@pytest.fixture
def campaigns(database: Database, database_url: str) -> list[int]:
    """Three, under the old key."""
    current = make_settings(database_url)
    return [make_campaign(database, current, [person(1)], number=number) for number in (1, 2, 3)]


@pytest.fixture
def swapped(environment: dict[str, str]) -> Cli:
    return Cli(environment | {"NOTIFIER_MASTER_KEY": NEW, "NOTIFIER_MASTER_KEYS_FORMER": OLD})


def test_status_names_keys_by_fingerprint_and_never_shows_one(cli: Cli, swapped: Cli, campaigns: list[int]):
    found = cli.json("keys", "status")
    assert found == {
        "key": OLD_MARK,
        "former": [],
        "sealed": {"campaigns": {OLD_MARK: 3}, "accounts": {}, "sessions": {}, "callbacks": {}},
        "left": {"campaigns": 0, "accounts": 0, "sessions": 0, "callbacks": 0},
        "missing": [],
        "without": {},
    }
    found = swapped.json("keys", "status")
    assert (found["key"], found["former"], found["left"]["campaigns"]) == (NEW_MARK, [OLD_MARK], 3)
    assert "keys rotate" in swapped.run("keys", "status")
    assert OLD_MARK in swapped.run("keys", "status")
    assert not any(key in said for said in cli.said + swapped.said for key in (OLD, NEW))


def test_rotating_leaves_nothing_to_the_former_key(cli: Cli, swapped: Cli, campaigns: list[int], environment):
    done = swapped.json("keys", "rotate", "--reason", "a year is over", "--yes")
    assert done["rotated"] == {"campaigns": 3, "accounts": 0, "sessions": 0, "callbacks": 0}
    assert done["sealed"]["campaigns"] == {NEW_MARK: 3}
    assert swapped.json("keys", "rotate", "--reason", "again")["rotated"]["campaigns"] == 0, "nothing to ask about"
    alone = Cli(environment | {"NOTIFIER_MASTER_KEY": NEW})
    assert alone.json("keys", "status")["missing"] == []
    assert "One key seals everything." in alone.run("keys", "status")
    [act] = [one for one in alone.json("journal", "list")["entries"] if one["action"] == "keys.rotate"]
    assert act["actor"].startswith("cli:")
    assert act["detail"] == {"kind": "campaigns", "rows": 3, "key": NEW_MARK, "reason": "a year is over"}
    assert cli.json("keys", "status")["missing"] == [NEW_MARK]
    assert "NOT GIVEN" in cli.run("keys", "status")


def test_it_asks_first_and_wants_a_reason(swapped: Cli, campaigns: list[int]):
    assert "--yes" in swapped.json("keys", "rotate", "--reason", "x", code=1)["error"]
    swapped.run("keys", "rotate", "--reason", "x", code=1, stdin="n\n")
    assert "Seal 3 campaigns by the key" in swapped.stderr
    assert "Say why" in swapped.error("keys", "rotate", "--yes", "--reason", " ")
    swapped.run("keys", "rotate", "--yes", code=2)
    assert swapped.json("keys", "status")["left"]["campaigns"] == 3
    swapped.run("keys", "rotate", "--reason", "x", stdin="y\n")
    assert swapped.json("keys", "status")["left"]["campaigns"] == 0


def test_nothing_is_rotated_while_a_process_at_work_was_not_given_the_key(
    database: Database, swapped: Cli, campaigns: list[int]
):
    def at_work(keys: str, ago_s: int = 0) -> None:
        with database.staff() as session:
            session.execute(
                text(
                    "INSERT INTO heartbeat (process, at, keys) VALUES ('worker:email:h:1:a', "
                    "now() - make_interval(secs => :ago_s), :keys), ('feeder', now(), NULL) "
                    "ON CONFLICT (process) DO UPDATE SET at = excluded.at, keys = excluded.keys"
                ),
                {"keys": keys, "ago_s": ago_s},
            )

    at_work(OLD_MARK)
    assert swapped.json("keys", "status")["without"] == {NEW_MARK: ["worker:email:h:1:a"]}
    assert f"{NEW_MARK} was not given to worker:email:h:1:a." in swapped.run("keys", "status")
    refused = swapped.json("keys", "rotate", "--reason", "x", "--yes", code=1)["error"]
    assert f"The master key {NEW_MARK} was not given to worker:email:h:1:a: nothing was changed." in refused
    assert "was not given to worker:email:h:1:a: nothing" in swapped.error(
        "keys", "rotate", "--reason", "x", "--yes"
    )
    assert swapped.json("queue", "status")["without_key"] == [], "the one that seals now is known there"
    assert swapped.json("keys", "status")["left"]["campaigns"] == 3
    at_work(f"{OLD_MARK} {NEW_MARK}")
    assert swapped.json("keys", "rotate", "--reason", "x", "--yes")["without"] == {}
    at_work(OLD_MARK)
    [lacking] = swapped.json("queue", "status")["without_key"]
    assert lacking == {"key": NEW_MARK, "processes": ["worker:email:h:1:a"]}
    assert f"The master key {NEW_MARK} was not given to worker:email:h:1:a" in swapped.run("queue", "status")
    at_work(OLD_MARK, ago_s=60)
    assert swapped.json("queue", "status")["without_key"] == [], "one that is gone lacks nothing"


@pytest.mark.parametrize(
    ("key", "former", "said"),
    [
        (NEW, "", f"{OLD_MARK}: campaigns 3"),
        ("ab" * 32, NEW, f"{OLD_MARK}: campaigns 3"),
        (NEW, OLD + ",zz", "NOTIFIER_MASTER_KEYS_FORMER must be 64 hexadecimal digits"),
        (NEW, OLD[:-2], "must be 32 bytes"),
    ],
)
def test_a_wrong_key_changes_nothing_and_says_what_to_give(
    cli: Cli, environment, campaigns: list[int], key: str, former: str, said: str
):
    wrong = Cli(environment | {"NOTIFIER_MASTER_KEY": key, "NOTIFIER_MASTER_KEYS_FORMER": former})
    line = wrong.error("keys", "rotate", "--yes", "--reason", "x")
    assert said in line
    assert not any(given in line for given in (OLD, NEW, key))
    assert cli.json("keys", "status")["sealed"]["campaigns"] == {OLD_MARK: 3}


def test_former_keys_may_stand_in_a_file(cli: Cli, environment, campaigns: list[int], tmp_path):
    path = tmp_path / "former"
    path.write_text(f"{'ab' * 32}\n{OLD}\n")
    by_file = Cli(environment | {"NOTIFIER_MASTER_KEY": NEW, "NOTIFIER_MASTER_KEYS_FORMER_FILE": str(path)})
    assert by_file.json("keys", "rotate", "--yes", "--reason", "x")["rotated"]["campaigns"] == 3
    path.unlink()
    assert "former cannot be read" in by_file.error("keys", "status")


def test_killed_at_any_moment_everything_opens_and_the_next_run_does_the_rest(
    swapped: Cli, campaigns: list[int], environment, database: Database
):
    url = environment["DATABASE_URL"]
    with holding(url, "LOCK TABLE journal IN EXCLUSIVE MODE"):
        killed_while_it_waits(swapped.environment, url)
    assert swapped.json("keys", "status")["left"]["campaigns"] == 3, "killed in its transaction: nothing is done"
    with holding(url, "SELECT FROM campaign WHERE id = %s FOR UPDATE", campaigns[1]):
        killed_while_it_waits(swapped.environment, url)
    found = swapped.json("keys", "status")
    assert found["sealed"]["campaigns"] == {OLD_MARK: 1, NEW_MARK: 2}, "killed between: what is done is done"
    for former in (
        make_settings(url, master_keys_former=[NEW]),
        make_settings(url, master_key=NEW, master_keys_former=[OLD]),
    ):
        for number, sealed in psycopg.connect(url).execute("SELECT id, data_key FROM campaign").fetchall():
            former.master.open_data_key(sealed, number)
    assert swapped.json("keys", "rotate", "--yes", "--reason", "x")["rotated"]["campaigns"] == 1
    rows = [
        e["detail"]["rows"] for e in swapped.json("journal", "list")["entries"] if e["action"] == "keys.rotate"
    ]
    assert rows == [1, 2]
    assert swapped.json("journal", "verify")


def test_a_campaign_that_is_held_for_long_is_said_and_left(
    swapped: Cli, campaigns: list[int], environment, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keys, "PATIENCE_S", 0.05)
    with holding(environment["DATABASE_URL"], "SELECT FROM campaign WHERE id = %s FOR UPDATE", campaigns[1]):
        assert "Some campaigns are held" in swapped.error("keys", "rotate", "--yes", "--reason", "x")
    assert swapped.json("keys", "status")["left"]["campaigns"] == 1


@contextmanager
def holding(url: str, statement: str, *values: int) -> Iterator[None]:
    """A transaction of somebody else that holds what `statement` locks."""
    with psycopg.connect(url) as connection:
        connection.execute(statement, values)
        yield
        connection.rollback()


def killed_while_it_waits(environment: dict[str, str], url: str) -> None:
    """Runs `keys rotate` until it waits for a lock, then ends it by SIGKILL."""
    command = [*COMMAND, "keys", "rotate", "--yes", "--reason", "x"]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            deadline = time.monotonic() + 30
            while connection.execute(waiting).fetchone() == (0,):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.kill()
            process.wait()
            # Its server process ends when it notices: not before is what it did undone.
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
    finally:
        process.kill()
        process.communicate()
