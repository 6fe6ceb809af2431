from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        "notes",
        "difference",
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
    assert "A short or emergency number. Give a contact of the patient's own" in problem["words"]
    assert "A short or emergency number." in cli.run("patients", "problems", campaign)


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


def test_a_cancelled_campaign_takes_no_list(cli: Cli, sending: int, files: Path) -> None:
    cli.run("campaign", "cancel", sending, "--reason", "by letter", "--yes")
    other = files / "other.csv"
    other.write_text("\n".join([HEADER, person(7), ""]), encoding="utf-8")
    assert "cancelled" in cli.error("patients", "import", sending, other, "--yes")


# --- lists before they are saved --------------------------------------------------------------------

ASKED = "id;nom;Joindre\n1;Martin;0639980001\n2;Durand;0639980002\n"


@pytest.fixture
def asked(files: Path) -> Path:
    path = files / "asked.csv"
    path.write_text(ASKED, encoding="utf-8")
    return path


def test_a_column_is_given_its_meaning_and_remembered(cli: Cli, campaign: int, asked: Path) -> None:
    assert "--map 'Joindre=phone'" in cli.error("patients", "import", campaign, asked, "--yes")
    assert "--map needs" in cli.error("patients", "import", campaign, asked, "--map", "Joindre")
    said = cli.json("patients", "import", campaign, asked, "--map", "Joindre=phone", "--yes")
    assert (said["new"], said["accepted"], said["columns"]["Joindre"]) == (True, 2, "phone")
    asked.write_text(ASKED + "3;Roux;0639980003\n", encoding="utf-8")
    shown = cli.json("patients", "import", campaign, asked, "--dry-run")["lists"][0]
    assert {"header": "Joindre", "meaning": "phone", "by": "remembered", "could_be": []} in shown["columns"]


def test_a_question_says_how_to_answer(cli: Cli, campaign: int, files: Path) -> None:
    path = files / "two.csv"
    path.write_text("id;nom;Contact\n1;Martin;a@example.org\n", encoding="utf-8")
    said = cli.error("patients", "import", campaign, path)
    assert "--map 'Contact=phone' or --map 'Contact=email'" in said
    assert "--map 'Contact=phone'" in cli.json("check", "list", path, code=1)["error"]
    assert cli.json("check", "list", path, "--map", "Contact=email")["accepted"] == 1


def test_a_further_list_shows_what_it_changes_and_needs_a_yes(cli: Cli, campaign: int, files: Path) -> None:
    path = files / "newer.csv"
    path.write_text("\n".join([HEADER, person(1), person(7), ""]), encoding="utf-8")
    assert "add --yes" in cli.json("patients", "import", campaign, path, code=1)["error"]
    cli.run("patients", "import", campaign, path, code=1, stdin="n\n")
    assert "what it changes" in cli.stderr
    assert "Nothing was imported." in cli.stderr
    assert cli.json("campaign", "show", campaign)["patients"]["imported"] == 3
    dry = cli.json("patients", "import", campaign, path, "--dry-run")["lists"][0]
    assert {"new": 1, "unchanged": 1, "gone": 2, "due": 1}.items() <= dry["difference"].items()
    done = cli.json("patients", "import", campaign, path, "--yes")
    assert done["difference"] == dry["difference"]
    assert cli.json("campaign", "show", campaign)["patients"]["imported"] == 5
    assert cli.json("patients", "import", campaign, path)["new"] is False, "the same file again asks nothing"


def test_several_lists_are_imported_at_the_same_time(cli: Cli, campaign: int, files: Path) -> None:
    other = cli.json("campaign", "create", "breach-1", "D0002")["id"]
    one, two = files / "one.csv", files / "two.csv"
    one.write_text("\n".join([HEADER, person(5), person(6), ""]), encoding="utf-8")
    two.write_text("\n".join([HEADER, person(8), ""]), encoding="utf-8")
    said = cli.json("patients", "import", campaign, one, other, two, "--yes", "--processes", 2)["lists"]
    assert [(done["campaign"], done["accepted"]) for done in said] == [(campaign, 2), (other, 1)]
    assert "one after the other" in cli.error("patients", "import", campaign, one, campaign, two)
    assert "Name a campaign's number" in cli.error("patients", "import", campaign, one, other)


def test_one_of_several_that_fails_spoils_no_other(cli: Cli, campaign: int, files: Path) -> None:
    other = cli.json("campaign", "create", "breach-1", "D0002")["id"]
    one, two = files / "one.csv", files / "two.csv"
    one.write_text("\n".join([HEADER, person(5), ""]), encoding="utf-8")
    two.write_text("medecin;nom;email\nD0001;Martin;a@example.org\n", encoding="utf-8")
    said = cli.json("patients", "import", campaign, one, other, two, "--yes", code=1)["lists"]
    assert said[0]["accepted"] == 1
    assert "another doctor" in said[1]["error"]


def test_each_list_that_is_refused_is_named_before_any_is_imported(cli: Cli, campaign: int, files: Path) -> None:
    other = cli.json("campaign", "create", "breach-1", "D0002")["id"]
    good, bad = files / "good.csv", files / "bad.csv"
    good.write_text("\n".join([HEADER, person(5), ""]), encoding="utf-8")
    bad.write_text("Martin;Z\nDurand;L\n", encoding="utf-8")
    before = cli.json("campaign", "show", campaign)["patients"]
    said = cli.json("patients", "import", other, bad, campaign, good, 999, bad, "--yes", code=1)["error"]
    assert said.startswith("Nothing was imported.")
    assert f"File 1, for campaign {other}: " in said
    assert "File 3, for campaign 999: There is no campaign 999." in said
    assert "File 2" not in said
    assert "bad.csv" not in said
    assert cli.json("campaign", "show", campaign)["patients"] == before


# --- report, corrections, suggestions, doubts -------------------------------------------------------


@pytest.fixture
def messy(cli: Cli, campaign: int, files: Path) -> Path:
    """An imported list with a typing error in row 2, a bad number in row 3, a pair in rows 4 and 5."""
    path = files / "messy.csv"
    lines = [
        person(1, email="jean@gmial.com"),
        person(2, phone="06 39 98 XX XX"),
        person(4, nom="Durand", prenom="Luc"),
        person(5, nom="Durand", prenom="Luc"),
    ]
    path.write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    cli.run("patients", "import", campaign, path, "--yes")
    return path


def test_a_report_is_written_for_its_owner_alone(cli: Cli, campaign: int, messy: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.csv"
    said = cli.json("patients", "report", campaign, messy, "--out", out)
    assert said["rows"] == said["accepted"] + said["merged"] + said["refused"] == 4
    assert said["found"]["domain_probably_mistyped"] == {"times": 1, "rows": 1}
    assert "gmial" not in json.dumps(said)
    assert "jean@gmail.com" in out.read_text(encoding="utf-8-sig")
    assert out.stat().st_mode & 0o077 == 0
    out = tmp_path / "report.json"
    cli.run("patients", "report", campaign, messy, "--out", out, "--every", "--language", "en")
    assert [row["row"] for row in json.loads(out.read_bytes())["rows"]] == [2, 3, 4, 5]
    assert "ends in .csv or .json" in cli.error("patients", "report", campaign, messy, "--out", "report.txt")


def test_what_is_no_list_is_said_in_the_language_asked_for(cli: Cli, campaign: int, tmp_path: Path) -> None:
    wrong = tmp_path / "list.csv"
    wrong.write_bytes(b"%PDF-1.7")
    for command in ("report", "corrections"):
        run = ("patients", command, campaign, wrong, "--out", tmp_path / "out.csv", "--language")
        assert cli.error(*run, "fr").startswith("Le fichier n'est pas une liste : un document PDF.")
        assert cli.error(*run, "en").startswith("This is no list: a PDF document.")
    said = json.loads(cli.run(*run, "fr", "--json", code=1))
    assert (said["code"], said["values"]) == ("list_of_another_format", {})


def test_corrections_go_out_and_come_back(cli: Cli, campaign: int, messy: Path, tmp_path: Path) -> None:
    out = tmp_path / "corrections.csv"
    assert cli.json("patients", "corrections", campaign, messy, "--out", out) == {"written": str(out), "rows": 4}
    filled = out.read_text(encoding="utf-8-sig").replace("06 39 98 XX XX", "06 39 98 44 44", 1)
    out.write_text(filled, encoding="utf-8")
    done = cli.json("patients", "import", campaign, out, "--yes")
    assert {"new": 0, "changed": 1}.items() <= done["difference"].items()


def test_suggestions_are_listed_and_accepted_by_a_person(cli: Cli, campaign: int, messy: Path) -> None:
    (one,) = cli.json("patients", "suggestions", "list", campaign, messy)["suggestions"]
    assert (one["row"], one["suggestion"]) == (2, "jean@gmail.com")
    assert "say --all" in cli.error("patients", "suggestions", "accept", campaign, messy)
    assert "add --yes" in cli.json("patients", "suggestions", "accept", campaign, messy, "--all", code=1)["error"]
    said = cli.json("patients", "suggestions", "accept", campaign, messy, "--row", 2, "--yes")
    assert (said["accepted"], said["rows"]) == (1, [2])
    assert cli.json("patients", "suggestions", "accept", campaign, messy, "--all", "--yes")["rows"] == [2]


def test_doubts_are_listed_and_decided(cli: Cli, campaign: int, messy: Path) -> None:
    (doubt,) = cli.json("patients", "doubts", "list", campaign)["doubts"]
    assert (doubt["row"], doubt["others"][0]["row"]) == (5, 4)
    assert f"patient {doubt['others'][0]['patient']}" in cli.run("patients", "doubts", "list", campaign)
    said = cli.json("patients", "doubts", "decide", doubt["id"], "--same")
    assert said["is_same"] is True
    assert cli.json("patients", "doubts", "list", campaign)["doubts"] == []
    assert len(cli.json("patients", "doubts", "list", campaign, "--decided")["doubts"]) == 1
    excluded = cli.json("patients", "list", campaign, "--outcome", "excluded")["patients"]
    assert [one["outcome_reason"] for one in excluded] == ["same_person"]
    cli.run("patients", "doubts", "decide", doubt["id"], "--two")
    assert cli.json("patients", "list", campaign, "--outcome", "excluded")["patients"] == []


def test_every_decision_about_a_list_is_shown_without_a_database(cli: Cli, messy: Path) -> None:
    said = cli.json("check", "list", messy, "--show")
    assert [row["row"] for row in said["decisions"]] == [2, 3, 4, 5]
    (email,) = [cell for cell in said["decisions"][0]["cells"] if cell["header"] == "email"]
    assert email["verdict"] == "refused"
    assert email["findings"][0]["suggestion"] == "jean@gmail.com"
    assert said["report"]["cells"]["email"]["refused"] == 1


# --- one file of several doctors -----------------------------------------------------------------------


@pytest.fixture
def two_campaigns(cli: Cli, files: Path) -> tuple[int, int]:
    cli.run("incident", "create", files / "incident.json")
    cli.run("doctor", "import", files / "doctors.json")
    first, second = (cli.json("campaign", "create", "breach-1", name)["id"] for name in ("D0001", "D0002"))
    return first, second


def _of_several(files: Path, *rows: str) -> Path:
    path = files / "several.csv"
    path.write_text("\n".join(["id;nom;email;médecin", *rows, ""]), encoding="utf-8")
    return path


def test_each_row_of_a_file_of_several_doctors_goes_to_its_doctors_campaign(
    cli: Cli, files: Path, two_campaigns: tuple[int, int]
):
    path = _of_several(
        files,
        "1;Un;un@example.org;D0001",
        "2;Deux;deux@example.org;Dr Camille Exemple2",
        "3;Trois;trois@example.org;D0002",
        "4;Quatre;quatre@gmial.com;D0001",
    )
    done = cli.json("patients", "import", "--incident", "breach-1", path, "--yes")["lists"]
    assert [(one["campaign"], one["rows"], one["accepted"]) for one in done] == [
        (two_campaigns[0], 2, 2), (two_campaigns[1], 2, 2),
    ]  # fmt: skip
    rows = [
        [one["row"] for one in cli.json("patients", "list", campaign)["patients"]] for campaign in two_campaigns
    ]
    assert rows == [[2, 5], [3, 4]], "rows are named as in the file"
    asked = (two_campaigns[0], path, "--out", files / "report.json")
    assert cli.json("patients", "report", *asked, "--of-several")["rows"] == 2
    assert cli.json("patients", "suggestions", "accept", two_campaigns[0], path, "--all", "--yes", "--of-several")[
        "accepted"
    ] == 1  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("3;Trois;trois@example.org;D0009", "D0009 (1 rows): no campaign of this incident"),
        ("3;Trois;trois@example.org;", "Row 4 of a list of several doctors names none"),
    ],
)
def test_a_file_of_several_doctors_that_leaves_somebody_out_is_refused_whole(
    cli: Cli, files: Path, two_campaigns: tuple[int, int], row: str, said: str
):
    path = _of_several(files, "1;Un;un@example.org;D0001", "2;Deux;deux@example.org;D0002", row)
    assert said in cli.error("patients", "import", "--incident", "breach-1", path, "--yes")
    assert [cli.json("patients", "list", campaign)["patients"] for campaign in two_campaigns] == [[], []]
