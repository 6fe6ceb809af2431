"""Where providers report what became of a delivery: checked, stored raw, answered at once, applied later.

No key is asked: the reference in the address is signed by us, and only the provider of that delivery knows it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from notifier import receipts
from notifier.api.auth import Held
from notifier.api.problems import documented
from notifier.errors import NotFoundError, SealingError

router = APIRouter(prefix="/webhooks", tags=["Webhooks"])

Name = Annotated[str, Path(max_length=60)]


@router.post(
    "/{provider}/{reference}",
    summary="Report about a delivery",
    status_code=204,
    responses=documented(400, 404, 413, 422, 503),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}},
)
async def take_receipt(provider: Name, reference: Name, held: Held, request: Request) -> Response:
    """In the provider's own form. 204 means stored; 503 means: send it again."""
    parser = held.parsers.get(provider)
    if parser is None:
        raise NotFoundError("There is no provider of this name.")
    master = held.settings.master
    # Before the body: who made the address up shall not keep us busy.
    receipts.delivery_id(master, provider, reference)
    body = await request.body()

    def store() -> None:
        with held.database.staff() as session:
            receipts.accept(session, master, parser, reference, body, now=datetime.now(UTC))

    try:
        await run_in_threadpool(store)
    except SealingError as error:
        # Its reference is genuine, so the key is: the people of this campaign have been erased.
        raise NotFoundError("This delivery has been erased.") from error
    return Response(status_code=204)
