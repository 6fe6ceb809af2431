"""`notifier patients …`: a doctor's list, what is wrong in it, and where each patient stands.

The database's patients are shown by number, never by name. What stands in a list file is shown or written only by
commands that are given that file.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import func, select

from notifier import deciding, lists, reporting, sentences, store, writing
from notifier.checking import doctor_keys, doctors_of
from notifier.cli import common
from notifier.cli.campaign import CampaignId
from notifier.cli.check import columns_table, mapping_of, questions_in_words
from notifier.corrections import Corrections, suggestions
from notifier.errors import ConflictError, InputError, NotFoundError, NotifierError
from notifier.importers import Limits, Refusal, open_list, refused
from notifier.judging import RowReason
from notifier.lists import Given, Imported, Look
from notifier.models import Campaign, Doctor, Incident, ListFile, ListProblem, Patient
from notifier.settings import Settings
from notifier.states import Outcome
from notifier.store import Database

app = typer.Typer(no_args_is_help=True, help="Import a doctor's list; see its problems and each outcome.")
_suggestions = typer.Typer(
    no_args_is_help=True, help="What refused addresses of a list were probably meant to be."
)
_doubts = typer.Typer(no_args_is_help=True, help="Pairs of patients who may be one person.")
app.add_typer(_suggestions, name="suggestions")
app.add_typer(_doubts, name="doubts")

_PATIENT = (
    "id", "row", "merged", "language", "variant", "has_postal", "outcome", "outcome_reason", "outcome_at",
)  # fmt: skip
_COUNTS = (
    "new",
    "changed",
    "unchanged",
    "gone",
    "repeated",
    "refused",
    "informed",
    "due",
    "perhaps_known",
    "told_elsewhere",
)
#: counts that a person should think about before a yes
_DOUBTFUL = {"perhaps_known": RowReason.PERHAPS_KNOWN, "told_elsewhere": RowReason.TOLD_ELSEWHERE}

#: doctors named in an error
_MOST_DOCTORS = 20

File = Annotated[Path, typer.Argument(help="The list as the practice software exported it.")]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", help="What a column holds: 'Tél 1=phone'; 'ignore' leaves it out. Remembered."),
]
Sheet = Annotated[str | None, typer.Option(help="Which sheet of a spreadsheet is read.")]
CheckDomains = Annotated[
    bool | None,
    typer.Option("--check-domains/--no-check-domains", help="Ask the DNS which domains take mail, each once."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Language = Annotated[str, typer.Option(help="fr or en.")]


OfSeveral = Annotated[
    bool, typer.Option("--of-several", help="The list holds other doctors' patients too: read this one's rows.")
]


def _given(
    file: Path,
    said: Sequence[str] | None,
    sheet: str | None,
    check_domains: bool | None = None,
    of_several: bool = False,
) -> Given:
    if not file.is_file():
        raise InputError(f"{file} is not a file.")
    return Given(file.name, mapping_of(said), sheet, check_domains, of_several)


# --- import -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Job:
    """One file for one campaign."""

    campaign: int
    file: Path
    given: Given
    #: of the file among those named
    place: int
    seen: Look | None = None


@app.command(name="import")
def import_(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="CAMPAIGN FILE [CAMPAIGN FILE]…",
            help="Several are imported at the same time. With --incident: FILE….",
        ),
    ],
    incident: Annotated[
        str | None,
        typer.Option(
            help="The files hold several doctors' patients: each row goes to its doctor's campaign of it."
        ),
    ] = None,
    map_: Map = None,
    sheet: Sheet = None,
    check_domains: CheckDomains = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be read and changed.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Files at a time.")] = os.cpu_count() or 1,
    as_json: common.Json = False,
) -> None:
    """Import lists. How the columns are read comes first; of a further list of a campaign, what it changes.

    A further list needs a yes, or --yes; so does any list where a person is at the keyboard. The newest file
    again changes nothing; an older one again is a further list. Before the start a new list voids an approval:
    who approved had not seen it.
    """
    jobs = [] if incident else _jobs(targets, map_, sheet, check_domains)
    with common.database() as (database, settings):
        for place, file in enumerate(map(Path, targets) if incident else (), 1):
            given = _given(file, map_, sheet, check_domains, of_several=True)
            jobs += _jobs_of_incident(database, settings, incident or "", file, given, place)
        _refuse_twice(jobs)
        _look_at_all(database, settings, jobs, as_json, compare="always" if dry_run else "further")
        if dry_run:
            _show_looks(jobs, as_json)
            return
        _agree(jobs, yes, as_json)
        done = _import_all(database, settings, jobs, processes, as_json)
        documents = [_document(database, job, one) for job, one in zip(jobs, done, strict=True)]
    _show_imports(documents, as_json)


def _jobs(
    targets: Sequence[str], said: Sequence[str] | None, sheet: str | None, check_domains: bool | None
) -> list[_Job]:
    if len(targets) % 2 or not all(number.isascii() and number.isdigit() for number in targets[::2]):
        raise InputError("Name a campaign's number and its file, and so on: notifier patients import 1 list.csv")
    return [
        _Job(int(number), Path(file), _given(Path(file), said, sheet, check_domains), place)
        for place, (number, file) in enumerate(zip(targets[::2], targets[1::2], strict=True), 1)
    ]


def _refuse_twice(jobs: Sequence[_Job]) -> None:
    if len({job.campaign for job in jobs}) < len(jobs):
        raise InputError(
            "Import the lists of one campaign one after the other: the later one corrects the earlier."
        )


def _jobs_of_incident(
    database: Database, settings: Settings, incident: str, file: Path, given: Given, place: int
) -> list[_Job]:
    """One for each doctor whom a list names. Raises InputError if one of them has no campaign of the incident, or
    if two have the name: nobody's patients may be left out, or go to another."""
    with common.transaction(database) as session:
        known = common.find(session, Incident, incident)
        campaigns = session.execute(
            select(Campaign.id, Doctor.reference, Doctor.name)
            .join(Doctor, Doctor.id == Campaign.doctor_id)
            .where(Campaign.incident_id == known.id)
        ).all()
    of: dict[str, set[int]] = {}
    for number, *spellings in campaigns:
        for key in (key for spelling in spellings for key in doctor_keys(spelling)):
            of.setdefault(key, set()).add(number)
    limits = Limits(max_bytes=settings.max_list_bytes)
    with open_list(
        file, filename=given.filename, mapping=given.mapping, sheet=given.sheet, limits=limits
    ) as reader:
        if reader.questions:
            raise InputError(questions_in_words(reader.questions))
        rows = Counter(doctor for raw in reader for doctor in doctors_of(raw))
    if not rows:
        raise refused(Refusal.NO_ROW)
    found = {doctor: set().union(*(of.get(key, ()) for key in doctor_keys(doctor))) for doctor in rows}
    if unclear := {doctor: len(numbers) for doctor, numbers in found.items() if len(numbers) != 1}:
        lines = [
            f"{doctor[:80]} ({rows[doctor]} rows): "
            + ("several have this name; write the reference" if many else "no campaign of this incident")
            for doctor, many in list(unclear.items())[:_MOST_DOCTORS]
        ]
        raise InputError(
            f"{len(unclear)} doctors of this list are not known. Make their campaigns first, or correct the list; "
            f"nothing was imported.\n  " + "\n  ".join(lines)
        )
    return [_Job(number, file, given, place) for number in sorted(set().union(*found.values()))]


def _look_at_all(
    database: Database, settings: Settings, jobs: Sequence[_Job], as_json: bool, compare: Any
) -> None:
    """Raises at the end if any list is refused, naming each by its place: a file name may be a person's."""
    refusals: list[str] = []
    for job in jobs:
        try:
            job.seen = _look(database, settings, job, as_json, compare)
        except (InputError, NotFoundError, ConflictError) as error:
            if len(jobs) == 1:
                raise
            refusals.append(f"File {job.place}, for campaign {job.campaign}: {common.one_line(error.message)}")
    if refusals:
        raise InputError("\n".join(["Nothing was imported.", *refusals]))


def _look(database: Database, settings: Settings, job: _Job, as_json: bool, compare: Any) -> Look:
    """Rolled back at once: a person may take long to say yes."""
    with common.transaction(database) as session, _watched([job.file], "looking at", as_json) as bar:
        with job.file.open("rb") as stream:
            seen = lists.look(
                session,
                settings,
                job.campaign,
                stream,
                job.given,
                now=common.now(),
                compare=compare,
                progress=lambda rows: bar(stream.tell(), rows),
            )
        session.rollback()
    if seen.questions:
        raise InputError(questions_in_words(seen.questions))
    return seen


def _agree(jobs: Sequence[_Job], yes: bool, as_json: bool) -> None:
    """Shows what has to be seen before anything is saved; raises if nobody agrees to it."""
    fresh = [job for job in jobs if job.seen and not job.seen.is_known]
    is_watched = sys.stdin.isatty() and not as_json
    if not fresh or not (is_watched or any(job.seen and job.seen.has_earlier for job in fresh)):
        return
    if not as_json:
        for job in fresh:
            _show_look(Console(stderr=True, width=None if sys.stderr.isatty() else 160), job)
    if not yes:
        what = "these lists" if len(jobs) > 1 else "this list"
        common.ask(f"Import {what}?", "Nothing was imported.", as_json)


def _import_all(
    database: Database, settings: Settings, jobs: Sequence[_Job], processes: int, as_json: bool
) -> list[dict[str, Any]]:
    if len(jobs) == 1:
        (job,) = jobs
        with _watched([job.file], "importing", as_json) as bar, common.transaction(database) as session:
            return [_import_one(session, settings, job, bar)]
    return _in_processes(settings, jobs, processes, as_json)


def _import_one(session: Any, settings: Settings, job: _Job, bar: Callable[[int, int], None]) -> dict[str, Any]:
    with job.file.open("rb") as stream:
        imported = lists.import_list(
            session,
            settings,
            job.campaign,
            stream,
            job.given,
            actor=common.actor(),
            now=common.now(),
            expected=None if job.seen is None or job.seen.is_known else job.seen.token,
            progress=lambda rows: bar(stream.tell(), rows),
        )
    bar(job.file.stat().st_size, imported.list_file.rows)
    return _plain(imported)


def _plain(imported: Imported) -> dict[str, Any]:
    return {
        "list_file": imported.list_file.id,
        "new": imported.is_new,
        **common.columns_of(imported.list_file, "rows", "accepted", "merged", "refused"),
        "columns": {column.header: column.meaning for column in imported.columns},
        "notes": imported.notes,
    }


def _document(database: Database, job: _Job, done: dict[str, Any]) -> dict[str, Any]:
    if "error" in done:
        return {"campaign": job.campaign, **done}
    with common.transaction(database) as session:
        problems = session.scalar(
            select(func.count()).select_from(ListProblem).where(ListProblem.list_file_id == done["list_file"])
        )
    difference = _difference(job.seen) if job.seen else None
    return {
        "campaign": job.campaign,
        **done,
        "problems": problems,
        "difference": difference,
    }


def _difference(seen: Look) -> dict[str, int] | None:
    if seen.difference is None:
        return None
    counts = asdict(seen.difference)
    return {name: counts[name] for name in _COUNTS if name in counts}


# --- several at a time ------------------------------------------------------------------------------

#: (bytes read, rows) of each file, shared with the process that shows them
_shared: Any = None


def _begin(shared: Any) -> None:
    global _shared
    _shared = shared


def _in_child(settings: Settings, job: _Job, place: int) -> dict[str, Any]:
    """One import in a process of its own: all of it or nothing."""

    def bar(position: int, rows: int) -> None:
        _shared[2 * place], _shared[2 * place + 1] = position, rows

    try:
        with common.database(settings) as (database, current), common.transaction(database) as session:
            return _import_one(session, current, job, bar)
    except NotifierError as error:
        return {"error": common.one_line(error.message)}


def _in_processes(settings: Settings, jobs: Sequence[_Job], processes: int, as_json: bool) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    shared = context.Array("q", 2 * len(jobs))
    # what was seen holds rows and columns of the list: the child needs its token alone
    with (
        _watched([job.file for job in jobs], "importing", as_json) as bar,
        ProcessPoolExecutor(min(processes, len(jobs)), context, _begin, (shared,)) as pool,
    ):
        futures = [pool.submit(_in_child, settings, job, place) for place, job in enumerate(jobs)]
        open_ = set(futures)
        while open_:
            _, open_ = wait(open_, timeout=0.2, return_when=FIRST_COMPLETED)
            bar(sum(shared[::2]), sum(shared[1::2]))
        return [future.result() for future in futures]


# --- what import shows ------------------------------------------------------------------------------


def _show_look(out: Console, job: _Job) -> None:
    seen = job.seen
    assert seen is not None
    out.print(f"A list for campaign {job.campaign} ({seen.format}):", markup=False, highlight=False)
    out.print(
        common.table(
            "columns",
            ("header", "read_as", "by"),
            [{"header": one.header, "read_as": one.meaning or "not read", "by": one.by} for one in seen.columns],
        )
    )
    for note in seen.notes:
        out.print(f"{note['en']}", markup=False, highlight=False)
    if (difference := _difference(seen)) is not None:
        out.print(common.facts("what it changes", difference))
        if difference.get("gone"):
            out.print("Those who are gone from this list stay: nothing changes for them.")
        for name, reason in _DOUBTFUL.items():
            if difference.get(name):
                out.print(
                    f"{difference[name]}: {sentences.in_language(reason, 'en')}", markup=False, highlight=False
                )


def _show_looks(jobs: Sequence[_Job], as_json: bool) -> None:
    def show(out: Console) -> None:
        for job in jobs:
            _show_look(out, job)

    common.emit({"lists": [_look_document(job) for job in jobs]}, as_json, show)


def _look_document(job: _Job) -> dict[str, Any]:
    seen = job.seen
    assert seen is not None
    return {
        "campaign": job.campaign,
        "format": seen.format,
        "known": seen.is_known,
        "columns": [asdict(column) for column in seen.columns],
        "notes": seen.notes,
        "difference": _difference(seen),
    }


def _show_imports(documents: Sequence[dict[str, Any]], as_json: bool) -> None:
    def show(out: Console) -> None:
        for document in documents:
            _show_import(out, document)

    common.emit(documents[0] if len(documents) == 1 else {"lists": list(documents)}, as_json, show)
    if any("error" in document for document in documents):
        raise typer.Exit(1)


def _show_import(out: Console, document: dict[str, Any]) -> None:
    shown = {name: value for name, value in document.items() if name not in ("columns", "notes", "difference")}
    out.print(common.facts("list", shown))
    if "error" in document:
        return
    out.print(columns_table(document["columns"]))
    for note in document["notes"]:
        out.print(note["en"], markup=False, highlight=False)
    if not document["new"]:
        out.print("This very file is the newest list already: nothing was changed.")
    if document["problems"]:
        number = document["campaign"]
        out.print(f"See what is wrong or doubtful: notifier patients problems {number}")
        out.print(
            f"Rows for the doctor to correct: notifier patients corrections {number} FILE --out corrections.csv"
        )


@contextmanager
def _watched(files: Iterable[Path], what: str, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with rows, rows per second and time left on standard error, where a person is watching.

    How far it is goes by the bytes read, which every format has; rows are known only once they are read.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            rows = task.fields["rows"]
            return Text(f"{rows:,} rows, {rows / task.elapsed if task.elapsed else 0:,.0f} rows/s")

    err = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
        task = bar.add_task("", total=sum(file.stat().st_size for file in files), rows=0)
        yield lambda position, rows: bar.update(task, completed=position, rows=rows)


# --- report and corrections -------------------------------------------------------------------------


@app.command()
def report(
    campaign: CampaignId,
    file: File,
    out: Annotated[Path, typer.Option(help="Written anew, readable by you alone: .csv or .json.")],
    language: Language = "fr",
    every: Annotated[bool, typer.Option("--every", help="Every cell, also those taken as they stand.")] = False,
    map_: Map = None,
    sheet: Sheet = None,
    of_several: OfSeveral = False,
    check_domains: CheckDomains = None,
    as_json: common.Json = False,
) -> None:
    """Write what was read from a list, what was changed, what was refused and why, by row and column.

    The file holds what the list holds: hand it to the doctor and to nobody else.
    """
    given = _given(file, map_, sheet, check_domains, of_several)
    if out.suffix not in (".csv", ".json"):
        raise InputError("--out needs a name that ends in .csv or .json.")
    with (
        common.said_in(language),
        common.work() as work,
        lists.opened(work.session, work.settings, campaign, file, given, now=work.now) as this,
    ):
        made = reporting.Report(this.reader, this.setting, every=every)
        pieces = reporting.as_json(made) if out.suffix == ".json" else reporting.as_csv(made, language)
        _write(out, pieces)
        summary = made.summary()
    counts = {name: summary[name] for name in ("rows", "accepted", "merged", "refused", "excluded", "minors")}
    found = [
        {"code": code, **counted, "words": sentences.sentence(code)[0 if language == "fr" else 1]}
        for code, counted in summary["found"].items()
    ]

    def show(to: Console) -> None:
        to.print(common.facts("list", counts))
        to.print(common.table("found", ("code", "times", "rows", "words"), found))
        to.print(f"Written to {out}", markup=False, highlight=False)

    common.emit({"written": str(out), **summary}, as_json, show)


@app.command()
def corrections(
    campaign: CampaignId,
    file: File,
    out: Annotated[Path, typer.Option(help="A CSV file, written anew, readable by you alone.")],
    language: Language = "fr",
    map_: Map = None,
    sheet: Sheet = None,
    of_several: OfSeveral = False,
    check_domains: CheckDomains = None,
    as_json: common.Json = False,
) -> None:
    """Write the rows that need a person, with the list's own columns and one that says what is wrong.

    The doctor fills it in and it is imported like any list; only these people are changed.
    """
    given = _given(file, map_, sheet, check_domains, of_several)
    with (
        common.said_in(language),
        common.work() as work,
        lists.opened(work.session, work.settings, campaign, file, given, now=work.now) as this,
    ):
        made = Corrections(this.reader, this.setting, language)
        _write(out, made)
    document = {"written": str(out), "rows": made.rows}
    common.emit(document, as_json, lambda to: to.print(common.facts("corrections", document)))


def _write(out: Path, pieces: Iterable[bytes]) -> None:
    """Whole or not at all, for its owner's eyes only."""
    try:
        with writing.whole_file(out) as stream:
            for piece in pieces:
                stream.write(piece)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}.") from error


# --- suggestions ------------------------------------------------------------------------------------


@_suggestions.command(name="list")
def suggestions_list(
    campaign: CampaignId,
    file: File,
    map_: Map = None,
    sheet: Sheet = None,
    of_several: OfSeveral = False,
    as_json: common.Json = False,
) -> None:
    """List what refused addresses of this file were probably meant to be. It shows what the file holds."""
    given = _given(file, map_, sheet, of_several=of_several)
    with (
        common.work() as work,
        lists.opened(work.session, work.settings, campaign, file, given, now=work.now) as this,
    ):
        found = [one._asdict() for one in suggestions(this.reader, this.setting)]
    common.emit_list("suggestions", found, as_json, ("row", "reason", "read", "suggestion"))


@_suggestions.command()
def accept(
    campaign: CampaignId,
    file: File,
    row: Annotated[list[int] | None, typer.Option("--row", help="A row whose suggestions are right.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that mend a typing error.")] = False,
    map_: Map = None,
    sheet: Sheet = None,
    of_several: OfSeveral = False,
    yes: Yes = False,
    as_json: common.Json = False,
) -> None:
    """Use the suggested addresses of some rows of an imported list, as if the doctor had sent them corrected."""
    given = _given(file, map_, sheet, of_several=of_several)
    if bool(row) == all_:
        raise InputError("Name the rows (--row 12 --row 31), or say --all.")
    if not yes:
        which = (
            "all suggestions that mend a typing error" if all_ else f"the suggestions of {len(row or ())} row(s)"
        )
        common.ask(f"Use {which}?", "Nothing was changed.", as_json)
    with common.work() as work:
        list_file, accepted = lists.accept(
            work.session, work.settings, campaign, file, given, rows=row or None, actor=work.actor, now=work.now
        )
        document = {
            "list_file": list_file.id,
            "campaign": campaign,
            "accepted": len(accepted),
            "rows": [one.row for one in accepted],
        }
    common.emit(document, as_json, lambda out: out.print(common.facts("suggestions", document)))


# --- doubts -----------------------------------------------------------------------------------------


@_doubts.command(name="list")
def doubts_list(
    campaign: CampaignId,
    decided: Annotated[bool, typer.Option("--decided", help="Also those decided about.")] = False,
    after: common.After = 0,
    limit: common.Limit = 200,
    as_json: common.Json = False,
) -> None:
    """List patients who may be the same person as another, by list and row."""
    with common.work() as work:
        _check(work, campaign)
        found = deciding.pairs(work.session, campaign, after=after, limit=limit + 1)
    shown_pairs = [pair for pair in found[:limit] if pair.others or decided]
    rows: list[dict[str, Any]] = [
        {
            "id": pair.id,
            "reason": pair.reason,
            "patient": pair.mine.patient,
            "list": pair.mine.list_file,
            "row": pair.mine.row,
            "others": [other._asdict() for other in pair.others],
            "decided": [{"other": other, "same": same} for other, same in pair.decided.items()],
        }
        for pair in shown_pairs
    ]
    last = found[limit - 1].id if len(found) > limit else None

    def show(out: Console) -> None:
        shown = [
            {name: one[name] for name in ("id", "reason", "patient", "list", "row")}
            | {"others": "; ".join(f"patient {o.patient} (list {o.list_file}, row {o.row})" for o in pair.others)}
            for one, pair in zip(rows, shown_pairs, strict=True)
        ]
        out.print(
            common.table(f"doubts ({len(rows)})", ("id", "reason", "patient", "list", "row", "others"), shown)
        )
        if rows:
            out.print("Say which: notifier patients doubts decide ID --same, or --two")
        if last:
            out.print(f"There are more: notifier patients doubts list {campaign} --after {last}")

    common.emit({"doubts": rows, "next": last}, as_json, show)


@_doubts.command()
def decide(
    doubt: Annotated[int, typer.Argument(help="Its number.")],
    same: Annotated[bool, typer.Option("--same/--two", help="One person, told once; or two.")],
    other: Annotated[int | None, typer.Option(help="The other patient, where there are several.")] = None,
    as_json: common.Json = False,
) -> None:
    """Say whether two patients are one person. --two takes a --same back, until sending begins."""
    with common.work() as work:
        decision = lists.decide(work.session, doubt, is_same=same, other_id=other, actor=work.actor, now=work.now)
        document = common.columns_of(decision, "problem_id", "patient_id", "other_id", "is_same")
    common.emit(document, as_json, lambda out: out.print(common.facts("decision", document)))


# --- what the database has --------------------------------------------------------------------------


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
        | {"words": sentences.in_language(problem.reason, "en")}
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
        numbers = store.next_patients(campaign, after, limit + 1, Outcome if outcome is None else (outcome,))
        query = select(Patient).where(Patient.id.in_(numbers)).order_by(Patient.id)
        found = work.session.scalars(query).all()
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
