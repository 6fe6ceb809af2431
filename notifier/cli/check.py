"""`notifier check …`: what the product makes of one number, address, text or list. Needs no database.

The exit code is 0 wherever the question could be answered, whatever the answer; 1 where a file cannot be read.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from notifier import addresses, importing, reporting, sentences, sms
from notifier.addresses import Reason
from notifier.checking import domains_of, rows_of
from notifier.domains import Domains
from notifier.errors import InputError, ListError, NotifierError
from notifier.importers import Limits, Question, open_list
from notifier.judging import Setting
from notifier.settings import load

app = typer.Typer(
    no_args_is_help=True,
    help="Check a phone number, an email address, a text message or a patient list, without saving anything.",
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Region = Annotated[str, typer.Option("--region", help="Country the practice dials from (ISO 3166-1, as in FR).")]


@app.command()
def phone(
    value: Annotated[str, typer.Argument(help="The number as it stands in the list.")],
    region: _Region = "FR",
    postal_code: Annotated[str | None, typer.Option(help="The patient's: overseas numbers go by it.")] = None,
    as_json: _Json = False,
) -> None:
    """Say whether a phone number exists and takes SMS."""
    checked = addresses.check_phone(value, region.upper(), postal_code)
    answer = {
        "input": value,
        "ok": checked.ok,
        "e164": checked.e164,
        "kind": checked.kind,
        "region": checked.region,
        "sms_capable": checked.sms_capable,
        "reason": checked.reason,
    }
    _show(answer, as_json, "Phone number", checked.reason)


@app.command()
def email(
    value: Annotated[str, typer.Argument(help="The address as it stands in the list.")],
    as_json: _Json = False,
) -> None:
    """Say whether an email address may be written to, and what was probably meant."""
    checked = addresses.check_email(value)
    answer = {
        "input": value,
        "ok": checked.ok,
        "normalised": checked.address,
        "reason": checked.reason,
        "suggestion": checked.suggestion,
    }
    _show(answer, as_json, "Email address", checked.reason)


@app.command(name="sms")
def sms_text(
    text: Annotated[str, typer.Argument(help="The text, or - to read it from standard input.")],
    as_json: _Json = False,
) -> None:
    """Count the parts of a text message, and say which characters would be replaced."""
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    measured = sms.measure(text)
    answer: dict[str, Any] = {
        "encoding": measured.encoding,
        "units": measured.units,
        "parts": measured.parts,
        "replaced": list(measured.replaced),
    }
    _show(answer if as_json else answer | {"text": measured.text}, as_json, "Text message", None)


@app.command(name="list")
def patient_list(
    file: Annotated[Path, typer.Argument(help="The list as the practice software exported it.")],
    region: _Region = "FR",
    show: Annotated[
        bool,
        typer.Option("--show", help="Also show every row as it was understood, and what became of each cell."),
    ] = False,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="What a column holds: 'Tél 1=phone', 'Note=ignore'.")
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="Which sheet of a spreadsheet is read.")] = None,
    check_domains: Annotated[
        bool | None,
        typer.Option("--check-domains/--no-check-domains", help="Ask the DNS which domains take mail, each once."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Read a patient list as an import would, and report every refused or doubtful row."""
    try:
        with _progress(as_json) as report:
            answer = _checked(file, region.upper(), show, mapping_of(map_), sheet, check_domains, report)
    except NotifierError as error:
        _fail(error.message, as_json)
    if as_json:
        _print_json(answer)
    else:
        _show_list(answer)


def _checked(
    file: Path,
    region: str,
    show: bool,
    mapping: dict[str, str],
    sheet: str | None,
    check_domains: bool | None,
    progress: _progress,
) -> dict[str, Any]:
    settings, today = load(), datetime.now(UTC).date()
    limits = Limits(max_bytes=settings.max_list_bytes)
    with open_list(file, mapping=mapping, sheet=sheet, today=today, limits=limits) as reader:
        if reader.questions:
            raise ListError(questions_in_words(reader.questions))
        setting = Setting(region, today, reader.names_people)
        if settings.check_mail_domains if check_domains is None else check_domains:
            dead = asyncio.run(Domains().dead(domains_of(rows_of(reader, setting))))
            setting = replace(setting, dead_domains=dead)
        answer = importing.check_list(
            file,
            region,
            show=show,
            today=today,
            dead_domains=setting.dead_domains,
            max_bytes=settings.max_list_bytes,
            progress=progress,
            mapping=mapping,
            sheet=sheet,
        )
        if show:
            report = reporting.Report(reader, setting, every=True)
            answer["decisions"] = [row.as_dict() for row in report]
            answer["report"] = report.summary()
    return answer


def mapping_of(said: Sequence[str] | None) -> dict[str, str]:
    """`--map` options as a mapping. Raises InputError for one without a column or a meaning."""
    mapping = {}
    for one in said or ():
        name, separator, meaning = one.rpartition("=")
        if not separator or not name.strip():
            raise InputError(f"--map needs a column and its meaning, as in 'Tél 1=phone'; not {one!r}.")
        mapping[name.strip()] = meaning.strip()
    return mapping


def questions_in_words(questions: Sequence[Question]) -> str:
    """What must be said about a list before it can be read, and how to say it on the command line."""
    asked = [
        f"{question.english} Answer: "
        + (
            f"--sheet {question.options[0]!r}"
            if question.subject == "sheet"
            else " or ".join(f"--map {f'{question.subject}={option}'!r}" for option in question.options)
        )
        for question in questions[:10]
    ]
    return "Before this list can be read:\n" + "\n".join(asked)


class _progress:
    """A spinner with the rows read, on standard error, where a person is watching."""

    def __init__(self, as_json: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.completed:,.0f} rows read"),
            console=console,
            transient=True,
            disable=as_json or not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> _progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, rows: int) -> None:
        self._progress.update(self._task, completed=rows)


def _show(answer: dict[str, Any], as_json: bool, title: str, reason: Reason | None) -> None:
    if as_json:
        _print_json(answer)
        return
    table = Table(title=title, show_header=False)
    for name, value in answer.items():
        table.add_row(name.replace("_", " "), _plain(value))
    if reason:
        french, english = addresses.WORDS[reason]
        table.add_row("in words", f"{escape(english)}\n{escape(french)}")
    Console().print(table)


def _show_list(answer: dict[str, Any]) -> None:
    console = Console()
    counts = Table(title="Patient list", show_header=False)
    for name in ("rows", "accepted", "merged", "refused", "excluded"):
        counts.add_row(name, f"{answer[name]:,}")
    for channel, people in answer["reach"].items():
        counts.add_row(f"reached first by {channel}" if channel != "none" else "reached by nothing", f"{people:,}")
    console.print(counts)
    console.print(columns_table(answer["columns"]))
    if answer["problems"]:
        problems = Table("row", "column", "reason", "in words", title="Refused or doubtful")
        for problem in answer["problems"]:
            words = sentences.in_language(problem["reason"], "en")
            problems.add_row(str(problem["row"]), problem["column"], problem["reason"], escape(words))
        console.print(problems)
    if "patients" in answer:
        patients = Table(
            *(str(name) for name in (answer["patients"] or [{"row": 0}])[0]), title="Rows as understood"
        )
        for patient in answer["patients"]:
            patients.add_row(*(_plain(value) for value in patient.values()))
        console.print(patients)


def columns_table(columns: dict[str, str | None]) -> Table:
    """Which header was read as what, and which were not read."""
    table = Table("column of the file", "read as", title="Columns")
    for header, meaning in columns.items():
        table.add_row(escape(header), meaning or "[yellow]not read[/]")
    return table


def _plain(value: object) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return escape(", ".join(str(item) for item in value)) or "–"
        case _:
            return escape(str(value))


def _print_json(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, ensure_ascii=False, default=_code) + "\n")


def _code(value: object) -> str:
    assert isinstance(value, StrEnum)
    return str(value)


def _fail(message: str, as_json: bool) -> NoReturn:
    if as_json:
        _print_json({"error": message})
    else:
        Console(stderr=True).print(escape(message), style="red")
    raise typer.Exit(1)
