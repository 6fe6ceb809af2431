"""Who asks: API keys, what they may see, and the transaction that holds them to it.

A key is `pn_` and 256 random bits in base32. Only its SHA-256 is stored, so it can be shown once and never
again. A doctor's key works in transactions in which only that doctor's rows exist.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from notifier import store
from notifier.errors import ForbiddenError, InputError, NotFoundError
from notifier.models import ApiKey, Doctor
from notifier.providers.base import AccountReceiptParser, ReceiptParser
from notifier.sealing import hash_secret
from notifier.settings import Settings
from notifier.store import Database

PREFIX = "pn_"
_SHOWN = len(PREFIX) + 6
_LONGEST = 200


def make_key(session: Session, name: str, doctor_id: int | None, *, actor: str = "cli") -> tuple[ApiKey, str]:
    """A new key and its secret, which nobody can be shown again. `doctor_id` None means operations.

    Raises InputError for an empty name, NotFoundError for a doctor there is not.
    """
    if not name.strip():
        raise InputError("A key needs a name: who or what uses it.")
    if doctor_id is not None and session.get(Doctor, doctor_id) is None:
        raise NotFoundError(f"There is no doctor {doctor_id}.")
    secret = PREFIX + base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    key = ApiKey(name=name.strip(), prefix=secret[:_SHOWN], hash=hash_secret(secret), doctor_id=doctor_id)
    session.add(key)
    session.flush()
    store.record(session, actor, "key.create", f"key:{key.id}", doctor_id, {"name": key.name})
    return key, secret


def revoke_key(session: Session, key_id: int, *, actor: str, now: datetime) -> ApiKey:
    """Refuses a key from the commit on; a key revoked before stays so. Raises NotFoundError."""
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFoundError(f"There is no key {key_id}.")
    if key.revoked_at is None:
        key.revoked_at = now
        store.record(session, actor, "key.revoke", f"key:{key.id}", key.doctor_id)
    return key


@dataclass(frozen=True, slots=True)
class Context:
    """What the application holds."""

    settings: Settings
    database: Database
    #: providers that report to an address of each delivery
    parsers: Mapping[str, ReceiptParser]
    #: … and to one of the whole account
    account_parsers: Mapping[str, AccountReceiptParser]


async def context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


Held = Annotated[Context, Depends(context)]


@dataclass(frozen=True, slots=True)
class Caller:
    """The bearer of a valid key. `doctor_id` None means operations."""

    context: Context
    key_id: int
    doctor_id: int | None

    @property
    def actor(self) -> str:
        """How the journal names them."""
        return f"key:{self.key_id}"

    def transaction(self) -> AbstractContextManager[Session]:
        """A transaction in which only what this caller may see exists."""
        scoped: AbstractContextManager[Session] = self.context.database.scope(self.doctor_id)
        return scoped


_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="`Authorization: Bearer pn_…`, for operations or one doctor.",
)


def caller(held: Held, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Caller:
    """Raises 401 if there is no key, or one that is unknown or revoked. Asks the database each time, so that
    a revoked key is refused at once."""
    if credentials is None:
        raise _unauthorised("Send an API key: `Authorization: Bearer pn_…`.", "")
    secret = credentials.credentials
    if secret.startswith(PREFIX) and len(secret) < _LONGEST:
        valid = select(ApiKey.id, ApiKey.doctor_id).where(
            ApiKey.hash == hash_secret(secret), ApiKey.revoked_at.is_(None)
        )
        with held.database.staff() as session:
            found = session.execute(valid).first()
        if found is not None:
            return Caller(held, found.id, found.doctor_id)
    raise _unauthorised("This API key is unknown or was revoked.", ', error="invalid_token"')


Known = Annotated[Caller, Depends(caller)]


def operations(known: Known) -> Caller:
    """Raises ForbiddenError for a doctor's key."""
    if known.doctor_id is not None:
        raise ForbiddenError("Only operations may do this; this key is a doctor's.")
    return known


Operations = Annotated[Caller, Depends(operations)]


def _unauthorised(detail: str, error: str) -> HTTPException:
    return HTTPException(401, detail, {"WWW-Authenticate": f'Bearer realm="patient-notifier"{error}'})
