"""Acts once: the answer to a POST with `Idempotency-Key` is kept, in the transaction of the act itself.

So there is either the act with its answer or neither. A request that was refused or failed has changed nothing,
is not kept, and may be sent again under its key.
Source: draft-ietf-httpapi-idempotency-key-header-07, sections 2.2 to 2.7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

import orjson
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.api.auth import Caller, Known
from notifier.api.problems import StillAtWork
from notifier.api.protocol import json_only
from notifier.errors import InputError
from notifier.models import IdempotentRequest

REPLAYED = "Idempotent-Replayed"
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A text of your own, a UUID say. The same request again gets the first answer again.",
    ),
]


@dataclass(frozen=True, slots=True)
class Acting:
    """One POST that acts, by one caller."""

    caller: Caller
    key: str | None
    method_and_path: str
    #: SHA-256 of the body, or of the file in it
    digest: bytes

    def of(self, digest: bytes) -> Acting:
        """The same request, told apart from others by another digest."""
        return replace(self, digest=digest)

    def once(
        self,
        status: int,
        act: Callable[[Session], BaseModel],
        *,
        location: str | None = None,
        kept: Callable[[BaseModel], BaseModel] = lambda answer: answer,
    ) -> Response:
        """Acts in the caller's own transaction and answers after its commit; or gives the first answer again.

        `location` is completed with the `id` of the answer. `kept` takes out of the answer what must not be
        stored. Raises InputError if the key was used for another request, StillAtWork while the first one
        is still at work.
        """
        with self.caller.transaction() as session:
            if self.key is not None:
                with _as_staff(session, self.caller.doctor_id):
                    first = self._first(session)
                if first is not None:
                    return _response(first.status or status, first.body or b"", location, {REPLAYED: "true"})
            answer = act(session)
            if self.key is not None:
                with _as_staff(session, self.caller.doctor_id):
                    self._keep(session, status, kept(answer))
        return _response(status, _bytes(answer), location, {})

    @property
    def _fingerprint(self) -> bytes:
        return hashlib.sha256(self.method_and_path.encode() + b"\0" + self.digest).digest()

    def _first(self, session: Session) -> IdempotentRequest | None:
        # Held until the commit or the end of a crashed connection: no row of an unfinished request can stay.
        lock = hashlib.sha256(f"{self.caller.key_id}:{self.key}".encode()).digest()[:8]
        free = session.scalar(
            text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": int.from_bytes(lock, signed=True)}
        )
        if not free:
            raise StillAtWork("The first request with this Idempotency-Key is still at work: ask again shortly.")
        first = session.get(IdempotentRequest, (self.caller.key_id, self.key))
        if first is not None and first.fingerprint != self._fingerprint:
            raise InputError(
                "This Idempotency-Key was used for another request: take a new one for a new request."
            )
        return first

    def _keep(self, session: Session, status: int, answer: BaseModel) -> None:
        session.add(
            IdempotentRequest(
                api_key_id=self.caller.key_id,
                key=self.key,
                fingerprint=self._fingerprint,
                status=status,
                body=_bytes(answer),
            )
        )


async def acting_unread(request: Request, known: Known, idempotency_key: Key = None) -> Acting:
    """A request whose body stays unread; `Acting.of` tells it apart later, by the file in it."""
    return Acting(known, idempotency_key, f"{request.method} {request.url.path}", b"")


ActUnread = Annotated[Acting, Depends(acting_unread)]


async def acting(request: Request, act: ActUnread) -> Acting:
    """A request told apart by its body. Raises 415 for a body that is not said to be JSON."""
    await json_only(request)
    return act.of(hashlib.sha256(await request.body()).digest())


Act = Annotated[Acting, Depends(acting)]


@contextmanager
def _as_staff(session: Session, doctor_id: int | None) -> Iterator[None]:
    """The kept answers are the API's own table, which no doctor's transaction can see."""
    session.flush()
    session.execute(text("SELECT set_config('role', 'notifier_staff', true)"))
    yield
    session.flush()
    if doctor_id is not None:
        session.execute(text("SELECT set_config('role', 'notifier_doctor', true)"))


def _bytes(answer: BaseModel) -> bytes:
    return answer.model_dump_json().encode()


def _response(status: int, body: bytes, location: str | None, headers: dict[str, str]) -> Response:
    if location is not None:
        headers["Location"] = location.format(id=orjson.loads(body)["id"])
    return Response(body, status, headers, "application/json")
