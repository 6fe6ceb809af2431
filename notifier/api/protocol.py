"""What HTTP asks of every route alike: HEAD, one length of a body, its media type, and what a PUT is sent for."""

from __future__ import annotations

import hashlib

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notifier.api import problems


class Wire:
    """HEAD answers as GET does, without the body; a body of two lengths is refused unread."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy that believes the other one sees another request than we do (RFC 9112 §6.1).
            refusal = problems.answer(
                400,
                detail="Send either Content-Length or Transfer-Encoding, not both.",
                headers={"Connection": "close"},
            )
            await refusal(scope, receive, send)
            return
        if scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # The server below goes on to see HEAD; the log wants to know the route.
        as_get = {**scope, "method": "GET", "is_head": True}
        try:
            await self.app(as_get, receive, send_head)
        finally:
            if "route" in as_get:
                scope["route"] = as_get["route"]


def media_type(request: Request) -> str:
    """The body's, in lower case and without parameters (RFC 9110 §8.3.1); empty if none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_only(request: Request) -> None:
    """Raises 415 for a body that is not said to be JSON."""
    kind = media_type(request)
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if await request.body():
        raise HTTPException(415, "Send JSON, with `Content-Type: application/json`.")


def tag_of(body: bytes) -> str:
    """The ETag of exactly these bytes: a strong one, so that it serves `If-Match` too."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def is_known(request: Request, tag: str) -> bool:
    """`If-None-Match` names this tag, by the weak comparison (RFC 9110 §13.1.2)."""
    known = {one.removeprefix("W/") for one in _tags(request, "if-none-match")}
    return "*" in known or tag in known


def require_unchanged(request: Request, thing: BaseModel) -> None:
    """Raises 412 if the caller wants to write on another state than this (RFC 9110 §13.1.1, §13.1.2)."""
    tag = tag_of(thing.model_dump_json().encode())
    if "if-match" in request.headers and not {"*", tag} & _tags(request, "if-match"):
        raise HTTPException(412, "It has changed since this ETag: look at it again. Nothing was changed.")
    if is_known(request, tag):
        raise HTTPException(412, "It is there already, as `If-None-Match` forbids. Nothing was changed.")


def _tags(request: Request, name: str) -> set[str]:
    return {tag.strip() for line in request.headers.getlist(name) for tag in line.split(",") if tag.strip()}
