"""`notifier migrate`, and the long-running processes: each command becomes the process it starts.

The engine lives in `workers/`, which nothing in `notifier/` imports: hence a new program in the same process,
so that a supervisor's signals reach it directly.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from notifier.cli import common
from notifier.errors import InputError
from notifier.states import Channel


def migrate(as_json: common.Json = False) -> None:
    """Bring the database to this version's tables; safe to run at any time."""
    from notifier import store

    settings = common.environment()
    store.migrate(settings.sqlalchemy_url)
    with common.database(settings):
        common.emit({"migrated": True}, as_json, lambda out: out.print("The database is up to date."))


def api() -> None:
    """Run the HTTP API and the pages at NOTIFIER_API_HOST and NOTIFIER_API_PORT, until SIGTERM or Ctrl-C."""
    _become("notifier.api")


def worker(
    channel: Annotated[
        list[Channel] | None, typer.Option(help="Only this channel; may be given twice. Both by default.")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Do test sends only: one such process is needed, beside the others.")
    ] = False,
) -> None:
    """Run one worker process, which sends; start as many as the machine has cores."""
    if control and channel:
        raise InputError("--control does the test sends of both channels: leave --channel away.")
    if control:
        _become("workers.main", "control")
    _become("workers.main", "worker", *(f"--channel={name}" for name in channel or ()))


def feeder() -> None:
    """Run the feeder, which hands due deliveries to workers. Of several, one leads and the others stand by."""
    _become("workers.main", "feeder")


def sweeper() -> None:
    """Run the sweeper, which settles what crashed or fell silent. Any number may run."""
    _become("workers.main", "sweeper")


def _become(module: str, *arguments: str) -> NoReturn:
    from notifier import settings

    environment = common.complete_environment(settings.load().data_dir)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a folder of the same name where the command is typed must not be taken for ours.
    os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environment)  # noqa: S606
