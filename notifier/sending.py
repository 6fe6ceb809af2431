"""Step 5: claim due rows, open attempts, call the provider outside any transaction, close, next state.

One `Sender` serves one channel of one worker process; tickets call `work`. Nothing here knows the queue.
The order of writes is the promise: a row is `sending` with an open attempt before a byte goes out, and
every later write names the fence of its claim. A process that dies leaves a few dozen rows of each ticket
uncertain, and none lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple, Protocol

import orjson
import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from notifier import notices, store, tracing
from notifier.errors import MissingKeyError, NotifierError, SealingError
from notifier.notices import Frozen, Stored
from notifier.providers.base import (
    STOPPED,
    BatchProvider,
    Kind,
    Message,
    Outcome,
    OverlappingProvider,
    Provider,
    RepeatableProvider,
)
from notifier.schedule import Rules, after_hand_over
from notifier.sealing import DataKey, MasterKey
from notifier.settings import Engine
from notifier.states import Channel, Delivery
from notifier.store import AsyncDatabase, Claim, Claimed, Controls, Result
from notifier.tracing import Operation, Span

log = structlog.get_logger()

#: a process that has not read the controls for so long starts no call
CONTROL_STALE = timedelta(seconds=0.7)
#: campaigns whose keys and texts a process keeps at hand
_CACHED_CAMPAIGNS = 1600
#: deliveries one hint of `due` names, unless a crash or a retry set some apart
HINT_ROWS = 50
#: a lane waits so long for a permit; then its row is given back
_PATIENCE_S = 0.5
#: pauses before a request that ended without an answer is asked again
_ASK_AGAIN_AFTER_S = (1.0, 4.0)
#: limits that hold for every call of the provider: while one says no, nobody else could go either
_EVERYBODY = ("provider:", "sender:")
_DATABASE_ERRORS = (SQLAlchemyError, psycopg.Error, OSError, TimeoutError)
#: A campaign whose master key this process lacks: how long its tickets are let pass without a look, and how often
#: it is said. Held for all, as one at its own limit is, it would wait where the key is known, too.
_KEYLESS_FOR = timedelta(seconds=5)
_KEYLESS_SAID_EVERY = timedelta(minutes=1)


class Governor(Protocol):
    """Rate limits and breakers of one provider account: says what may start now, and learns how calls end.

    A scope names what says no: "provider:smtp", "sender:…", "receiver:orange", "campaign:5".
    """

    async def room(self, campaign_id: int, wanted: int) -> tuple[int, float, str]:
        """A look that takes nothing: about how many calls may start; if none, seconds until one may and why."""

    def refusal(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        """What `permit` would say, as far as that is known without asking."""

    async def permit(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        """Takes a permit for one call that starts at once: (0, ""), else the seconds to wait and who says so."""

    def note(self, outcome: Outcome, receiver: str) -> None:
        """Takes in how a call ended."""


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
        self._controls = Controls({}, frozenset(), 0)
        #: what to add to this machine's clock to have the database's, which all due times are by
        self.offset = timedelta(0)
        self._read_at = float("-inf")
        self._asking = asyncio.Lock()
        #: this process has rows that were in the hands of a worker that died
        self.has_suspects = False

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
        """Asks the database; who comes while another asks shares the next question, which is younger.

        The answer is as old as the question, whatever time it took.
        """
        now = asyncio.get_running_loop().time
        came_at = now()
        async with self._asking:
            if self._read_at > came_at:
                return
            asked_at = now()
            async with self._database.begin() as connection:
                controls = await store.controls(connection, list(self._wanted))
            self._controls, self._read_at = controls, asked_at
            self.offset = timedelta(seconds=controls.at - time.time())

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

    __slots__ = ("_flying", "_moved", "_unwritten", "is_whole")

    def __init__(self) -> None:
        #: every row that was marked has a result
        self.is_whole = True
        self._flying: set[int] = set()
        self._unwritten = 0
        self._moved = asyncio.Event()

    def add(self, ids: Iterable[int]) -> None:
        before = len(self._flying)
        self._flying.update(ids)
        self._unwritten += len(self._flying) - before

    def landed(self, delivery_id: int, result: Result | None = None) -> None:
        """A call has ended, or was not made; its result is to be written."""
        self._flying.discard(delivery_id)
        self._moved.set()

    def give_up(self, delivery_id: int) -> None:
        """Nothing will be written, unless it is under way already; the lease brings the row back."""
        if delivery_id in self._flying:
            self.is_whole = False
            self.landed(delivery_id)
            self.written(1)

    def written(self, rows: int) -> None:
        """So many results are committed."""
        self._unwritten -= rows
        self._moved.set()

    async def room(self, most_flying: int) -> None:
        """Waits until no more than so many calls are to come."""
        while len(self._flying) > most_flying:
            self._moved.clear()
            await self._moved.wait()

    async def done(self) -> None:
        """Waits until every result is committed."""
        while self._unwritten:
            self._moved.clear()
            await self._moved.wait()


class TracedTicket(Ticket):
    """One whose groups are seen in the campaign's trace: from the mark to the end of the last call."""

    __slots__ = ("_campaign_id", "_group_of", "_provider")

    def __init__(self, campaign_id: int, provider: str) -> None:
        super().__init__()
        self._campaign_id = campaign_id
        self._provider = provider
        self._group_of: dict[int, _Group] = {}

    def add(self, ids: Iterable[int]) -> None:
        ids = list(ids)
        super().add(ids)
        if ids:
            span = tracing.span("send", self._campaign_id, Operation.SEND, system=self._provider)
            span.messages(len(ids))
            self._group_of |= dict.fromkeys(ids, _Group(span, len(ids)))

    def landed(self, delivery_id: int, result: Result | None = None) -> None:
        super().landed(delivery_id)
        if group := self._group_of.pop(delivery_id, None):
            group.landed(result)


@dataclass(slots=True)
class _Group:
    """Rows that were marked together, until the last of their calls has ended."""

    span: Span
    left: int
    ended: Counter[str] = field(default_factory=Counter)

    def landed(self, result: Result | None) -> None:
        self.left -= 1
        self.ended["not_sent" if result is None or result.code == "not_sent" else result.outcome] += 1
        if not self.left:
            self.span.set(**self.ended)
            self.span.end()


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
                async with self._database.hot() as connection:
                    await store.close(connection, [result for result, _ in batch])
                break
            except _DATABASE_ERRORS as error:
                # What was sent is known only here until it is written: keep it and try again. A value that
                # the database refuses will be refused again: then without the provider's own words.
                log.warning("results_unwritten", rows=len(batch), error=type(error).__name__)
                if isinstance(error, psycopg.DataError):
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
    receiver: str
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
    #: a delivery's name outside, by its campaign's key
    reference: Callable[[DataKey, int], str]
    default_language: str
    #: group of mailbox operators an address belongs to, "" where the channel has none
    receiver_of: Callable[[str], str] = lambda _: ""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    jitter: Callable[[], float] = random.random
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    #: how hand-overs ended since the last look: (receiver, outcome, code)
    ended: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _jobs: asyncio.Queue[list[Job]] = field(default_factory=asyncio.Queue)
    _texts: dict[int, CampaignTexts] = field(default_factory=dict)
    # Campaigns whose master key was not given: until when each is left alone, and when it is said again.
    _keyless: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)
    # What the provider can do beyond `send`; asked once, because asking a protocol costs as much as a message.
    _batches: BatchProvider | None = field(init=False)
    _overlaps: OverlappingProvider | None = field(init=False)
    _repeats: RepeatableProvider | None = field(init=False)

    def __post_init__(self) -> None:
        provider = self.provider
        self._batches = provider if isinstance(provider, BatchProvider) and provider.batch_size > 1 else None
        self._overlaps = provider if isinstance(provider, OverlappingProvider) else None
        self._repeats = provider if isinstance(provider, RepeatableProvider) else None

    async def run(self) -> None:
        """Calls the provider for ever, as many at a time as it allows."""
        await asyncio.gather(*(self._lane() for _ in range(self.provider.concurrency)))

    async def _lane(self) -> None:
        while True:
            jobs = await self._jobs.get()
            try:
                await self._hand_over(jobs)
            except Exception as error:  # noqa: BLE001 - a bug must not end the lane
                self._give_up(jobs, error)

    def _give_up(self, jobs: Sequence[Job], error: Exception) -> None:
        """The lease brings the rows back."""
        log.error("hand_over_failed", provider=self.provider.name, rows=len(jobs), error=type(error).__name__)
        for job in jobs:
            job.ticket.give_up(job.row.id)

    async def _hand_over(self, jobs: list[Job]) -> None:
        """One call, for one row or for a batch of one campaign."""
        if len(jobs) > 1 and self._batches is not None:
            jobs = await self._batch(jobs, self._batches)
        for job in jobs:
            if not await self._permitted(job):
                continue
            if self._overlaps is None:
                [outcome] = await self._called([job], self._one(job.message))
                self._land(job, outcome)
                continue
            # The lane takes the next job while the server still thinks about this one.
            try:
                ending = await self._overlaps.start(job.message, partial(self._may, job.campaign_id, job.texts))
            except Exception as error:  # noqa: BLE001 - as in `_called`
                self._land(job, self._raised(job, error))
            else:
                ending.add_done_callback(partial(self._ended, job))

    async def _batch(self, jobs: list[Job], provider: BatchProvider) -> list[Job]:
        """One request with one permit; returns the rows that have to be handed over by themselves."""
        if not await self._permitted(jobs[0]):
            for job in jobs[1:]:
                self._write(job, _not_sent(job.row, self._now()))
            return []
        outcomes = await self._called(jobs, provider.send_batch([job.message for job in jobs]))
        for said in {(outcome.kind, outcome.code): outcome for outcome in outcomes}.values():
            self.governor.note(said, "")
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not outcome.alone:
                self._record(job, outcome)
        return [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.alone]

    def _ended(self, job: Job, ending: asyncio.Future[Outcome]) -> None:
        try:
            error = ending.exception()
            self._land(job, self._raised(job, error) if error is not None else ending.result())
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it, and the ticket would wait for ever
            self._give_up([job], error)

    async def _one(self, message: Message) -> list[Outcome]:
        return [await self.provider.send(message)]

    async def _called(self, jobs: Sequence[Job], call: Awaitable[list[Outcome]]) -> list[Outcome]:
        """How a call ended for each; what is uncertain is asked again where the provider knows a request again."""
        try:
            outcomes = await call
        except Exception as error:  # noqa: BLE001 - a provider's bug must end in a state, not in a lost row
            outcomes = [self._raised(job, error) for job in jobs]
        if self._repeats is None:
            return outcomes
        for wait_s in _ASK_AGAIN_AFTER_S:
            if not all(outcome.kind is Kind.UNKNOWN for outcome in outcomes):
                break
            await asyncio.sleep(wait_s)
            # If the first request was lost, this one sends: it needs leave like any other.
            if not all(self._may(job.campaign_id, job.texts) for job in jobs):
                break
            outcomes = await self._repeats.ask_again([job.message for job in jobs])
        return outcomes

    def _raised(self, job: Job, error: BaseException) -> Outcome:
        log.error("provider_raised", provider=self.provider.name, delivery=job.row.id, error=type(error).__name__)
        return Outcome(Kind.UNKNOWN, "provider_raised", raw=type(error).__name__)

    def _land(self, job: Job, outcome: Outcome) -> None:
        """Takes in how a call of its own ended."""
        if outcome is not STOPPED:
            self.governor.note(outcome, job.receiver)
        self._record(job, outcome)

    def _record(self, job: Job, outcome: Outcome) -> None:
        if outcome is STOPPED:
            self._write(job, _not_sent(job.row, self._now()))
        else:
            self.ended[job.receiver, outcome.kind, outcome.code] += 1
            self._write(job, self._closed(job, outcome))

    def _write(self, job: Job, result: Result) -> None:
        job.ticket.landed(job.row.id, result)
        self.writer.write(result, job.ticket)

    async def work(self, campaign_id: int, epoch: int, rows: int | None = None) -> int:
        """Does one ticket's work: claims up to `rows` and sends them; returns how many were claimed.

        Any error about one row ends in that row's state. A campaign whose texts are not the approved ones is
        paused. An error of the database ends the ticket, and its unsent rows are given back.
        """
        queue = str(self.provider.channel)
        with tracing.span("ticket", campaign_id, Operation.PROCESS, system="dramatiq", destination=queue) as span:
            claimed = await self._work(campaign_id, epoch, rows)
            span.messages(claimed)
            if not claimed:
                span.drop()
        return claimed

    async def _work(self, campaign_id: int, epoch: int, rows: int | None) -> int:
        if self.draining.is_set() or self._is_keyless(campaign_id):
            return 0
        wanted = max(self.engine.claim_rows, self._batch_size())
        wanted = min(wanted, rows or wanted)
        room, wait_s, scope = await self.governor.room(campaign_id, wanted)
        if not room and scope.startswith(_EVERYBODY) and wait_s <= _PATIENCE_S:
            # A ticket that came back at once would only come again.
            await asyncio.sleep(wait_s)
            room, wait_s, scope = await self.governor.room(campaign_id, wanted)
        if not room:
            await self._throttled(campaign_id, wait_s, scope)
            return 0
        try:
            texts = await self._campaign(campaign_id, epoch)
        except MissingKeyError as error:
            # This process lacks what others may have: nothing is wrong with the campaign.
            self._leave_keyless(campaign_id, error)
            return 0
        except NotifierError as error:
            log.error("campaign_unfit", campaign=campaign_id, reason=error.message)
            async with self.database.begin() as connection:
                await store.pause_unfit(connection, campaign_id, error.message)
            return 0
        total, hints = 0, max(room // HINT_ROWS, 1)
        while claim := await self._claim(campaign_id, epoch, room, hints):
            total += len(claim.rows)
            self.gate.watch(campaign_id)
            try:
                await self._send_all(campaign_id, texts, claim)
            finally:
                self.gate.unwatch(campaign_id)
                self.gate.has_suspects &= claim.together
            if claim.hints < hints or len(claim.rows) * 2 >= room or hints >= room:
                break
            hints = room  # retries come in small hints: once more, with as many as there are rows wanted
        return total

    async def _claim(self, campaign_id: int, epoch: int, rows: int, hints: int) -> Claim | None:
        # One process has one hint of suspects at a time: of two that kill, its death would blame both.
        asks = not self.gate.has_suspects
        self.gate.has_suspects = True
        claim = None
        try:
            async with self.database.hot() as connection:
                claim = await store.claim(
                    connection,
                    campaign_id=campaign_id,
                    epoch=epoch,
                    channel=self.provider.channel,
                    provider=self.provider.name,
                    owner=self.owner,
                    lease=timedelta(seconds=self.engine.lease_s),
                    rows=rows,
                    hints=hints,
                    suspects=asks,
                )
        finally:
            if asks:
                self.gate.has_suspects = claim is not None and not claim.together
        return claim

    def _is_keyless(self, campaign_id: int) -> bool:
        left = self._keyless.get(campaign_id)
        return left is not None and self._now() < left[0]

    def _leave_keyless(self, campaign_id: int, error: MissingKeyError) -> None:
        """The feeder issues its tickets at once, for those who have the key."""
        now = self._now()
        say_at = self._keyless[campaign_id][1] if campaign_id in self._keyless else now
        if now >= say_at:
            log.error("master_key_missing", campaign=campaign_id, reason=error.message)
            say_at = now + _KEYLESS_SAID_EVERY
        self._keyless[campaign_id] = now + _KEYLESS_FOR, say_at

    async def _throttled(self, campaign_id: int, wait_s: float, scope: str) -> None:
        """A campaign at its own limit gets no tickets until then, and says so; the others go on."""
        if scope == f"campaign:{campaign_id}":
            async with self.database.begin() as connection:
                await store.hold(
                    connection,
                    scope,
                    reason="rate_limit",
                    until=self._now() + timedelta(seconds=wait_s),
                    by="engine",
                )

    async def _send_all(self, campaign_id: int, texts: CampaignTexts, claim: Claim) -> None:
        ticket = TracedTicket(campaign_id, self.provider.name) if tracing.is_on() else Ticket()
        rows = deque(claim.rows)
        group: list[Claimed] = []
        now = asyncio.get_running_loop().time
        # A third of the lease is left for the calls themselves and the writing.
        start_until = now() + self.engine.lease_s * 2 / 3
        try:
            await self.gate.read()
            while rows:
                # The next rows are marked while the last of the group before are still in flight.
                await ticket.room(self._together() // 2)
                if now() > start_until or not self._may(campaign_id, texts):
                    break
                group = [rows.popleft() for _ in range(min(len(rows), self._together()))]
                call_until = now() + self.engine.lease_s * 2 / 3
                going = await self._intend(campaign_id, texts, group, claim.lease)
                group = []
                ticket.add(row.id for row, _, _ in going)
                jobs = [
                    Job(campaign_id, texts, row, message, receiver, call_until, ticket)
                    for row, message, receiver in going
                ]
                for some in [jobs] if self._batch_size() > 1 else [[job] for job in jobs]:
                    self._jobs.put_nowait(some)
        except _DATABASE_ERRORS as error:
            log.warning("ticket_ended", campaign=campaign_id, error=type(error).__name__)
            # Whether the last commit happened is not known: what it may have marked was not sent.
            ticket.add(row.id for row in group)
            for row in group:
                ticket.landed(row.id)
                self.writer.write(_not_sent(_marked(row), self._now()), ticket)
            rows.extend(group)
        gave_back = await self._give_back_patiently(rows)
        await ticket.done()
        if gave_back and ticket.is_whole:
            await self._end_lease(claim.lease)

    def _batch_size(self) -> int:
        return self._batches.batch_size if self._batches is not None else 1

    def _together(self) -> int:
        """Rows marked in one commit."""
        return max(self.engine.intent_rows, self._batch_size())

    def _now(self) -> datetime:
        """By the database's clock, whatever this machine's says."""
        return self.clock() + self.gate.offset

    def _may(self, campaign_id: int, texts: CampaignTexts) -> bool:
        """Whether a call for this campaign may start now."""
        return not self.draining.is_set() and self.gate.is_open(
            campaign_id, texts.epoch, self.provider.channel, self.provider.name
        )

    async def _give_back_patiently(self, rows: deque[Claimed]) -> bool:
        """Until the lease has run out, and the sweeper does it. A row given back was not near a crash."""
        give_up_at = asyncio.get_running_loop().time() + self.engine.lease_s
        while rows and asyncio.get_running_loop().time() < give_up_at:
            try:
                async with self.database.hot() as connection:
                    await store.release(connection, [(row.id, row.fence, None) for row in rows])
                    return True
            except _DATABASE_ERRORS:
                await asyncio.sleep(0.5)
        return not rows

    async def _end_lease(self, lease: int) -> None:
        try:
            async with self.database.hot() as connection:
                await store.end_lease(connection, lease)
        except _DATABASE_ERRORS as error:
            # It ends by itself, and nothing is left in it.
            log.info("lease_left", error=type(error).__name__)

    async def _intend(
        self, campaign_id: int, texts: CampaignTexts, group: list[Claimed], lease: int
    ) -> list[tuple[Claimed, Message, str]]:
        """Renders a group, then marks it `sending` in one commit; returns what may go out, with its receiver.

        Who has to wait for a limit is given back before that: waiting costs no attempt.
        """
        ready: list[tuple[Claimed, Message, str, int]] = []
        back: list[tuple[int, int, datetime | None]] = []
        unfit: list[Claimed] = []
        for row in group:
            try:
                message, notice_id = self._render(texts, row)
            except (SealingError, ValueError, TypeError, AttributeError, KeyError):  # whatever it holds instead
                unfit.append(row)
                continue
            receiver = self.receiver_of(message.recipient)
            wait_s, scope = self.governor.refusal(campaign_id, receiver)
            if _is_long(wait_s, scope):
                back.append((row.id, row.fence, self._now() + timedelta(seconds=wait_s)))
            else:
                ready.append((row, message, receiver, notice_id))
        async with self.database.hot() as connection:
            if unfit:
                await store.quarantine(connection, [(row.id, row.fence) for row in unfit], "unreadable")
            going = await store.intend(
                connection,
                [(row.id, row.fence, notice_id) for row, _, _, notice_id in ready],
                lease_id=lease,
                epoch=texts.epoch,
                channel=self.provider.channel,
                provider=self.provider.name,
                lease=timedelta(seconds=self.engine.lease_s),
            )
            back += [(row.id, row.fence, None) for row, _, _, _ in ready if row.id not in going]
            if back:
                await store.release(connection, back)
        return [(_marked(row), message, receiver) for row, message, receiver, _ in ready if row.id in going]

    def _render(self, texts: CampaignTexts, row: Claimed) -> tuple[Message, int]:
        """The message of one row. Raises KeyError if the campaign has no text in its language."""
        notice_id, frozen = texts.of(row.language, row.variant)
        name = ""
        if row.identity_sealed is not None:
            identity = orjson.loads(texts.data_key.open(row.identity_sealed, b"patient.identity"))
            name = f"{identity.get('first_name') or ''} {identity.get('last_name') or ''}".strip()
        return (
            Message(
                reference=self.reference(texts.data_key, row.id),
                recipient=texts.data_key.open(row.value_sealed, b"contact.value").decode(),
                content=frozen,
                name=name,
                language=row.language,
                sender_name=texts.sender_name,
                reply_to=texts.reply_to,
            ),
            notice_id,
        )

    async def _permitted(self, job: Job) -> bool:
        """Whether the call may start now; if not, its row is given back."""
        now = asyncio.get_running_loop().time
        while now() < job.start_until and self._may(job.campaign_id, job.texts):
            wait_s, scope = await self.governor.permit(job.campaign_id, job.receiver)
            if not wait_s:
                return True
            if _is_long(wait_s, scope):
                self._write(job, _not_sent(job.row, self._now() + timedelta(seconds=wait_s)))
                return False
            await asyncio.sleep(wait_s)
        self._write(job, _not_sent(job.row, self._now()))
        return False

    def _closed(self, job: Job, outcome: Outcome) -> Result:
        """How the attempt ended and what becomes of the row."""
        row, now = job.row, self._now()
        raw = outcome.raw.encode("utf-8", "replace")
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
            job.texts.data_key.seal(raw, b"attempt.raw") if raw else None,
        )

    async def _campaign(self, campaign_id: int, epoch: int) -> CampaignTexts:
        """Key and texts of a campaign, checked against the approved hash once per epoch."""
        cached = self._texts.get(campaign_id)
        if cached is not None and cached.epoch == epoch:
            return cached
        async with self.database.begin() as connection:
            texts = await load_texts(
                connection, self.master, campaign_id, epoch, self.provider.channel, self.default_language
            )
        if len(self._texts) >= _CACHED_CAMPAIGNS:
            self._texts.pop(next(iter(self._texts)))
        self._texts[campaign_id] = texts
        return texts


def _is_long(wait_s: float, scope: str) -> bool:
    """Whether a row that has to wait is given back: others need not wait for a limit that is not theirs."""
    return wait_s > _PATIENCE_S or (wait_s > 0 and not scope.startswith(_EVERYBODY))


def _marked(row: Claimed) -> Claimed:
    """The row as the intent left it."""
    return row._replace(fence=row.fence + 1)


def _not_sent(row: Claimed, due_at: datetime) -> Result:
    """A row that was marked but whose call never started: due again, nothing counted."""
    return Result(row.id, row.fence, Delivery.PENDING, due_at, 1, Kind.REFUSED, "not_sent", None, None)


_CAMPAIGN = text(
    """
    SELECT c.id, c.data_key, c.notice_hash, d.practice, d.name, d.email
    FROM campaign c JOIN doctor d ON d.id = c.doctor_id WHERE c.id = :campaign_id
    """
)

_NOTICES = text(
    f"""
    SELECT {", ".join(Stored._fields)} FROM notice
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
    rows = await connection.execute(_NOTICES, {"campaign_id": campaign_id})
    texts = notices.approved(campaign_id, (Stored(*row) for row in rows), campaign.notice_hash)
    if not campaign.email.isascii() or not (campaign.email + campaign.practice + campaign.name).isprintable():
        raise NotifierError("The doctor's name, practice or email cannot stand in an email's headers.")
    return CampaignTexts(
        epoch=epoch,
        data_key=master.open_data_key(campaign.data_key, campaign_id),
        sender_name=notices.sender_name(campaign.name, campaign.practice),
        reply_to=campaign.email,
        frozen={
            (language, variant): (row.id, Frozen(row.subject, row.text, row.html))
            for (of_channel, language, variant), row in texts.items()
            if of_channel == channel
        },
        default_language=default_language,
    )
