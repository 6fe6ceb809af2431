"""Patient lists: a file is received under a limit, imported, and its problems listed by row."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request, Response, UploadFile
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.datastructures import UploadFile as Received
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from notifier import acts
from notifier.api import answers
from notifier.api.answers import PathId
from notifier.api.auth import Known
from notifier.api.idempotency import ActUnread
from notifier.api.pages import Page, Paging, page
from notifier.api.problems import documented
from notifier.api.protocol import media_type
from notifier.errors import InputError, NotFoundError
from notifier.models import Campaign, ListFile, ListProblem

router = APIRouter(prefix="/api/v1", tags=["Lists"], responses=documented(401, 404, 422, 503))

_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary", "description": "A CSV file."}},
            }
        }
    },
}


def campaign_of(campaign_id: PathId, known: Known) -> int:
    """Raises NotFoundError for a campaign out of the caller's reach, before any of the file is read."""
    with known.transaction() as session:
        if session.get(Campaign, campaign_id) is None:
            raise NotFoundError(f"There is no campaign {campaign_id}.")
    return campaign_id


OwnCampaign = Annotated[int, Depends(campaign_of)]


async def received(request: Request, own: OwnCampaign) -> UploadFile:
    """The form's one file, on disk where it is large. Raises 413, 415 or InputError."""
    if media_type(request) != "multipart/form-data":
        raise HTTPException(
            415, "Send the list as multipart/form-data with one field `file`.", {"Connection": "close"}
        )
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=0)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InputError("Send a form with one file, in the field `file`, and nothing else.") from error
    file = form.get("file")
    if not isinstance(file, Received):
        raise InputError("The form has no file in the field `file`.")
    limit = request.app.state.context.settings.max_list_bytes
    if (file.size or 0) > limit:
        await file.close()
        raise HTTPException(413, f"The list is larger than the {limit:,} bytes allowed.")
    return cast(UploadFile, file)


@router.post(
    "/campaigns/{campaign_id}/lists",
    summary="Import a patient list",
    status_code=201,
    response_model=answers.ListFile,
    responses=documented(400, 409, 413, 415),
    openapi_extra={"requestBody": _FORM},
)
def import_list(own: OwnCampaign, act: ActUnread, file: Annotated[UploadFile, Depends(received)]) -> Response:
    """All of the list is taken or nothing. The same file again changes nothing and gives its first import again;
    another one adds to and corrects it, and an approval given before is void."""
    with file.file as source:
        digest = hashlib.file_digest(source, "sha256").digest()  # type: ignore[arg-type]  # typeshed wants getbuffer
        source.seek(0)

        def import_(session: Session) -> answers.ListFile:
            imported = acts.import_list(
                session, act.caller.context.settings, own, source, actor=act.caller.actor, now=datetime.now(UTC)
            )
            session.refresh(imported)
            return answers.ListFile.model_validate(imported)

        return act.of(digest).once(201, import_)


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
