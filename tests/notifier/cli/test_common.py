from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy.engine import make_url

from notifier.cli import common
from notifier.errors import NotifierError, SettingsError
from notifier.rehearsal import servers
from tests.factories import HEADER, person
from tests.notifier.cli.conftest import Cli, make_doctor_entry

COMMAND = [sys.executable, "-c", "from notifier.cli import main; main()"]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for embedded servers, which are stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pn-"))
    folder.chmod(0o755)
    yield folder
    servers.stop_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


def typed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=os.environ | variables, check=False
    )


def test_without_any_setting_the_commands_find_their_own_servers_and_key(data_dir: Path, files: Path) -> None:
    here = {"NOTIFIER_DATA_DIR": str(data_dir)}
    unmigrated = typed("incident", "list", **here)
    assert (unmigrated.returncode, unmigrated.stdout) == (1, "")
    assert "run `notifier migrate`" in unmigrated.stderr
    assert json.loads(typed("migrate", "--json", **here).stdout) == {"migrated": True}
    assert typed("incident", "create", str(files / "incident.json"), **here).returncode == 0
    assert typed("doctor", "import", str(files / "doctors.json"), **here).returncode == 0
    assert typed("campaign", "create", "breach-1", "D0001", **here).returncode == 0

    key = data_dir / "master.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(bytes.fromhex(key.read_text())) == 32
    completed = common.complete_environment(data_dir)
    assert completed["NOTIFIER_MASTER_KEY_FILE"] == str(key.resolve())
    assert completed["DATABASE_URL"] == servers.Postgres(data_dir).start()
    assert completed["REDIS_URL"] == servers.Valkey(data_dir).start()
    assert completed.items() >= os.environ.items()

    key.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        common.complete_environment(data_dir)
    # A new key would open nothing of what is sealed: it must not be made in silence.
    key.unlink()
    lost = typed("incident", "list", **here)
    assert lost.returncode == 1
    assert "is gone, but the database beside it holds values sealed with it" in lost.stderr
    assert not key.exists()


def test_no_key_is_made_for_a_database_that_is_not_ours(
    cli: Cli, files: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    cli.run("incident", "create", files / "incident.json")
    cli.run("doctor", "import", files / "doctors.json")
    del cli.environment["NOTIFIER_MASTER_KEY"]
    assert cli.error("campaign", "create", "breach-1", "D0001").startswith("No master key: set ")
    assert not (tmp_path / "data" / "master.key").exists()


def test_a_key_file_is_made_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    common._ensure_master_key(path, None)
    first = path.read_text()
    common._create_once(path, "another\n")
    assert path.read_text() == first
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]


def test_a_dead_database_is_said_plainly(cli: Cli) -> None:
    cli.environment["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    assert cli.error("campaign", "list").startswith("PostgreSQL does not answer at DATABASE_URL: ")
    assert set(cli.json("campaign", "list", code=1)) == {"error"}
    assert cli.error("migrate").startswith("PostgreSQL does not answer at DATABASE_URL: ")


def test_a_database_that_was_not_migrated_says_what_to_run(cli: Cli, postgres: servers.Postgres) -> None:
    url = postgres.start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_one")
    cli.environment["DATABASE_URL"] = make_url(url).set(database="empty_one").render_as_string(hide_password=False)
    assert cli.error("campaign", "list").endswith("run `notifier migrate`.")
    assert cli.run("migrate") == "The database is up to date.\n"
    assert cli.json("campaign", "list") == {"campaigns": []}


def test_wrong_settings_are_one_line_and_name_the_key(cli: Cli) -> None:
    cli.environment["NOTIFIER_API_PORT"] = "many"
    assert "NOTIFIER_API_PORT" in cli.error("incident", "list")
    del cli.environment["NOTIFIER_API_PORT"]
    cli.environment["NOTIFIER_NONSENSE"] = "1"
    assert cli.error("incident", "list").startswith("NOTIFIER_NONSENSE: there is no such setting")


def all_errors(kind: type[NotifierError] = NotifierError) -> list[type[NotifierError]]:
    return [kind, *(deeper for sub in kind.__subclasses__() for deeper in all_errors(sub))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_ends_as_one_plain_line_and_1(
    kind: type[NotifierError], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(common.typer.Exit) as ended, common.errors_said_plainly(SimpleNamespace(meta={})):
        raise kind("Two things are wrong:\n  the first\n  the second")
    assert ended.value.exit_code == 1
    assert capsys.readouterr() == ("", "Two things are wrong: the first; the second\n")


@pytest.mark.parametrize(("message", "line"), [("", ""), ("One.", "One."), ("a:\n  b\n\n  c", "a: b; c")])
def test_messages_become_one_line(message: str, line: str) -> None:
    assert common.one_line(message) == line


def test_ids_are_printed_as_a_command_takes_them_and_counts_with_separators(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"id": 12_043, "doctor_id": 54_321, "row": 65_432, "tries": 98_765, "patients": {"unreached": 10_000}}
    common.emit_list("deliveries", [row], False, list(row))
    common.console().print(common.facts("delivery", row | {"campaign": 11_111}))
    said = capsys.readouterr().out
    for plain in ("12043", "54321", "65432", "11111"):
        assert said.count(plain) == (1 if plain == "11111" else 2)
    assert said.count("98,765") == said.count("unreached: 10,000") == 2
    assert "12,043" not in said


def test_nothing_personal_is_printed(cli: Cli, sending: int, files: Path, tmp_path: Path) -> None:
    """Whatever a command prints, on success or failure, no name, address or number of a patient is in it."""
    canaries = [
        "Zanzibarini",
        "Quetzalcoatl",
        "zq.canary@example.net",
        "06 39 98 77 66",
        "639987766",
        "Canaryville",
    ]
    line = person(
        8, nom="Zanzibarini", prenom="Quetzalcoatl", email="zq.canary@example.net", phone="06 39 98 77 66",
        ville="Canaryville", langue="Zanzibarini", decede="Quetzalcoatl",
    )  # fmt: skip
    listing = tmp_path / "people.csv"
    listing.write_text("\n".join([HEADER, line, line + ";x;y", ""]), encoding="utf-8")
    cli.run("doctor", "import", "-", stdin=json.dumps([make_doctor_entry(3)]))
    number = cli.json("campaign", "create", "breach-1", "D0003")["id"]
    assert "people.csv" not in cli.run("patients", "import", number, listing)
    assert cli.json("patients", "problems", number)["problems"]
    seen = cli.json("campaign", "preview", number)["hash"]
    cli.run("campaign", "approve", number, "--hash", seen, "--yes")
    cli.run("patients", "import", sending, listing, code=1)
    cli.run("campaign", "start", number)
    (delivery,) = cli.json("delivery", "list", number)["deliveries"]
    cli.environment["NOTIFIER_MASTER_KEY"] = "ff" * 32
    cli.run("campaign", "create", "breach-1", "D0002")
    for command in (
        ["patients", "list", number], ["patients", "problems", number], ["campaign", "show", number],
        ["campaign", "preview", number], ["delivery", "list", number], ["delivery", "show", delivery["id"]],
        ["queue", "status"], ["journal", "list"], ["incident", "show", "breach-1"],
    ):  # fmt: skip
        cli.run(*command)
        cli.json(*command)
    printed = "".join(cli.said)
    assert [canary for canary in canaries if canary.casefold() in printed.casefold()] == []
