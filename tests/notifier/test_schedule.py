"""What follows a hand-over or a receipt, decided without a clock, a database or a network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import profiles
from notifier.providers.base import Blame, Event, Kind, Outcome
from notifier.schedule import Rules, Step, after_hand_over, after_receipt, rules
from notifier.settings import ROOT
from notifier.states import MOVES, Channel, Delivery

NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
RULES = Rules(
    first_wait=timedelta(minutes=15),
    longest_wait=timedelta(hours=24),
    tries=5,
    give_up_after=timedelta(days=3),
    unknown_quiet=timedelta(minutes=30),
    silence=timedelta(hours=72),
    silence_informs=True,
)


def after(outcome: Outcome, tries: int = 1, since: timedelta = timedelta(0), jitter: float = 1.0) -> Step:
    return after_hand_over(outcome, RULES, tries=tries, first_tried_at=NOW - since, now=NOW, jitter=jitter)


def refused(blame: Blame, retry_after: timedelta | None = None) -> Outcome:
    return Outcome(Kind.REFUSED, "x", blame, retry_after)


def test_accepted_waits_for_news_and_unknown_for_a_receipt():
    assert after(Outcome(Kind.ACCEPTED, "x")) == Step(Delivery.ACCEPTED, NOW + timedelta(hours=72))
    assert after(Outcome(Kind.UNKNOWN, "x")) == Step(Delivery.UNKNOWN, NOW + timedelta(minutes=30))


def test_the_persons_fault_ends_this_contact_at_once():
    assert after(refused(Blame.PERSON)) == Step(Delivery.FAILED, NOW)


@pytest.mark.parametrize(("tries", "minutes"), [(1, 15), (2, 30), (3, 60), (4, 120)])
def test_waits_double(tries: int, minutes: int):
    assert after(refused(Blame.LATER), tries) == Step(Delivery.PENDING, NOW + timedelta(minutes=minutes))


def test_the_last_try_falls_back():
    assert after(refused(Blame.LATER), tries=5).state is Delivery.FAILED


def test_what_is_not_the_persons_fault_does_not_count_but_time_runs():
    for blame in (Blame.THROTTLED, Blame.OURS):
        step = after(refused(blame), tries=50, since=timedelta(days=2))
        assert (step.state, step.counts) == (Delivery.PENDING, False)
        assert after(refused(blame), since=timedelta(days=3)).state is Delivery.FAILED


def test_the_provider_says_how_long_to_wait():
    step = after(refused(Blame.THROTTLED, timedelta(seconds=7)), jitter=0)
    assert step.due_at == NOW + timedelta(seconds=7)
    assert after(refused(Blame.LATER, timedelta(hours=5))).due_at == NOW + timedelta(hours=5)


@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from([Blame.LATER, Blame.THROTTLED, Blame.OURS]))
def test_no_wait_is_shorter_than_a_tenth_of_the_first_nor_longer_than_the_longest(tries, jitter, blame):
    step = after(refused(blame), tries, jitter=jitter)
    if step.state is Delivery.PENDING:
        assert step.due_at is not None
        assert timedelta(minutes=1.5) <= step.due_at - NOW <= timedelta(hours=24)


@given(
    st.sampled_from(list(Kind)),
    st.sampled_from([None, *Blame]),
    st.integers(1, 10),
    st.timedeltas(timedelta(0), timedelta(days=5)),
)
def test_every_end_of_a_hand_over_is_an_allowed_move(kind, blame, tries, since):
    assert after(Outcome(kind, "x", blame), tries, since).state in MOVES[Delivery][Delivery.SENDING]


def receipt(
    event: Event, state: Delivery, *, at: int = 0, last: int | None = None, latest: bool = True, tries: int = 1
):
    return after_receipt(
        event,
        event_at=NOW + timedelta(seconds=at),
        state=state,
        last_event_at=None if last is None else NOW + timedelta(seconds=last),
        of_latest_attempt=latest,
        rules=RULES,
        tries=tries,
        now=NOW,
    )


@pytest.mark.parametrize("state", [Delivery.SENDING, Delivery.UNKNOWN, Delivery.ACCEPTED, Delivery.PENDING])
def test_delivered_is_believed_in_every_state_also_before_our_own_write(state: Delivery):
    step = receipt(Event.DELIVERED, state)
    assert step is not None
    assert step.state is Delivery.DELIVERED


def test_a_late_sent_undoes_nothing():
    assert receipt(Event.SENT, Delivery.DELIVERED, at=-5, last=0) is None
    assert receipt(Event.SENT, Delivery.ACCEPTED) is None


def test_a_failure_after_delivery_reopens_the_person_and_one_before_it_does_not():
    step = receipt(Event.HARD_FAILED, Delivery.DELIVERED, at=5, last=0)
    assert step is not None
    assert step.state is Delivery.FAILED
    assert receipt(Event.HARD_FAILED, Delivery.DELIVERED, at=-5, last=0) is None


def test_a_delivery_after_a_failure_counts_and_one_before_it_does_not():
    step = receipt(Event.DELIVERED, Delivery.FAILED, at=5, last=0)
    assert step is not None
    assert step.state is Delivery.DELIVERED
    assert receipt(Event.DELIVERED, Delivery.FAILED, at=-5, last=0) is None


def test_a_soft_failure_is_tried_again_until_the_tries_are_used_up():
    step = receipt(Event.SOFT_FAILED, Delivery.ACCEPTED)
    assert step is not None
    assert step.state is Delivery.PENDING
    last = receipt(Event.SOFT_FAILED, Delivery.ACCEPTED, tries=5)
    assert last is not None
    assert last.state is Delivery.FAILED


def test_a_failure_of_an_earlier_hand_over_says_nothing_about_the_newer_one():
    for event in (Event.HARD_FAILED, Event.SOFT_FAILED):
        assert receipt(event, Delivery.ACCEPTED, latest=False) is None
    step = receipt(Event.DELIVERED, Delivery.PENDING, latest=False)
    assert step is not None, "the person has it all the same"


def test_sent_settles_an_uncertain_hand_over():
    step = receipt(Event.SENT, Delivery.UNKNOWN)
    assert step == Step(Delivery.ACCEPTED, NOW + RULES.silence)


def test_sent_is_believed_before_our_own_write_too():
    assert receipt(Event.SENT, Delivery.SENDING) == Step(Delivery.ACCEPTED, NOW + RULES.silence)


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([(Event.SENT, 0), (Event.DELIVERED, 2)], Delivery.DELIVERED),
        ([(Event.SENT, 0), (Event.DELIVERED, 2), (Event.HARD_FAILED, 9)], Delivery.FAILED),
        ([(Event.SENT, 0), (Event.HARD_FAILED, 2)], Delivery.FAILED),
        ([(Event.HARD_FAILED, 2), (Event.DELIVERED, 5), (Event.NOTED, 6)], Delivery.DELIVERED),
    ],
)
@pytest.mark.parametrize("start", [Delivery.SENDING, Delivery.ACCEPTED, Delivery.UNKNOWN])
def test_the_end_depends_on_what_happened_when_never_on_what_arrived_when(events, end, start):
    for order in permutations(events):
        for repeated in (order, (*order, *order)):
            state, last = start, None
            for event, at in repeated:
                step = receipt(event, state, at=at, last=last)
                if step is not None:
                    assert step.state in MOVES[Delivery][state]
                    state = step.state
                    last = at if step.state in (Delivery.DELIVERED, Delivery.FAILED) else last
            assert state is end, order


@given(
    st.sampled_from(list(Event)),
    st.sampled_from(list(Delivery)),
    st.integers(-5, 5),
    st.none() | st.integers(-5, 5),
    st.booleans(),
    st.integers(0, 9),
)
def test_whatever_a_receipt_changes_is_an_allowed_move(event, state, at, last, latest, tries):
    step = receipt(event, state, at=at, last=last, latest=latest, tries=tries)
    assert step is None or step.state in MOVES[Delivery][state]


def test_a_rehearsal_shortens_every_wait_but_not_below_what_networks_need():
    profile = profiles.load("eu-gdpr-fr", ROOT / "config")
    real, quick = (rules(profile, Channel.EMAIL, scale) for scale in (1, 14_400))
    assert real.first_wait == profile.retry[Channel.EMAIL].first_wait
    assert real.silence == timedelta(hours=72)
    assert quick.silence == timedelta(seconds=18)
    assert quick.first_wait == timedelta(seconds=0.5)
    assert quick.unknown_quiet == timedelta(seconds=4)
