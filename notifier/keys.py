"""Changes the master key: seals by the new one what former ones have sealed, while everything goes on.

Data keys stay what they are and are only wrapped anew: nothing sealed under a campaign's key is touched, no
blind index of a campaign changes, and an erased campaign has no key to be wrapped. Accounts and callbacks are
sealed by the master key itself: they are opened and sealed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, func, or_, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from notifier import accounts, feed, store
from notifier.errors import ConflictError
from notifier.models import Account, Callback, Campaign, WebSession
from notifier.sealing import MARK_BYTES, MasterKey
from notifier.standing import ALIVE_S

#: rows of one transaction: it holds each for a few milliseconds
TOGETHER = 100
#: how long one row is waited for
PATIENCE_S = 30
_LOCK_NOT_AVAILABLE = "55P03"


class Kind(StrEnum):
    """What a master key seals: the keys of `store.SEALED`."""

    #: their data keys
    CAMPAIGNS = "campaigns"
    #: addresses and second factors
    ACCOUNTS = "accounts"
    #: second factors that are being set up
    SESSIONS = "sessions"
    #: what signs their messages
    CALLBACKS = "callbacks"


@dataclass(frozen=True, slots=True)
class Status:
    """Which master key has sealed how much."""

    #: the fingerprint of the key that seals
    key: str
    #: … and of those that only open
    former: tuple[str, ...]
    #: rows by kind, then by fingerprint; a row of two keys counts for both
    sealed: dict[str, dict[str, int]]
    #: by key that is given here or seals a campaign: processes at work that were not given it
    without: dict[str, list[str]]

    @property
    def left(self) -> dict[str, int]:
        """Rows by kind that another key has sealed."""
        return {
            kind: sum(n for mark, n in by_key.items() if mark != self.key) for kind, by_key in self.sealed.items()
        }

    @property
    def missing(self) -> list[str]:
        """Keys that have sealed something and were not given."""
        given = {self.key, *self.former}
        return sorted({mark for by_key in self.sealed.values() for mark in by_key} - given)


def status(session: Session, master: MasterKey) -> Status:
    """How much each master key has sealed."""
    former = dict.fromkeys(one for one in master.fingerprints if one != master.fingerprint)
    sealed = store.sealed_by(session)
    named = dict.fromkeys((*master.fingerprints, *sealed["campaigns"]))
    without = store.without_key(session, list(named), ALIVE_S)
    return Status(master.fingerprint, tuple(former), sealed, without)


def check_known(found: Status) -> None:
    """Raises ConflictError while a process at work was not given the key that seals: it could open nothing."""
    if lacking := found.without.get(found.key):
        raise ConflictError(
            f"The master key {found.key} was not given to {', '.join(lacking)}: nothing was changed. Start "
            'these anew with both keys first (docs/operations.md, "Rotating keys"). '
            f"One that has ended is forgotten after {ALIVE_S:.0f} s."
        )


def rotate(session: Session, master: MasterKey, kind: Kind, *, actor: str, reason: str) -> int:
    """Seals up to `TOGETHER` rows of one kind by the master key; returns how many.

    Rows that others hold are passed over: see `wait`. The journal has each such step, in its own transaction:
    ended at any moment, what is done is done and the rest is as it was. Raises MissingKeyError for a row of a
    key that was not given.
    """
    store.journal_first(session)
    n = _seal_again(session, master, kind)
    if n:
        detail = {"kind": str(kind), "rows": n, "key": master.fingerprint, "reason": reason}
        store.record(session, actor, "keys.rotate", "master_key", None, detail)
    return n


def wait(session: Session, master: MasterKey, kind: Kind) -> bool:
    """Waits until nobody holds one of the rows that are left; False if none is left.

    In a transaction that does nothing else. Raises ConflictError if one is held for too long.
    """
    session.execute(text("SELECT set_config('lock_timeout', :time, true)"), {"time": f"{PATIENCE_S}s"})
    try:
        return bool(session.scalars(_others(master, kind).limit(1).with_for_update()).all())
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise ConflictError(
            f"Some {kind} are held by another act, such as an import, and are left as they were: run it again."
        ) from error


def _seal_again(session: Session, master: MasterKey, kind: Kind) -> int:
    rows = session.scalars(_others(master, kind).limit(TOGETHER).with_for_update(skip_locked=True)).all()
    for row in rows:
        match row:
            case Campaign():
                # Locked since it was seen to have a key: nobody has erased it.
                row.data_key = master.wrap_again(row.data_key or b"", row.id)
            case Account():
                accounts.seal_again(master, row)
            case WebSession():
                accounts.seal_session_again(master, row)
            case Callback():
                feed.seal_again(master, row)
    session.flush()
    return len(rows)


def _others(master: MasterKey, kind: Kind) -> Select[tuple[Any]]:
    """Rows of which another key has sealed a column."""
    table, columns = store.SEALED[kind]
    mark = bytes.fromhex(master.fingerprint)
    by_others = [func.substr(getattr(table, column), 1, MARK_BYTES) != mark for column in columns]
    return select(table).where(or_(*by_others)).order_by(table.id).execution_options(populate_existing=True)
