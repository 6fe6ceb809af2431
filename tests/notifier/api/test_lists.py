"""A list over the API: looked at, imported as shown, reported on, corrected, its doubts decided."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from notifier import sentences
from notifier.store import Database
from tests.factories import HEADER, person
from tests.notifier.api.conftest import World, count

ASKED = b"id;nom;Contact\n1;Martin;a@example.org\n2;Durand;b@example.org\n"
MESSY = "\n".join(
    [
        HEADER,
        person(1, email="jean@gmial.com"),
        person(2, phone="06 39 98 XX XX"),
        person(5, nom="Durand", prenom="Luc"),
        person(6, nom="Durand", prenom="Luc"),
        "",
    ]
).encode()


@pytest.fixture
def send(other_doctor: TestClient, world: World):
    """Sends a file to one of the addresses below a draft campaign's lists, as its doctor."""

    def post(end: str = "", data: bytes = MESSY, query: str = "", **fields: str) -> Any:
        return other_doctor.post(
            f"/api/v1/campaigns/{world.others}/lists{end}{query}",
            files={"file": ("liste.csv", data, "text/csv")},
            data=fields,
        )

    return post


def test_a_look_asks_shows_and_saves_nothing(send, database: Database) -> None:
    before = count(database, "patient"), count(database, "list_file")
    seen = send("/look", ASKED).json()
    assert seen["questions"][0]["options"] == ["phone", "email", "ignore"]
    assert (seen["difference"], seen["has_earlier"]) == (None, True)
    seen = send("/look", ASKED, mapping='{"Contact": "email"}').json()
    assert seen["questions"] == []
    assert {"header": "Contact", "meaning": "email", "by": "given", "could_be": []} in seen["columns"]
    assert {"new": 2, "gone": 1, "due": 2}.items() <= seen["difference"].items()
    assert before == (count(database, "patient"), count(database, "list_file"))


def test_what_is_imported_is_what_was_shown_and_is_remembered(send) -> None:
    token = send("/look", ASKED, mapping='{"Contact": "email"}').json()["token"]
    changed = send("", ASKED + b"3;Roux;c@example.org\n", mapping='{"Contact": "email"}', token=token)
    assert changed.status_code == 409
    assert "not what was shown" in changed.json()["detail"]
    taken = send("", ASKED, mapping='{"Contact": "email"}', token=token)
    assert taken.status_code == 201, taken.text
    assert taken.json()["accepted"] == 2
    seen = send("/look", ASKED + b"3;Roux;c@example.org\n").json()
    assert "remembered" in [column["by"] for column in seen["columns"]]


def test_an_import_says_how_each_column_was_read_and_whether_it_changed_anything(send) -> None:
    send("", ASKED, mapping='{"Contact": "email"}')
    taken = send("", ASKED + b"3;Roux;c@example.org\n").json()
    assert {column["header"]: column["by"] for column in taken["columns"]} == {
        "id": "name",
        "nom": "name",
        "Contact": "remembered",
    }
    assert taken["is_new"]
    assert not send("", ASKED + b"3;Roux;c@example.org\n").json()["is_new"]
    older = send("", ASKED, mapping='{"Contact": "email"}').json()
    assert older["is_new"]
    assert older["id"] > taken["id"]


def test_a_question_that_was_not_answered_is_a_problem(send) -> None:
    refused = send("", ASKED)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:patient-notifier:problem:list")
    assert "'Contact' could be" in refused.json()["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        {"mapping": "{"},
        {"mapping": "[]"},
        {"mapping": '{"a": 1}'},
        {"nonsense": "1"},
        {"mapping": '{"nom": "nonsense"}'},
    ],
)
def test_what_is_said_about_a_list_must_be_understood(send, fields) -> None:
    refused = send("/look", MESSY, **fields)
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_report_is_made_from_the_file_and_kept_nowhere(send, database: Database) -> None:
    before = count(database, "list_problem")
    answer = send("/report")
    report = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert report["summary"]["rows"] == 4
    assert report["summary"]["found"]["domain_probably_mistyped"]["rows"] == 1
    assert [row["row"] for row in report["rows"]] == [2, 3, 5]
    assert len(send("/report", query="?every=true").json()["rows"]) == 4
    table = send("/report", query="?format=csv", language="en")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.content.decode("utf-8-sig")), delimiter=";"))
    assert "jean@gmail.com" in [row["proposal"] for row in rows]
    assert send("/report", language="de").status_code == 422
    assert count(database, "list_problem") == before


def test_corrections_come_back_as_an_ordinary_list(send) -> None:
    send("")
    content = send("/corrections").content.decode("utf-8-sig")
    assert content.splitlines()[0] == f"{HEADER};À corriger"
    filled = content.replace("06 39 98 XX XX", "06 39 98 44 44", 1).encode()
    difference = send("/look", filled).json()["difference"]
    assert {"new": 0, "changed": 1}.items() <= difference.items()
    assert send("", filled).json()["accepted"] == 0


def test_suggestions_are_used_only_when_they_are_accepted(send) -> None:
    (one,) = send("/suggestions").json()["items"]
    assert (one["row"], one["suggestion"]) == (2, "jean@gmail.com")
    assert send("/suggestions/accept", rows="2").status_code == 409, "not imported yet"
    send("")
    assert send("/suggestions/accept", rows="2;3").status_code == 422
    assert send("/suggestions/accept", rows="3").status_code == 422
    taken = send("/suggestions/accept", rows="2")
    assert (taken.status_code, taken.json()["rows"]) == (201, 1)
    assert send("/suggestions/accept", rows="all").json()["id"] == taken.json()["id"]


def test_doubts_are_decided_by_number(send, other_doctor: TestClient, doctor: TestClient, world: World) -> None:
    send("")
    path = f"/api/v1/campaigns/{world.others}/doubts"
    (doubt,) = other_doctor.get(path).json()["items"]
    assert (doubt["row"], doubt["others"][0]["row"]) == (5, 4)
    where = f"/api/v1/doubts/{doubt['id']}"
    assert doctor.put(where, json={"same": True}).status_code == 404
    decided = other_doctor.put(where, json={"same": True})
    assert decided.json()["same"] is True
    counts = other_doctor.get(f"/api/v1/campaigns/{world.others}").json()["counts"]
    assert counts["excluded"] == 1
    assert counts["imported"] == sum(
        n for name, n in counts.items() if name not in ("imported", "rows", "refused")
    )
    assert other_doctor.get(path).json()["items"][0]["decided"][0]["same"] is True
    assert other_doctor.put(where, json={"same": "perhaps"}).status_code == 422


def test_a_long_listing_of_doubts_is_read_on(send, other_doctor: TestClient, world: World) -> None:
    send("", "\n".join([HEADER, *(person(n, nom="Durand", prenom="Luc") for n in range(10, 15))]).encode())
    path = f"/api/v1/campaigns/{world.others}/doubts"
    first = other_doctor.get(path, params={"limit": 3}).json()
    rest = other_doctor.get(path, params={"limit": 3, "cursor": first["next"]}).json()
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (3, 1, None)
    assert other_doctor.get(path, params={"cursor": "x"}).status_code == 422


def test_a_list_that_is_refused_says_why_in_both_languages_and_for_programs(
    other_doctor: TestClient, world: World
) -> None:
    path = f"/api/v1/campaigns/{world.others}/lists/look"
    said = other_doctor.post(path, files={"file": ("a.csv", b"nom;email\n")}).json()
    fr, en = sentences.refusals()["list_without_rows"]
    assert (said["detail_fr"], said["detail"], said["code"]) == (fr, en, "list_without_rows")
    said = other_doctor.post(path, files={"file": ("a.csv", b"nom;ville\nA;B\n")}).json()
    assert said["values"] == {"names": ["nom", "ville"]}
    said = other_doctor.post(path, files={"file": ("a.csv", b"nom;Joindre\nA;0639980001\n")}).json()
    assert [(one["subject"], one["options"]) for one in said["questions"]] == [
        ("Joindre", ["email", "phone", "ignore"])
    ]


def test_every_code_is_said_in_words(operations: TestClient) -> None:
    items = operations.get("/api/v1/list-codes").json()["items"]
    assert {one["code"]: (one["fr"], one["en"]) for one in items} == sentences.codes() | sentences.refusals()


def test_a_look_at_anothers_campaign_is_refused_before_the_file_is_read(doctor: TestClient, world: World) -> None:
    for end in ("look", "report", "corrections", "suggestions", "suggestions/accept"):
        path = f"/api/v1/campaigns/{world.others}/lists/{end}"
        assert doctor.post(path, files={"file": ("a.csv", MESSY)}).status_code == 404


def test_no_problem_repeats_what_a_list_holds(send) -> None:
    answers = [
        send("/look", b"Kanarienberg;Serinette\n+33639980777;1931\n"),
        send("/look", MESSY, mapping='{"nom": "Kanarienberg' + "x" * 99 + '"}', sheet="Kanarienberg"),
        send("/suggestions/accept", MESSY, rows="Kanarienberg"),
    ]
    assert all(answer.status_code == 422 for answer in answers)
    assert "639980777" not in json.dumps([answer.json() for answer in answers])
