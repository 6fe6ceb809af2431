from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from notifier import standing
from notifier.cli import queue
from notifier.cli.queue import problems
from notifier.errors import ServiceError
from notifier.rehearsal.servers import Valkey
from notifier.store import Database
from notifier.watching import span
from tests.factories import make_settings
from tests.notifier.cli.conftest import Cli

WORKER = {"process": "worker:host:1:ab", "age_s": 1.0, "channels": ["email", "sms"]}
STATUS = {
    "tickets": {"email": {"waiting": 0, "taken": 0}, "sms": {"waiting": 0, "taken": 0}},
    "due": {
        "email": {"pending": 5, "due": 5, "oldest_due_s": 2.0},
        "sms": {"pending": 0, "due": 0, "oldest_due_s": None},
    },
    "forecast": {
        "email": {"per_s": 0.0, "done_in_s": None, "at_best_s": 0.1},
        "sms": {"per_s": 0.0, "done_in_s": 0.0, "at_best_s": 0.0},
    },
    "leases": 0,
    "claimed": 0,
    "sending": 0,
    "unknown": 0,
    "expired_leases": 0,
    "quarantined": 0,
    "receipts_waiting": 0,
    "workers": [WORKER],
    "workers_alive": 1,
    "without_key": [],
    "feeder_age_s": 0.5,
    "sweeper_age_s": 20.0,
    "test_sender_age_s": None,
    "tests_waiting": 0,
    "campaigns": {"sending": 1},
    "holds": [],
    "throttled": [],
    "breakers": [],
    "redis_unfit": None,
    "paused": [],
    "rate_per_min": {"smtp": 0, "brevo-sms": 0},
    "ended_per_min": {"smtp": 0, "brevo-sms": 0},
    "limit_per_s": {"smtp": 200.0, "brevo-sms": 150.0},
    "refused": [],
}
PERSONS = {"scope": "channel:sms", "reason": "a doubt", "by": "cli:anna", "until": None}
ENGINES = {
    "scope": "provider:smtp",
    "reason": "smtp_535_5.7.8",
    "by": "engine",
    "until": datetime(2026, 11, 25, 12, 0, tzinfo=UTC),
}
IDLE = {
    "campaigns": {"completed": 3},
    "workers": [],
    "workers_alive": 0,
    "feeder_age_s": None,
    "sweeper_age_s": None,
}


def test_status_counts_what_waits_and_who_is_at_work(
    cli: Cli, sending: int, database: Database, redis_url: str
) -> None:
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now() - interval '5 minutes' WHERE id % 2 = 0"))
        session.execute(text("UPDATE delivery SET state = 'sending', fence = 1 WHERE id % 2 = 1"))
        session.execute(
            text(
                "INSERT INTO due (campaign_id, channel, kind, at, ids, fences, owner) SELECT campaign_id, channel, "
                "'lease', now() - interval '1 minute', ARRAY[id], ARRAY[0], 'w' FROM delivery WHERE id % 2 = 1"
            )
        )
        session.execute(
            text("INSERT INTO heartbeat (process) VALUES ('worker:host:1'), ('worker:sms:host:2:a'), ('feeder')")
        )
        session.execute(
            text(
                "INSERT INTO heartbeat (process, at) VALUES ('worker:host:3:b', now() - interval '30 seconds'),"
                " ('worker:host:4:c', now() - interval '1 hour')"
            )
        )
        session.execute(
            text(
                "INSERT INTO pace VALUES (now() - interval '1 minute', 'host:3:b', 'smtp', '', 'accepted', 'x', 1)"
            )
        )
    client = redis.Redis.from_url(redis_url)
    client.rpush("notifier:email", "one")
    client.hset("notifier:email.msgs", mapping={"one": "", "two": ""})
    client.close()
    document = cli.json("queue", "status")
    assert set(document) == {*STATUS, "problems"}
    assert document["tickets"]["email"] == {"waiting": 1, "taken": 1}
    assert (document["due"]["email"]["pending"], document["due"]["email"]["due"]) == (1, 1)
    assert document["due"]["email"]["oldest_due_s"] >= 300
    assert (document["sending"], document["leases"], document["claimed"], document["expired_leases"]) == (
        1,
        1,
        1,
        1,
    )
    assert document["workers_alive"] == 2
    assert [(worker["process"], worker["channels"]) for worker in document["workers"]] == [
        ("worker:host:1", []),
        ("worker:host:3:b", ["email"]),
        ("worker:sms:host:2:a", ["sms"]),
    ]
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
        ({"tickets": None, "redis_unfit": "Redis x."}, ["Redis x.", "Redis cannot be used"]),
        ({"redis_unfit": "Redis has maxmemory-policy x."}, ["Redis has maxmemory-policy x."]),
        ({"workers_alive": 0, "workers": []}, ["No worker is at work"]),
        ({"feeder_age_s": 90.0}, ["The feeder was last seen 90 s ago"]),
        ({"sweeper_age_s": 90.0}, ["The sweeper was last seen 90 s ago"]),
        ({"tests_waiting": 1}, ["The process that sends tests was never seen"]),
        ({"tests_waiting": 1, "test_sender_age_s": 1.0}, []),
        ({"quarantined": 2}, ["2 deliveries are set aside"]),
        ({"holds": [PERSONS]}, ["Stopped: channel:sms, by cli:anna, until a person lets it go on (a doubt). Let"]),
        (
            {"holds": [ENGINES]},
            ["Stopped: provider:smtp, by engine, until 2026-11-25 12:00:00 UTC (smtp_535_5.7.8)"],
        ),
        ({"paused": [{"campaign": 4, "reason": None}]}, ["Paused: campaign 4 (no reason given)."]),
        (
            {"refused": [{"provider": "brevo-sms", "code": "http_402", "count": 12}]},
            [
                "brevo-sms refused 12 in the last 15 minutes by no person's fault (http_402): the account has no credit"
            ],
        ),
    ],
)
def test_each_thing_that_is_wrong_is_said(changes: dict[str, object], expected: list[str]) -> None:
    found = problems(STATUS | changes)
    assert len(found) == len(expected)
    for said, beginning in zip(found, expected, strict=True):
        assert said.startswith(beginning)


def test_only_a_persons_stop_is_offered_to_be_let_go() -> None:
    (persons, engines) = problems(STATUS | {"holds": [PERSONS, ENGINES]})
    assert "notifier queue go --scope channel:sms" in persons
    assert "queue go" not in engines
    assert "it goes on by itself then; check the key, or the user name and password." in engines


def test_campaigns_paused_for_one_reason_are_said_together() -> None:
    paused = [{"campaign": number, "reason": "a doubt"} for number in range(1, 9)]
    assert problems(STATUS | {"paused": paused}) == [
        "Paused: campaign 1, 2, 3, 4, 5 and 3 more (a doubt). When that is mended: notifier campaign resume 1."
    ]


@pytest.mark.parametrize(
    ("code", "is_ours"),
    [
        *((code, True) for code in ("http_401", "http_402", "http_403", "http_400", "unfit_header", "smtp_535")),
        *((code, True) for code in ("smtp_535_5.7.8", "smtp_550_5.7.1", "smtp_554_5.7.1", "smtp_550_5.1.8")),
        *((code, True) for code in ("connect_failed", "connection_lost")),
        *((code, False) for code in ("smtp_550_5.1.1", "smtp_450_4.7.1", "http_429", "http_500", "not_sent")),
    ],
)
def test_refusals_by_our_fault_are_counted_from_ten_on(
    cli: Cli, database: Database, sending: int, code: str, is_ours: bool
) -> None:
    fill_pace(database, 9, "refused", code)
    assert cli.json("queue", "status")["refused"] == []
    fill_pace(database, 1, "refused", code)
    expected = [{"provider": "smtp", "code": code, "count": 10}] if is_ours else []
    assert cli.json("queue", "status")["refused"] == expected


def test_a_refusal_by_our_fault_is_forgotten_after_a_quarter_of_an_hour(
    cli: Cli, database: Database, sending: int
) -> None:
    fill_pace(database, 20, "refused", "smtp_550_5.7.1", minutes_ago=16)
    assert cli.json("queue", "status")["refused"] == []


def test_the_rate_counts_what_was_taken_in_the_last_minute(cli: Cli, database: Database, sending: int) -> None:
    fill_pace(database, 3, "accepted", "accepted")
    fill_pace(database, 4, "accepted", "accepted", minutes_ago=2)
    fill_pace(database, 5, "refused", "http_500")
    document = cli.json("queue", "status")
    assert (document["rate_per_min"]["smtp"], document["ended_per_min"]["smtp"]) == (3, 8)
    assert document["rate_per_min"]["brevo-sms"] == 0
    assert document["forecast"]["email"] == {"per_s": 0.3, "done_in_s": 6.7, "at_best_s": 0.0}


@pytest.mark.parametrize(
    ("pending", "per_s", "limit", "done_in_s", "at_best_s"),
    [
        (1000, 10.0, 200.0, 100.0, 5.0),
        # measured above the limit: a burst that cannot last
        (1000, 500.0, 200.0, 5.0, 5.0),
        (1000, 0.0, 200.0, None, 5.0),
        (0, 0.0, 200.0, 0.0, 0.0),
        (1000, 10.0, 0.0, 100.0, None),
    ],
)
def test_a_forecast_never_goes_faster_than_the_limit(
    pending: int, per_s: float, limit: float, done_in_s: float | None, at_best_s: float | None
) -> None:
    found = standing.forecast(pending, per_s, limit)
    assert (found["done_in_s"], found["at_best_s"]) == (done_in_s, at_best_s)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.4, "0 s"), (119, "119 s"), (600, "10 min"), (12_000, "3 h 20 min"), (187_200, "2 days 4 h")],
)
def test_a_span_is_said_as_a_person_says_it(seconds: float | None, said: str) -> None:
    assert span(seconds) == said


def fill_pace(database: Database, count: int, outcome: str, code: str, minutes_ago: int = 0) -> None:
    """Hand-overs of one worker that ended so long ago."""
    with database.staff() as session:
        session.execute(
            text(
                "INSERT INTO pace (at, process, provider, receiver, outcome, code, n) VALUES "
                "(now() - make_interval(mins => :ago), 'host:1:ab', 'smtp', '', :outcome, :code, :count)"
            ),
            {"count": count, "outcome": outcome, "code": code, "ago": minutes_ago},
        )


def test_a_campaign_at_its_own_limit_is_said_with_its_time_and_is_no_problem(
    cli: Cli, database: Database, sending: int
) -> None:
    with database.staff() as session:
        session.execute(
            text(
                "INSERT INTO hold (scope, reason, until, by) VALUES "
                f"('campaign:{sending}', 'rate_limit', now() + interval '1 minute', 'engine')"
            )
        )
    document = cli.json("queue", "status")
    assert [one["campaign"] for one in document["throttled"]] == [sending]
    assert document["holds"] == []
    assert not any(said.startswith("Stopped") for said in document["problems"])
    assert "at their own limit" in cli.run("queue", "status")


def test_a_breaker_that_is_not_closed_is_said(cli: Cli, database: Database, sending: int) -> None:
    with database.staff() as session:
        session.execute(
            text(
                "INSERT INTO breaker (scope, state, level, failures, until, reason) VALUES "
                "('receiver:orange', 'open', 0, 1, now() + interval '1 minute', '12 of 20 calls failed.')"
            )
        )
    document = cli.json("queue", "status")
    assert [(one["scope"], one["state"]) for one in document["breakers"]] == [("receiver:orange", "open")]
    assert "receiver:orange is stopped by its breaker: 12 of 20 calls failed." in document["problems"]


def test_a_channel_that_no_worker_carries_is_said_once_all_are_known() -> None:
    only_sms = {"workers": [WORKER | {"channels": ["sms"]}]}
    assert problems(STATUS | only_sms) == [
        "No worker carries email: start one by notifier worker --channel email."
    ]
    unknown = {"workers": [WORKER | {"channels": ["sms"]}, WORKER | {"channels": []}]}
    assert problems(STATUS | unknown) == []


def test_watch_prints_one_document_a_line_until_it_is_interrupted(
    cli: Cli, database: Database, sending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, looks=3)
    lines = cli.run("queue", "watch", "--json", "--every", "0.05").splitlines()
    assert len(lines) == 3
    assert {frozenset(json.loads(line)) for line in lines} == {frozenset({*STATUS, "problems"})}


def test_watch_goes_on_while_the_database_is_away(
    cli: Cli, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "read", lambda *_: (_ for _ in ()).throw(ServiceError("PostgreSQL is away.")))
    interrupt_after(monkeypatch, looks=2)
    assert cli.run("queue", "watch", "--every", "0.05") == "! PostgreSQL is away.\n" * 2


def test_watch_goes_on_after_the_database_has_ended_its_connection(
    cli: Cli, database: Database, sending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter([False, False])

    class Cutting:
        def wait(self, _: float) -> None:
            if next(waits, True):
                raise KeyboardInterrupt
            with database.engine.begin() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )

    monkeypatch.setattr(queue.threading, "Event", Cutting)
    looks = [json.loads(line) for line in cli.run("queue", "watch", "--json", "--every", "0.05").splitlines()]
    assert [look.get("campaigns") for look in looks] == [{"sending": 1}] * 3


def test_watch_says_nothing_about_a_person(cli: Cli, sending: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.said.clear()
    interrupt_after(monkeypatch, looks=2)
    cli.run("queue", "watch")
    interrupt_after(monkeypatch, looks=2)
    cli.run("queue", "watch", "--json")
    cli.run("queue", "status")
    for known in ("@", "Nom1", "Prenom", "39980", "39 98", "Lilas", "1975", "P0000"):
        assert known not in "".join(cli.said), known


@pytest.mark.parametrize("every", ["0", "-1", "nan", "soon"])
def test_watch_at_an_odd_interval_is_wrong_usage(
    cli: Cli, sending: int, monkeypatch: pytest.MonkeyPatch, every: str
) -> None:
    interrupt_after(monkeypatch, looks=1)
    cli.run("queue", "watch", "--every", every, code=2)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """Ctrl-C while waiting for the look after so many."""
    waits = iter([False] * (looks - 1))

    class Waiting:
        def wait(self, _: float) -> None:
            if next(waits, True):
                raise KeyboardInterrupt

    monkeypatch.setattr(queue.threading, "Event", Waiting)


def test_a_paused_campaign_is_said_with_its_reason(cli: Cli, sending: int) -> None:
    cli.run("campaign", "pause", sending, "--reason", "a wrong date")
    document = cli.json("queue", "status")
    assert document["paused"] == [{"campaign": sending, "reason": "a wrong date"}]
    assert any(said.startswith(f"Paused: campaign {sending} (a wrong date)") for said in document["problems"])


def test_a_redis_that_drops_keys_is_a_problem(cli: Cli, tmp_path: Path) -> None:
    server = Valkey(tmp_path / "lossy", maxmemory_policy="allkeys-lru")
    cli.environment["REDIS_URL"] = server.start()
    try:
        document = cli.json("queue", "status")
    finally:
        server.stop()
    assert document["tickets"] is not None
    assert "maxmemory-policy allkeys-lru" in document["problems"][0]


def test_a_malformed_address_of_redis_is_said_in_one_line(cli: Cli) -> None:
    cli.environment["REDIS_URL"] = "http://x"
    assert cli.error("queue", "status").startswith("REDIS_URL is not the address of a Redis")


@pytest.mark.parametrize("scope", ["everything", "channel:email", "provider:smtp"])
def test_what_is_stopped_is_not_called_late(scope: str) -> None:
    late = {"due": STATUS["due"] | {"email": {"pending": 5, "due": 5, "oldest_due_s": 900.0}}}
    assert "email: 5 are due" in problems(STATUS | late)[0]
    stopped = STATUS | late | {"holds": [PERSONS | {"scope": scope}]}
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


def test_an_account_that_reports_to_nobody_is_a_problem(
    database: Database, database_url: str, redis_url: str
) -> None:
    said = "Nobody hears what becomes of emails"
    for brevo, expected in (({}, 1), ({"webhook_token": "0123456789abcdef"}, 0)):
        current = make_settings(
            database_url, redis_url, email_provider="brevo-email", brevo_email={"api_key": "k"} | brevo
        )
        with database.staff() as session:
            found = queue.read(session, current)["problems"]
        assert sum(problem.startswith(said) for problem in found) == expected
