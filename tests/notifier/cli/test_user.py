from __future__ import annotations

from pathlib import Path

from tests.notifier.cli.conftest import Cli

ENTRY = {"id", "role", "doctor", "address", "language", "enrolled", "created_at", "disabled_at"}


def test_a_doctor_is_invited_by_email_and_an_operator_by_hand(cli: Cli, files: Path) -> None:
    cli.run("doctor", "import", files / "doctors.json")
    doctor = cli.json("user", "invite", "claire@example.org", "--role", "doctor", "--doctor", "D0001")
    assert set(doctor) == ENTRY
    assert (doctor["role"], doctor["doctor"], doctor["enrolled"]) == ("doctor", "D0001", False)
    operator = cli.json("user", "invite", "op@example.net", "--role", "operator", "--language", "en", "--by-hand")
    assert operator["link"].startswith("http://127.0.0.1:8700/link/")
    again = cli.run("user", "again", operator["id"], "--by-hand")
    assert "http://127.0.0.1:8700/link/" in again
    assert operator["link"] not in again
    listed = cli.json("user", "list")["users"]
    assert [set(entry) for entry in listed] == [ENTRY, ENTRY]
    assert [entry["address"] for entry in listed] == ["c…@example.org", "o…@example.net"]
    assert "claire@" not in "".join(cli.said)


def test_rights_and_sessions_are_taken_away(cli: Cli) -> None:
    user = cli.json("user", "invite", "op@example.net", "--role", "operator")["id"]
    assert cli.json("user", "role", user, "auditor")["role"] == "auditor"
    assert cli.json("user", "sessions", user)["sessions"] == []
    assert cli.json("user", "revoke", user) == {"user": user, "ended": 0}
    assert cli.json("user", "reset", user, "--by-hand")["enrolled"] is False
    assert cli.json("user", "disable", user)["disabled_at"] is not None
    assert "enable it first" in cli.error("user", "again", user)
    assert cli.json("user", "enable", user)["disabled_at"] is None
    actions = [entry["action"] for entry in cli.json("journal", "list")["entries"]]
    assert actions == [
        "user.enable", "user.disable", "user.invite", "user.reset", "session.revoke", "user.role", "user.invite",
        "user.create",
    ]  # fmt: skip


def test_what_cannot_be_is_refused_plainly(cli: Cli) -> None:
    assert cli.error("user", "sessions", 99) == "There is no user 99."
    assert "belongs to a doctor" in cli.error("user", "invite", "a@example.org", "--role", "doctor")
    cli.run("user", "invite", "a@example.org", "--role", "auditor")
    assert "one address, one account" in cli.error("user", "invite", "A@example.org", "--role", "operator")
    assert "has no session 5" in cli.error("user", "revoke", 1, "--session", 5)
