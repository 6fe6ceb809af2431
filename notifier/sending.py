"""Step 5: claim due rows, open attempts, call the provider outside any transaction, close, next state.

One `Sender` serves one channel of one worker process; tickets call `work`. Nothing here knows the queue.
The order of writes is the promise: a row is `sending` with an open attempt before a byte goes out, and
every later write names the fence of its claim. A process that dies leaves a few dozen rows of each ticket
uncertain, and none lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import orjson
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from notifier import notices, store
from notifier.errors import NotifierError, SealingError
from notifier.notices import Frozen
from notifier.providers.base import Kind, Message, Outcome, Provider
from notifier.schedule import Rules, after_hand_over
from notifier.sealing import DataKey, MasterKey
from notifier.settings import Engine
from notifier.states import Channel, Delivery, Variant
from notifier.store import AsyncDatabase, Claimed, Controls, Result

log = structlog.get_logger()

#: a process that has not read the controls for so long starts no call
CONTROL_STALE = timedelta(seconds=0.7)
#: campaigns whose keys and texts a process keeps at hand
_CACHED_CAMPAIGNS = 64
_DATABASE_ERRORS = (SQLAlchemyError, OSError, TimeoutError)


class Governor(Protocol):
    """Says how many calls may start now, and learns how they end (rate limits, breaker)."""

    async def reserve(self, wanted: int) -> tuple[int, float]:
        """How many of `wanted` calls may start, and if none, in how many seconds to ask again."""

    def note(self, outcome: Outcome) -> timedelta | None:
        """Takes in how a call ended; an answer means: stop the provider for so long."""


@dataclass(slots=True)
class CampaignTexts:
    """What one campaign's messages are made from, checked against the hash that was approved."""

    epoch: int
    data_key: DataKey
    sender_name: str
    reply_to: str
    frozen: dict[tuple[str, str], tuple[int, Frozen]]
    default_language: str

    def of(self, language: str, variant: str) -> tuple[int, Frozen]:
        """The notice for a row: in the profile's first language where there is none in the person's own.

        Raises KeyError if none was approved.
        """
        return self.frozen.get((language, variant)) or self.frozen[self.default_language, variant]


class Gate:
    """Knows what is stopped, freshly enough that no call starts later than a second after the commit."""

    def __init__(self, database: AsyncDatabase, every: timedelta, stale: timedelta = CONTROL_STALE) -> None:
        self._database = database
        self._every = every.total_seconds()
        self._stale = stale.total_seconds()
        self._wanted: dict[int, int] = {}
        self._controls = Controls({}, frozenset())
        self._read_at = float("-inf")

    def watch(self, campaign_id: int) -> None:
        """Counts a ticket at work on this campaign."""
        self._wanted[campaign_id] = self._wanted.get(campaign_id, 0) + 1

    def unwatch(self, campaign_id: int) -> None:
        self._wanted[campaign_id] -= 1
        if not self._wanted[campaign_id]:
            del self._wanted[campaign_id]

    def is_open(self, campaign_id: int, epoch: int, channel: str, provider: str) -> bool:
        """Whether a call may start now; False also when the database was not heard for too long."""
        age = asyncio.get_running_loop().time() - self._read_at
        return age < self._stale and self._controls.allow(campaign_id, epoch, channel, provider)

    async def read(self) -> None:
        """Asks the database. The answer is as old as the question, whatever time it took."""
        asked_at = asyncio.get_running_loop().time()
        async with self._database.begin() as connection:
            controls = await store.controls(connection, list(self._wanted))
        # Two may ask at once: an older question, perhaps about fewer campaigns, must not have the last word.
        if asked_at >= self._read_at:
            self._controls, self._read_at = controls, asked_at

    async def run(self) -> None:
        """Reads for ever. An error leaves the old answer to grow stale, which closes the gate."""
        while True:
            try:
                await self.read()
            except _DATABASE_ERRORS as error:
                log.warning("controls_unread", error=type(error).__name__)
            await asyncio.sleep(self._every)


class Ticket:
    """The rows of one ticket that are under way: marked but not yet called, and not yet written."""

    __slots__ = ("flying", "moved", "unwritten")

    def __init__(self) -> None:
        self.flying = 0
        self.unwritten = 0
        self.moved = asyncio.Event()

    def add(self, rows: int) -> None:
        self.flying += rows
        self.unwritten += rows

    def landed(self) -> None:
        """A call has ended, or was not made."""
        self.flying -= 1
        self.moved.set()

    def written(self, rows: int) -> None:
        """So many results are committed."""
        self.unwritten -= rows
        self.moved.set()

    async def room(self, most_flying: int) -> None:
        """Waits until no more than so many calls are to come."""
        while self.flying > most_flying:
            self.moved.clear()
            await self.moved.wait()

    async def done(self) -> None:
        """Waits until every result is committed."""
        while self.unwritten:
            self.moved.clear()
            await self.moved.wait()


class Writer:
    """Collects results and writes them in batches; keeps them while the database is away."""

    def __init__(self, database: AsyncDatabase, engine: Engine) -> None:
        self._database = database
        self._rows = engine.result_rows
        self._seconds = engine.result_ms / 1000
        self._waiting: deque[tuple[Result, Ticket]] = deque()
        self._full = asyncio.Event()

    def write(self, result: Result, ticket: Ticket) -> None:
        """The ticket hears when it is committed."""
        self._waiting.append((result, ticket))
        if len(self._waiting) >= self._rows:
            self._full.set()

    async def run(self) -> None:
        """Writes for ever."""
        loop = asyncio.get_running_loop()
        while True:
            # Not `wait_for`: before Python 3.12 it can swallow the cancellation that ends this task.
            timer = loop.call_later(self._seconds, self._full.set)
            await self._full.wait()
            timer.cancel()
            self._full.clear()
            while self._waiting:
                await self._flush()

    async def _flush(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), 4 * self._rows))]
        pause = 0.1
        while True:
            try:
                async with self._database.begin() as connection:
                    await store.close(connection, [result for result, _ in batch])
                break
            except _DATABASE_ERRORS as error:
                # What was sent is known only here until it is written: keep it and try again. A value that
                # the database refuses will be refused again: then without the provider's own words.
                log.warning("results_unwritten", rows=len(batch), error=type(error).__name__)
                if isinstance(error, DataError):
                    batch = [(result._replace(message_id=None, raw=None), ticket) for result, ticket in batch]
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5)
        for ticket, rows in Counter(ticket for _, ticket in batch).items():
            ticket.written(rows)


class Job(NamedTuple):
    """One row that is marked as being sent, and until when its call may start."""

    campaign_id: int
    texts: CampaignTexts
    row: Claimed
    message: Message
    start_until: float
    ticket: Ticket


@dataclass(slots=True)
class Sender:
    """Sends what is due of one channel through one provider."""

    database: AsyncDatabase
    master: MasterKey
    provider: Provider
    rules: Rules
    engine: Engine
    gate: Gate
    writer: Writer
    governor: Governor
    owner: str
    reference: Callable[[int], str]
    default_language: str
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    jitter: Callable[[], float] = random.random
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    _jobs: asyncio.Queue[Job] = field(default_factory=asyncio.Queue)
    _texts: dict[int, CampaignTexts] = field(default_factory=dict)

    async def run(self) -> None:
        """Calls the provider for ever, as many at a time as it allows."""
        await asyncio.gather(*(self._lane() for _ in range(self.provider.concurrency)))

    async def _lane(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await self._send_one(job)
            except Exception as error:  # noqa: BLE001 - a bug must not end the lane; the lease brings the row back
                log.error("lane_failed", delivery=job.row.id, error=type(error).__name__)
                job.ticket.written(1)
            finally:
                job.ticket.landed()

    async def work(self, campaign_id: int, epoch: int) -> int:
        """Does one ticket's work: claims rows and sends them; returns how many were claimed.

        Any error about one row ends in that row's state. A campaign whose texts are not the approved ones is
        paused. An error of the database ends the ticket, and its unsent rows are given back.
        """
        if self.draining.is_set():
            return 0
        try:
            async with self.database.begin() as connection:
                rows = await store.claim(
                    connection,
                    campaign_id=campaign_id,
                    epoch=epoch,
                    channel=self.provider.channel,
                    provider=self.provider.name,
                    owner=self.owner,
                    lease=timedelta(seconds=self.engine.lease_s),
                    rows=self.engine.claim_rows,
                )
                if not rows:
                    return 0
                texts = await self._campaign(connection, campaign_id, epoch)
        except NotifierError as error:
            # The claim was rolled back with the transaction.
            log.error("campaign_unfit", campaign=campaign_id, reason=error.message)
            async with self.database.begin() as connection:
                await store.pause_unfit(connection, campaign_id, error.message)
            return 0
        self.gate.watch(campaign_id)
        try:
            await self._send_all(campaign_id, texts, deque(rows))
        finally:
            self.gate.unwatch(campaign_id)
        return len(rows)

    async def _send_all(self, campaign_id: int, texts: CampaignTexts, rows: deque[Claimed]) -> None:
        ticket = Ticket()
        group: list[Claimed] = []
        now = asyncio.get_running_loop().time
        # A third of the lease is left for the calls themselves and the writing.
        start_until = now() + self.engine.lease_s * 2 / 3
        try:
            await self.gate.read()
            while rows:
                # The next rows are marked while the last of the group before are still in flight.
                await ticket.room(self.engine.intent_rows // 2)
                if now() > start_until or not self._may(campaign_id, texts):
                    break
                granted, wait_s = await self.governor.reserve(min(len(rows), self.engine.intent_rows))
                if granted:
                    group = [rows.popleft() for _ in range(granted)]
                    call_until = now() + self.engine.lease_s * 2 / 3
                    going = await self._intend(texts, group)
                    ticket.add(len(going))
                    for row, message in going:
                        self._jobs.put_nowait(Job(campaign_id, texts, row, message, call_until, ticket))
                    group = []
                elif wait_s <= 2:
                    await asyncio.sleep(wait_s)
                else:
                    await self._give_back(rows, self.clock() + timedelta(seconds=wait_s))
                    rows.clear()
        except _DATABASE_ERRORS as error:
            log.warning("ticket_ended", campaign=campaign_id, error=type(error).__name__)
            # Whether the last commit happened is not known: what it may have marked was not sent.
            ticket.add(len(group))
            for row in group:
                self.writer.write(_not_sent(row, self.clock()), ticket)
                ticket.landed()
            rows.extend(group)
        await self._give_back_patiently(rows)
        await ticket.done()

    def _may(self, campaign_id: int, texts: CampaignTexts) -> bool:
        """Whether a call for this campaign may start now."""
        return not self.draining.is_set() and self.gate.is_open(
            campaign_id, texts.epoch, self.provider.channel, self.provider.name
        )

    async def _give_back(self, rows: Iterable[Claimed], due_at: datetime | None = None) -> None:
        async with self.database.begin() as connection:
            await store.release(connection, [(row.id, row.fence) for row in rows], self.owner, due_at)

    async def _give_back_patiently(self, rows: deque[Claimed]) -> None:
        """Until the lease has run out, and the sweeper does it. A row given back was not near a crash."""
        give_up_at = asyncio.get_running_loop().time() + self.engine.lease_s
        while rows and asyncio.get_running_loop().time() < give_up_at:
            try:
                await self._give_back(rows)
                return
            except _DATABASE_ERRORS:
                await asyncio.sleep(0.5)

    async def _intend(self, texts: CampaignTexts, group: list[Claimed]) -> list[tuple[Claimed, Message]]:
        """Renders a group, then marks it `sending` in one commit; returns what may go out."""
        ready: list[tuple[Claimed, Message, int]] = []
        unfit: list[Claimed] = []
        for row in group:
            try:
                message, notice_id = self._render(texts, row)
            except (SealingError, UnicodeDecodeError, orjson.JSONDecodeError, KeyError):
                unfit.append(row)
            else:
                ready.append((row, message, notice_id))
        async with self.database.begin() as connection:
            going = await store.intend(
                connection,
                [(row.id, row.fence, notice_id) for row, _, notice_id in ready],
                owner=self.owner,
                epoch=texts.epoch,
                channel=self.provider.channel,
                provider=self.provider.name,
                lease=timedelta(seconds=self.engine.lease_s),
            )
            if unfit:
                await store.quarantine(
                    connection, [(row.id, row.fence) for row in unfit], self.owner, "unreadable"
                )
            stopped = [(row.id, row.fence) for row, _, _ in ready if row.id not in going]
            if stopped:
                await store.release(connection, stopped, self.owner)
        return [(row, message) for row, message, _ in ready if row.id in going]

    def _render(self, texts: CampaignTexts, row: Claimed) -> tuple[Message, int]:
        """The message of one row. Raises KeyError if the campaign has no text in its language."""
        notice_id, frozen = texts.of(row.language, row.variant)
        name = ""
        if row.identity_sealed is not None:
            identity = orjson.loads(texts.data_key.open(row.identity_sealed, b"patient.identity"))
            name = f"{identity.get('first_name') or ''} {identity.get('last_name') or ''}".strip()
        return (
            Message(
                reference=self.reference(row.id),
                recipient=texts.data_key.open(row.value_sealed, b"contact.value").decode(),
                content=frozen,
                name=name,
                language=row.language,
                sender_name=texts.sender_name,
                reply_to=texts.reply_to,
            ),
            notice_id,
        )

    async def _send_one(self, job: Job) -> None:
        row, now = job.row, asyncio.get_running_loop().time
        if now() < job.start_until and self._may(job.campaign_id, job.texts):
            result = self._closed(job, await self._call(row, job.message))
        else:
            result = _not_sent(row, self.clock())
        self.writer.write(result, job.ticket)

    def _closed(self, job: Job, outcome: Outcome) -> Result:
        """How the attempt ended and what becomes of the row."""
        row, now = job.row, self.clock()
        step = after_hand_over(
            outcome,
            self.rules,
            tries=row.tries + 1,
            first_tried_at=row.first_tried_at or now,
            now=now,
            jitter=self.jitter(),
        )
        return Result(
            row.id,
            row.fence,
            step.state,
            step.due_at,
            0 if step.counts else 1,
            outcome.kind,
            outcome.code,
            outcome.provider_message_id,
            job.texts.data_key.seal(outcome.raw.encode(), b"attempt.raw") if outcome.raw else None,
        )

    async def _call(self, row: Claimed, message: Message) -> Outcome:
        try:
            outcome = await self.provider.send(message)
        except Exception as error:  # noqa: BLE001 - a provider's bug must end in a state, not in a lost row
            log.error("provider_raised", provider=self.provider.name, delivery=row.id, error=type(error).__name__)
            return Outcome(Kind.UNKNOWN, "provider_raised", raw=type(error).__name__)
        stop_for = self.governor.note(outcome)
        if outcome.hold:
            stop_for = outcome.retry_after or timedelta(minutes=1)
        if stop_for is not None:
            await self._hold(stop_for, outcome.code)
        return outcome

    async def _hold(self, stop_for: timedelta, code: str) -> None:
        """Everybody waits, in every process; the reason is shown to operations."""
        try:
            async with self.database.begin() as connection:
                await store.hold_provider(
                    connection, self.provider.name, reason=code, until=self.clock() + stop_for, by="engine"
                )
        except _DATABASE_ERRORS as error:
            log.warning("hold_unwritten", provider=self.provider.name, error=type(error).__name__)
        else:
            log.warning("provider_held", provider=self.provider.name, code=code, seconds=stop_for.total_seconds())

    async def _campaign(self, connection: AsyncConnection, campaign_id: int, epoch: int) -> CampaignTexts:
        """Key and texts of a campaign, checked against the approved hash once per epoch."""
        cached = self._texts.get(campaign_id)
        if cached is not None and cached.epoch == epoch:
            return cached
        texts = await load_texts(
            connection, self.master, campaign_id, epoch, self.provider.channel, self.default_language
        )
        if len(self._texts) >= _CACHED_CAMPAIGNS:
            self._texts.pop(next(iter(self._texts)))
        self._texts[campaign_id] = texts
        return texts


def _not_sent(row: Claimed, now: datetime) -> Result:
    """A row that was marked but whose call never started: due again, nothing counted."""
    return Result(row.id, row.fence, Delivery.PENDING, now, 1, Kind.REFUSED, "not_sent", None, None)


_CAMPAIGN = text(
    """
    SELECT c.id, c.data_key, c.notice_hash, d.practice, d.name, d.email
    FROM campaign c JOIN doctor d ON d.id = c.doctor_id WHERE c.id = :campaign_id
    """
)

_NOTICES = text(
    """
    SELECT id, channel, language, variant, subject, text, html, sha256 FROM notice
    WHERE campaign_id = :campaign_id
      AND version = (SELECT max(version) FROM notice WHERE campaign_id = :campaign_id)
    """
)


async def load_texts(
    connection: AsyncConnection,
    master: MasterKey,
    campaign_id: int,
    epoch: int,
    channel: Channel,
    default_language: str,
) -> CampaignTexts:
    """Reads a campaign's key and frozen texts. Raises NotifierError if a text is not the approved one."""
    campaign = (await connection.execute(_CAMPAIGN, {"campaign_id": campaign_id})).one()
    rows = (await connection.execute(_NOTICES, {"campaign_id": campaign_id})).all()
    hashes = {}
    for row in rows:
        seen = notices.digest(row.channel, row.language, row.variant, row.subject, row.text, row.html)
        if seen != row.sha256:
            raise NotifierError(f"Notice {row.id} of campaign {campaign_id} is not the text that was approved.")
        hashes[Channel(row.channel), str(row.language), Variant(row.variant)] = seen
    if notices.combined_digest(hashes) != campaign.notice_hash:
        raise NotifierError(f"The notices of campaign {campaign_id} are not those that were approved.")
    if not campaign.email.isascii() or not (campaign.email + campaign.practice + campaign.name).isprintable():
        raise NotifierError("The doctor's name, practice or email cannot stand in an email's headers.")
    return CampaignTexts(
        epoch=epoch,
        data_key=master.open_data_key(campaign.data_key, campaign_id),
        sender_name=notices.sender_name(campaign.name, campaign.practice),
        reply_to=campaign.email,
        frozen={
            (row.language, row.variant): (row.id, Frozen(row.subject, row.text, row.html))
            for row in rows
            if row.channel == channel
        },
        default_language=default_language,
    )
