from __future__ import annotations

import json
from pathlib import Path

import pytest

from notifier.cli.doctor import FIELDS
from tests.notifier.cli.conftest import Cli, make_doctor_entry


def create(entry: dict[str, str]) -> list[str]:
    return ["doctor", "create", *(part for name in FIELDS for part in (f"--{name}", entry[name]))]


def test_a_doctor_is_added_shown_and_listed(cli: Cli) -> None:
    entry = make_doctor_entry(1)
    made = cli.json(*create(entry))
    assert set(made) == {"id", "created_at", *FIELDS}
    assert {name: made[name] for name in FIELDS} == entry
    assert cli.json("doctor", "show", "D0001") == made
    assert cli.json("doctor", "list")["doctors"] == [{"id": made["id"]} | entry]
    assert "Cabinet Exemple 1" in cli.run("doctor", "list")
    assert "already a doctor" in cli.error(*create(entry))
    assert cli.error("doctor", "show", "D0009") == "There is no doctor D0009."


def test_a_name_in_brackets_is_shown_as_it_is(cli: Cli) -> None:
    assert "Dr [red] Exemple" in cli.run(*create(make_doctor_entry(1, name="Dr [red] Exemple")))


def test_importing_the_same_file_again_changes_nothing(cli: Cli, files: Path) -> None:
    first = cli.json("doctor", "import", files / "doctors.json")
    assert ([doctor["reference"] for doctor in first["added"]], first["unchanged"]) == (["D0001", "D0002"], 0)
    assert cli.json("doctor", "import", files / "doctors.json") == {"added": [], "unchanged": 2}
    assert "0 doctors added, 2 were there already." in cli.run("doctor", "import", files / "doctors.json")


def test_a_reference_that_is_somebody_elses_number_must_be_said_clearly(cli: Cli) -> None:
    first = cli.json(*create(make_doctor_entry(1, reference="D1")))
    second = cli.json(*create(make_doctor_entry(2, reference=str(first["id"]))))
    assert "write id:" in cli.error("doctor", "show", first["id"])
    assert cli.json("doctor", "show", f"id:{first['id']}") == first
    assert cli.json("doctor", "show", f"id:{second['id']}") == second


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, "JSON list"),
        ([make_doctor_entry(1), {"reference": "D2"}], "Entry 2"),
        ([make_doctor_entry(1) | {"surname": "x"}], "exactly"),
        ([make_doctor_entry(1) | {"phone": 1}], "phone must be text"),
        ([make_doctor_entry(1) | {"phone": " "}], "phone must be text"),
        ([make_doctor_entry(1), make_doctor_entry(1, name="Dr Autre")], "already a doctor"),
    ],
)
def test_a_file_with_one_wrong_doctor_adds_none(cli: Cli, entries: object, expected: str) -> None:
    assert expected in cli.json("doctor", "import", "-", code=1, stdin=json.dumps(entries))["error"]
    assert cli.json("doctor", "list") == {"doctors": []}
