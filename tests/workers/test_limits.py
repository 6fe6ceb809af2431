"""One limit for all workers, exact over any window; a breaker that opens on the provider's fault alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import redis

from notifier.providers.base import Blame, Kind, Outcome
from workers.limits import BURST_S, Breaker, RedisGovernor

GOOD = Outcome(Kind.ACCEPTED, "accepted")
LOST = Outcome(Kind.UNKNOWN, "no_answer")


def governor(url: str, rate: float, **changes: object) -> RedisGovernor:
    return RedisGovernor(url, "test", rate, **({"share": 1.0, "breaker": Breaker()} | changes))


def test_many_workers_together_never_exceed_the_limit(redis_url: str):
    """Asked as fast as they can for a while, they get what the rate allows in that while and the burst."""
    rate = 200.0

    async def go() -> tuple[int, float]:
        workers = [governor(redis_url, rate) for _ in range(4)]
        loop = asyncio.get_running_loop()
        client = redis.Redis.from_url(redis_url)
        before = client.time()
        until = loop.time() + 1

        async def take(one: RedisGovernor) -> int:
            granted = 0
            while loop.time() < until:
                number, wait = await one.reserve(7)
                granted += number
                if not number:
                    assert wait > 0
                    await asyncio.sleep(min(wait, 0.05))
            return granted

        total = sum(await asyncio.gather(*(take(one) for one in workers)))
        after = client.time()
        client.close()
        for one in workers:
            await one.close()
        return total, (after[0] - before[0]) + (after[1] - before[1]) / 1e6

    total, seconds = asyncio.run(go())
    assert total <= rate * (seconds + BURST_S) + 1
    assert total >= rate * 0.5, "and they are not starved"


def test_without_redis_each_process_keeps_to_its_share(valkey):
    now = [0.0]

    async def go() -> int:
        one = governor("redis://127.0.0.1:1/0", 100.0, share=0.1, clock=lambda: now[0])
        granted = 0
        for _ in range(100):
            granted += (await one.reserve(50))[0]
            now[0] += 0.01
        await one.close()
        return granted

    granted = asyncio.run(go())
    assert 8 <= granted <= 10 * (1 + BURST_S) + 1


def test_a_breaker_opens_when_half_of_the_calls_end_through_the_providers_fault():
    breaker = Breaker(window=10, least=10, first_s=5)
    assert [breaker.note(LOST if number % 2 else GOOD) for number in range(9)] == [None] * 9
    assert breaker.note(LOST) == timedelta(seconds=5)


def test_a_breaker_waits_longer_each_time_and_heals():
    breaker = Breaker(window=4, least=4, first_s=5, longest_s=12)
    waits = [wait for _ in range(12) if (wait := breaker.note(LOST))]
    assert waits == [timedelta(seconds=seconds) for seconds in (5, 10, 12)]
    for _ in range(4):
        breaker.note(GOOD)
    assert [breaker.note(LOST) for _ in range(2)] == [None, timedelta(seconds=5)]


def test_a_relay_that_refuses_our_sender_is_left_alone_for_a_while():
    breaker = Breaker(window=10, least=4)
    refused = Outcome(Kind.REFUSED, "smtp_550_5.7.1", Blame.OURS)
    assert [breaker.note(refused) for _ in range(4)][-1] == timedelta(seconds=5)


def test_refusals_of_persons_and_throttling_do_not_open_it():
    breaker = Breaker(window=10, least=4)
    for outcome in (
        Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON),
        Outcome(Kind.REFUSED, "smtp_451", Blame.LATER),
        Outcome(Kind.REFUSED, "http_429", Blame.THROTTLED),
    ):
        assert [breaker.note(outcome) for _ in range(10)] == [None] * 10
