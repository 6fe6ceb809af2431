"""The book of a limit: no window ever holds one call too many, whatever is late, lost, away or back."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifier.rehearsal.servers import Valkey
from workers.books import LOOK_S, NEW_S, SCRIPT, SLOTS, Answer, Ask, Book, Books, Limit, Lost, Server, arguments
from workers.breaker import Rules
from workers.limits import START, Limits, Rates, _started_at

#: the script with the time handed in as the last argument
TIMED = f"local now = tonumber(ARGV[#ARGV])\n{SCRIPT}"
_names = itertools.count()


@dataclass
class Wire:
    """The real script on the real server, at a time of ours, over a line that can be slow or cut."""

    client: redis.Redis
    now: float = 1_000_000.0
    latency_s: float = 0.0
    is_cut: bool = False
    knows_script: bool = True
    prefix: str = field(default_factory=lambda: f"{{test{next(_names)}}}:")

    async def call(self, own_used: bool, asks: Sequence[Ask]) -> list[int]:
        if self.is_cut:
            raise Lost("cut")
        fresh, self.knows_script = not self.knows_script, True
        keys = [self.prefix + "mark", *(self.prefix + ask.limit.key for ask in asks)]
        self.now += self.latency_s
        reply = self.client.eval(TIMED, len(keys), *keys, *arguments(fresh, own_used, asks), round(self.now * 1e6))
        self.now += self.latency_s
        return [int(number) for number in reply]

    def empty(self) -> None:
        for key in self.client.scan_iter(f"{self.prefix}*"):
            self.client.delete(key)

    def restart(self, *, forgets: bool) -> None:
        """As after a crash: the script is gone, and what was written last may be."""
        self.knows_script = False
        if forgets:
            for key in self.client.scan_iter(f"{self.prefix}*"):
                if not key.endswith(b"mark"):
                    self.client.delete(key)


@pytest.fixture
def client(redis_url: str):
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def process(wire: Wire, rate: float, share: float = 0.25) -> Limits:
    return Limits(
        "redis://127.0.0.1:1",
        "test",
        Rates(provider=rate),
        share=share,
        rules=Rules(),
        clock=lambda: wire.now,
        call=wire.call,
    )


def most_in_a_window(starts: list[float], window_s: float) -> int:
    most = first = 0
    for last, start in enumerate(starts):
        while starts[first] < start - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


# --- one limit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_s", "calls", "window_s"), [(200, 200, 1), (2.5, 2, 0.8), (1, 1, 1), (0.1, 1, 10), (1.5, 1, 2 / 3)]
)
def test_a_rate_is_whole_calls_in_about_a_second_or_one_in_its_time(per_s: float, calls: int, window_s: float):
    limit = Limit.of("provider:x", per_s)
    assert (limit.calls, limit.window_s) == (calls, pytest.approx(window_s))


@given(per_s=st.floats(0.01, 5000), processes=st.integers(1, 16))
def test_shares_of_a_limit_never_add_up_to_more(per_s: float, processes: int):
    limit = Limit.of("provider:x", per_s)
    part = limit.part(1 / processes)
    assert processes * part.per_s <= limit.per_s * (1 + 1e-9)
    assert part.window_s >= limit.window_s
    if part.calls > 1:
        assert processes * part.calls <= limit.calls


@pytest.mark.parametrize("per_s", [1.0, 2.5, 30.0, 200.0, 5000.0])
def test_whoever_asks_all_the_time_gets_the_whole_rate(per_s: float):
    limit, now, taken, ago, last = Limit.of("provider:x", per_s), 0, 0, 0, Answer(0, 0, 0, 0, -1)
    book = Book(limit)
    for _ in range(100_000):
        last = book.answer(Ask(limit, limit.block, 0, last.slot, last.granted, 0, ago), now, 0)
        taken += last.granted
        ago = max(last.wait, 1)
        now += ago
        if now > 20_000_000:
            break
    assert taken >= 0.97 * per_s * 20 - 1


STEPS = st.lists(
    st.tuples(
        st.floats(0, 0.3) | st.just(0.0),  # seconds before
        st.integers(0, 20),  # wanted
        st.floats(0, 1),  # part of the last block that was used
        st.booleans(),  # whether the last block is settled
        st.integers(0, 5),  # places in line
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(per_s=st.sampled_from([0.5, 1.0, 2.5, 7.0, 100.0, 999.0]), lines=st.booleans(), steps=STEPS)
def test_the_script_and_its_twin_give_the_same_answers(client, per_s: float, lines: bool, steps: list):
    limit = Limit.of("receiver:x", per_s, 3.0 if lines else 0.0)
    wire, book = Wire(client), Book(limit)
    quiet_until = round(wire.now * 1e6) + round(limit.window_s * 1e6) + round(limit.valid_s * 1e6)
    asyncio.run(wire.call(False, []))
    wire.now += NEW_S
    quiet_until += round(NEW_S * 1e6)
    last = Answer(0, 0, 0, 0, -1)
    for before_s, wanted, part, settles, places in steps:
        wire.now += before_s
        used = math.floor(last.granted * part)
        ask = Ask(limit, wanted, places)
        if settles and last.granted:
            ago = round(before_s * 1e6 * part)
            ask = ask._replace(slot=last.slot, used=used, unused=last.granted - used, ago=ago)
        reply = asyncio.run(wire.call(False, [ask]))
        last = book.answer(ask, round(wire.now * 1e6), quiet_until)
        assert reply == [0, *last]


# --- many processes ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    per_s=st.sampled_from([0.7, 2.5, 8.0, 40.0, 160.0]),
    pause_s=st.sampled_from([0.01, 0.05, 0.2]),
    most=st.sampled_from([1, 5, 40]),
    slow_s=st.sampled_from([0.0, 0.001, 0.03, 0.2]),
    seed=st.integers(0, 1000),
)
def test_no_window_ever_holds_one_call_too_many(
    client, per_s: float, pause_s: float, most: int, slow_s: float, seed: int
):
    """Processes that start now few calls, now many, over a line that is now fast and now slow."""
    random = Random(seed)

    async def go() -> list[float]:
        wire = Wire(client)
        await wire.call(False, [])
        wire.now += 3
        processes = [process(wire, per_s) for _ in range(4)]
        starts: list[float] = []
        for _ in range(120):
            wire.now += random.uniform(0, pause_s)
            wire.latency_s = random.choice([0.0, slow_s])
            one = random.choice(processes)
            for _ in range(random.randint(1, most)):
                if await one.permit(1, "") != START:
                    break
                starts.append(wire.now)
        return starts

    limit = Limit.of("provider:test", per_s)
    assert most_in_a_window(asyncio.run(go()), limit.window_s) <= limit.calls


TROUBLE = st.lists(
    st.tuples(st.sampled_from(["cut", "mend", "empty", "restart", "crash", "none", "none"]), st.floats(0.05, 2.5)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(per_s=st.sampled_from([8.0, 20.0]), trouble=TROUBLE, seed=st.integers(0, 1000))
def test_nor_when_redis_goes_away_and_comes_back(client, per_s: float, trouble: list, seed: int):
    """Processes start what they may, as soon as they may, through cuts, crashes and an emptied server."""
    random = Random(seed)

    async def go() -> list[float]:
        wire = Wire(client)
        processes = [process(wire, per_s) for _ in range(4)]
        starts: list[float] = []
        for kind, lasts_s in trouble:
            if kind == "empty":
                wire.empty()
            elif kind in ("restart", "crash"):
                wire.restart(forgets=kind == "crash")
            wire.is_cut = kind == "cut" or (wire.is_cut and kind == "none")
            until = wire.now + lasts_s
            while wire.now < until:
                wire.now += random.uniform(0, LOOK_S / 2)
                for one in random.sample(processes, random.randint(1, 4)):
                    while await one.permit(1, "") == START:
                        starts.append(wire.now)
                for one in processes:
                    await one._books.look()
        return starts

    limit = Limit.of("provider:test", per_s)
    assert most_in_a_window(asyncio.run(go()), limit.window_s) <= limit.calls


def test_without_redis_each_process_keeps_to_its_share_and_then_comes_back(client):
    async def go() -> tuple[int, int]:
        wire = Wire(client)
        one = process(wire, 100.0, share=0.1)

        async def started(seconds: float) -> int:
            count, until = 0, wire.now + seconds
            while wire.now < until:
                wire.now += 0.01
                count += await one.permit(1, "") == START
                await one._books.look()
            return count

        await started(3)
        wire.is_cut = True
        await started(2)  # what others may have started before leaves the window
        alone = await started(5)
        wire.is_cut = False
        await started(5)
        return alone, await started(5)

    alone, back = asyncio.run(go())
    assert 45 <= alone <= 60, "a tenth of 100 a second"
    assert back >= 450


# --- the server ----------------------------------------------------------------------------------------


def test_many_processes_at_once_on_the_real_clock(redis_url: str):
    """Fifty lanes of five processes, as fast as they can; what counts is when each permit was handed out."""
    rate = 500.0

    async def go() -> list[float]:
        processes = [Limits(redis_url, "test", Rates(provider=rate), share=1 / 8, rules=Rules()) for _ in range(5)]
        runs = [asyncio.create_task(one.run()) for one in processes]
        starts: list[float] = []

        async def lane(one: Limits) -> None:
            while len(starts) < 900:
                wait_s, _ = await one.permit(1, "")
                if wait_s:
                    await asyncio.sleep(wait_s)
                else:
                    started_at = _started_at.get()
                    assert started_at is not None
                    starts.append(started_at)

        await asyncio.gather(*(lane(one) for one in processes for _ in range(10)))
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        for one in processes:
            await one.close()
        return sorted(starts)

    assert most_in_a_window(asyncio.run(go()), 1.0) <= rate


def test_the_book_stays_small_and_is_forgotten(client):
    wire, limit = Wire(client), Limit.of("receiver:x", 500.0, 60.0)

    async def go() -> None:
        for _ in range(600):
            wire.now += 0.0071
            await wire.call(False, [Ask(limit, 4, 64)])

    asyncio.run(go())
    keys = list(client.scan_iter(f"{wire.prefix}*"))
    assert len(keys) == 2
    assert client.hlen(wire.prefix + limit.key) <= SLOTS * 1.1 + 5
    assert all(client.pttl(key) > 0 for key in keys)


def test_a_clock_that_goes_back_stops_nothing_for_long(client):
    wire, limit = Wire(client), Limit.of("provider:x", 10.0)

    async def granted() -> int:
        count = 0
        for _ in range(50):
            wire.now += 0.1
            reply = await wire.call(False, [Ask(limit, 1)])
            count += bool(not reply[0] and reply[1])
        return count

    async def go() -> int:
        await granted()
        wire.now -= 3600
        return await granted()

    assert asyncio.run(go()) > 5


def test_a_server_that_died_and_came_back_says_so_and_a_dead_one_is_lost(valkey: Valkey, redis_url: str):
    limit = Limit.of("provider:x", 10.0)

    async def go() -> None:
        server = Server(redis_url, "{test}:")
        assert (await server.call(False, [Ask(limit, 1)]))[0] > 0, "an emptied server: first everybody must know"
        valkey.kill()
        with pytest.raises(Lost):
            await server.call(False, [Ask(limit, 1)])
        valkey.start()
        reply = await server.call(False, [Ask(limit, 1)])
        assert reply[0] > 0, "own books until everybody knows"
        await server.close()

    asyncio.run(go())


def test_a_server_that_is_never_there_harms_nobody():
    async def go() -> None:
        now = [100.0]

        async def nothing(own_used: bool, asks: Sequence[Ask]) -> list[int]:
            raise Lost("refused")

        books, limit = Books(nothing, 0.5, lambda: now[0]), Limit.of("provider:x", 10.0)
        share, (answer,) = await books.ask([Ask(limit, 100)])
        assert (share, answer.granted) == (0.5, 0)
        now[0] += 2
        _, (answer,) = await books.ask([Ask(limit, 100)])
        assert 0 < answer.granted <= 5

    asyncio.run(go())
