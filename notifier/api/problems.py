"""Every error of the API as a problem (RFC 9457): what, why, and how to mend it; never a person, never SQL.

`type` is a name of ours that programs may compare; `detail` is for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from notifier.api.headers import SECURITY
from notifier.errors import (
    ConflictError,
    ForbiddenError,
    IncompleteNotice,
    InputError,
    ListError,
    MissingKeyError,
    MoveError,
    NotFoundError,
    NotifierError,
    ServiceError,
)

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:patient-notifier:problem:"
#: when to ask again while the database is away, in seconds
RETRY_AFTER_S = 5
_UNIQUE_VIOLATION = "23505"

#: when to ask again for the answer of a request that is still at work, in seconds
_AT_WORK_RETRY_AFTER_S = 1


class StillAtWork(ConflictError):
    """The first request with this Idempotency-Key has not ended: the caller asks again shortly."""


#: the first class an error is of decides
_OF_ERROR: tuple[tuple[type[NotifierError], int, str], ...] = (
    (IncompleteNotice, 409, "incomplete-notice"),
    (MoveError, 409, "state"),
    (StillAtWork, 409, "at-work"),
    (ConflictError, 409, "conflict"),
    (ListError, 422, "list"),
    (InputError, 422, "input"),
    (NotFoundError, 404, "not-found"),
    (ForbiddenError, 403, "forbidden"),
    (ServiceError, 503, "unavailable"),
    (MissingKeyError, 503, "unavailable"),
)
_OF_STATUS = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    412: "changed",
    413: "too-large",
    415: "media-type",
    422: "input",
    500: "internal",
    503: "unavailable",
}


class FieldError(BaseModel):
    """One value of the request that cannot be used. The value itself is never repeated."""

    #: where: "body.name", "query.limit", "path.campaign_id"
    field: str
    message: str


class MissingPart(BaseModel):
    """One part the notice lacks."""

    part: str
    channel: str
    language: str


class Problem(BaseModel):
    """An error, as RFC 9457 writes it."""

    type: str
    title: str
    status: int
    detail: str | None = None
    #: only for a request that was not understood
    errors: list[FieldError] | None = None
    #: only for a notice that is not complete
    missing: list[MissingPart] | None = None
    #: only for a list: `detail` in French, its code (`GET /list-codes`) and what it is about
    detail_fr: str | None = None
    code: str | None = None
    values: dict[str, int | str | list[str]] | None = None


def answer(
    status: int,
    kind: str | None = None,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[FieldError] | None = None,
    missing: list[MissingPart] | None = None,
    about: InputError | None = None,
) -> Response:
    """A problem as a response."""
    said = Problem(
        type=TYPE + (kind or _OF_STATUS.get(status, "error")),
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=errors,
        missing=missing,
        detail_fr=about.french if about else None,
        code=about.code if about else None,
        values=dict(about.values) or None if about else None,
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_S), **(headers or {})}
    return Response(said.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation can answer besides success, for its OpenAPI description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


#: for the OpenAPI description of what asks for no key
OPEN: dict[str, Any] = {"security": []}


def install(app: FastAPI) -> None:
    """Makes problems of everything that can go wrong in a request."""
    app.add_exception_handler(NotifierError, _on_our_error)
    app.add_exception_handler(SQLAlchemyError, _on_database_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


def of_error(error: NotifierError) -> Response:
    """What the caller is told of one of our errors."""
    for kind, status, name in _OF_ERROR:
        if isinstance(error, kind):
            missing = None
            if isinstance(error, IncompleteNotice):
                missing = [MissingPart(part=p, channel=c, language=lang) for p, c, lang in error.missing]
            # A driver's words name hosts and databases.
            unsaid = isinstance(error.__cause__, DBAPIError)
            detail = "The database does not answer." if unsaid else error.message
            headers = {"Retry-After": str(_AT_WORK_RETRY_AFTER_S)} if isinstance(error, StillAtWork) else None
            about = error if isinstance(error, InputError) else None
            return answer(status, name, detail, headers=headers, missing=missing, about=about)
    # A wrong setting or key is for those who run the program, not for the caller.
    log.error("request_failed", error=type(error).__name__, message=error.message)
    return answer(500)


def of_database_error(error: SQLAlchemyError) -> Response:
    """What the caller is told when a statement failed; the driver's words may quote a value and stay unsaid."""
    sqlstate = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    if isinstance(error, IntegrityError) and sqlstate == _UNIQUE_VIOLATION:
        return answer(409, "conflict", "Another request has just made the same thing; look at what there is now.")
    if isinstance(error, DataError):
        return answer(422, "input", "A value holds a character, or is a number, that cannot be stored.")
    log.error("database_error", error=type(error).__name__, sqlstate=sqlstate)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return answer(503, "unavailable", "The database does not answer; nothing was changed. Send it again.")
    return answer(500)


def _on_our_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotifierError)
    return of_error(error)


def _on_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SQLAlchemyError)
    return of_database_error(error)


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(field=".".join(str(part) for part in problem["loc"])[:200], message=problem["msg"])
        for problem in error.errors()
    ]
    return answer(422, "input", "The request cannot be used as it is; see `errors`.", errors=errors)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    plain = HTTPStatus(error.status_code).phrase
    headers = {"Allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    return answer(error.status_code, None, None if error.detail == plain else error.detail, headers=headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of this path: the router itself names those of the first one only."""
    taken = {
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    return ", ".join(sorted(taken | ({"HEAD"} if "GET" in taken else set())))


def _on_disconnect(request: Request, error: Exception) -> Response:
    return answer(400, None, "The request ended before its body was complete.")


def _on_unexpected(request: Request, error: Exception) -> Response:
    # Starlette answers this one outside all middleware, so it carries the headers itself.
    return answer(500, headers=SECURITY)
