"""Patient lists: a file is received under a limit, looked at, imported, and what is wrong in it said.

A look keeps nothing: the file is sent again to be imported, with the token of the look, so that what is imported
is what was shown. Report, corrections and suggestions give a caller's own file back to them and are kept nowhere.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, BinaryIO, Literal, cast

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile as Received
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from notifier import corrections, deciding, lists, reporting, sentences
from notifier.api import answers
from notifier.api.answers import PathId
from notifier.api.auth import Caller, Known
from notifier.api.idempotency import ActUnread
from notifier.api.pages import Page, Paging, after_of, cursor_of, page
from notifier.api.problems import documented
from notifier.api.protocol import json_only, media_type
from notifier.errors import InputError, NotFoundError
from notifier.lists import Given
from notifier.models import Campaign, ListFile, ListProblem

router = APIRouter(prefix="/api/v1", tags=["Lists"], responses=documented(401, 404, 422, 503))

#: of a report that is being sent: more than this is on disk meanwhile
_IN_MEMORY = 1024 * 1024
_CHUNK = 64 * 1024
_CSV: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}
_FILE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`{rows, summary}`, or a table with a line for each finding.",
        "content": {"application/json": {"schema": {"type": "object"}}, **_CSV},
    }
}
_TEXT = {"type": "string"}
_FIELDS: dict[str, dict[str, Any]] = {
    "file": {"type": "string", "format": "binary", "description": "CSV, XLSX, ODS, or FHIR (NDJSON or Bundle)."},
    "mapping": _TEXT
    | {"description": 'What columns hold, as a JSON object: {"Tél 1": "phone"}; "ignore" leaves one out.'},
    "sheet": _TEXT | {"description": "Which sheet of a spreadsheet is read."},
    "token": _TEXT | {"description": "Of a look: refuse if the file, mapping or lists have changed since."},
    "language": _TEXT | {"enum": ["fr", "en"], "description": "Of the words for people; French if not given."},
    "rows": _TEXT | {"description": "Numbers of rows, parted by commas; or `all`, for all typing errors."},
}
_LOOK = ("file", "mapping", "sheet")


def _form(*names: str, required: tuple[str, ...] = ("file",)) -> dict[str, Any]:
    properties = {name: _FIELDS[name] for name in names}
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def campaign_of(campaign_id: PathId, known: Known) -> int:
    """Raises NotFoundError for a campaign out of the caller's reach, before any of the file is read."""
    with known.transaction() as session:
        if session.get(Campaign, campaign_id) is None:
            raise NotFoundError(f"There is no campaign {campaign_id}.")
    return campaign_id


OwnCampaign = Annotated[int, Depends(campaign_of)]


@dataclass(frozen=True, slots=True)
class Sent:
    """A list as it was sent, with what its sender says about it."""

    file: UploadFile
    given: Given
    fields: dict[str, str]

    @property
    def language(self) -> str:
        """Raises InputError for one we have no words in."""
        language = self.fields.get("language", "fr")
        if language not in sentences.LANGUAGES:
            raise InputError("`language` is fr or en.")
        return language


async def received(request: Request, own: OwnCampaign) -> Sent:
    """The form's one file, on disk where it is large, and its fields. Raises 413, 415 or InputError."""
    if media_type(request) != "multipart/form-data":
        raise HTTPException(
            415, "Send the list as multipart/form-data with one field `file`.", {"Connection": "close"}
        )
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=len(_FIELDS) - 1)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InputError(
            f"Send a form with one file, in the field `file`, and no other fields than: {', '.join(_FIELDS)}."
        ) from error
    file = form.get("file")
    if not isinstance(file, Received):
        raise InputError("The form has no file in the field `file`.")
    limit = request.app.state.context.settings.max_list_bytes
    try:
        if (file.size or 0) > limit:
            raise HTTPException(413, f"The list is larger than the {limit:,} bytes allowed.")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        if unknown := sorted(set(form) - set(_FIELDS)):
            raise InputError(
                f"The form has fields that nobody knows: {len(unknown)}. Known: {', '.join(_FIELDS)}."
            )
        given = Given(file.filename, _mapping(fields.get("mapping", "")), fields.get("sheet") or None)
    except (HTTPException, InputError):
        await file.close()
        raise
    return Sent(cast(UploadFile, file), given, fields)


def _mapping(text: str) -> dict[str, str]:
    try:
        mapping = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError as error:
        raise InputError('`mapping` is no JSON object, such as {"Tél 1": "phone"}.') from error
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise InputError('`mapping` is no JSON object of texts, such as {"Tél 1": "phone"}.')
    return mapping


List = Annotated[Sent, Depends(received)]


@router.post(
    "/campaigns/{campaign_id}/lists/look",
    summary="Look at a list before it is imported",
    response_model=answers.ListLook,
    responses=documented(400, 409, 413, 415),
    openapi_extra=_form(*_LOOK),
)
def look_at_list(own: OwnCampaign, known: Known, sent: List) -> answers.ListLook:
    """How each column is read, what has to be said before it can be, and what an import would change: nothing is
    saved. Answer `questions` with `mapping` or `sheet`; send the file to `/lists` with `token` to import exactly
    this."""
    with sent.file.file as source, known.transaction() as session:
        seen = lists.look(
            session, known.context.settings, own, source, sent.given, now=datetime.now(UTC), compare="always"
        )
        session.rollback()
    return answers.ListLook.of(seen)


@router.post(
    "/campaigns/{campaign_id}/lists",
    summary="Import a patient list",
    status_code=201,
    response_model=answers.ImportedList,
    responses=documented(400, 409, 413, 415),
    openapi_extra=_form(*_LOOK, "token"),
)
def import_list(own: OwnCampaign, act: ActUnread, sent: List) -> Response:
    """All of the list is taken or nothing. The campaign's newest file again changes nothing and gives its import
    again; another one, or an older one again, adds to and corrects it, and an approval given before the start is
    void. What `mapping` and `sheet` say is remembered for the doctor's next list with the same header;
    `columns` says where it was used."""
    with sent.file.file as source:

        def import_(session: Session) -> answers.ImportedList:
            imported = lists.import_list(
                session,
                act.caller.context.settings,
                own,
                source,
                sent.given,
                actor=act.caller.actor,
                now=datetime.now(UTC),
                expected=sent.fields.get("token") or None,
            )
            session.refresh(imported.list_file)
            return answers.ImportedList.of(imported)

        return act.of(_digest(source, sent)).once(201, import_)


def _digest(source: BinaryIO, sent: Sent) -> bytes:
    """Of the file and of all that was said about it."""
    digest = hashlib.file_digest(source, "sha256")  # type: ignore[arg-type]  # typeshed wants getbuffer
    source.seek(0)
    if sent.fields:
        digest.update(orjson.dumps(sorted(sent.fields.items())))
    return digest.digest()


@router.post(
    "/campaigns/{campaign_id}/lists/report",
    summary="Report on a list",
    response_class=Response,
    responses=documented(400, 409, 413, 415) | _FILE_ANSWER,
    openapi_extra=_form(*_LOOK, "language"),
)
def report_on_list(
    own: OwnCampaign,
    known: Known,
    sent: List,
    format_: Annotated[Literal["json", "csv"], Query(alias="format", description="Of the answer.")] = "json",
    every: Annotated[bool, Query(description="Every cell, also those taken as they stand.")] = False,
) -> Response:
    """By row and column what was read, what was changed, what was refused and why, with counts that add up and
    each code in words. Made from the file sent, kept nowhere."""
    language = sent.language
    with _own(known, own, sent) as this:
        report = reporting.Report(this.reader, this.setting, every=every)
        if format_ == "csv":
            return _file(reporting.as_csv(report, language), "text/csv; charset=utf-8", "report.csv")
        return _file(reporting.as_json(report), "application/json", None)


@router.post(
    "/campaigns/{campaign_id}/lists/corrections",
    summary="Get the rows of a list that need a person",
    response_class=Response,
    responses=documented(400, 409, 413, 415)
    | {200: {"description": "The list's own columns, and one that says what is wrong.", "content": _CSV}},
    openapi_extra=_form(*_LOOK, "language"),
)
def correct_list(own: OwnCampaign, known: Known, sent: List) -> Response:
    """A CSV file with these rows alone: filled in and sent to `/lists`, it changes only these people. Made from
    the file sent, kept nowhere."""
    language = sent.language
    with _own(known, own, sent) as this:
        pieces = corrections.Corrections(this.reader, this.setting, language)
        return _file(pieces, "text/csv; charset=utf-8", "corrections.csv")


@router.post(
    "/campaigns/{campaign_id}/lists/suggestions",
    summary="List what refused addresses were probably meant to be",
    response_model=answers.Suggestions,
    responses=documented(400, 409, 413, 415),
    openapi_extra=_form(*_LOOK),
)
def suggest_for_list(own: OwnCampaign, known: Known, sent: List) -> answers.Suggestions:
    """By row; none is ever used unless a person accepts it. Made from the file sent, kept nowhere."""
    with _own(known, own, sent) as this:
        found = corrections.suggestions(this.reader, this.setting)
        return answers.Suggestions(items=[answers.Suggestion.model_validate(one) for one in found])


@router.post(
    "/campaigns/{campaign_id}/lists/suggestions/accept",
    summary="Accept suggestions",
    status_code=201,
    response_model=answers.ListFile,
    responses=documented(400, 409, 413, 415),
    openapi_extra=_form(*_LOOK, "rows", required=("file", "rows")),
)
def accept_suggestions(own: OwnCampaign, act: ActUnread, sent: List) -> Response:
    """Imports the named rows of a list that was imported before, with the suggested addresses: only the email
    addresses of these people change."""
    rows = _rows(sent.fields.get("rows", ""))
    with sent.file.file as source:

        def accept(session: Session) -> answers.ListFile:
            list_file, _ = lists.accept(
                session,
                act.caller.context.settings,
                own,
                source,
                sent.given,
                rows=rows,
                actor=act.caller.actor,
                now=datetime.now(UTC),
            )
            session.refresh(list_file)
            return answers.ListFile.model_validate(list_file)

        return act.of(_digest(source, sent)).once(201, accept)


def _rows(text: str) -> list[int] | None:
    if text.strip() == "all":
        return None
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
        raise InputError("`rows` holds numbers of rows, parted by commas, or `all`.")
    return [int(number) for number in numbers]


@contextmanager
def _own(known: Caller, own: int, sent: Sent) -> Iterator[lists.Opened]:
    """The list that was sent, open; no transaction is open while its rows are read."""
    with (
        sent.file.file as source,
        ExitStack() as stack,
    ):
        with known.transaction() as session:
            this = stack.enter_context(
                lists.opened(session, known.context.settings, own, source, sent.given, now=datetime.now(UTC))
            )
            session.expunge_all()
        yield this


def _file(pieces: Iterable[bytes], kind: str, name: str | None) -> Response:
    """A file made piece by piece, held on disk where it is large until it was sent."""
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed when it was sent
    try:
        for piece in pieces:
            spool.write(piece)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    headers = {} if name is None else {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(
        iter(lambda: spool.read(_CHUNK), b""),
        media_type=kind,
        headers=headers,
        background=BackgroundTask(spool.close),
    )


@router.get("/list-codes", summary="Say each code of a list in words", response_model=answers.Codes)
def list_codes(known: Known) -> answers.Codes:
    """What it means and what to do, in French and in English.

    Where a whole list is refused (`code` of a problem), the names of its `values` stand in braces.
    """
    said = sentences.codes() | sentences.refusals()
    return answers.Codes(items=[answers.CodeInWords(code=code, fr=fr, en=en) for code, (fr, en) in said.items()])


@router.get(
    "/campaigns/{campaign_id}/lists", summary="List a campaign's lists", response_model=Page[answers.ListFile]
)
def list_lists(own: OwnCampaign, known: Known, asked: Annotated[Paging, Query()]) -> Page[answers.ListFile]:
    """Each import with how many rows were accepted, merged and refused."""
    statement = select(ListFile).where(ListFile.campaign_id == own)
    with known.transaction() as session:
        return page(session, statement, ListFile.id, asked, f"lists/{own}", answers.ListFile.model_validate)


@router.get(
    "/lists/{list_id}/problems", summary="List what is wrong in a list", response_model=Page[answers.ListProblem]
)
def list_problems(list_id: PathId, known: Known, asked: Annotated[Paging, Query()]) -> Page[answers.ListProblem]:
    """In the order of the rows, with the column and the reason, never the value."""
    statement = select(ListProblem).where(ListProblem.list_file_id == list_id)
    with known.transaction() as session:
        if session.get(ListFile, list_id) is None:
            raise NotFoundError(f"There is no list {list_id}.")
        return page(
            session, statement, ListProblem.id, asked, f"problems/{list_id}", answers.ListProblem.model_validate
        )


# --- doubts -----------------------------------------------------------------------------------------


@router.get(
    "/campaigns/{campaign_id}/doubts",
    summary="List patients who may be one person",
    response_model=Page[answers.Doubt],
)
def list_doubts(own: OwnCampaign, known: Known, asked: Annotated[Paging, Query()]) -> Page[answers.Doubt]:
    """Each with the others it may be, by patient, list and row; those decided about too."""
    listing = f"doubts/{own}"
    with known.transaction() as session:
        after = after_of(listing, asked.cursor)
        found = deciding.pairs(session, own, after=after, limit=asked.limit + 1)
    shown = found[: asked.limit]
    more = cursor_of(listing, shown[-1].id) if len(found) > asked.limit else None
    return Page(items=[answers.Doubt.of(pair) for pair in shown], next=more)


@router.put(
    "/doubts/{doubt_id}",
    summary="Say whether two patients are one person",
    response_model=answers.Decision,
    responses=documented(400, 409, 413, 415),
)
def decide_doubt(
    doubt_id: PathId, known: Known, said: answers.NewDecision, _: Annotated[None, Depends(json_only)]
) -> answers.Decision:
    """One of the two is told, at the contacts of both. `same: false` takes it back, until sending begins."""
    with known.transaction() as session:
        decision = lists.decide(
            session, doubt_id, is_same=said.same, other_id=said.other, actor=known.actor, now=datetime.now(UTC)
        )
        return answers.Decision.model_validate(decision)
