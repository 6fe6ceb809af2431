"""`notifier keys …`: the master key, and its change while everything goes on. A key itself is never shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from notifier import keys, startup
from notifier.cli import common
from notifier.errors import InputError
from notifier.keys import Kind, Status
from notifier.settings import Settings
from notifier.store import Database

app = typer.Typer(no_args_is_help=True, help="See what each master key seals; change it.")


@app.command()
def status(as_json: common.Json = False) -> None:
    """How much is sealed by which master key, each named by a fingerprint."""
    with common.work() as work:
        found = keys.status(work.session, work.settings.master)
    _emit(found, as_json)


@app.command()
def rotate(
    reason: Annotated[str, typer.Option("--reason", help="Kept in the journal.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: common.Json = False,
) -> None:
    """Seal by the master key what former ones have sealed. May be ended and run again at any time.

    Every process must have been started with both keys before: docs/operations.md, "Rotating keys". Refused
    while a worker or test sender was not.
    """
    if not reason.strip():
        raise InputError("Say why: it is kept in the journal.")
    with common.database() as (database, current):
        startup.check_master_key(database, current.master)
        before = _status(database, current)
        keys.check_known(before)
        total = sum(before.left.values())
        if total and not yes:
            what = ", ".join(f"{n} {kind}" for kind, n in before.left.items() if n)
            common.ask(
                f"Seal {what} by the key {before.key}? A process that was not given it can open none of them.",
                "Nothing was changed.",
                as_json,
            )
        with _progress(total, as_json) as advance:
            done = {kind: _all(database, current, kind, reason, advance) for kind in Kind}
        after = _status(database, current)
    _emit(after, as_json, rotated={str(kind): n for kind, n in done.items()})


def _all(database: Database, current: Settings, kind: Kind, reason: str, advance: Callable[[int], None]) -> int:
    """Seals all of one kind, in many small transactions; returns how many."""
    total = 0
    while True:
        with common.transaction(database) as session:
            n = keys.rotate(session, current.master, kind, actor=common.actor(), reason=reason)
        total += n
        advance(n)
        if n:
            continue
        with common.transaction(database) as session:
            if not keys.wait(session, current.master, kind):
                return total


def _status(database: Database, current: Settings) -> Status:
    with common.transaction(database) as session:
        return keys.status(session, current.master)


@contextmanager
def _progress(total: int, as_json: bool) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    err = Console(stderr=True)
    columns = (TextColumn("Sealing anew"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)


def _emit(found: Status, as_json: bool, **also: Any) -> None:
    document = {
        "key": found.key,
        "former": list(found.former),
        "sealed": found.sealed,
        "left": found.left,
        "missing": found.missing,
        "without": found.without,
        **also,
    }

    def show(out: Console) -> None:
        role = {found.key: "seals", **dict.fromkeys(found.former, "opens only")}
        marks = [*role, *found.missing]
        rows = [
            {
                "key": mark,
                "what": role.get(mark, "NOT GIVEN"),
                **{k: n.get(mark, 0) for k, n in found.sealed.items()},
            }
            for mark in marks
        ]
        out.print(common.table("master keys", ["key", "what", *found.sealed], rows))
        for mark, processes in found.without.items():
            out.print(
                f"{mark} was not given to {', '.join(processes)}.", emoji=False, markup=False, highlight=False
            )
        out.print(_next(found), markup=False, highlight=False)

    common.emit(document, as_json, show)


def _next(found: Status) -> str:
    """What a person does next."""
    if found.missing:
        return f"Not given: {', '.join(found.missing)}. Put it into NOTIFIER_MASTER_KEYS_FORMER."
    if any(found.left.values()):
        return f'notifier keys rotate --reason "…" seals what is left by {found.key}.'
    if found.former:
        return "Former keys seal nothing any more. They still prove receipts of messages that are out."
    return "One key seals everything."
