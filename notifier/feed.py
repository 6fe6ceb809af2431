"""What has changed since, for programs that follow: by a cursor, or told to an address of theirs (callbacks).

Rows of `change` are read in the order of their transactions and only below the oldest that is still at work, so
that a reader who goes on from the last cursor misses nothing. What is told is where a patient stands now, by
number: the same change may be told twice, and an older state never after a newer one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier import store
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Callback, Doctor
from notifier.sealing import MasterKey

#: patients told of at once
MOST_PATIENTS = 1000
#: rows looked at for one answer; each names at most 500 patients
_ROWS = 200
CURSOR = "^([0-9]{1,19})-([0-9]{1,19})$"
_SECRET_PREFIX = "whsec_"  # noqa: S105 - what each secret begins with (Standard Webhooks)
_CALLBACKS, _PURPOSE = b"callbacks", b"callback.secret"
#: callbacks of one doctor, or of operations
MOST_CALLBACKS = 20
#: waits after a message was not taken (the schedule that Standard Webhooks recommends, shortened)
_WAITS = tuple(timedelta(seconds=seconds) for seconds in (5, 60, 300, 1800, 7200, 18000))
#: while a message is on its way nobody else tries
_LEASE = timedelta(minutes=2)


class Cursor(NamedTuple):
    """A place between two changes."""

    xid: int
    change_id: int

    @classmethod
    def parse(cls, value: str) -> Cursor:
        """Raises InputError for what is none."""
        found = re.fullmatch(CURSOR, value)
        if found is None or max(map(int, found.groups())) >= 2**63:
            raise InputError("`after` is no cursor: give the `next` of the last answer, or leave it away.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.xid}-{self.change_id}"


START, _END = Cursor(0, 0), Cursor(2**63 - 1, 2**63 - 1)


class Page(NamedTuple):
    """Where what has changed stands now, and where to go on."""

    campaigns: list[dict[str, Any]]
    next: Cursor
    #: more waits already
    has_more: bool


_READ = """
    SELECT id, xid, campaign_id, patients FROM change
    WHERE (xid, id) > (:xid, :change_id) AND (xid, id) <= (:until_xid, :until_id) {only}
      AND xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
    ORDER BY xid, id LIMIT :rows
"""
_PATIENTS = text(
    """
    SELECT id, campaign_id, row, outcome, outcome_reason, outcome_at FROM patient
    WHERE id = ANY(:ids) ORDER BY campaign_id, id
    """
)
_CAMPAIGNS = text("SELECT id, doctor_id, state, reason FROM campaign WHERE id = ANY(:ids) ORDER BY id")
_NOW = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1")


def read(
    session: Session,
    after: Cursor,
    *,
    campaign: int | None = None,
    doctor: int | None = None,
    until: Cursor | None = None,
) -> Page:
    """The next changes after `after` that the transaction may see: at most 1,000 patients' outcomes and the state
    of each campaign named. Nothing new: an empty page with the same cursor."""
    last_place = until or _END
    only, values = "", {"xid": after.xid, "change_id": after.change_id, "rows": _ROWS}
    values |= {"until_xid": last_place.xid, "until_id": last_place.change_id}
    if campaign is not None:
        only, values = "AND campaign_id = :campaign", values | {"campaign": campaign}
    elif doctor is not None:
        only, values = "AND doctor_id = :doctor", values | {"doctor": doctor}
    rows = session.execute(text(_READ.format(only=only)), values).all()
    ids: set[int] = set()
    taken = 0
    for row in rows:
        if taken and len(ids | set(row.patients)) > MOST_PATIENTS:
            break
        ids.update(row.patients)
        taken += 1
    if not taken:
        return Page([], after, has_more=False)
    last = rows[taken - 1]
    patients: dict[int, list[dict[str, Any]]] = {}
    for one in session.execute(_PATIENTS, {"ids": sorted(ids)}):
        patients.setdefault(one.campaign_id, []).append(
            {
                "patient": one.id,
                "row": one.row,
                "outcome": one.outcome,
                "reason": one.outcome_reason,
                "at": one.outcome_at,
            }
        )
    named = sorted({row.campaign_id for row in rows[:taken]})
    campaigns = [
        {
            "campaign": one.id,
            "doctor": one.doctor_id,
            "state": one.state,
            "reason": one.reason,
            "patients": patients.get(one.id, []),
        }
        for one in session.execute(_CAMPAIGNS, {"ids": named})
    ]
    return Page(campaigns, Cursor(last.xid, last.id), has_more=taken < len(rows) or len(rows) == _ROWS)


def now_cursor(session: Session) -> Cursor:
    """A cursor before which everything is told already, and after which nothing is."""
    return Cursor(int(session.execute(_NOW).scalar_one()), 2**62)


# --- callbacks -------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """A new callback, and its secret, which nobody is shown again."""

    callback: Callback
    secret: str


def create(
    session: Session, master: MasterKey, url: str, doctor_id: int | None, *, actor: str, allow_private: bool
) -> Made:
    """An address that hears of every change from now on. `doctor_id` None: of all doctors.

    Raises InputError for an address that cannot be one, NotFoundError for a doctor there is not, ConflictError if
    there are too many already.
    """
    checked = check_url(url, allow_private=allow_private)
    if doctor_id is not None and session.get(Doctor, doctor_id) is None:
        raise NotFoundError(f"There is no doctor {doctor_id}.")
    mine = text("SELECT count(*) FROM callback WHERE doctor_id IS NOT DISTINCT FROM :doctor_id")
    if session.execute(mine, {"doctor_id": doctor_id}).scalar_one() >= MOST_CALLBACKS:
        raise ConflictError(f"There are {MOST_CALLBACKS} callbacks already: delete one first.")
    secret = secrets.token_bytes(32)
    place = now_cursor(session)
    made = Callback(
        doctor_id=doctor_id,
        url=checked,
        secret_sealed=master.key_for(_CALLBACKS).seal(secret, _PURPOSE),
        xid=place.xid,
        change_id=place.change_id,
        created_by=actor,
    )
    session.add(made)
    session.flush()
    session.refresh(made)
    store.record(session, actor, "callback.create", f"callback:{made.id}", doctor_id)
    return Made(made, _SECRET_PREFIX + base64.b64encode(secret).decode())


def delete(session: Session, callback_id: int, *, actor: str) -> None:
    """Tells this address nothing any more. Raises NotFoundError."""
    found = _found(session, callback_id)
    session.delete(found)
    store.record(session, actor, "callback.delete", f"callback:{callback_id}", found.doctor_id)


def replay(session: Session, callback_id: int, after: Cursor, *, actor: str, now: datetime) -> Callback:
    """Goes on from an earlier place, also with one that was stopped. Raises NotFoundError."""
    found = _found(session, callback_id)
    found.xid, found.change_id = after
    found.until_xid = found.until_id = None
    found.replays += 1
    _start(found, now)
    session.flush()
    detail = {"after": str(after)}
    store.record(session, actor, "callback.replay", f"callback:{callback_id}", found.doctor_id, detail)
    return found


def resume(session: Session, callback_id: int, *, actor: str, now: datetime) -> Callback:
    """Tries at once, from where it stopped. Raises NotFoundError."""
    found = _found(session, callback_id)
    _start(found, now)
    session.flush()
    store.record(session, actor, "callback.resume", f"callback:{callback_id}", found.doctor_id)
    return found


def _start(callback: Callback, now: datetime) -> None:
    callback.state, callback.due_at, callback.tries, callback.failing_since = "active", now, 0, None


def _found(session: Session, callback_id: int) -> Callback:
    found = session.get(Callback, callback_id, with_for_update=True)
    if found is None:
        raise NotFoundError(f"There is no callback {callback_id}.")
    return found


def check_url(url: str, *, allow_private: bool) -> str:
    """Raises InputError unless this is an https address of a host, without user, fragment or odd characters.

    Where the host leads is looked at before each call (`api.caller`): a name may lead elsewhere tomorrow.
    """
    said = "A callback's address is https://host/path, of at most 500 plain characters, without user or fragment."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(said) from error
    schemes = ("https", "http") if allow_private else ("https",)
    if (
        len(url) > 500
        or not url.isascii()
        or not url.isprintable()
        or " " in url
        or "\\" in url
        or parts.scheme not in schemes
        or not parts.hostname
        or parts.username is not None
        or parts.fragment
        or port == 0
    ):
        raise InputError(said)
    return url


@dataclass(frozen=True, slots=True)
class Call:
    """A message that is to be handed to an address."""

    callback_id: int
    url: str
    #: the same for each try of the same changes
    message_id: str
    body: dict[str, Any]
    secret: bytes
    #: where it begins, and where to go on once it was taken
    after: Cursor
    next: Cursor
    has_more: bool


_NEW = "(h.xid, h.id) > (c.xid, c.change_id) AND h.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
#: an address with nothing to be told costs a look into an index, and no write
_TAKE = text(
    f"""
    UPDATE callback SET due_at = CAST(:now AS timestamptz) + CAST(:lease AS interval)
    WHERE id IN (
        SELECT c.id FROM callback c WHERE c.state = 'active' AND c.due_at <= :now AND CASE
            WHEN c.doctor_id IS NULL THEN EXISTS (SELECT FROM change h WHERE {_NEW})
            ELSE EXISTS (SELECT FROM change h WHERE h.doctor_id = c.doctor_id AND {_NEW})
        END
        ORDER BY c.due_at LIMIT :most
        FOR UPDATE OF c SKIP LOCKED
    )
    RETURNING id, doctor_id, url, secret_sealed, xid, change_id, until_xid, until_id, replays
    """  # noqa: S608 - put together from our own words
)
_AT_HAND = text("UPDATE callback SET until_xid = :xid, until_id = :change_id WHERE id = :id")


def take(session: Session, master: MasterKey, *, now: datetime, most: int) -> list[Call]:
    """The messages to be handed over now, each for one address; nobody else takes those for two minutes."""
    calls = []
    for row in session.execute(_TAKE, {"now": now, "lease": _LEASE, "most": most}).all():
        after = Cursor(row.xid, row.change_id)
        until = Cursor(row.until_xid, row.until_id) if row.until_xid is not None else None
        page = read(session, after, doctor=row.doctor_id, until=until)
        body = {"type": "campaigns.changed", "timestamp": now, "data": {"campaigns": page.campaigns}}
        secret = master.key_for(_CALLBACKS).open(row.secret_sealed, _PURPOSE)
        session.execute(_AT_HAND, page.next._asdict() | {"id": row.id})
        name = f"msg_{row.id}_{row.replays}_{after}"
        calls.append(Call(row.id, row.url, name, body, secret, after, page.next, page.has_more))
    return calls


def ping(session: Session, master: MasterKey, callback_id: int, *, now: datetime) -> Call:
    """A message that only tells whether the address takes one. Raises NotFoundError."""
    found = session.get(Callback, callback_id)
    if found is None:
        raise NotFoundError(f"There is no callback {callback_id}.")
    secret = master.key_for(_CALLBACKS).open(found.secret_sealed, _PURPOSE)
    body = {"type": "ping", "timestamp": now, "data": {}}
    name = f"msg_{found.id}_ping_{secrets.token_hex(8)}"
    return Call(found.id, found.url, name, body, secret, START, START, has_more=False)


def seal_again(master: MasterKey, callback: Callback) -> None:
    """Seals the secret by the master key, whichever sealed it before."""
    key = master.key_for(_CALLBACKS)
    callback.secret_sealed = key.seal(key.open(callback.secret_sealed, _PURPOSE), _PURPOSE)


_TAKEN = text(
    """
    UPDATE callback SET xid = :xid, change_id = :change_id, tries = 0, failing_since = NULL, last_code = :code,
        last_at = :now, due_at = :due_at, until_xid = NULL, until_id = NULL
    -- unless somebody has sent it back meanwhile
    WHERE id = :id AND xid = :from_xid AND change_id = :from_id
    """
)
_NOT_TAKEN = text(
    """
    UPDATE callback SET tries = tries + 1, failing_since = coalesce(failing_since, :now), last_code = :code,
        last_at = :now,
        state = CASE WHEN :is_over OR failing_since < CAST(:now AS timestamptz) - CAST(:give_up AS interval)
                     THEN 'stopped' ELSE state END,
        due_at = CAST(:now AS timestamptz) + (CAST(:waits AS interval[]))[least(tries, :last) + 1]
    WHERE id = :id AND state = 'active'
    """
)


def ended(
    session: Session,
    call: Call,
    code: str,
    *,
    taken: bool,
    is_over: bool = False,
    now: datetime,
    give_up: timedelta,
    scale: float = 1,
) -> None:
    """Takes in how a call ended. `is_over`: the address asked for no more (410 Gone)."""
    if taken:
        values = call.next._asdict() | {"id": call.callback_id, "code": code, "now": now}
        values |= {"from_xid": call.after.xid, "from_id": call.after.change_id}
        soon = now if call.has_more else now + timedelta(seconds=1)
        session.execute(_TAKEN, values | {"due_at": soon})
        return
    waits = [wait / scale for wait in _WAITS]
    session.execute(
        _NOT_TAKEN,
        {
            "id": call.callback_id,
            "code": code,
            "now": now,
            "is_over": is_over,
            "give_up": give_up,
            "waits": waits,
            "last": len(waits) - 1,
        },
    )


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` (Standard Webhooks 1.0.0, "Signature scheme"): HMAC-SHA-256 over id, time and
    body, with points between, in base64."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
