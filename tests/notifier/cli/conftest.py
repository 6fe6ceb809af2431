"""The command line as a person uses it: in this process, on a database and a queue of the test alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from notifier.cli import app
from tests.conftest import MASTER_KEY
from tests.factories import FACTS, HEADER, person


@dataclass
class Cli:
    """Runs commands; remembers all they ever printed."""

    environment: dict[str, str]
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: object, code: int = 0, stdin: str | None = None) -> str:
        """What a command that ends with `code` prints on standard output."""
        result = CliRunner().invoke(
            app, [str(argument) for argument in arguments], env=self.environment, input=stdin
        )
        self.said += [result.stdout, result.stderr]
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.stdout + result.stderr
        self.stderr = result.stderr
        return result.stdout

    def json(self, *arguments: object, code: int = 0, stdin: str | None = None) -> Any:
        """The one document a command prints with --json."""
        return json.loads(self.run(*arguments, "--json", code=code, stdin=stdin))

    def error(self, *arguments: object) -> str:
        """The one plain line of a command that fails."""
        assert self.run(*arguments, code=1) == ""
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr.strip()


@pytest.fixture(autouse=True)
def _leave_logging_alone() -> Iterator[None]:
    """A command sets the logs of its process, which here is the tests' own."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def environment(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "NOTIFIER_MASTER_KEY": MASTER_KEY,
        "NOTIFIER_DATA_DIR": str(tmp_path / "data"),
    }


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    return Cli(environment)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an incident, two doctors and a list of three patients."""
    (tmp_path / "incident.json").write_text(
        json.dumps({"reference": "breach-1", "facts": FACTS}), encoding="utf-8"
    )
    doctors = [make_doctor_entry(1), make_doctor_entry(2)]
    (tmp_path / "doctors.json").write_text(json.dumps(doctors), encoding="utf-8")
    # The third has neither email nor number; the phone of the second is none.
    lines = [person(1), person(2, phone="12"), person(3, email=None, phone=None)]
    (tmp_path / "list.csv").write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return tmp_path


def make_doctor_entry(number: int, **changes: str) -> dict[str, str]:
    return {
        "reference": f"D000{number}",
        "name": f"Dr Camille Exemple{number}",
        "practice": f"Cabinet Exemple {number}",
        "address": "1 rue de l'Exemple, 75001 Paris",
        "phone": "01 99 00 12 34",
        "email": f"cabinet{number}@example.org",
    } | changes


@pytest.fixture
def campaign(cli: Cli, files: Path) -> int:
    """A draft campaign of D0001 with the list imported."""
    cli.run("incident", "create", files / "incident.json")
    cli.run("doctor", "import", files / "doctors.json")
    number: int = cli.json("campaign", "create", "breach-1", "D0001")["id"]
    cli.run("patients", "import", number, files / "list.csv")
    return number


@pytest.fixture
def sending(cli: Cli, campaign: int) -> int:
    """That campaign, approved and started."""
    seen = cli.json("campaign", "preview", campaign)["hash"]
    cli.run("campaign", "approve", campaign, "--hash", seen, "--yes")
    cli.run("campaign", "start", campaign)
    return campaign
