from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import notifier
from notifier import cli as commands

HEAVY = (
    "sqlalchemy",
    "pydantic",
    "phonenumbers",
    "email_validator",
    "jinja2",
    "fastapi",
    "httpx",
    "psycopg",
    "alembic",
)


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom notifier.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print('heavy:', sorted(set(sys.modules) & set(sys.argv[1:])))"
    )
    run = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_of_the_table_loads_and_helps(name: str) -> None:
    assert commands.load(name).name == name
    result = CliRunner().invoke(commands.app, [name, "--help"])
    assert result.exit_code == 0
    assert f"notifier {name}" in result.stdout
    assert "--install-completion" not in result.stdout


def test_help_says_what_each_command_is_for() -> None:
    shown = CliRunner().invoke(commands.app, ["--help"], env={"COLUMNS": "200"}).stdout
    for name, (_, sentence) in commands.COMMANDS.items():
        assert name in shown
        assert sentence in shown


def test_every_listing_and_result_takes_json() -> None:
    def leaves(command, path):
        if not hasattr(command, "commands"):
            yield path, {option for parameter in command.params for option in parameter.opts}
        else:
            for name, sub in command.commands.items():
                yield from leaves(sub, f"{path} {name}")

    processes = {"api", "worker", "feeder", "sweeper", "up"}
    without = [
        path
        for name in commands.COMMANDS
        for path, options in leaves(commands.load(name), name)
        if "--json" not in options and path not in processes
    ]
    assert without == []


def test_wrong_usage_ends_with_2() -> None:
    for arguments in (["nonsense"], ["campaign", "show"], ["campaign", "show", "one"], ["queue", "--nonsense"]):
        assert CliRunner().invoke(commands.app, arguments).exit_code == 2


def test_the_installed_command_prints_its_version() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from notifier.cli import main; main()", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == notifier.__version__
