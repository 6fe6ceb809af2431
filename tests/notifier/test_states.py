"""The table of moves: whole, without dead ends that should have none, and the only way to change a state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import states
from notifier.errors import MoveError
from notifier.states import MOVES, Campaign, Delivery, Outcome, check_move, sources


@pytest.mark.parametrize("kind", [Campaign, Delivery, Outcome])
def test_every_state_is_in_the_table_and_moves_only_to_states_of_its_kind(kind):
    assert set(MOVES[kind]) == set(kind)
    assert all(isinstance(target, kind) for targets in MOVES[kind].values() for target in targets)


@given(st.sampled_from(list(Delivery)), st.sampled_from(list(Delivery)))
def test_sources_and_check_say_the_same(current: Delivery, target: Delivery):
    if current in sources(target):
        check_move(current, target)
    else:
        with pytest.raises(MoveError):
            check_move(current, target)


def test_nothing_unsends_what_was_delivered_but_a_failure_reopens_it():
    assert MOVES[Delivery][Delivery.DELIVERED] == {Delivery.FAILED}
    assert Outcome.ON_THE_WAY in MOVES[Outcome][Outcome.INFORMED]


def test_no_row_is_sent_without_a_claim():
    assert sources(Delivery.SENDING) == [Delivery.PENDING]


def test_a_campaign_sends_only_what_was_approved():
    assert set(sources(Campaign.SENDING)) == {Campaign.APPROVED, Campaign.PAUSED, Campaign.COMPLETED}
    assert sources(Campaign.APPROVED) == [Campaign.READY]
    assert MOVES[Campaign][Campaign.CANCELLED] == frozenset()


def test_every_state_a_row_can_reach_can_end():
    for state in Delivery:
        reached, frontier = {state}, [state]
        while frontier:
            for target in MOVES[Delivery][frontier.pop()]:
                if target not in reached:
                    reached.add(target)
                    frontier.append(target)
        assert reached & {Delivery.DELIVERED, Delivery.FAILED, Delivery.CANCELLED, states.Delivery.ACCEPTED}, state
