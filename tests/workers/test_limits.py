"""What a process may start: from memory where it can, fairly in line where it must wait, nothing while a breaker is open."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta

import pytest

from notifier.providers.base import Blame, Kind, Outcome
from workers.books import Ask, Book, Limit, Lost
from workers.breaker import Rules, State
from workers.limits import START, Limits, Rates

GOOD = Outcome(Kind.ACCEPTED, "accepted")
LOST = Outcome(Kind.UNKNOWN, "no_answer")
NO_JITTER = 0.0


class Shelf:
    """Shared books without a server, at a time of ours; counts how often it was asked."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.latency_s = 0.0
        self.is_gone = False
        self._books: dict[str, Book] = {}

    async def call(self, own_used: bool, asks: Sequence[Ask]) -> list[int]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_gone:
            raise Lost("gone")
        reply = [0]
        for ask in asks:
            book = self._books.setdefault(ask.limit.key, Book(ask.limit))
            reply += book.answer(ask, round(self.now * 1e6), 0)
        self.now += self.latency_s
        return reply

    def process(self, rates: Rates, share: float = 0.5, **rules: float) -> Limits:
        return Limits(
            "redis://127.0.0.1:1",
            "smtp",
            rates,
            share=share,
            rules=Rules(**rules),  # type: ignore[arg-type]  # floats and one int
            clock=lambda: self.now,
            jitter=lambda: NO_JITTER,
            call=self.call,
        )


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


async def started(one: Limits, calls: int, *, campaign: int = 1, receiver: str = "") -> int:
    return sum([await one.permit(campaign, receiver) == START for _ in range(calls)])


def test_permits_come_from_memory_a_block_at_a_time(shelf: Shelf):
    async def go() -> int:
        one = shelf.process(Rates(provider=10_000))
        return await started(one, 500)

    assert asyncio.run(go()) == 500
    assert shelf.asked <= 8


def test_without_a_limit_nobody_is_asked(shelf: Shelf):
    async def go() -> tuple[int, tuple[int, float, str]]:
        one = shelf.process(Rates())
        return await started(one, 1000), await one.room(1, 50)

    assert asyncio.run(go()) == (1000, (50, 0.0, ""))
    assert shelf.asked == 0


def test_many_lanes_that_are_refused_ask_once(shelf: Shelf):
    async def go() -> list[tuple[float, str]]:
        one = shelf.process(Rates(provider=20))
        while await one.permit(1, "") == START:
            pass
        shelf.asked = 0
        return await asyncio.gather(*(one.permit(1, "") for _ in range(100)))

    answers = asyncio.run(go())
    assert {scope for _, scope in answers} == {"provider:smtp"}
    assert all(wait > 0 for wait, _ in answers)
    assert shelf.asked <= 1


def test_a_call_takes_one_permit_of_every_limit_or_none(shelf: Shelf):
    """A campaign at its limit takes nothing from the account's, and the others go on."""

    async def go() -> tuple[int, tuple[float, str], int]:
        one = shelf.process(Rates(provider=100, sender=90, sender_name="notice", campaign=4))
        first = 0
        while (refused := await one.permit(1, "")) == START:
            first += 1
        count = 0
        for _ in range(100):
            shelf.now += 0.01
            count += await started(one, 2, campaign=2 + count)
        return first, refused, count

    first, (wait_s, scope), others = asyncio.run(go())
    assert first == 3, "half of it at once, and the one that is due"
    assert scope == "campaign:1"
    assert 0 < wait_s <= 1
    assert 85 <= others <= 90, "the sender's limit is all that holds them"


def test_whoever_waits_for_a_receiver_gets_a_place_of_its_own_in_line(shelf: Shelf):
    async def go() -> list[float]:
        processes = [shelf.process(Rates(provider=1000, receivers={"orange": 10})) for _ in range(2)]
        while await processes[0].permit(1, "orange") == START:
            pass
        places = []
        for number in range(400):
            wait_s, scope = await processes[number % 2].permit(number, "orange")
            assert scope == "receiver:orange"
            places.append(shelf.now + wait_s)
        assert await processes[0].permit(1, "gmail") == START
        return sorted(places)

    places = asyncio.run(go())
    gaps = [later - earlier for earlier, later in itertools.pairwise(places)]
    assert min(gaps) > 0.05, "no two at the same time"
    assert 35 <= places[-1] - places[0] <= 45, "and as close as the limit allows"
    assert shelf.asked < 100


def test_a_line_never_grows_longer_than_half_an_hour(shelf: Shelf):
    async def go() -> float:
        one = shelf.process(Rates(receivers={"orange": 1}))
        return max([(await one.permit(1, "orange"))[0] for _ in range(5000)])

    assert 1700 <= asyncio.run(go()) <= 1865


def test_a_row_that_comes_back_at_its_place_gets_through(shelf: Shelf):
    """60 that wait for 10 a second are all sent after about 6 seconds, each refused once or twice."""

    async def go() -> tuple[int, float]:
        one = shelf.process(Rates(receivers={"orange": 10}))
        waiting, refusals, began = [shelf.now] * 60, 0, shelf.now
        while waiting:
            shelf.now = max(shelf.now, min(waiting)) + 0.125  # the feeder looks four times a second
            due = [at for at in waiting if at <= shelf.now]
            waiting = [at for at in waiting if at > shelf.now]
            for _ in due:
                wait_s, _ = await one.permit(1, "orange")
                if wait_s:
                    refusals += 1
                    waiting.append(shelf.now + wait_s)
        return refusals, shelf.now - began

    refusals, seconds = asyncio.run(go())
    assert seconds <= 9
    assert refusals <= 120


def test_what_is_known_to_be_refused_costs_no_question(shelf: Shelf):
    async def go() -> tuple[tuple[float, str], tuple[float, str]]:
        one = shelf.process(Rates(provider=1000, receivers={"orange": 10}))
        while await one.permit(1, "orange") == START:
            pass
        shelf.asked = 0
        return one.refusal(1, "orange"), one.refusal(1, "gmail")

    orange, gmail = asyncio.run(go())
    assert orange[0] > 0
    assert orange[1] == "receiver:orange"
    assert gmail == START
    assert shelf.asked == 0


def test_the_room_is_what_may_start_soon_and_nothing_is_taken(shelf: Shelf):
    async def go() -> list[tuple[int, float, str]]:
        one = shelf.process(Rates(provider=400, campaign=10))
        looks = [await one.room(1, 200) for _ in range(3)]
        while await one.permit(1, "") == START:
            pass
        return [*looks, await one.room(1, 200), await one.room(2, 30)]

    *looks, exhausted, other = asyncio.run(go())
    assert looks == [(6, 0.0, "")] * 3
    assert exhausted[0] == 0
    assert 0 < exhausted[1] <= 1
    assert exhausted[2] == "campaign:1"
    assert 0 < other[0] <= 30


def test_an_answer_that_comes_too_late_is_thrown_away_and_the_caller_waits(shelf: Shelf):
    shelf.latency_s = 0.5

    async def go() -> tuple[float, str]:
        return await shelf.process(Rates(provider=40)).permit(1, "")

    wait_s, scope = asyncio.run(go())
    assert wait_s > 0
    assert scope == "provider:smtp"
    assert shelf.asked == 3


def test_a_lane_that_is_cancelled_while_it_waits_holds_up_no_other(shelf: Shelf):
    async def go() -> tuple[float, str]:
        one = shelf.process(Rates(provider=40))
        first = asyncio.create_task(one.permit(1, ""))
        second = asyncio.create_task(one.permit(1, ""))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(go()) == START


def test_while_redis_is_away_a_process_has_its_share_and_no_error(shelf: Shelf):
    async def go() -> int:
        one = shelf.process(Rates(provider=100, receivers={"orange": 10}), share=0.1)
        assert await one.permit(1, "") == START
        shelf.is_gone = True
        shelf.now += 1
        count = 0
        for _ in range(500):
            shelf.now += 0.01
            count += await one.permit(1, "") == START
            await one.permit(1, "orange")
        assert 0 < (await one.room(1, 50))[0] <= 10 or (await one.room(1, 50))[1] > 0
        return count

    assert 30 <= asyncio.run(go()) <= 45


def test_an_open_breaker_starts_nothing_and_says_until_when(shelf: Shelf):
    async def go() -> None:
        one = shelf.process(Rates(provider=1000), calls=10, first_s=5)
        for _ in range(10):
            assert await one.permit(1, "gmail") == START
            one.note(LOST, "gmail")
        assert await one.permit(1, "orange") == (5.0, "provider:smtp")
        assert one.refusal(1, "") == (5.0, "provider:smtp")
        assert await one.room(1, 50) == (0, 5.0, "provider:smtp")

    asyncio.run(go())


def test_after_the_wait_single_calls_probe_and_the_rate_comes_back_by_steps(shelf: Shelf):
    async def go() -> list[int]:
        one = shelf.process(Rates(provider=100), calls=10, first_s=5, probe_s=1, heal_s=5)
        other = shelf.process(Rates(provider=100))
        for _ in range(10):
            one.note(LOST, "")
        other.breaker.conditions = one.breaker.conditions  # as through the table
        shelf.now += 5
        per_second = []
        for _ in range(40):
            count = 0
            for _ in range(100):
                shelf.now += 0.01
                if await one.permit(1, "") == START:
                    one.note(GOOD, "")
                    count += 1
                if one.breaker.conditions:
                    other._forget_sets()
                    count += await other.permit(1, "") == START
                one.breaker.tick(shelf.now)
            per_second.append(count)
        assert not one.breaker.conditions
        return per_second

    rates = asyncio.run(go())
    assert max(rates[:2]) <= 2, "one at a time, over all processes"
    assert rates.index(next(rate for rate in rates if rate > 2)) <= 7
    assert max(rates[8:10]) <= 21, "then parts of the rate"
    assert rates[-1] >= 85


def test_a_receiver_in_trouble_stops_alone_and_those_who_wait_do_not_all_come_at_once(shelf: Shelf):
    refused = Outcome(Kind.REFUSED, "smtp_550_5.7.1", Blame.OURS)

    async def go() -> None:
        one = shelf.process(Rates(provider=1000), calls=10, first_s=8)
        one._jitter = iter([0.0, 0.5, 1.0]).__next__
        for _ in range(10):
            one.note(refused, "orange")
        assert [await one.permit(1, "orange") for _ in range(3)] == [
            (wait_s, "receiver:orange") for wait_s in (8.0, 9.0, 10.0)
        ]
        assert await one.permit(1, "gmail") == START
        assert (await one.room(1, 10))[0] == 10

    asyncio.run(go())


def test_a_call_that_started_before_the_trouble_ended_proves_nothing(shelf: Shelf):
    """Each lane notes its own call: one that hung since before the breaker opened is no failed probe."""

    async def go() -> None:
        one = shelf.process(Rates(provider=1000), calls=10, first_s=5)
        hangs = asyncio.Event()

        async def lane() -> None:
            assert await one.permit(1, "") == START
            await hangs.wait()
            one.note(LOST, "")

        task = asyncio.create_task(lane())
        await asyncio.sleep(0.001)
        for _ in range(10):
            one.note(LOST, "")
        shelf.now += 5
        assert await one.permit(1, "") == START
        hangs.set()
        await task
        assert one.breaker.conditions["provider:smtp"].state is State.PROBING
        one.note(GOOD, "")
        assert one.breaker.conditions["provider:smtp"].level == 1

    asyncio.run(go())


def test_a_pause_that_the_provider_asked_for_ends_without_probes(shelf: Shelf):
    asked = Outcome(Kind.REFUSED, "http_429", Blame.THROTTLED, timedelta(seconds=7), hold=True)

    async def go() -> None:
        one = shelf.process(Rates(provider=1000))
        one.note(asked, "")
        assert await one.permit(1, "") == (7.0, "provider:smtp")
        shelf.now += 7
        assert await started(one, 20) == 20

    asyncio.run(go())


def test_campaigns_that_are_long_gone_are_forgotten(shelf: Shelf):
    async def go() -> int:
        one = shelf.process(Rates(campaign=10))
        for campaign in range(1, 9001):
            shelf.now += 0.1
            await one.permit(campaign, "")
        return len(one._stocks)

    assert asyncio.run(go()) <= 4096


def test_a_limit_below_one_a_second_is_one_call_in_its_time(shelf: Shelf):
    async def go() -> int:
        one = shelf.process(Rates(provider=0.5))
        count = 0
        for _ in range(2000):
            shelf.now += 0.01
            count += await one.permit(1, "") == START
        return count

    assert asyncio.run(go()) == pytest.approx(10, abs=1)
    assert Limit.of("x", 0.5).block == 1


def test_a_process_asks_before_there_is_work_and_looks_until_redis_is_back(shelf: Shelf):
    """An emptied server grants nothing for a while: that while should be over when work comes."""

    async def go() -> None:
        one, asked = shelf.process(Rates(provider=1000)), asyncio.Queue[int]()

        async def refuses_once(own_used: bool, asks: Sequence[Ask]) -> list[int]:
            asked.put_nowait(len(asks))
            if asks:
                raise Lost("gone")
            return [0]

        one._books._call = refuses_once
        task = asyncio.create_task(one.run())
        assert [await asked.get(), await asked.get()] == [1, 0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await one.close()

    asyncio.run(go())
