"""What stands around every request: security headers, the limit of a body's size, and one line of log."""

from __future__ import annotations

import re

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notifier import receipts

log = structlog.get_logger()

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
#: the largest JSON body: an incident's facts are the longest, some 20 kB
MAX_JSON_BYTES = 1024 * 1024
#: what a form adds to the file in it
FORM_BYTES = 64 * 1024
_REPORT = re.compile(r"/webhooks/[^/]+")
_LIST_UPLOAD = re.compile(
    r"/api/v1/campaigns/[0-9]+/lists(?:/(?:look|report|corrections|suggestions|suggestions/accept))?"
)
_PAGE_UPLOAD = re.compile(r"/doctor/campaigns/[0-9]+/list")
#: a list sent from a page: a little more than the page itself takes, so that it can say so in its own words
PAGE_LIST_BYTES = 36 * 1024 * 1024
#: asked every few seconds by machines
_QUIET = {"/healthz", "/readyz", "/metrics"}


class Around:
    """Sets security headers where an answer has none of its own; logs the path's template and the status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            # Never the path itself: a person can stand in it.
            route = scope.get("route")
            template = getattr(route, "path_format", getattr(route, "path", ""))
            write = log.debug if template in _QUIET and status < 500 else log.info
            write("request", method=scope["method"], path=template, status=status)


class BodyLimit:
    """Refuses a body as soon as it is known to be too large: by its announced length, or when it grows past.

    It does so only when the body is asked for, so that a caller without a key is told of that first.
    """

    def __init__(self, app: ASGIApp, max_list_bytes: int) -> None:
        self.app = app
        self.max_list_bytes = max_list_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        announced = Headers(scope=scope).get("content-length", "0")
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            if announced.isdecimal() and int(announced) > limit:
                raise _too_large(limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, receive_some, send)

    def _limit(self, path: str) -> int:
        if _LIST_UPLOAD.fullmatch(path):
            return self.max_list_bytes + FORM_BYTES
        if _PAGE_UPLOAD.fullmatch(path):
            return min(PAGE_LIST_BYTES, self.max_list_bytes + FORM_BYTES)
        if _REPORT.fullmatch(path):
            return receipts.MAX_REPORT_BYTES
        return receipts.MAX_BODY_BYTES if path.startswith("/webhooks/") else MAX_JSON_BYTES


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The request is larger than the {limit:,} bytes allowed.", {"Connection": "close"})
