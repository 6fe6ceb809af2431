"""The book of a rate limit: at most N calls start in any window of W seconds, exactly.

It is kept in Redis by one script on the server's clock. Who is granted permits may use them for
`Limit.valid_s`; they count as if they started at the end of that time, until the caller says when it was done
with them. So no window ever holds more than N starts, whatever was late or lost.

Redis away: an own book per process, for a fixed share of each limit; never unlimited. Each change between
the two waits until what others may have started has left the window. Three things tell the script that
its book may have gaps: it is not in the server's cache (a new or restarted server, or a replica), its mark is
gone (emptied), or a process says that it went by its own book.

Not exact: for a process that is cut off alone, its share comes on top of what the others take from the shared
book; and a server's clock that is set forward loses what was started in the time it skips.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import redis
import redis.asyncio
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

log = structlog.get_logger()

#: a permit is good for so long, or for a tenth of the window if that is less
VALID_S = 0.1
#: a window's calls are counted in so many slots
SLOTS = 100
#: processes that went by their own books all hear within this that Redis is back: a look every `LOOK_S`, and the
#: client's time-outs for one that hangs
GRACE_S = 2.5
#: … and together with the shortest window there is, so long is enough where the mark is gone: nobody who uses the
#: server goes by an own book for longer than `LOOK_S` without asking it
NEW_S = 0.8
LOOK_S = 0.25
TIMEOUT_S = 1.0
#: limits a process remembers before it forgets those long unused
REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `calls` in any window of `window_s` seconds."""

    #: whom it is about, as people read it: "provider:smtp", "receiver:orange"
    scope: str
    calls: int
    window_s: float
    #: > 0: whoever is refused gets a place in line of its own, at most so many seconds away
    line_s: float = 0.0
    #: tells limits of one scope apart
    name: str = ""

    @classmethod
    def of(cls, scope: str, per_s: float, line_s: float = 0.0, name: str = "") -> Limit:
        """`per_s` calls a second: whole ones in about one second, or one in the time that it takes."""
        calls = max(math.floor(per_s), 1)
        return cls(scope, calls, calls / per_s, line_s, name)

    def part(self, share: float) -> Limit:
        """A fixed share of it. Where that is less than one call a window: one call in a longer one.

        Then the rates still add up to the limit, but one window may hold a call of each process.
        """
        calls = math.floor(self.calls * share)
        if calls:
            return replace(self, calls=calls)
        return replace(self, calls=1, window_s=self.window_s / (self.calls * share))

    @property
    def key(self) -> str:
        return f"{self.scope}/{self.name}" if self.name else self.scope

    @property
    def per_s(self) -> float:
        return self.calls / self.window_s

    @property
    def valid_s(self) -> float:
        return min(VALID_S, self.window_s / 10)

    @property
    def burst_s(self) -> float:
        """How much of it may start at once. Rows of a line come back in groups of a quarter of a second."""
        return self.window_s / 2 if self.line_s else self.valid_s

    @property
    def block(self) -> int:
        """Most permits taken at once: others want some too."""
        return max(math.floor(self.per_s * self.valid_s / 2), 1)

    @property
    def quiet_s(self) -> float:
        """After this, nothing that was granted before can be in a window."""
        return self.window_s + self.valid_s


class Ask(NamedTuple):
    """What a process wants of one limit, and what became of its last block."""

    limit: Limit
    wanted: int = 0
    #: places in line, if there is no permit
    places: int = 0
    #: the slot of its last block, 0 for none, and how many permits of it were used and not used
    slot: int = 0
    used: int = 0
    unused: int = 0
    #: microseconds since the last one was used
    ago: int = 0


class Answer(NamedTuple):
    """Times are microseconds from now."""

    granted: int
    #: until there are more than those granted; 0 if there are
    wait: int
    #: slot of the block granted
    slot: int
    #: permits left for others now
    room: int
    #: where the places in line begin; -1: none given
    line: int


class Book:
    """The script's twin for one process and one limit: same answers at the same times (a test compares them).

    Times are microseconds of any clock that never goes back.
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._counts: dict[int, int] = {}
        self._next = 0
        self._line = 0

    def answer(self, ask: Ask, now: int, quiet_until: int) -> Answer:
        """Grants what the limit has room for; nothing before `quiet_until`."""
        limit = self.limit
        window, valid = _us(limit.window_s), _us(limit.valid_s)
        width, step = math.ceil(window / SLOTS), window / limit.calls
        # A slot holds calls that started at its end at the latest.
        counts = {s: n for s, n in self._counts.items() if now - window <= s * width <= now + valid + width}
        self._settle(counts, ask, now, width, step)
        taken, begin = sum(counts.values()), max(self._next, now)
        by_pace = math.floor((now + _us(limit.burst_s) - begin) / step) + 1
        room = 0 if now < quiet_until else max(min(limit.calls - taken, by_pace), 0)
        granted = min(room, ask.wanted)
        slot = wait = 0
        line = -1
        if granted:
            slot = math.ceil((now + valid) / width)
            counts[slot] = counts.get(slot, 0) + granted
            taken += granted
            begin = self._next = math.ceil(begin + granted * step)
        if granted == room:
            portion = max(min(ask.wanted, math.floor(limit.calls * valid / window / 2)), 1)
            free_at = begin + (portion - 1) * step - _us(limit.burst_s)
            for each in sorted(counts):
                if taken <= limit.calls - portion:
                    break
                taken -= counts[each]
                # What is still out will be settled by then, about as it is now.
                free_at = max(free_at, min(each * width, now) + window + 1)
            wait = math.ceil(max(free_at, quiet_until, now + 1)) - now
        if not room and ask.places:
            begins = max(self._line, now + wait)
            if begins > now + _us(limit.line_s):
                begins = now + wait
            self._line = math.ceil(begins + ask.places * step)
            line = begins - now
        self._counts = counts
        return Answer(granted, wait, slot, room - granted, line)

    def _settle(self, counts: dict[int, int], ask: Ask, now: int, width: int, step: float) -> None:
        """A block that is done with started by its last use, not by the end of its time; the rest comes back."""
        if counts.get(ask.slot, 0) >= ask.used + ask.unused > 0:
            counts[ask.slot] -= ask.used + ask.unused
            started = min(ask.slot, math.ceil((now - ask.ago) / width))
            counts[started] = counts.get(started, 0) + ask.used
            self._next = math.ceil(self._next - ask.unused * step)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


#: Kept apart so that a test can give the time.
CLOCK = "local t = redis.call('TIME'); local now = t[1] * 1000000 + t[2]"

#: KEYS: the mark, then one key for each limit (one hash tag: they live on one node of a cluster). ARGV: 1 if the
#: script was not in the server's cache, 1 if the caller went by its own book, both times of grace; then for each
#: limit calls, window, valid, burst, line, wanted, places, slot, used, unused, ago. Times are microseconds.
#: Returns {for how long to go by the own book}, or {0, five numbers for each limit: see `Answer`}.
SCRIPT = (
    """
local function text(number) return string.format('%.0f', number) end
local grace, new = tonumber(ARGV[3]), tonumber(ARGV[4])
local mark = redis.call('HMGET', KEYS[1], 'from', 'last')
local from, last = tonumber(mark[1] or ''), tonumber(mark[2] or '')
-- The clock went back: what is written cannot be compared with what comes.
local jumped = last and last > now + 1000000
if not from and ARGV[2] == '0' then
    from = now + new
elseif not from or ARGV[1] == '1' or jumped or (ARGV[2] == '1' and from <= now) then
    from = now + grace
end
redis.call('HSET', KEYS[1], 'from', text(from), 'last', text(now))
redis.call('PEXPIRE', KEYS[1], 604800000)
if from > now then return {math.ceil(from - now)} end

local reply = {0}
for i = 2, #KEYS do
    local a = {}
    for j = 1, 11 do a[j] = tonumber(ARGV[4 + (i - 2) * 11 + j]) end
    local calls, window, valid, burst, horizon, wanted, places = a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    local slot, used, unused, ago = a[8], a[9], a[10], a[11]
    local width, step = math.ceil(window / """
    + str(SLOTS)
    + """), window / calls
    local counts, gone, changed, due, line, taken = {}, {}, {}, 0, 0, 0
    local state = redis.call('HGETALL', KEYS[i])
    for j = 1, #state, 2 do
        local number = tonumber(state[j + 1])
        if state[j] == 'next' then
            due = number
        elseif state[j] == 'line' then
            line = number
        else
            local each = tonumber(state[j])
            if each * width < now - window or each * width > now + valid + width then
                gone[#gone + 1] = state[j]
            else
                counts[each] = number
                taken = taken + number
            end
        end
    end
    -- from another clock
    if due > now + burst + window then due = now end

    local settled = used + unused
    if settled > 0 and (counts[slot] or 0) >= settled then
        counts[slot] = counts[slot] - settled
        changed[slot] = true
        local started = math.min(slot, math.ceil((now - ago) / width))
        counts[started] = (counts[started] or 0) + used
        changed[started] = true
        taken = taken - unused
        due = math.ceil(due - unused * step)
    end

    local begin = math.max(due, now)
    local room = math.min(calls - taken, math.floor((now + burst - begin) / step) + 1)
    local quiet = from + window + valid
    if now < quiet or room < 0 then room = 0 end
    local granted = math.min(room, wanted)
    local block, wait, place = 0, 0, -1
    if granted > 0 then
        block = math.ceil((now + valid) / width)
        counts[block] = (counts[block] or 0) + granted
        changed[block] = true
        taken = taken + granted
        due = math.ceil(begin + granted * step)
        begin = due
    end
    if granted == room then
        local portion = math.max(math.min(wanted, math.floor(calls * valid / window / 2)), 1)
        local free = begin + (portion - 1) * step - burst
        local ends = {}
        for each in pairs(counts) do ends[#ends + 1] = each end
        table.sort(ends)
        for _, each in ipairs(ends) do
            if taken <= calls - portion then break end
            taken = taken - counts[each]
            free = math.max(free, math.min(each * width, now) + window + 1)
        end
        wait = math.ceil(math.max(free, quiet, now + 1)) - now
    end
    if room == 0 and places > 0 then
        local begins = math.max(line, now + wait)
        if begins > now + horizon then begins = now + wait end
        line = math.ceil(begins + places * step)
        place = begins - now
    end

    local fields = {'next', text(due), 'line', text(line)}
    for each in pairs(changed) do
        if counts[each] > 0 then
            fields[#fields + 1] = text(each)
            fields[#fields + 1] = text(counts[each])
        else
            gone[#gone + 1] = text(each)
        end
    end
    if #gone > 0 then redis.call('HDEL', KEYS[i], unpack(gone)) end
    if granted > 0 or settled > 0 or place >= 0 then
        redis.call('HSET', KEYS[i], unpack(fields))
        redis.call('PEXPIRE', KEYS[i], math.ceil(math.max(window + valid, line - now) / 1000) + 60000)
    end
    for _, number in ipairs({granted, wait, block, room - granted, place}) do reply[#reply + 1] = number end
end
return reply
"""
)


class Lost(Exception):
    """Redis did not answer, or not with what the script returns."""


#: Calls the script with (own book was used, asks); returns what it returned. Raises Lost.
Call = Callable[[bool, Sequence[Ask]], Awaitable[list[int]]]


def arguments(fresh: bool, own_used: bool, asks: Sequence[Ask]) -> list[int]:
    """The script's ARGV."""
    numbers = [int(fresh), int(own_used), _us(GRACE_S), _us(NEW_S)]
    for ask in asks:
        limit = ask.limit
        numbers += [limit.calls, _us(limit.window_s), _us(limit.valid_s), _us(limit.burst_s), _us(limit.line_s)]
        numbers += ask[1:]
    return numbers


class Server:
    """The script on the real server."""

    def __init__(self, url: str, prefix: str) -> None:
        """`prefix` begins each key; what it puts in braces decides the node of a cluster."""
        # No retries: a script that was called twice would grant twice.
        self._redis = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
        )
        self._prefix = prefix
        self._source = f"{CLOCK}\n{SCRIPT}"
        self._sha = self._redis.register_script(self._source).sha
        #: calls of the script so far
        self.calls = 0

    async def call(self, own_used: bool, asks: Sequence[Ask]) -> list[int]:
        """See `Call`."""
        self.calls += 1
        keys = [f"{self._prefix}mark", *(f"{self._prefix}{ask.limit.key}" for ask in asks)]
        try:
            try:
                known = arguments(False, own_used, asks)
                reply = await self._redis.evalsha(self._sha, len(keys), *keys, *known)
            except NoScriptError:
                unknown = arguments(True, own_used, asks)
                reply = await self._redis.eval(self._source, len(keys), *keys, *unknown)
        except (redis.RedisError, OSError) as error:
            raise Lost(type(error).__name__) from error
        return [int(number) for number in reply]

    async def close(self) -> None:
        await self._redis.aclose()


class Books:
    """Answers from the shared book, or from own ones for a fixed share while that is away."""

    def __init__(self, call: Call, share: float, clock: Callable[[], float]) -> None:
        self._call = call
        self._share = share
        self._clock = clock
        #: Redis does not answer: only `look` asks it
        self._away = False
        #: whether this process goes by its own books, since when, and until when without asking again
        self._is_alone = False
        self._alone_since = -math.inf
        self._alone_until = -math.inf
        #: what it granted itself while the shared book knew nothing of it
        self._own_used = False
        self._own: dict[str, Book] = {}

    async def ask(self, asks: Sequence[Ask]) -> tuple[float, list[Answer]]:
        """The share of the limits that was granted from, 1 for the shared book, and an answer to each ask."""
        if not self._away and self._clock() >= self._alone_until:
            try:
                answers = await self._shared(asks)
            except Lost as error:
                self._go_alone()
                self._away = True
                log.warning("limits_alone", error=str(error), share=self._share)
            else:
                if answers is not None:
                    return 1.0, answers
        return self._share, [self._alone(ask) for ask in asks]

    async def look(self) -> None:
        """Whether Redis is back; the caller asks every `LOOK_S`."""
        if not self._away:
            return
        try:
            await self._shared(())
        except Lost:
            return
        # Permits that were granted while the answer was on its way are told the next time.
        if not self._own_used:
            self._away = False
            log.info("limits_shared_again")

    async def _shared(self, asks: Sequence[Ask]) -> list[Answer] | None:
        """The shared book's answers; None if it said to go by the own one. Raises Lost."""
        asked_at = self._clock()
        told, self._own_used = self._own_used, False
        try:
            reply = await self._call(told, asks)
        except Lost:
            self._own_used = self._own_used or told
            raise
        if reply[0]:
            self._go_alone()
            # Sooner by the time the answer took, never later.
            self._alone_until = asked_at + min(reply[0] / 1e6, LOOK_S)
            return None
        if not self._away:
            self._is_alone = False
        return [Answer(*reply[at : at + 5]) for at in range(1, 1 + 5 * len(asks), 5)]

    def _go_alone(self) -> None:
        if not self._is_alone:
            self._is_alone, self._alone_since = True, self._clock()

    def _alone(self, ask: Ask) -> Answer:
        book = self._own.get(ask.limit.key)
        if book is None:
            if len(self._own) >= REMEMBERED:
                self._own.clear()
                self._alone_since = self._clock()
            book = self._own[ask.limit.key] = Book(ask.limit.part(self._share))
        answer = book.answer(ask, _us(self._clock()), _us(self._alone_since + ask.limit.quiet_s))
        # Of what it was told to grant itself, the shared book knows.
        self._own_used = self._own_used or (self._away and answer.granted > 0)
        return answer
