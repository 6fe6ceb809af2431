from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from notifier.sealing import hash_secret
from notifier.store import Database
from tests.notifier.cli.conftest import Cli

ENTRY = {"id", "name", "prefix", "scope", "doctor", "created_at", "revoked_at"}


def test_a_key_is_shown_once_and_only_its_hash_is_kept(cli: Cli, files: Path, database: Database) -> None:
    cli.run("doctor", "import", files / "doctors.json")
    made = cli.json("key", "create", "reporting")
    own = cli.json("key", "create", "practice", "--doctor", "D0002")
    assert set(made) == ENTRY | {"secret"}
    assert (made["scope"], made["doctor"]) == ("operations", None)
    assert (own["scope"], own["doctor"]) == ("doctor", "D0002")
    with database.staff() as session:
        kept = [bytes(row.hash) for row in session.execute(text("SELECT hash FROM api_key ORDER BY id"))]
    assert kept == [hash_secret(made["secret"]), hash_secret(own["secret"])]
    listed = cli.json("key", "list")["keys"]
    assert [set(entry) for entry in listed] == [ENTRY, ENTRY]
    assert made["secret"] not in cli.run("key", "list")
    assert cli.error("key", "create", "x", "--doctor", "D0009") == "There is no doctor D0009."


def test_a_key_is_revoked(cli: Cli) -> None:
    made = cli.json("key", "create", "reporting")
    assert "Keep the secret now" in cli.run("key", "create", "other")
    assert cli.json("key", "revoke", made["id"])["revoked_at"] is not None
    assert cli.json("key", "list")["keys"][0]["revoked_at"] is not None
    assert cli.error("key", "revoke", 99) == "There is no key 99."
    actions = [entry["action"] for entry in cli.json("journal", "list")["entries"]]
    assert actions == ["key.revoke", "key.create", "key.create"]
