"""Beside the steps: a doctor sends the notice as it stands to an address of their own, marked as a test.

One row, one message, and never a second one: what is uncertain stays so, and a person may ask again. A test
is never counted among deliveries, waits for no campaign, and says at once if something is on hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import psycopg
import structlog
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from notifier import notices, store
from notifier.addresses import WORDS, check_email, check_phone
from notifier.errors import ConflictError, InputError, MissingKeyError, NotFoundError, NotifierError, SealingError
from notifier.models import Campaign, TestSend
from notifier.notices import MAX_SUBJECT, Frozen
from notifier.providers.base import Kind, Message, Outcome, Provider
from notifier.sealing import MasterKey
from notifier.states import Channel, Variant
from notifier.store import AsyncDatabase

log = structlog.get_logger()

#: whom a test is made out to
MADE_UP_NAME = "Camille Exemple"
#: test sends of one doctor within an hour: enough to try, too few to write to strangers
MOST_AN_HOUR = 20
#: what waited longer for a worker is not sent any more: nobody looks for it now
EXPIRES = timedelta(minutes=10)
#: after so long without an end the worker is gone; longer than all time-outs of a hand-over
LOST_AFTER = timedelta(minutes=5)

#: for a permit of the provider's limits; then the doctor hears what stands in the way
PATIENCE = timedelta(seconds=5)

_MARKS = {Channel.EMAIL: "[Test] ", Channel.SMS: "TEST: "}
_PURPOSE = b"test_send.contact"
_DATABASE_ERRORS = (SQLAlchemyError, psycopg.Error, OSError, TimeoutError)


class State(StrEnum):
    """How far a test send is."""

    #: waits for the control process
    QUEUED = "queued"
    #: in its hands, or the provider's
    SENDING = "sending"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    #: it may have been sent; never repeated by itself
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        return self not in (State.QUEUED, State.SENDING)


class Text(Protocol):
    """One text of the notice as a person would get it: `composing.Preview`."""

    @property
    def channel(self) -> Channel: ...
    @property
    def language(self) -> str: ...
    @property
    def variant(self) -> Variant: ...
    @property
    def subject(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def html(self) -> str: ...


def ask(
    session: Session,
    master: MasterKey,
    campaign: Campaign,
    texts: Sequence[Text],
    *,
    to: str,
    channel: Channel | None,
    notice_hash: str,
    region: str,
    actor: str,
    now: datetime,
) -> TestSend:
    """Queues one test. Without a channel the form of `to` decides; `texts` are the notice as it stands.

    Raises InputError for an address that cannot be used or a channel the notice is not written for, ConflictError
    if this doctor sent too many tests within the hour.
    """
    channel = channel or (Channel.EMAIL if "@" in to else Channel.SMS)
    contact = _contact(channel, to, region)
    found = next((one for one in texts if one.channel == channel), None)
    if found is None:
        raise InputError(
            f"The notice of campaign {campaign.id} is not written for {channel} in this language and variant."
        )
    _keep_to_the_limit(session, campaign, now)
    mark = _MARKS[channel]
    is_email = channel is Channel.EMAIL
    made = TestSend(
        campaign_id=campaign.id,
        doctor_id=campaign.doctor_id,
        channel=channel,
        language=found.language,
        variant=found.variant,
        contact_sealed=master.open_data_key(campaign.data_key, campaign.id).seal(contact.encode(), _PURPOSE),
        notice_hash=bytes.fromhex(notice_hash),
        subject=(mark + found.subject)[:MAX_SUBJECT] if is_email else "",
        text=found.text if is_email else mark + found.text,
        html=found.html,
        asked_by=actor,
        asked_at=now,
        state=State.QUEUED,
    )
    session.add(made)
    session.flush()
    session.execute(store.WAKE)
    detail = {"test": made.id, "channel": channel, "language": found.language, "variant": found.variant}
    store.record(session, actor, "campaign.test", f"campaign:{campaign.id}", campaign.doctor_id, detail)
    return made


def find(session: Session, campaign_id: int, number: int) -> TestSend:
    """Raises NotFoundError, also for one out of the caller's reach."""
    found = session.get(TestSend, number, populate_existing=True)
    if found is None or found.campaign_id != campaign_id:
        raise NotFoundError(f"Campaign {campaign_id} has no test {number}.")
    return found


def in_words(test: TestSend) -> str:
    """How a test stands, and what to do if it did not go out."""
    code = test.code or ""
    match State(test.state):
        case State.QUEUED:
            return "It waits for the control process: a feeder and `notifier worker --control` must run."
        case State.SENDING:
            return "It is being handed to the provider."
        case State.ACCEPTED:
            return "The provider took it: look into the mailbox or at the phone."
        case State.UNKNOWN:
            return f"It may have gone out ({code}): look there before you ask again."
        case State.REFUSED if code.startswith("on_hold:"):
            return f"Not sent: {code.removeprefix('on_hold:')} is on hold. Let it go on, then ask again."
        case State.REFUSED if code == "expired":
            return "Not sent: no control process took it in time. Ask again once one runs."
        case _:
            return f"Not sent ({code}). Ask again once that is mended."


def _contact(channel: Channel, to: str, region: str) -> str:
    """The address in the form providers take. An error never repeats it."""
    if channel is Channel.EMAIL:
        email = check_email(to)
        if email.ok and email.address is not None and email.address.isascii():
            return email.address
        reason = email.reason
    else:
        phone = check_phone(to, region)
        if phone.ok and phone.sms_capable and phone.e164 is not None:
            return phone.e164
        reason = phone.reason
    said = WORDS[reason][1] if reason else "It is not a number that takes SMS."
    raise InputError(f"The {channel} address for the test cannot be used: {said}")


def _keep_to_the_limit(session: Session, campaign: Campaign, now: datetime) -> None:
    # One after the other for each doctor: two at once must not both be the last one allowed.
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('test_send', :doctor))"),
        {"doctor": campaign.doctor_id},
    )
    oldest_counted = now - timedelta(hours=1)
    sent = session.scalar(
        select(func.count()).where(TestSend.doctor_id == campaign.doctor_id, TestSend.asked_at > oldest_counted)
    )
    if (sent or 0) >= MOST_AN_HOUR:
        raise ConflictError(f"{MOST_AN_HOUR} tests an hour are the most for one doctor: wait, then ask again.")


# --- the feeder's side -----------------------------------------------------------------------------------

_OPEN = text(
    """
    SELECT id, channel, state, started_at < now() - make_interval(secs => :lost_s) AS is_lost
    FROM test_send WHERE state IN ('queued', 'sending') ORDER BY id LIMIT 500
    """
)
_LOST = text(
    """
    UPDATE test_send SET state = 'unknown', code = 'worker_gone', ended_at = now()
    WHERE id = ANY(:ids) AND state = 'sending'
    """
)


def waiting(connection: Connection) -> dict[int, Channel]:
    """The test sends that wait for a worker; those a vanished worker held are closed as unknown."""
    rows = connection.execute(_OPEN, {"lost_s": LOST_AFTER.total_seconds()}).all()
    if lost := [row.id for row in rows if row.is_lost]:
        connection.execute(_LOST, {"ids": lost})
    return {row.id: Channel(row.channel) for row in rows if row.state == State.QUEUED}


# --- the control process's side --------------------------------------------------------------------------

#: Taken once, by whoever comes first. What must not go out now ends here, with the reason.
_CLAIM = """
    WITH stop AS (
        SELECT t.id, CASE
            WHEN t.asked_at < now() - make_interval(secs => %(expires_s)s) THEN 'expired'
            ELSE coalesce((
                SELECT 'on_hold:' || scope FROM hold
                WHERE scope IN ('everything', 'channel:' || t.channel, 'provider:' || %(provider)s)
                  AND (until IS NULL OR until > now())
                ORDER BY scope LIMIT 1
            ), %(stop)s) END AS code
        FROM test_send t WHERE t.id = %(id)s AND t.channel = %(channel)s AND t.state = 'queued' FOR UPDATE
    )
    UPDATE test_send t
    SET state = CASE WHEN stop.code IS NULL THEN 'sending' ELSE 'refused' END, code = stop.code,
        provider = %(provider)s, started_at = now(), ended_at = CASE WHEN stop.code IS NOT NULL THEN now() END
    FROM stop, campaign c, doctor d
    WHERE t.id = stop.id AND c.id = t.campaign_id AND d.id = t.doctor_id
    RETURNING t.state, t.campaign_id, t.language, t.contact_sealed, t.subject, t.text, t.html,
              c.data_key, d.name, d.practice, d.email
"""

#: Knowledge beats ignorance: an end may come after the row was closed as unknown.
_END = """
    UPDATE test_send
    SET state = %(state)s, code = %(code)s, provider_message_id = %(message_id)s, raw_sealed = %(raw)s,
        ended_at = now()
    WHERE id = %(id)s AND (state = 'sending' OR state = 'unknown' AND code = 'worker_gone')
"""

#: Nothing was handed over: it waits again, for a process that can read it.
_GIVE_BACK = """
    UPDATE test_send SET state = 'queued', provider = NULL, started_at = NULL
    WHERE id = %(id)s AND state = 'sending'
"""


class _Claimed(NamedTuple):
    state: str
    campaign_id: int
    language: str
    contact_sealed: bytes
    subject: str
    text: str
    html: str
    data_key: bytes | None
    name: str
    practice: str
    email: str


async def _always() -> tuple[float, str]:
    return 0.0, ""


def _ignore(outcome: Outcome) -> None:
    """Where nobody learns from it."""


def reference(number: int) -> str:
    """The name of a test outside, where deliveries have theirs: there is no delivery 0, so it names none."""
    return f"0.t{number}"


@dataclass(frozen=True, slots=True)
class TestSender:
    """Sends test messages of one channel through a provider instance of its own."""

    database: AsyncDatabase
    master: MasterKey
    provider: Provider
    #: how many at a time
    free: asyncio.Semaphore
    #: takes a permit for one call that starts at once: (0, ""), else the seconds to wait and who says so
    permit: Callable[[], Awaitable[tuple[float, str]]] = _always
    #: takes in how a call ended
    note: Callable[[Outcome], None] = _ignore

    __test__ = False  # not a test, whatever its name makes of it

    async def send(self, number: int) -> State | None:
        """Sends one queued test; None if it is not queued any more. Safe to call twice.

        Still queued if this process was not given the master key that opens it: another may have been.
        An error of the database before the hand-over leaves it queued or, at worst, sending: then unknown.
        """
        # Claimed when the call can start: nothing starts long after a look at what is on hold.
        async with self.free:
            claimed = await self._claim(number, await self._permitted())
            if claimed is None:
                return None
            if claimed.state == State.REFUSED:
                return State.REFUSED
            try:
                outcome = await self._hand_over(number, claimed)
            except MissingKeyError as error:
                log.error("master_key_missing", test=number, campaign=claimed.campaign_id, reason=error.message)
                await self._write(number, _GIVE_BACK, {"id": number})
                return State.QUEUED
        await self._end(number, claimed, outcome)
        return State(outcome.kind)

    async def _permitted(self) -> str | None:
        """None if a call may start now; what stands in the way if that would take too long."""
        give_up_at = asyncio.get_running_loop().time() + PATIENCE.total_seconds()
        while asyncio.get_running_loop().time() < give_up_at:
            wait_s, scope = await self.permit()
            if not wait_s:
                return None
            if wait_s > PATIENCE.total_seconds():
                break
            await asyncio.sleep(wait_s)
        return f"on_hold:{scope}"

    async def _claim(self, number: int, stop: str | None) -> _Claimed | None:
        async with self.database.hot() as connection:
            answer = await connection.execute(
                _CLAIM,
                {
                    "id": number,
                    "channel": str(self.provider.channel),
                    "provider": self.provider.name,
                    "stop": stop,
                    "expires_s": EXPIRES.total_seconds(),
                },
                binary=True,
            )
            row = await answer.fetchone()
        return _Claimed(*row) if row else None

    async def _hand_over(self, number: int, claimed: _Claimed) -> Outcome:
        """Raises MissingKeyError before anything is handed over."""
        try:
            key = self.master.open_data_key(claimed.data_key, claimed.campaign_id)
            message = Message(
                reference=reference(number),
                recipient=key.open(claimed.contact_sealed, _PURPOSE).decode(),
                content=Frozen(claimed.subject, claimed.text, claimed.html),
                language=claimed.language,
                sender_name=notices.sender_name(claimed.name, claimed.practice),
                reply_to=claimed.email,
            )
        except MissingKeyError:
            raise
        except NotifierError as error:
            # Without the key, what is kept of it could not be sealed either.
            raw = "" if isinstance(error, SealingError) else type(error).__name__
            return Outcome(Kind.REFUSED, "unreadable", raw=raw)
        try:
            outcome = await self.provider.send(message)
        except Exception as error:  # noqa: BLE001 - a provider's bug must end in a state, not in a lost row
            log.error("provider_raised", provider=self.provider.name, test=number, error=type(error).__name__)
            outcome = Outcome(Kind.UNKNOWN, "provider_raised", raw=type(error).__name__)
        self.note(outcome)
        return outcome

    async def _end(self, number: int, claimed: _Claimed, outcome: Outcome) -> None:
        """Only this process knows how it ended: kept while the database is away for a while."""
        values: dict[str, Any] = {
            "id": number,
            "state": str(outcome.kind),
            "code": outcome.code,
            "message_id": outcome.provider_message_id,
            "raw": None,
        }
        if outcome.raw and claimed.data_key is not None:
            key = self.master.open_data_key(claimed.data_key, claimed.campaign_id)
            values["raw"] = key.seal(outcome.raw.encode(), b"test_send.raw")
        await self._write(number, _END, values)

    async def _write(self, number: int, statement: str, values: dict[str, Any]) -> None:
        for pause in (0.1, 0.5, 2.0, 5.0, 10.0):
            try:
                async with self.database.hot() as connection:
                    await connection.execute(statement, values)
                    return
            except _DATABASE_ERRORS as error:
                log.warning("result_unwritten", test=number, error=type(error).__name__)
                await asyncio.sleep(pause)
