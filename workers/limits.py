"""What one process may start now: permits taken in small blocks and handed out from memory, and breakers.

The limits themselves are kept in `workers/books.py`, the breakers in `workers/breaker.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from random import random

from notifier.providers.base import Outcome
from notifier.store import AsyncDatabase
from workers.books import LOOK_S, REMEMBERED, Answer, Ask, Books, Call, Limit, Server
from workers.breaker import Breaker, Rules, receiver_scope

#: places in line given out by one call of the script, at most
_PLACES = 64
#: limits asked for in one call of the script, at most
_BATCH = 50
#: those who wait for a receiver or a campaign come back within this: a line may dissolve (cancelled, failed)
_LINE_S = 1800.0
#: … and for one that is being tried out, because it may be well in some seconds
_TRIAL_LINE_S = 60.0

#: what `permit` says when a call may start
START = (0.0, "")

#: when the call that this task makes got its permit
_started_at: ContextVar[float | None] = ContextVar("started_at", default=None)


@dataclass(slots=True, eq=False)
class Stock:
    """What a process holds of one limit, and what it knows of it. Times are seconds of the process's clock."""

    limit: Limit
    left: int = 0
    until: float = -math.inf
    used_at: float = -math.inf
    #: nobody gets any before
    closed_until: float = -math.inf
    _granted: int = 0
    _slot: int = 0
    _shared: bool = True
    _size: int = 8
    #: calls that wait for an answer
    waiting: int = 0
    _room: int = 0
    seen_at: float = -math.inf
    _line_at: float = 0.0
    _places: int = 0
    _step_s: float = 0.0

    def has(self, now: float) -> bool:
        return self.left > 0 and now < self.until

    def refuses(self, now: float) -> bool:
        """Whether the answer is known to be no, and how long to wait as well."""
        return now < self.closed_until and (not self.limit.line_s or self._places > 0)

    def refusal(self, now: float) -> tuple[float, str]:
        """For how long: with a line, until the next place in it."""
        if not self.limit.line_s:
            return self.closed_until - now, self.limit.scope
        place = max(self._line_at, self.closed_until)
        self._places -= 1
        self._line_at += self._step_s
        return place - now, self.limit.scope

    def ask(self, now: float, *, look: bool) -> Ask:
        """Asks for a block, or only for a look; what is left of the last one is given back."""
        used, unused = self._granted - self.left, self.left
        if self._granted:
            self._size = min(self._size * 2, self.limit.block) if not unused else max(used, 1)
        slot = self._slot if self._shared else 0
        self.left = self._granted = self._slot = 0
        wanted = 0 if look else min(max(self._size, self.waiting), self.limit.block)
        places = self._most_places if wanted and self.limit.line_s else 0
        if not slot:
            return Ask(self.limit, wanted, places)
        ago = math.floor((now - self.used_at) * 1e6) if used else 0
        return Ask(self.limit, wanted, places, slot, used, unused, ago)

    @property
    def _most_places(self) -> int:
        return min(max(math.floor(self.limit.per_s), 1), _PLACES)

    def take_in(self, answer: Answer, share: float, asked_at: float, now: float) -> None:
        """The block is good from when it was asked for: the answer may have taken long.

        `share` is 1 for an answer of the shared book.
        """
        self.left = self._granted = answer.granted
        self._slot, self._shared = answer.slot, share == 1
        self.until = asked_at + self.limit.valid_s
        self.closed_until = now + answer.wait / 1e6 if answer.wait else -math.inf
        self._room, self.seen_at = answer.room, now
        if answer.line >= 0:
            self._line_at, self._places = now + answer.line / 1e6, self._most_places
            self._step_s = 1 / self.limit.per_s / share

    def room(self, now: float) -> int:
        """About how many calls may start: now, or within a second where calls wait for it in their places."""
        held = self.left if self.has(now) else 0
        if self.limit.line_s:
            return held + (0 if now < self.closed_until else self._room)
        if self.closed_until - now > 1:
            return held
        return held + self._room + (math.ceil(self.limit.per_s) if self._shared else 0)


@dataclass(frozen=True, slots=True)
class Rates:
    """Calls per second over all processes; None or 0: no limit."""

    provider: float | None = None
    sender: float | None = None
    #: the mailbox or name the sender's limit is for
    sender_name: str = ""
    campaign: float | None = None
    #: by group of receivers
    receivers: dict[str, float] = field(default_factory=dict)


class Limits:
    """Rate limits and breakers of one provider account in one process: see `notifier.sending.Governor`."""

    def __init__(
        self,
        redis_url: str,
        provider: str,
        rates: Rates,
        *,
        share: float,
        rules: Rules,
        database: AsyncDatabase | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random,
        call: Call | None = None,
    ) -> None:
        """`share` is the part of each limit this process may use while Redis is away.

        `clock` never goes back and runs in seconds; `call` stands in for Redis in tests.
        """
        self.server = Server(redis_url, f"notifier:limit:{{{provider}}}:")
        self._books = Books(call or self.server.call, share, clock)
        self._rates = rates
        self._scope = f"provider:{provider}"
        self._clock = clock
        self._jitter = jitter
        self.breaker = Breaker(provider, rules, clock, self._forget_sets)
        self._database = database
        self._stocks: dict[str, Stock] = {}
        self._sets: dict[tuple[int, str], tuple[Stock, ...]] = {}
        self._lacking: dict[Stock, None] = {}
        self._turn = asyncio.Lock()

    async def room(self, campaign_id: int, wanted: int) -> tuple[int, float, str]:
        """A look, nothing is taken: about how many calls may start, within a second where they can wait for it.

        If none: the seconds until one may, and the scope that says so.
        """
        now = self._clock()
        stopped = self._stopped("", now)
        if stopped:
            return 0, *stopped
        stocks = self._set(campaign_id, "")
        stale = [stock for stock in stocks if not stock.has(now) and now >= stock.seen_at + LOOK_S]
        if stale:
            await self._refill(stale, look=True)
            now = self._clock()
        rooms = [stock.room(now) for stock in stocks]
        room = min([wanted, *rooms])
        if room > 0 or not stocks:
            return room, 0.0, ""
        scarce = stocks[rooms.index(room)]
        return 0, max(scarce.closed_until - now, scarce.limit.valid_s / 10), scarce.limit.scope

    async def permit(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        """Takes one permit of every limit that holds for a call which starts at once: `START`.

        Else takes none, and returns the seconds to wait and the scope that says so.
        """
        lacking: list[Stock] = []
        for _ in range(3):
            now = self._clock()
            if self.breaker.conditions:
                stopped = self._stopped(receiver, now)
                if stopped:
                    return stopped
            stocks = self._set(campaign_id, receiver)
            lacking = [stock for stock in stocks if not stock.has(now)]
            if not lacking:
                for stock in stocks:
                    stock.left -= 1
                    stock.used_at = now
                _started_at.set(now)
                return START
            for stock in lacking:
                if stock.refuses(now):
                    return stock.refusal(now)
            await self._refill(lacking)
        # Answers took longer than they are good for, or others took it all.
        return lacking[0].limit.valid_s, lacking[0].limit.scope

    def refusal(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        """What `permit` would say, as far as that is known without asking; takes nothing but a place in line.

        For callers who have something costly to do before `permit`.
        """
        now = self._clock()
        stopped = self._stopped(receiver, now)
        if stopped:
            return stopped
        for stock in self._set(campaign_id, receiver):
            if not stock.has(now) and stock.refuses(now):
                return stock.refusal(now)
        return START

    def note(self, outcome: Outcome, receiver: str) -> None:
        """Learns how a call ended. Called in the task that got the permit, it knows when the call started."""
        self.breaker.note(outcome, receiver, self._clock(), _started_at.get())

    async def run(self) -> None:
        """For ever: shares the breakers' states, and looks whether Redis is back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            if self._database is not None:
                tasks.create_task(self.breaker.run(self._database))

    async def close(self) -> None:
        await self.server.close()

    async def _look(self) -> None:
        # A server without a book waits before it grants anything: let it do so before there is work.
        await self._refill(list(self._set(0, "")), look=True)
        while True:
            await asyncio.sleep(LOOK_S)
            await self._books.look()

    def _stopped(self, receiver: str, now: float) -> tuple[float, str] | None:
        """Seconds and scope of an open breaker."""
        stop = self.breaker.stop(receiver, now)
        if stop is None:
            return None
        wait_s = stop.until - now
        # All who wait for a receiver at the same instant would come at the same instant.
        return (wait_s if stop.scope == self._scope else wait_s * (1 + self._jitter() / 4)), stop.scope

    def _set(self, campaign_id: int, receiver: str) -> tuple[Stock, ...]:
        """What a call needs a permit of."""
        key = (campaign_id if self._rates.campaign else 0, receiver)
        found = self._sets.get(key)
        if found is None:
            if len(self._stocks) >= REMEMBERED or len(self._sets) >= REMEMBERED:
                self._forget_unused()
            found = self._sets[key] = tuple(self._stock(limit) for limit in self._limits(*key))
        return found

    def _limits(self, campaign_id: int, receiver: str) -> Iterable[Limit]:
        rates = self._rates
        if rates.provider:
            yield Limit.of(self._scope, rates.provider)
        if rates.sender:
            yield Limit.of(f"sender:{rates.sender_name}", rates.sender)
        if rates.campaign and campaign_id:
            yield Limit.of(f"campaign:{campaign_id}", rates.campaign, _LINE_S)
        own = rates.receivers.get(receiver)
        if own:
            yield Limit.of(receiver_scope(receiver), own, _LINE_S)
        yield from self._trials(self._scope, rates.provider, 0.0)
        yield from self._trials(receiver_scope(receiver), own or rates.provider, _TRIAL_LINE_S)

    def _trials(self, scope: str, rate: float | None, line_s: float) -> Iterable[Limit]:
        """What a breaker lets through while it probes or heals."""
        per_s = self.breaker.rate(scope, rate)
        if per_s is not None:
            state = self.breaker.conditions[scope].state
            # Each level counts for itself: its key says how fast it is.
            yield Limit.of(scope, per_s, line_s, f"{state}-{per_s:g}")

    def _stock(self, limit: Limit) -> Stock:
        return self._stocks.setdefault(limit.key, Stock(limit))

    def _forget_sets(self) -> None:
        self._sets.clear()

    def _forget_unused(self) -> None:
        self._sets.clear()
        now = self._clock()
        self._stocks = {
            key: stock
            for key, stock in self._stocks.items()
            if stock.waiting or now - stock.seen_at < max(60, 2 * stock.limit.window_s)
        }

    async def _refill(self, lacking: Sequence[Stock], *, look: bool = False) -> None:
        """Asks for blocks of these limits; whoever has the turn asks for all who wait as well."""
        if not look:
            for stock in lacking:
                stock.waiting += 1
                self._lacking[stock] = None
        try:
            async with self._turn:
                if look:
                    await self._ask([stock for stock in lacking if not stock.has(self._clock())], look=True)
                elif any(stock in self._lacking for stock in lacking):
                    batch = dict.fromkeys([*lacking, *islice(self._lacking, _BATCH)])
                    for stock in batch:
                        self._lacking.pop(stock, None)
                    await self._ask([stock for stock in batch if not stock.has(self._clock())], look=False)
        finally:
            if not look:
                for stock in lacking:
                    stock.waiting -= 1

    async def _ask(self, stocks: Sequence[Stock], *, look: bool) -> None:
        if not stocks:
            return
        asked_at = self._clock()
        asks = [stock.ask(asked_at, look=look) for stock in stocks]
        share, answers = await self._books.ask(asks)
        now = self._clock()
        for stock, answer in zip(stocks, answers, strict=True):
            stock.take_in(answer, share, asked_at, now)
