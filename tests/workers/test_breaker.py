"""Breakers open on the other side's fault alone, probe, heal, and all processes agree."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import breakers
from notifier.providers.base import Blame, Kind, Outcome
from notifier.settings import Engine
from notifier.store import AsyncDatabase, Database
from workers.breaker import (
    Breaker,
    Condition,
    Ends,
    Rules,
    State,
    is_fault,
    opened,
    paused,
    plain_reason,
    probed,
    receiver_reason,
    timed,
)

GOOD = Outcome(Kind.ACCEPTED, "accepted")
LOST = Outcome(Kind.UNKNOWN, "no_answer")
SPAM = Outcome(Kind.REFUSED, "smtp_550_5.7.1", Blame.OURS)
NO_KEY = Outcome(Kind.REFUSED, "http_401_unauthorized", Blame.OURS, hold=True)
LATER = Outcome(Kind.REFUSED, "smtp_421", Blame.THROTTLED, timedelta(hours=2))
RULES = Rules(window_s=20, calls=10, share=0.5, first_s=5, longest_s=300, probe_s=1, heal_s=5, refused_s=60)
SMTP, ORANGE = "provider:smtp", "receiver:orange"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breaker(clock: Clock, rules: Rules = RULES) -> Breaker:
    return Breaker("smtp", rules, clock)


def note(one: Breaker, clock: Clock, outcome: Outcome, times: int = 10, receiver: str = "") -> None:
    for _ in range(times):
        one.note(outcome, receiver, clock.now, clock.now)


def states(one: Breaker) -> dict[str, str]:
    return {scope: str(condition.state) for scope, condition in one.conditions.items()}


# --- whose fault ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (GOOD, False),
        (LOST, True),
        (Outcome(Kind.UNKNOWN, "connection_lost_after_data"), True),
        (Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON), False),
        (Outcome(Kind.REFUSED, "http_400_invalid_parameter", Blame.PERSON), False),
        (Outcome(Kind.REFUSED, "unfit_address", Blame.PERSON), None),
        (Outcome(Kind.REFUSED, "unfit_header", Blame.OURS), None),
        (Outcome(Kind.REFUSED, "smtp_451", Blame.LATER), False),
        (Outcome(Kind.REFUSED, "smtp_552_5.2.2", Blame.LATER), False),
        (Outcome(Kind.REFUSED, "http_503", Blame.LATER), True),
        (Outcome(Kind.REFUSED, "http_500_internal", Blame.LATER), True),
        (Outcome(Kind.REFUSED, "http_429", Blame.THROTTLED), None),
        (LATER, None),
        (Outcome(Kind.REFUSED, "connect_failed", Blame.THROTTLED), True),
        (Outcome(Kind.REFUSED, "connection_lost", Blame.THROTTLED), True),
        (SPAM, True),
        (Outcome(Kind.REFUSED, "http_404", Blame.OURS), True),
        (Outcome(Kind.REFUSED, "http_400", Blame.OURS, alone=True), None),
    ],
)
def test_a_persons_refusal_is_the_provider_at_work(outcome: Outcome, fault: bool | None):
    assert is_fault(outcome) is fault


# --- the states ----------------------------------------------------------------------------------------


def test_it_stays_open_longer_each_time_up_to_a_limit():
    waits, condition = [], None
    for _ in range(9):
        condition = opened(condition, SMTP, "x", 0.0, RULES)
        waits.append(condition.until)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_three_good_probes_heal_it_and_healing_goes_by_steps_to_the_whole_rate(clock: Clock):
    one = breaker(clock)
    condition: Condition | None = opened(None, SMTP, "x", clock.now, RULES)
    seen = []
    for _ in range(20):
        assert condition is not None
        one.conditions[SMTP] = condition
        seen.append((str(condition.state), condition.level, one.rate(SMTP, 200.0)))
        if condition.state is State.PROBING:
            condition = probed(condition, clock.now, RULES)
        else:
            clock.now = condition.until
            condition = timed(condition, clock.now, RULES)
        if condition is None:
            break
    assert seen == [
        ("open", 0, None),
        ("probing", 0, 1.0),
        ("probing", 1, 1.0),
        ("probing", 2, 1.0),
        ("healing", 0, 20.0),
        ("healing", 1, 40.0),
        ("healing", 2, 80.0),
        ("healing", 3, 160.0),
    ]
    assert condition is None


def test_nothing_moves_before_its_time():
    condition = opened(None, SMTP, "x", 0.0, RULES)
    assert timed(condition, 4.9, RULES) is condition


def test_a_pause_asked_for_never_shortens_a_wait():
    condition = opened(None, SMTP, "x", 0.0, RULES)
    assert paused(condition, SMTP, "y", 1.0, 1.0).until == 5.0
    assert paused(condition, SMTP, "y", 1.0, 9.0).until == 10.0
    assert paused(condition, SMTP, "y", 1.0, 9.0).failures == 1, "and the probes are still to come"


@given(st.lists(st.sampled_from(["fault", "good", "pause", "time"]), max_size=60))
def test_whatever_happens_it_can_always_close_again(events: list[str]):
    now, condition = 0.0, None
    for event in events:
        if event == "fault":
            condition = opened(condition, SMTP, "x", now, RULES)
        elif event == "pause":
            condition = paused(condition, SMTP, "x", now, 3.0)
        elif event == "good" and condition and condition.state is State.PROBING:
            condition = probed(condition, now, RULES)
        elif condition:
            now = max(now, condition.until)
            condition = timed(condition, now, RULES)
    for _ in range(20):
        if condition is None:
            return
        now = max(now, condition.until)
        condition = (
            probed(condition, now, RULES) if condition.state is State.PROBING else timed(condition, now, RULES)
        )
    raise AssertionError("never closed")


def test_a_rehearsal_waits_less_but_not_nothing():
    rules = Rules.of(Engine(), 50_000)
    assert (rules.window_s, rules.first_s, rules.longest_s) == (2, 0.5, 1)
    assert Rules.of(Engine(), 1) == Rules()


# --- when it opens -------------------------------------------------------------------------------------


def test_it_opens_when_half_of_the_calls_end_through_the_providers_fault(clock: Clock):
    one = breaker(clock)
    for number in range(9):
        note(one, clock, LOST if number % 2 else GOOD, 1)
    assert not one.conditions
    note(one, clock, LOST, 1)
    assert states(one) == {SMTP: "open"}
    assert one.stop("", clock.now) is one.conditions[SMTP]


def test_a_few_faults_among_many_good_calls_do_not_open_it(clock: Clock):
    one = breaker(clock)
    for _ in range(100):
        note(one, clock, GOOD, 2, "orange")
        note(one, clock, LOST, 1, "orange")
    assert not one.conditions


def test_what_ended_long_ago_says_nothing(clock: Clock):
    one = breaker(clock)
    note(one, clock, GOOD, 1000)
    clock.now += 21
    note(one, clock, LOST, 9)
    assert not one.conditions
    note(one, clock, LOST, 1)
    assert states(one) == {SMTP: "open"}


def test_slow_faults_are_too_few_to_judge(clock: Clock):
    one = breaker(clock)
    for _ in range(30):
        note(one, clock, LOST, 1)
        clock.now += 3
    assert not one.conditions


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON),
        Outcome(Kind.REFUSED, "smtp_451", Blame.LATER),
        Outcome(Kind.REFUSED, "http_429", Blame.THROTTLED),
    ],
)
def test_refusals_of_persons_and_throttling_do_not_open_it(clock: Clock, outcome: Outcome):
    one = breaker(clock)
    note(one, clock, outcome, 50)
    assert not one.conditions


def test_one_receiver_that_refuses_us_stops_alone(clock: Clock):
    """Even where most of the mail goes to it."""
    one = breaker(clock)
    for _ in range(10):
        note(one, clock, SPAM, 3, "orange")
        note(one, clock, GOOD, 1, "gmail")
    assert states(one) == {ORANGE: "open"}
    assert one.stop("orange", clock.now)
    assert one.stop("gmail", clock.now) is None


def test_a_relay_that_refuses_us_everywhere_stops_itself(clock: Clock):
    one = breaker(clock)
    for _ in range(10):
        for receiver in ("orange", "free", "gmail", "other"):
            note(one, clock, SPAM, 1, receiver)
    assert SMTP in states(one)


def test_two_receivers_in_trouble_do_not_stop_a_provider_that_works(clock: Clock):
    one = breaker(clock)
    for _ in range(12):
        note(one, clock, GOOD, 8, "gmail")
        note(one, clock, SPAM, 1, "orange")
        note(one, clock, SPAM, 1, "free")
    assert states(one) == {ORANGE: "open", "receiver:free": "open"}


def test_unknown_receivers_share_no_breaker(clock: Clock):
    one = breaker(clock)
    for _ in range(20):
        note(one, clock, GOOD, 3, "gmail")
        note(one, clock, SPAM, 1, "other")
    assert not one.conditions


def test_a_connection_that_breaks_is_not_the_receivers_doing(clock: Clock):
    one = breaker(clock)
    note(one, clock, LOST, 10, "orange")
    assert states(one) == {SMTP: "open"}


def test_one_refusal_of_our_credentials_stops_the_provider_with_a_plain_reason(clock: Clock):
    one = Breaker("brevo-sms", RULES, clock)
    note(one, clock, NO_KEY, 3)
    condition = one.conditions["provider:brevo-sms"]
    assert (condition.state, condition.failures, condition.until) == (State.OPEN, 1, clock.now + 60)
    assert condition.reason == (
        "The provider refused our credentials (http_401_unauthorized): check NOTIFIER_BREVO_SMS__API_KEY."
    )


def test_credentials_that_stay_wrong_are_tried_by_probes_alone(clock: Clock):
    one = breaker(clock)
    waits = []
    for _ in range(4):
        note(one, clock, NO_KEY, 1)
        waits.append(one.conditions[SMTP].until - clock.now)
        clock.now = one.conditions[SMTP].until
        assert one.stop("", clock.now) is None
        assert states(one) == {SMTP: "probing"}
    assert waits == [60, 60, 60, 60]


def test_a_provider_that_asks_for_a_pause_gets_it_and_no_more(clock: Clock):
    one = breaker(clock)
    note(one, clock, Outcome(Kind.REFUSED, "http_429", Blame.THROTTLED, timedelta(seconds=9), hold=True), 5)
    assert (one.conditions[SMTP].until, one.conditions[SMTP].failures) == (clock.now + 9, 0)
    clock.now += 9
    assert one.stop("", clock.now) is None
    assert not one.conditions


def test_a_receiver_that_says_later_again_and_again_is_left_alone_for_as_long_as_it_wants(clock: Clock):
    one = breaker(clock)
    note(one, clock, LATER, 2, "orange")
    note(one, clock, LATER, 9, "other")
    assert not one.conditions
    note(one, clock, LATER, 1, "orange")
    assert states(one) == {ORANGE: "open"}
    assert one.conditions[ORANGE].until == clock.now + 7200
    clock.now += 7200
    assert one.stop("orange", clock.now) is None
    assert not one.conditions, "no fault, no probes"


def test_a_failed_probe_opens_it_again_for_longer(clock: Clock):
    one = breaker(clock)
    note(one, clock, LOST)
    clock.now += 5
    one.tick(clock.now)
    note(one, clock, LOST, 1)
    assert (one.conditions[SMTP].failures, one.conditions[SMTP].until) == (2, clock.now + 10)


def test_trouble_while_it_heals_opens_it_again(clock: Clock):
    one = breaker(clock)
    note(one, clock, LOST)
    clock.now += 5
    one.tick(clock.now)
    note(one, clock, GOOD, 3)
    assert states(one) == {SMTP: "healing"}
    note(one, clock, LOST)
    assert (str(one.conditions[SMTP].state), one.conditions[SMTP].failures) == ("open", 2)


def test_what_started_before_a_change_proves_nothing_about_it(clock: Clock):
    one = breaker(clock)
    before = clock.now
    note(one, clock, LOST)
    one.note(LOST, "", clock.now, before)
    clock.now += 5
    one.tick(clock.now)
    for outcome in (LOST, GOOD, GOOD, GOOD):
        one.note(outcome, "", clock.now, before)
    assert states(one) == {SMTP: "probing"}
    assert one.conditions[SMTP].level == 0


@given(st.lists(st.tuples(st.floats(0, 8), st.sampled_from(["", "orange", "other"]), st.booleans()), max_size=200))
def test_the_sums_are_those_of_the_window(ends: list[tuple[float, str, bool]]):
    seen, kept, now = Ends(RULES), [], 0.0
    for after_s, receiver, fault in ends:
        now += after_s
        seen.add(now, receiver, fault=fault)
        kept.append((now, receiver, fault))
    slot_s = RULES.window_s / 20
    alive = [end for end in kept if int(end[0] / slot_s) > int(now / slot_s) - 20]
    for receiver in ("", "orange", "other"):
        expected = [sum(1 for _, key, fault in alive if key == receiver and fault == bad) for bad in (False, True)]
        assert seen._sums.get(receiver, [0, 0]) == expected


# --- among processes -----------------------------------------------------------------------------------


def test_all_processes_agree_through_the_table(clock: Clock, database: Database):
    async def go() -> None:
        shared = AsyncDatabase(database.url)
        one, two = breaker(clock), breaker(clock)
        note(one, clock, LOST)
        await one.share(shared)
        await two.share(shared)
        assert states(two) == {SMTP: "open"}
        assert 4 < two.conditions[SMTP].until - clock.now <= 5
        assert two.conditions[SMTP].reason == plain_reason("smtp", "no_answer")

        clock.now += 5
        for each in (one, two):  # both see that its time is over
            each.tick(clock.now)
            await each.share(shared)
        await one.share(shared)
        assert states(one) == states(two) == {SMTP: "probing"}
        assert one.conditions[SMTP].version == two.conditions[SMTP].version

        note(one, clock, GOOD, 1)
        await one.share(shared)
        await two.share(shared)
        assert two.conditions[SMTP].level == 1, "probes count for everybody"
        note(two, clock, LOST, 1)
        await two.share(shared)
        await one.share(shared)
        assert (states(one), one.conditions[SMTP].failures) == ({SMTP: "open"}, 2)
        await shared.dispose()

    asyncio.run(go())


def test_of_two_that_decide_at_once_the_first_to_write_wins(clock: Clock, database: Database):
    async def go() -> None:
        shared = AsyncDatabase(database.url)
        one, two = breaker(clock), breaker(clock)
        note(one, clock, LOST)
        note(two, clock, NO_KEY, 1)
        await one.share(shared)
        await two.share(shared)
        assert one.conditions[SMTP].reason == two.conditions[SMTP].reason == plain_reason("smtp", "no_answer")
        await shared.dispose()

    asyncio.run(go())


def test_what_changes_while_it_is_written_is_written_next(clock: Clock, database: Database):
    async def go() -> None:
        shared = AsyncDatabase(database.url)
        one, two = breaker(clock), breaker(clock)
        note(one, clock, LOST)
        writing = asyncio.create_task(one.share(shared))
        await asyncio.sleep(0)
        clock.now += 5
        one.tick(clock.now)
        await writing
        assert states(one) == {SMTP: "probing"}
        await one.share(shared)
        await two.share(shared)
        assert states(two) == {SMTP: "probing"}
        await shared.dispose()

    asyncio.run(go())


def test_a_person_may_close_it_and_everybody_goes_on(clock: Clock, database: Database):
    async def go() -> None:
        shared = AsyncDatabase(database.url)
        one = breaker(clock)
        note(one, clock, NO_KEY, 1)
        await one.share(shared)
        with database.staff() as session:
            assert breakers.close_scope(session, SMTP)
            assert not breakers.close_scope(session, SMTP)
        await one.share(shared)
        assert not one.conditions
        note(one, clock, LOST, 9)
        assert not one.conditions, "it begins anew"
        await shared.dispose()

    asyncio.run(go())


def test_when_it_is_well_again_no_row_is_left(clock: Clock, database: Database):
    async def go() -> None:
        shared = AsyncDatabase(database.url)
        one = breaker(clock)
        note(one, clock, SPAM, 10, "orange")
        note(one, clock, NO_KEY, 1)
        for _ in range(12):
            await one.share(shared)
            clock.now += 61
            one.tick(clock.now)
            note(one, clock, GOOD, 1, "orange")
        await one.share(shared)
        assert not one.conditions
        with database.staff() as session:
            assert breakers.open_scopes(session) == []
        await shared.dispose()

    asyncio.run(go())


def test_the_loop_writes_at_once_and_lives_through_a_database_that_is_away(clock: Clock, database: Database):
    async def go() -> None:
        gone, shared = AsyncDatabase("postgresql+psycopg://nobody@127.0.0.1:1/x"), AsyncDatabase(database.url)
        changed = asyncio.Event()
        one, two = breaker(clock), Breaker("smtp", RULES, clock, changed.set)
        alone = asyncio.create_task(one.run(gone))
        note(one, clock, LOST)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(alone), 0.1)
        assert states(one) == {SMTP: "open"}
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        tasks = [asyncio.create_task(each.run(shared)) for each in (two, one)]
        await changed.wait()
        assert states(two) == {SMTP: "open"}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gone.dispose()
        await shared.dispose()

    asyncio.run(go())


# --- for people ----------------------------------------------------------------------------------------


def test_operations_see_what_is_open_why_and_until_when(clock: Clock, database: Database):
    async def go() -> None:
        shared = AsyncDatabase(database.url)
        one = breaker(clock)
        note(one, clock, SPAM, 10, "orange")
        await one.share(shared)
        await shared.dispose()

    asyncio.run(go())
    with database.staff() as session:
        (row,) = breakers.open_scopes(session)
    assert (row.scope, row.state, row.level, row.failures) == (ORANGE, "open", 0, 1)
    assert row.until is not None
    assert 0 < row.left_s <= 5
    assert "The receiver orange refuses our mail (smtp_550_5.7.1)" in row.reason


@pytest.mark.parametrize(
    ("provider", "code", "said"),
    [
        ("brevo-sms", "http_401", "refused our credentials (http_401): check NOTIFIER_BREVO_SMS__API_KEY."),
        ("brevo-email", "http_403_permission_denied", "check NOTIFIER_BREVO_EMAIL__API_KEY."),
        ("smtp", "smtp_535_5.7.8", "check NOTIFIER_SMTP__USERNAME and NOTIFIER_SMTP__PASSWORD."),
        ("smtp", "smtp_530", "refused our credentials"),
        ("brevo-sms", "http_402_not_enough_credits", "no credit left"),
        ("smtp", "connect_failed", "check NOTIFIER_SMTP__HOST and NOTIFIER_SMTP__PORT"),
        ("brevo-sms", "no_answer", "breaks off or does not answer"),
        ("smtp", "connection_lost_after_data", "breaks off or does not answer"),
        ("brevo-sms", "http_503", "a fault of its own"),
        ("brevo-sms", "http_429", "slow down"),
        ("smtp", "smtp_554_5.7.1", "SPF, DKIM and DMARC"),
        ("other", "never_seen", "The provider fails (never_seen)"),
    ],
)
def test_a_reason_is_plain_and_says_where_to_mend_it(provider: str, code: str, said: str):
    assert said in plain_reason(provider, code)
    assert f"({code})" in plain_reason(provider, code)


def test_a_receivers_reason_names_it():
    assert receiver_reason("sfr", "smtp_450_4.7.1").startswith(
        "The receiver sfr asked us to wait (smtp_450_4.7.1)"
    )
