from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import redis
from sqlalchemy import text

from notifier.cli.queue import problems
from notifier.store import Database
from tests.notifier.cli.conftest import Cli

STATUS = {
    "tickets": {"email": {"waiting": 0, "taken": 0}, "sms": {"waiting": 0, "taken": 0}},
    "due": {
        "email": {"pending": 5, "due": 5, "oldest_due_s": 2.0},
        "sms": {"pending": 0, "due": 0, "oldest_due_s": None},
    },
    "leased": 0,
    "sending": 0,
    "unknown": 0,
    "expired_leases": 0,
    "quarantined": 0,
    "receipts_waiting": 0,
    "workers_alive": 1,
    "feeder_age_s": 0.5,
    "sweeper_age_s": 20.0,
    "campaigns": {"sending": 1},
    "holds": [],
}
IDLE = {"campaigns": {"completed": 3}, "workers_alive": 0, "feeder_age_s": None, "sweeper_age_s": None}


def test_status_counts_what_waits_and_who_is_at_work(
    cli: Cli, sending: int, database: Database, redis_url: str
) -> None:
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now() - interval '5 minutes' WHERE id % 2 = 0"))
        session.execute(
            text(
                "UPDATE delivery SET state = 'leased', fence = 1, lease_owner = 'w', "
                "lease_until = now() - interval '1 minute' WHERE id % 2 = 1"
            )
        )
        session.execute(text("INSERT INTO heartbeat (process) VALUES ('worker:host:1'), ('feeder')"))
    client = redis.Redis.from_url(redis_url)
    client.rpush("notifier:email", "one")
    client.hset("notifier:email.msgs", mapping={"one": "", "two": ""})
    client.close()
    document = cli.json("queue", "status")
    assert set(document) == {*STATUS, "problems"}
    assert document["tickets"]["email"] == {"waiting": 1, "taken": 1}
    assert (document["due"]["email"]["pending"], document["due"]["email"]["due"]) == (1, 1)
    assert document["due"]["email"]["oldest_due_s"] >= 300
    assert (document["leased"], document["expired_leases"], document["workers_alive"]) == (1, 1, 1)
    assert document["campaigns"] == {"sending": 1}
    assert any("sweeper was never seen" in problem for problem in document["problems"])
    assert any("the oldest for 30" in problem for problem in document["problems"])
    assert "! The sweeper was never seen" in cli.run("queue", "status")


def test_status_answers_while_redis_is_away(cli: Cli) -> None:
    cli.environment["REDIS_URL"] = "redis://127.0.0.1:1/0"
    document = cli.json("queue", "status")
    assert document["tickets"] is None
    assert document["problems"][0].startswith("Redis does not answer")


def test_an_idle_system_has_no_problem(cli: Cli) -> None:
    assert cli.json("queue", "status")["problems"] == []
    assert "Nothing is wrong." in cli.run("queue", "status")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        (IDLE, []),
        (IDLE | {"receipts_waiting": 4}, ["The sweeper was never seen"]),
        ({"tickets": None}, ["Redis does not answer"]),
        ({"workers_alive": 0}, ["No worker"]),
        ({"feeder_age_s": 90.0}, ["The feeder was last seen 90 s ago"]),
        ({"sweeper_age_s": 90.0}, ["The sweeper was last seen 90 s ago"]),
        ({"quarantined": 2}, ["2 deliveries are set aside"]),
        ({"holds": [{"scope": "channel:sms"}]}, ["Stopped: channel:sms"]),
    ],
)
def test_each_thing_that_is_wrong_is_said(changes: dict[str, object], expected: list[str]) -> None:
    found = problems(STATUS | changes)
    assert len(found) == len(expected)
    for said, beginning in zip(found, expected, strict=True):
        assert said.startswith(beginning)


@pytest.mark.parametrize("scope", ["everything", "channel:email", "provider:smtp"])
def test_what_is_stopped_is_not_called_late(scope: str) -> None:
    late = {"due": STATUS["due"] | {"email": {"pending": 5, "due": 5, "oldest_due_s": 900.0}}}
    assert "email: 5 are due" in problems(STATUS | late)[0]
    stopped = STATUS | late | {"holds": [{"scope": scope}]}
    assert [problem for problem in problems(stopped) if "are due" in problem] == []


def test_stop_and_go(cli: Cli) -> None:
    assert cli.run("queue", "holds") == "Nothing is stopped.\n"
    later = datetime.now(UTC) + timedelta(hours=2)
    stopped = cli.json(
        "queue", "stop", "--reason", "complaints", "--scope", "channel:sms", "--until", later.isoformat()
    )
    (hold,) = stopped["holds"]
    assert set(hold) == {"scope", "reason", "by", "since", "until"}
    assert hold["until"] == later.isoformat()
    cli.run("queue", "stop", "--reason", "wrong text")
    assert [hold["scope"] for hold in cli.json("queue", "holds")["holds"]] == ["channel:sms", "everything"]
    lifted = cli.json("queue", "go")
    assert (lifted["lifted"], [hold["scope"] for hold in lifted["holds"]]) == ("everything", ["channel:sms"])
    assert cli.error("queue", "go") == "everything is not on hold."
    assert "channel:sms" in cli.run("queue", "holds")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--scope", "provider:smpt"], "What to stop must be"),
        (["--scope", "channel:fax"], "What to stop must be"),
        (["--until", "2020-01-01T10:00"], "has passed"),
        (["--until", "tomorrow"], "is not a time"),
        (["--reason", " "], "A reason is needed"),
    ],
)
def test_a_stop_that_would_stop_nothing_is_refused(cli: Cli, options: list[str], expected: str) -> None:
    assert expected in cli.error("queue", "stop", "--reason", "a doubt", *options)
    assert cli.json("queue", "holds") == {"holds": []}


def test_a_stop_without_a_reason_is_wrong_usage(cli: Cli) -> None:
    cli.run("queue", "stop", code=2)


def test_providers_are_listed_with_their_holds_and_without_secrets(cli: Cli) -> None:
    cli.environment["NOTIFIER_BREVO_SMS__API_KEY"] = "a-secret-key"
    cli.environment["NOTIFIER_SMTP__PASSWORD"] = "a-secret-word"
    cli.run("queue", "stop", "--scope", "provider:smtp", "--reason", "a doubt")
    smtp, brevo = cli.json("provider", "list")["providers"]
    assert set(smtp) == {"name", "channel", "at", "sender", "rate_per_s", "ready", "holds"}
    assert (smtp["name"], smtp["holds"]) == ("smtp", ["provider:smtp"])
    assert (brevo["name"], brevo["ready"], brevo["holds"]) == ("brevo-sms", True, [])
    assert "provider:smtp" in cli.run("provider", "list")
    assert "a-secret" not in "".join(cli.said)
    assert json.dumps(smtp)
