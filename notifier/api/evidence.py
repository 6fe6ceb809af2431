"""What a doctor needs beyond messages: lists for letters and calls, saying who was told, and the proof file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask

from notifier import evidence, telling
from notifier.api import answers
from notifier.api.answers import BodyId
from notifier.api.auth import Caller, Known
from notifier.api.idempotency import Act
from notifier.api.lists import OwnCampaign
from notifier.api.problems import documented
from notifier.states import Told

router = APIRouter(
    prefix="/api/v1/campaigns/{campaign_id}", tags=["Evidence"], responses=documented(401, 404, 422, 503)
)

_CSV: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A table with a line for each person.",
        "content": {"text/csv": {"schema": {"type": "string"}}},
    }
}
_ZIP: dict[int | str, dict[str, Any]] = {
    200: {"description": "A ZIP; `Manifest` in the headers is its hash.", "content": {"application/zip": {}}}
}


class InLanguage(BaseModel):
    """In which words."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    language: Literal["fr", "en"] = "fr"
    """Of headings and words."""


class WhoWasTold(answers.Heard):
    """Unreached patients who were told in another way."""

    patients: Annotated[list[BodyId], Field(min_length=1, max_length=telling.MOST)]
    how: Told
    day: date
    """When, as the person says: not before the campaign, not after today."""


class TakenBack(answers.Heard):
    """Patients for whom this was said by mistake."""

    patients: Annotated[list[BodyId], Field(min_length=1, max_length=telling.MOST)]


class Marked(answers.Said):
    """How many were marked, and how many were left because they stand elsewhere."""

    marked: int
    left: int


@router.get("/letters", summary="Letters to be written", response_class=StreamingResponse, responses=_CSV)
def letters(own: OwnCampaign, known: Known, asked: Annotated[InLanguage, Query()]) -> StreamingResponse:
    """Those unreached whose postal address is known, as a table for a mail merge. It names people."""
    return _table(telling.letters, known, own, asked.language)


@router.get("/calls", summary="Calls to be made", response_class=StreamingResponse, responses=_CSV)
def calls(own: OwnCampaign, known: Known, asked: Annotated[InLanguage, Query()]) -> StreamingResponse:
    """Those unreached who have a number, landlines included. It names people."""
    return _table(telling.calls, known, own, asked.language)


def _table(make: telling.Making, known: Caller, campaign_id: int, language: str) -> StreamingResponse:
    def pieces() -> Iterator[bytes]:
        with known.transaction() as session:
            yield from make(session, known.context.settings.master, campaign_id, language)

    made = pieces()
    first = next(made)  # what is refused is refused before the answer begins

    def all_() -> Iterator[bytes]:
        yield first
        yield from made

    return StreamingResponse(all_(), media_type="text/csv; charset=utf-8")


@router.post(
    "/told",
    summary="Say who was told otherwise",
    response_model=Marked,
    responses=documented(400, 409, 413, 415),
)
def tell(own: OwnCampaign, said: WhoWasTold, act: Act) -> Response:
    """By letter, call or in person: they are informed from then on. Safe to repeat."""

    def mark(session: Session) -> Marked:
        now = datetime.now(UTC)
        marked = telling.mark(session, own, said.patients, said.how, said.day, actor=act.caller.actor, now=now)
        return Marked.model_validate(marked)

    return act.once(200, mark)


@router.post(
    "/told/take-back",
    summary="Take back that they were told",
    response_model=Marked,
    responses=documented(400, 409, 413, 415),
)
def take_back(own: OwnCampaign, said: TakenBack, act: Act) -> Response:
    """They are unreached again, for the reason there was."""

    def unmark(session: Session) -> Marked:
        now = datetime.now(UTC)
        left = telling.take_back(session, own, said.patients, actor=act.caller.actor, now=now)
        return Marked.model_validate(left)

    return act.once(200, unmark)


@router.post(
    "/proof", summary="The proof file", response_class=FileResponse, responses=_ZIP | documented(400, 413, 415)
)
def proof(own: OwnCampaign, known: Known, asked: Annotated[InLanguage, Query()]) -> Response:
    """Who was told, how and when, who was not and why, with the texts, acts and a manifest; made now. It names
    people. The journal notes the manifest's hash."""
    folder = tempfile.TemporaryDirectory(prefix="notifier-")
    path = Path(folder.name) / "proof.zip"
    try:
        made = evidence.export(
            known.context.database,
            known.context.settings,
            own,
            path,
            language=asked.language,
            doctor_id=known.doctor_id,
            actor=known.actor,
            now=datetime.now(UTC),
        )
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(
        path,
        media_type="application/zip",
        filename=f"proof-{own}.zip",
        headers={"Manifest": made.manifest},
        background=BackgroundTask(folder.cleanup),
    )
