"""The command line, `notifier …`: what operations type. Acts are those of the API and the pages (`acts.py`).

A sub-command's module is imported when it is called, so that `notifier --help` costs nothing: the table below
holds each one's sentence. Exit codes: 0 done, 1 refused or failed with a reason, 2 wrong usage.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from notifier import __version__, tracing
from notifier.cli import common


class Lazy(NamedTuple):
    """Where a sub-command lives, and what `notifier --help` says of it."""

    #: "module:name" of a Typer, or of a plain function with the command's options
    place: str
    sentence: str


COMMANDS = {
    "up": Lazy("notifier.cli.up:up", "Run everything on this machine with real settings, until Ctrl-C."),
    "demo": Lazy("notifier.cli.demo:demo", "Run a made-up incident on this machine, from lists to report."),
    "drill": Lazy("notifier.cli.drill:drill", "Break everything that can break, for real, and judge the outcome."),
    "check": Lazy("notifier.cli.check:app", "Check a number, an address, a text or a list; nothing is saved."),
    "incident": Lazy("notifier.cli.incident:app", "Open an incident, look at it, change its facts."),
    "doctor": Lazy("notifier.cli.doctor:app", "Add the responsible doctors, one by one or from a file."),
    "campaign": Lazy("notifier.cli.campaign:app", "One doctor's campaign: preview, approve, start, pause, watch."),
    "patients": Lazy("notifier.cli.patients:app", "Import a doctor's list; see its problems and each outcome."),
    "delivery": Lazy(
        "notifier.cli.delivery:app", "List deliveries, follow one from its first try to its end, send again."
    ),
    "quarantine": Lazy("notifier.cli.quarantine:app", "See what was set aside; send it again or give it up."),
    "evidence": Lazy("notifier.cli.evidence:app", "Write the file that proves who was told, and check one."),
    "queue": Lazy("notifier.cli.queue:app", "See whether everything moves; stop and let go on."),
    "provider": Lazy("notifier.cli.provider:app", "See who carries email and SMS, and who is on hold."),
    "key": Lazy("notifier.cli.key:app", "Make and revoke keys for the API."),
    "keys": Lazy("notifier.cli.keys:app", "See what each master key seals; change it."),
    "user": Lazy("notifier.cli.user:app", "Invite who signs in to the pages; reset and revoke."),
    "journal": Lazy("notifier.cli.journal:app", "See who did what, and check that it was not changed since."),
    "migrate": Lazy("notifier.cli.processes:migrate", "Bring the database to this version's tables."),
    "api": Lazy("notifier.cli.processes:api", "Run the HTTP API and the pages."),
    "worker": Lazy("notifier.cli.processes:worker", "Run one worker process, which sends."),
    "feeder": Lazy("notifier.cli.processes:feeder", "Run the feeder, which hands due deliveries to workers."),
    "sweeper": Lazy(
        "notifier.cli.processes:sweeper", "Run the sweeper, which settles what crashed or fell silent."
    ),
}


def load(name: str) -> Any:
    """The real sub-command of this name, its module imported."""
    module, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """Lists sub-commands without importing them, and says every error of ours in one plain line."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, sentence) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=sentence))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            with common.errors_said_plainly(ctx):
                return super().invoke(ctx)
        finally:
            tracing.stop()


# Locals in a traceback could show a person.
app = typer.Typer(name="notifier", cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def notifier(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Tell the patients of many doctors about one data breach, and prove it.

    Every listing and result takes --json. Exit codes: 0 done, 1 refused or failed with a reason, 2 wrong usage.
    """


def main() -> None:
    """The entry point of the command `notifier`."""
    app()
