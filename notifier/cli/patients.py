"""`notifier patients …`: a doctor's list, its problems, and where each patient stands. Never a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import func, select

from notifier import acts, addresses, importing
from notifier.cli import common
from notifier.cli.campaign import CampaignId
from notifier.cli.check import columns_table
from notifier.errors import InputError, NotFoundError
from notifier.importers.csv import open_list
from notifier.models import Campaign, ListFile, ListProblem, Patient
from notifier.states import Outcome

app = typer.Typer(no_args_is_help=True, help="Import a doctor's list; see its problems and each outcome.")

_WORDS = {str(code): words for code, words in (addresses.WORDS | importing.WORDS).items()}
_PATIENT = (
    "id", "row", "merged", "language", "variant", "has_postal", "outcome", "outcome_reason", "outcome_at",
)  # fmt: skip


@app.command(name="import")
def import_(
    campaign: CampaignId,
    file: Annotated[Path, typer.Argument(help="The list as the practice software exported it.")],
    as_json: common.Json = False,
) -> None:
    """Import a list into a campaign that is not started. The same file again changes nothing.

    A new list voids an approval: who approved had not seen it.
    """
    with common.work() as work:
        if not file.is_file():
            raise InputError(f"{file} is not a file.")
        with _progress(file, as_json) as progress:
            list_file = acts.import_list(
                work.session,
                work.settings,
                campaign,
                file,
                actor=work.actor,
                now=work.now,
                progress=progress,
            )
            progress(list_file.rows)
        problems = work.session.scalar(
            select(func.count()).select_from(ListProblem).where(ListProblem.list_file_id == list_file.id)
        )
        is_new = list_file.imported_at == work.now
        with open_list(file, work.settings.max_list_bytes) as reader:
            columns = {name: None if column is None else str(column) for name, column in reader.columns.items()}
    document = {
        "list_file": list_file.id,
        "campaign": campaign,
        "new": is_new,
        **common.columns_of(list_file, "rows", "accepted", "merged", "refused"),
        "problems": problems,
    }

    def show(out: Console) -> None:
        out.print(common.facts("list", document))
        out.print(columns_table(columns))
        if not is_new:
            out.print("This very file was imported before: nothing was changed.")
        if problems:
            out.print(f"See what is wrong or doubtful: notifier patients problems {campaign}")

    common.emit(document | {"columns": columns}, as_json, show)


@app.command()
def problems(
    campaign: CampaignId, after: common.After = 0, limit: common.Limit = 200, as_json: common.Json = False
) -> None:
    """List every refused or doubtful row with its column and reason, never with its value."""
    with common.work() as work:
        _check(work, campaign)
        found = work.session.scalars(
            select(ListProblem)
            .join(ListFile, ListFile.id == ListProblem.list_file_id)
            .where(ListFile.campaign_id == campaign, ListProblem.id > after)
            .order_by(ListProblem.id)
            .limit(limit + 1)
        ).all()
    rows = [
        common.columns_of(problem, "id", "list_file_id", "row", "column", "reason")
        | {"words": _WORDS.get(problem.reason, ("", problem.reason.replace("_", " ")))[1]}
        for problem in found[:limit]
    ]
    last = rows[-1]["id"] if len(found) > limit else None
    common.emit_list(
        "problems",
        rows,
        as_json,
        ["list_file_id", "row", "column", "reason", "words"],
        next=last,
        read_on=f"notifier patients problems {campaign} --after {last}" if last else "",
    )


@app.command(name="list")
def list_(
    campaign: CampaignId,
    outcome: Annotated[Outcome | None, typer.Option(help="Only those who stand here.")] = None,
    after: common.After = 0,
    limit: common.Limit = 200,
    as_json: common.Json = False,
) -> None:
    """List patients by the row of the list that named them, with where each stands and why."""
    with common.work() as work:
        _check(work, campaign)
        query = select(Patient).where(Patient.campaign_id == campaign, Patient.id > after)
        if outcome is not None:
            query = query.where(Patient.outcome == outcome)
        found = work.session.scalars(query.order_by(Patient.id).limit(limit + 1)).all()
    rows = [common.columns_of(patient, *_PATIENT) for patient in found[:limit]]
    last = rows[-1]["id"] if len(found) > limit else None
    only = f" --outcome {outcome}" if outcome else ""
    common.emit_list(
        "patients",
        rows,
        as_json,
        _PATIENT,
        next=last,
        read_on=f"notifier patients list {campaign}{only} --after {last}" if last else "",
    )


def _check(work: common.Work, campaign: int) -> None:
    if work.session.get(Campaign, campaign) is None:
        raise NotFoundError(f"There is no campaign {campaign}.")


@contextmanager
def _progress(file: Path, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar with rows and rows per second on standard error, where a person is watching."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.completed / task.elapsed if task.elapsed else 0:,.0f} rows/s")

    err = Console(stderr=True)
    watched = err.is_terminal and not as_json
    bar = Progress(
        TextColumn("importing"), BarColumn(), MofNCompleteColumn(), Speed(), console=err, disable=not watched
    )
    with bar:
        task = bar.add_task("", total=_lines(file) if watched else None)
        yield lambda rows: bar.update(task, completed=rows)


def _lines(file: Path) -> int:
    """Line ends, which is about how many rows there are: a quoted cell may hold some."""
    with file.open("rb") as opened:
        return max(sum(block.count(b"\n") for block in iter(lambda: opened.read(1 << 20), b"")), 1)
