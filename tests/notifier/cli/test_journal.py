from __future__ import annotations

import os
import pwd
import re

import psycopg

from tests.notifier.cli.conftest import Cli


def test_the_journal_names_who_did_what_newest_first(cli: Cli, campaign: int) -> None:
    document = cli.json("journal", "list")
    assert set(document) == {"entries", "next"}
    newest = document["entries"][0]
    assert set(newest) == {"id", "at", "actor", "action", "subject", "doctor_id", "detail"}
    assert newest["action"] == "campaign.import"
    assert {entry["actor"] for entry in document["entries"]} == {f"cli:{pwd.getpwuid(os.getuid()).pw_name}"}
    first = cli.json("journal", "list", "--limit", 2)
    rest = cli.json("journal", "list", "--before", first["next"])
    assert first["entries"] + rest["entries"] == document["entries"]
    assert f"--before {first['next']}" in cli.run("journal", "list", "--limit", 2)


def test_a_variable_does_not_change_who_did_it(cli: Cli, files: object) -> None:
    cli.environment |= {"LOGNAME": "somebody-else", "USER": "somebody-else"}
    cli.run("queue", "stop", "--reason", "a doubt")
    assert "somebody-else" not in cli.run("journal", "list")


def test_a_whole_journal_is_verified(cli: Cli, campaign: int) -> None:
    document = cli.json("journal", "verify")
    newest = document.pop("newest_hash")
    assert re.fullmatch("[0-9a-f]{64}", newest)
    assert document == {"ok": True, "entries": len(cli.json("journal", "list")["entries"]), "broken": []}
    assert f"The chain holds: {document['entries']} entries, the newest with hash {newest}." in cli.run(
        "journal", "verify"
    )


def test_newest_entries_that_were_taken_out_are_found_by_a_kept_hash(
    cli: Cli, campaign: int, database_url: str
) -> None:
    kept = cli.json("journal", "verify")["newest_hash"]
    cli.run("queue", "stop", "--reason", "a doubt")
    later = cli.json("journal", "verify", "--kept", kept)
    assert (later["ok"], later["newest_hash"] == kept) == (True, False)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE journal DISABLE TRIGGER append_only")
        connection.execute("DELETE FROM journal WHERE id = (SELECT max(id) FROM journal)")
    assert cli.json("journal", "verify", "--kept", kept)["ok"], "what was kept is still there"
    assert cli.json("journal", "verify")["ok"], "alone it cannot know"
    found = cli.json("journal", "verify", "--kept", later["newest_hash"], code=1)
    assert (found["ok"], found["broken"]) == (False, [])
    cli.run("journal", "verify", "--kept", "no hash", code=2)


def test_a_changed_journal_is_found(cli: Cli, campaign: int, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE journal DISABLE TRIGGER append_only")
        connection.execute("UPDATE journal SET actor = 'cli:nobody' WHERE id = 2")
    document = cli.json("journal", "verify", code=1)
    assert set(document) == {"ok", "entries", "newest_hash", "broken", "error"}
    assert (document["ok"], document["broken"]) == (False, [2])
    assert cli.error("journal", "verify").startswith("The journal was changed: 1 of ")
