"""`notifier check` answers in the promised JSON, exits 0 whatever the answer, and 1 only where it cannot answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from notifier.cli.check import app

LIST = (
    "id;nom;prenom;date de naissance;email;portable;decede\n"
    "1;Martin;Zoé;03/04/1975;z@example.fr;0639980001;\n"
    "2;Durand;Luc;;jean@orange,fr;06 12 34 XX XX;oui\n"
)


def _run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def _json(*arguments: str, stdin: bytes | None = None) -> dict:
    result = _run(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_phone_number():
    assert _json("phone", "0692 12 34 56") == {
        "input": "0692 12 34 56",
        "ok": True,
        "e164": "+262692123456",
        "kind": "mobile",
        "region": "RE",
        "sms_capable": True,
        "reason": None,
    }
    assert _json("phone", "75.12.34", "--region", "nc")["e164"] == "+687751234"
    refused = _json("phone", "06 12 34 XX XX")
    assert (refused["ok"], refused["e164"], refused["reason"]) == (False, None, "letters_in_number")
    assert _json("phone", "")["reason"] == "empty"
    assert json.loads(_run("phone", "--json", "--", "-1").stdout)["ok"] is False


def test_an_email_address():
    assert _json("email", "jean@gmial.com") == {
        "input": "jean@gmial.com",
        "ok": False,
        "normalised": "jean@gmial.com",
        "reason": "domain_probably_mistyped",
        "suggestion": "jean@gmail.com",
    }
    assert _json("email", "Jean@EXAMPLE.FR")["normalised"] == "Jean@example.fr"


def test_a_text_message_from_the_command_or_from_standard_input():
    answer = {"encoding": "GSM-7", "units": 16, "parts": 1, "replaced": ["’", "ç"]}
    assert _json("sms", "L’avis de Françoi") == answer | {"units": 17}
    assert _json("sms", "-", stdin="L’avis de França\n".encode()) == answer
    assert _json("sms", "😀")["encoding"] == "UCS-2"


def test_a_list(tmp_path: Path):
    file = tmp_path / "list.csv"
    file.write_bytes(LIST.encode("cp1252"))
    answer = _json("list", str(file))
    assert answer == {
        "rows": 2,
        "accepted": 2,
        "merged": 0,
        "refused": 0,
        "excluded": 1,
        "reach": {"email": 1, "sms": 0, "letter": 0, "none": 0},
        "problems": [
            {"row": 3, "column": "email", "reason": "comma_for_dot"},
            {"row": 3, "column": "phone", "reason": "letters_in_number"},
        ],
        "columns": {
            "id": "patient_id",
            "nom": "last_name",
            "prenom": "first_name",
            "date de naissance": "birth_date",
            "email": "email",
            "portable": "phone",
            "decede": "deceased",
        },
    }
    shown = _json("list", str(file), "--show")["patients"]
    assert shown == [
        {
            "row": 2,
            "patient_id": "1",
            "email": "z@example.fr",
            "phones": ["+33639980001"],
            "language": "fr",
            "birth_date": "1975-04-03",
            "excluded": None,
        },
        {
            "row": 3,
            "patient_id": "2",
            "email": None,
            "phones": [],
            "language": "fr",
            "birth_date": None,
            "excluded": "deceased",
        },
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("phone", "06 12 34 [XX]"),
        ("phone", "0639981234"),
        ("email", "jean@orange,fr"),
        ("email", "[bold]jean@example.fr"),
        ("sms", "Bonjour ’ [/red]"),
    ],
)
def test_a_person_gets_a_table(arguments):
    result = _run(*arguments)
    assert result.exit_code == 0
    assert "reason" in result.stdout or "parts" in result.stdout


def test_a_person_gets_the_reasons_of_a_list_in_words(tmp_path: Path):
    file = tmp_path / "list.csv"
    file.write_text(LIST)
    result = _run("list", str(file), "--show")
    assert result.exit_code == 0
    assert "comma_for_dot" in result.stdout
    assert "deceased" in result.stdout


def test_a_column_that_is_not_read_is_shown_and_one_with_contacts_is_a_problem(tmp_path: Path):
    file = tmp_path / "list.csv"
    file.write_text("nom;email;Tél. du voisin;Solde\nM;a@example.fr;0639980001;12\nN;b@example.fr;;0\n")
    answer = _json("list", str(file))
    assert answer["problems"] == [{"row": 1, "column": "Tél. du voisin", "reason": "contact_column_not_read"}]
    assert (answer["columns"]["Tél. du voisin"], answer["columns"]["Solde"]) == (None, None)
    assert "not read" in _run("list", str(file)).stdout


@pytest.mark.parametrize("content", [None, b"", b"nom;email\n", b"PK\x03\x04", b"nom;prenom\nM;L\n"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None):
    file = tmp_path / "list.csv"
    if content is not None:
        file.write_bytes(content)
    result = _run("list", str(file), "--json")
    assert result.exit_code == 1
    assert list(json.loads(result.stdout)) == ["error"]
    plain = _run("list", str(file))
    assert plain.exit_code == 1
    assert plain.stdout == ""
    assert plain.stderr


def test_a_list_over_the_limit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "list.csv"
    file.write_text(LIST)
    monkeypatch.setenv("NOTIFIER_MAX_LIST_BYTES", "10")
    result = _run("list", str(file), "--json")
    assert result.exit_code == 1
    assert "10" in json.loads(result.stdout)["error"]


def test_a_missing_argument_is_wrong_usage():
    assert _run("phone").exit_code == 2
