"""The drill's own judgement: whatever breaks the law is seen, and what the law allows passes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from notifier.cli import app
from notifier.cli.drill import law
from notifier.cli.drill.law import Facts, Row, Try
from notifier.cli.drill.scenarios import ALL
from notifier.cli.drill.stage import SCALE, shortened
from notifier.errors import ServiceError
from notifier.profiles import Profile
from notifier.settings import ROOT

MODES = [f"F{n}" for n in range(1, 19)]


def message(number: int, reference: str, **changes: Any) -> dict[str, Any]:
    return {"number": number, "reference": reference, "arrived": True, **changes}


def verdict(**changes: Any) -> dict[str, Any]:
    return {"lost": 0, "wrong_person": 0, "missed": 0, "details": {"duplicates": []}, **changes}


#: two people told, one by a delivery that was sent once more after doubt, one person with no contact
GOOD = Facts(
    numbers=[{"imported": 4, "merged": 1, "excluded": 0, "on_the_way": 0, "informed": 2, "unreached": 1}],
    outcomes=[
        {"outcome": "informed", "reason": None},
        {"outcome": "informed", "reason": None},
        {"outcome": "unreached", "reason": "no_contact"},
    ],
    deliveries=[Row(1, "accepted", False), Row(2, "delivered", True)],
    attempts=[Try(1, "accepted", "accepted"), Try(2, "unknown", "worker_gone"), Try(2, "accepted", "accepted")],
    messages=[message(0, "1.abc"), message(1, "2.def"), message(2, "2.def")],
    excused=0,
    asked=3,
    verdict=verdict(details={"duplicates": [{"message": 2}]}),
    queue={"dead letters of email": 0},
)


def test_what_the_law_allows_passes():
    judged = law.judge(GOOD)
    assert judged.broken == ()
    assert (judged.lost, judged.wrong_person, judged.undeclared_duplicates) == (0, 0, 0)
    assert judged.declared_unknown == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": verdict(lost=1)}, "1 people lost"),
        ({"verdict": verdict(wrong_person=2)}, "2 messages at a wrong person"),
        ({"verdict": verdict(missed=1)}, "1 people called unreached though a contact works"),
        ({"numbers": [GOOD.numbers[0] | {"imported": 5}]}, "do not add up"),
        ({"numbers": [GOOD.numbers[0] | {"imported": 5, "on_the_way": 1}]}, "1 people lost or still on the way"),
        ({"outcomes": [{"outcome": "unreached", "reason": None}]}, "without a reason"),
        ({"deliveries": [Row(1, "accepted", False), Row(2, "delivered", False)]}, "1 second messages"),
        ({"deliveries": [Row(1, "sending", False), GOOD.deliveries[1]]}, "1 deliveries still sending"),
        ({"messages": GOOD.messages[1:]}, "accepted more often than the servers took them"),
        ({"messages": [message(0, "1.abc", arrived=False), *GOOD.messages[1:]]}, "of which nothing arrived"),
        ({"messages": [*GOOD.messages, message(3, "2.def")]}, "arrived a third time"),
        ({"messages": [*GOOD.messages, message(3, "1.abc")]}, "taken more often than our attempts say"),
        ({"messages": [*GOOD.messages, message(3, "7.ghi")]}, "messages of no delivery of ours"),
        ({"messages": [*GOOD.messages, message(3, "")]}, "messages of no delivery of ours"),
        ({"attempts": [*GOOD.attempts, Try(1, None, None)]}, "1 attempts that nobody closed"),
        ({"attempts": [*GOOD.attempts, Try(1, "unknown", "provider_raised")]}, "by a bug of ours"),
        ({"asked": 4}, "1 hand-overs the servers saw"),
        ({"queue": {"dead letters of email": 3}}, "dead letters of email: 3 left"),
    ],
)
def test_whatever_breaks_the_law_is_said(changes: dict[str, Any], said: str):
    assert any(said in one for one in law.judge(replace(GOOD, **changes)).broken)


def test_a_second_message_is_excused_only_by_its_own_delivery():
    """The person got two messages by two deliveries, and only the other one is declared."""
    told_again = verdict(details={"duplicates": [{"message": 0}]})
    assert law.undeclared(replace(GOOD, verdict=told_again)) == {0}


def test_a_message_that_did_not_arrive_is_no_second_one():
    bounced = [message(0, "1.abc", arrived=False), message(3, "1.abc"), *GOOD.messages[1:]]
    attempts = [*GOOD.attempts, Try(1, "accepted", "accepted")]
    assert law.judge(replace(GOOD, messages=bounced, attempts=attempts, asked=4)).broken == ()


def test_people_set_aside_or_in_doubt_twice_are_not_called_missed():
    assert law.judge(replace(GOOD, verdict=verdict(missed=1), excused=1)).broken == ()


def test_there_is_one_scenario_for_each_failure_mode():
    assert list(ALL) == MODES
    assert all(one.sentence.endswith(".") and one.bound_s > 0 for one in ALL.values())


def test_the_drills_profile_is_the_real_one_with_waits_of_seconds():
    real = (ROOT / "config" / "profiles" / "eu-gdpr-fr.toml").read_text(encoding="utf-8")
    profile = Profile.model_validate(tomllib.loads(shortened(real)))
    assert profile.silence["email"].after.total_seconds() / SCALE == 1
    assert profile.unknown_quiet.total_seconds() == 2
    assert len(profile.element) == len(tomllib.loads(real)["element"])


def test_a_profile_with_other_keys_stops_the_drill_at_once():
    with pytest.raises(ServiceError, match="unknown_quiet"):
        shortened("[silence.email]\nafter = 'PT1H'\n")


def test_it_lists_its_modes_and_refuses_unknown_ones():
    listed = CliRunner().invoke(app, ["drill", "--list", "--only", "f2,F17"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["F2", "F17"]
    unknown = CliRunner().invoke(app, ["drill", "--json", "--only", "F99"])
    assert unknown.exit_code == 1
    assert "F18" in json.loads(unknown.stdout)["error"]
    spaced = CliRunner().invoke(app, ["drill", "--list", "--only", "F1 f2, F2"])
    assert [line.split()[0] for line in spaced.stdout.splitlines()] == ["F1", "F2"]


@pytest.mark.parametrize("only", [",", " ", " , ,"])
def test_who_names_no_mode_does_not_get_all_of_them(only: str):
    refused = CliRunner().invoke(app, ["drill", "--list", "--only", only])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("--only names no mode; there are: F1, ")


SKEWED = """
import time
from notifier.cli.drill import inside
real = time.time()
inside.skew_clocks(90)
from datetime import UTC, datetime, timedelta
assert 89 < time.time() - real < 100
assert 89 < datetime.now(UTC).timestamp() - real < 100
assert isinstance(datetime.now(UTC), datetime) and isinstance(datetime(2025, 1, 1), datetime)
assert type(datetime(2025, 1, 1)) is type(datetime.fromtimestamp(0, UTC)) is type(datetime.now())
"""


def test_a_skewed_process_has_every_wall_clock_wrong_and_real_instants():
    subprocess.run([sys.executable, "-c", SKEWED], check=True, env=dict(os.environ), timeout=60)
