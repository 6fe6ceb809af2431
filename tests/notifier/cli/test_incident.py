from __future__ import annotations

import json
from pathlib import Path

from tests.factories import FACTS
from tests.notifier.cli.conftest import Cli


def test_facts_alone_need_a_reference(cli: Cli) -> None:
    facts = json.dumps(FACTS)
    assert "--reference" in cli.json("incident", "create", "-", code=1, stdin=facts)["error"]
    made = cli.json("incident", "create", "-", "--reference", "breach-2", stdin=facts)
    assert (made["reference"], made["profile"], made["facts"]) == ("breach-2", "eu-gdpr-fr", FACTS)


def test_incidents_are_listed_and_found_by_reference_or_number(cli: Cli, campaign: int) -> None:
    (listed,) = cli.json("incident", "list")["incidents"]
    assert set(listed) == {"id", "reference", "profile", "created_at"}
    for named in ("breach-1", listed["id"], f"id:{listed['id']}"):
        shown = cli.json("incident", "show", named)
        assert shown["campaigns"] == [{"id": campaign, "doctor_id": 1, "state": "draft"}]
    assert "breach-1" in cli.run("incident", "list")
    assert '"what_happened": {' in cli.run("incident", "show", "breach-1")
    assert cli.error("incident", "show", "breach-9") == "There is no incident breach-9."


def test_new_facts_void_an_approval(cli: Cli, campaign: int) -> None:
    seen = cli.json("campaign", "preview", campaign)["hash"]
    cli.run("campaign", "approve", campaign, "--hash", seen, "--yes")
    changed = cli.json("incident", "facts", "breach-1", "-", stdin=json.dumps(FACTS | {"processor": "Autre"}))
    assert changed["facts"]["processor"] == "Autre"
    assert cli.json("campaign", "show", campaign)["state"] == "draft"


def test_wrong_files_are_refused_and_change_nothing(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "incident.json"
    create = ("incident", "create", file, "--reference", "r")
    assert "cannot be read" in cli.error(*create)
    for content, expected in (
        ('{\n"a": 1,}', "in line 2"),
        ("[]", "A JSON object is needed"),
        ('{"facts": 1}', "A JSON object is needed"),
        ('{"facts": {}, "fact": {}}', "not: fact"),
        ('{"what_hapened": {"fr": "x"}}', "what_hapened"),
    ):
        file.write_text(content, encoding="utf-8")
        assert expected in cli.error(*create)
    file.write_bytes('{"processor": "é"}'.encode("latin-1"))
    assert "UTF-8" in cli.error(*create)
    file.write_text("{}", encoding="utf-8")
    assert "no such legal profile" in cli.error(*create, "--profile", "mars")
    assert cli.json("incident", "list") == {"incidents": []}


def test_an_incident_is_opened_once(cli: Cli, files: Path) -> None:
    cli.run("incident", "create", files / "incident.json")
    assert "already an incident" in cli.error("incident", "create", files / "incident.json")
