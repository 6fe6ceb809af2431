"""Rate limits shared by all workers, and a breaker per process.

One script on the server's clock (GCRA, the generic cell rate algorithm): a limit of r per second lets a call
start every 1/r s, with a burst of a tenth of a second. Blocks are reserved so that one round trip serves many
calls. Redis away: a fixed share of the limit, never unlimited.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

import redis
import redis.asyncio
from redis.backoff import NoBackoff

from notifier.providers.base import Blame, Kind, Outcome

#: seconds of the limit that may start at once
BURST_S = 0.1

#: KEYS[1] the limit; ARGV: seconds between two calls, calls wanted, burst in seconds.
#: Returns how many may start now and, if none, the microseconds until one may.
_GCRA = """
local now = redis.call('TIME')
local t = now[1] * 1000000 + now[2]
local step = tonumber(ARGV[1]) * 1000000
local burst = tonumber(ARGV[3]) * 1000000
local next = tonumber(redis.call('GET', KEYS[1]) or '0')
if next < t then next = t end
local room = math.floor((t + burst - next) / step) + 1
if room < 1 then return {0, math.ceil(next - burst - t)} end
local granted = math.min(room, tonumber(ARGV[2]))
next = next + granted * step
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.ceil((next - t) / 1000) + 1000)
return {granted, 0}
"""


class Breaker:
    """Opens when half of the last calls ended through the provider's fault, for longer each time.

    A person's refusal is the provider at work; a time-out, a 5xx, no connection or a refusal of us is not.
    """

    def __init__(self, *, window: int = 40, least: int = 10, first_s: float = 5, longest_s: float = 300) -> None:
        self._ends: deque[bool] = deque(maxlen=window)
        self._least = least
        self._first_s = first_s
        self._longest_s = longest_s
        self._opened = 0

    def note(self, outcome: Outcome) -> timedelta | None:
        """Takes in how a call ended; returns for how long to stop, if now is the time."""
        persons = outcome.blame is Blame.PERSON
        good = outcome.kind is Kind.ACCEPTED or persons or outcome.code.startswith(("smtp_4", "http_429"))
        self._ends.append(good)
        if good:
            if len(self._ends) >= self._least and all(self._ends):
                self._opened = 0
            return None
        if len(self._ends) < self._least or sum(self._ends) * 2 > len(self._ends):
            return None
        self._ends.clear()
        wait = min(self._first_s * 2**self._opened, self._longest_s)
        self._opened += 1
        return timedelta(seconds=wait)


class RedisGovernor:
    """See `notifier.sending.Governor`: one provider account's rate, shared through Redis."""

    def __init__(
        self,
        url: str,
        name: str,
        rate_per_s: float,
        *,
        share: float,
        breaker: Breaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share` is the part of the rate this process may use while Redis is away."""
        self._redis = redis.asyncio.Redis.from_url(
            url, socket_timeout=1, socket_connect_timeout=1, retry=redis.asyncio.retry.Retry(NoBackoff(), 0)
        )
        self._script = self._redis.register_script(_GCRA)
        self._key = f"notifier:limit:{name}"
        self._rate = rate_per_s
        self._share = share
        self._breaker = breaker
        self._clock = clock
        self._local_next = 0.0
        self._skip_redis_until = 0.0

    async def reserve(self, wanted: int) -> tuple[int, float]:
        """How many of `wanted` calls may start now, else 0 and the seconds until one may."""
        if self._clock() >= self._skip_redis_until:
            try:
                granted, wait_us = await self._script(keys=[self._key], args=[1 / self._rate, wanted, BURST_S])
            except (redis.RedisError, OSError):
                self._skip_redis_until = self._clock() + 2
            else:
                return int(granted), int(wait_us) / 1e6
        return self._reserve_locally(wanted)

    def _reserve_locally(self, wanted: int) -> tuple[int, float]:
        step = 1 / (self._rate * self._share)
        now = self._clock()
        self._local_next = max(self._local_next, now)
        room = int((now + BURST_S - self._local_next) / step) + 1
        if room < 1:
            return 0, self._local_next - BURST_S - now
        granted = min(room, wanted)
        self._local_next += granted * step
        return granted, 0.0

    def note(self, outcome: Outcome) -> timedelta | None:
        return self._breaker.note(outcome)

    async def close(self) -> None:
        await self._redis.aclose()
