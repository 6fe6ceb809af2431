from __future__ import annotations

from pathlib import Path

from tests.factories import HEADER, person
from tests.notifier.cli.conftest import Cli


def test_the_same_list_again_changes_nothing(cli: Cli, campaign: int, files: Path) -> None:
    again = cli.json("patients", "import", campaign, files / "list.csv")
    assert set(again) == {
        "list_file",
        "campaign",
        "new",
        "rows",
        "accepted",
        "merged",
        "refused",
        "problems",
        "columns",
    }
    assert again["columns"]["portable"] == "phone"
    assert (again["new"], again["rows"], again["problems"]) == (False, 3, 1)
    assert "nothing was changed" in cli.run("patients", "import", campaign, files / "list.csv")
    assert cli.json("campaign", "show", campaign)["patients"]["imported"] == 3


def test_problems_name_row_column_and_reason(cli: Cli, campaign: int) -> None:
    document = cli.json("patients", "problems", campaign)
    assert set(document) == {"problems", "next"}
    (problem,) = document["problems"]
    assert set(problem) == {"id", "list_file_id", "row", "column", "reason", "words"}
    assert problem["row"] == 3
    assert problem["words"] in cli.run("patients", "problems", campaign).replace("\n", " ")


def test_a_long_list_is_read_on(cli: Cli, campaign: int) -> None:
    first = cli.json("patients", "list", campaign, "--limit", 2)
    rest = cli.json("patients", "list", campaign, "--limit", 2, "--after", first["next"])
    assert [patient["row"] for patient in first["patients"] + rest["patients"]] == [2, 3, 4]
    assert rest["next"] is None
    shown = cli.run("patients", "list", campaign, "--limit", 2)
    assert f"notifier patients list {campaign} --after {first['next']}" in shown


def test_patients_are_listed_by_outcome_without_names(cli: Cli, campaign: int) -> None:
    unreached = cli.json("patients", "list", campaign, "--outcome", "unreached")["patients"]
    assert set(unreached[0]) == {
        "id", "row", "merged", "language", "variant", "has_postal", "outcome", "outcome_reason", "outcome_at",
    }  # fmt: skip
    assert [(one["row"], one["outcome_reason"]) for one in unreached] == [(4, "no_contact")]
    cli.run("patients", "list", campaign, "--outcome", "nonsense", code=2)


def test_bad_lists_are_refused_and_nothing_is_saved(cli: Cli, campaign: int, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    assert "is not a file" in cli.error("patients", "import", campaign, bad)
    for content in (b"", b"\x00\x01\x02\x03" * 100, b"a;b\n1;2\n"):
        bad.write_bytes(content)
        assert cli.error("patients", "import", campaign, bad)
    bad.write_text("\n".join([HEADER, person(7), ""]), encoding="utf-8")
    assert cli.error("patients", "import", 99, bad) == "There is no campaign 99."
    assert cli.error("patients", "list", 99) == "There is no campaign 99."
    assert cli.json("campaign", "show", campaign)["patients"]["imported"] == 3


def test_a_started_campaign_takes_no_list(cli: Cli, sending: int, files: Path) -> None:
    other = files / "other.csv"
    other.write_text("\n".join([HEADER, person(7), ""]), encoding="utf-8")
    assert "only before it is started" in cli.error("patients", "import", sending, other)
