"""Where providers report what became of a delivery: checked, stored raw, answered at once, applied later.

No key is asked. About one delivery: the reference in the address is signed by us, and only the provider of that
delivery knows it. About a whole account: a token agreed with the provider.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request, Response, Security
from fastapi.security import APIKeyHeader
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from notifier import receipts
from notifier.api import problems
from notifier.api.auth import Context, Held
from notifier.api.problems import documented
from notifier.errors import MissingKeyError, NotFoundError, SealingError
from notifier.receipts import Left

log = structlog.get_logger()
router = APIRouter(prefix="/webhooks", tags=["Webhooks"])

Name = Annotated[str, Path(max_length=60, description="The provider's name here.", examples=["brevo-sms"])]
Reference = Annotated[str, Path(max_length=60, description="Made and signed by us for each delivery.")]
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}}
#: the header as it came: a provider may send a bearer token, or it as the password of an address
_proof = APIKeyHeader(
    name="Authorization",
    auto_error=False,
    scheme_name="ReportToken",
    description="The token agreed with the provider: `Bearer …`, or as the password of `Basic`.",
)


@router.post(
    "/{provider}",
    summary="Report about an account",
    status_code=204,
    responses=documented(400, 401, 404, 413, 422, 429),
    openapi_extra=_BODY,
)
async def take_report(
    provider: Name, held: Held, request: Request, proof: Annotated[str | None, Security(_proof)]
) -> Response:
    """Events about many deliveries, in the provider's own form. 204 means that those about ours are stored, 429:
    send it again."""
    parser = held.account_parsers.get(provider)
    if parser is None:
        raise NotFoundError("There is no provider of this name that reports here.")
    # Before the body: who does not know the token shall not keep us busy.
    if not parser.verify(proof):
        raise HTTPException(
            401,
            "This report does not bear the provider's token.",
            {"WWW-Authenticate": 'Bearer realm="patient-notifier reports"'},
        )
    body = await request.body()

    def store(session: Session) -> None:
        taken = receipts.accept_report(session, held.settings.master, parser, body, now=datetime.now(UTC))
        if taken.left:
            # Other mail of the account is nothing new; the rest may be a setting that is wrong.
            write = log.info if set(taken.left) == {Left.NOT_OURS} else log.warning
            counts = {str(why): count for why, count in sorted(taken.left.items())}
            write("report_events_left", provider=provider, **counts)

    return await _stored(held, store)


@router.post(
    "/{provider}/{reference}",
    summary="Report about a delivery",
    status_code=204,
    responses=documented(400, 404, 413, 422, 429),
    # The address itself is the proof.
    openapi_extra=_BODY | problems.OPEN,
)
async def take_receipt(provider: Name, reference: Reference, held: Held, request: Request) -> Response:
    """In the provider's own form. 204 means stored; 429 means: send it again."""
    parser = held.parsers.get(provider)
    if parser is None:
        raise NotFoundError("There is no provider of this name.")
    master = held.settings.master
    # Before the body: who made the address up shall not keep us busy.
    receipts.delivery_id(master, provider, reference)
    body = await request.body()

    def store(session: Session) -> None:
        receipts.accept(session, master, parser, reference, body, now=datetime.now(UTC))

    try:
        return await _stored(held, store)
    except SealingError as error:
        # Its reference is genuine: the people of this campaign have been erased.
        raise NotFoundError("This delivery has been erased.") from error


async def _stored(held: Context, store: Callable[[Session], None]) -> Response:
    """204 after the commit; 429 if the database could not take it."""

    def in_transaction() -> None:
        with held.database.staff() as session:
            store(session)

    # Brevo's guide says that it throws away what was answered by a 4xx but 429, and can be read so that any
    # 5xx too (developers.brevo.com/docs/retry-mechanism, read 2026-11-25).
    again = {"Retry-After": str(problems.RETRY_AFTER_S)}
    try:
        await run_in_threadpool(in_transaction)
    except MissingKeyError as error:
        # Another process, or this one with the right keys, can take it.
        log.error("master_key_missing", reason=error.message)
        return problems.answer(429, "unavailable", "It could not be stored. Send it again.", headers=again)
    except SQLAlchemyError as error:
        answer = problems.of_database_error(error)
        if answer.status_code < 500:
            return answer
        return problems.answer(429, "unavailable", "It could not be stored. Send it again.", headers=again)
    return Response(status_code=204)
