"""Whose turn it is: first messages first, equal rows for all, and tickets that last about a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from workers.turns import LEAST_TURN, MOST_CAMPAIGNS, Ticket, Turns

LARGE = 1


class Queue:
    """Campaigns with so many rows due, and workers that take tickets in order."""

    def __init__(self, due: dict[int, int], most_rows: int = 200) -> None:
        self.turns = Turns(most_rows)
        self.due = due
        self.begun: set[int] = set()
        self.out: list[Ticket] = []
        self.taken: list[Ticket] = []

    def look(self, room: int) -> list[Ticket]:
        due = [campaign for campaign, rows in self.due.items() if rows]
        tickets = self.turns.plan(due, room, lambda some: self.begun & set(some), self._counts)
        self.out += tickets
        return tickets

    def _counts(self, campaigns: Sequence[int]) -> dict[int, int]:
        return {campaign: self.due[campaign] for campaign in campaigns}

    def work(self, tickets: int, now: float, slots: int = 4) -> None:
        """So many tickets are taken and done."""
        for ticket in self.out[:tickets]:
            self.taken.append(ticket)
            for campaign in ticket.campaigns:
                self.due[campaign] -= min(ticket.rows, self.due[campaign])
                self.begun.add(campaign)
        self.out = self.out[tickets:]
        self.turns.note(len(self.out), slots, now)


def places(tickets: Sequence[Ticket], campaign: int) -> list[int]:
    return [place for place, ticket in enumerate(tickets) if campaign in ticket.campaigns]


def test_of_300_campaigns_each_gets_its_first_ticket_before_the_large_one_gets_its_second():
    queue = Queue({LARGE: 200_000} | dict.fromkeys(range(2, 301), 50))
    for now in range(10):
        queue.look(8 - len(queue.out))
        queue.work(8, now)
    large = places(queue.taken, LARGE)
    assert all(places(queue.taken, number)[0] < large[1] for number in range(2, 301))


def test_first_tickets_take_one_row_and_many_campaigns_each():
    queue = Queue(dict.fromkeys(range(1, 1501), 1000))
    first = queue.look(16)
    assert {ticket.rows for ticket in first} == {1}
    assert {len(ticket.campaigns) for ticket in first} == {MOST_CAMPAIGNS}


def test_a_large_campaign_uses_what_the_small_ones_leave_free():
    queue = Queue({LARGE: 100_000, 2: 10, 3: 10})
    assert queue.look(8) == [Ticket(50, (LARGE,)), Ticket(50, (2,)), Ticket(50, (3,))] + [Ticket(50, (LARGE,))] * 5


def test_nobody_gets_more_rows_than_another_who_has_as_much_due():
    queue = Queue(dict.fromkeys(range(1, 41), 5000))
    queue.begun = set(range(1, 41))
    for now in range(60):
        queue.look(8 - len(queue.out))
        queue.work(8, now)
    done = [5000 - rows for rows in queue.due.values()]
    assert max(done) - min(done) <= 200


def test_who_comes_late_waits_for_what_is_queued_and_no_longer():
    queue = Queue({LARGE: 100_000})
    queue.look(8)
    queue.work(4, 1)
    queue.due[2] = 3
    assert queue.look(4)[0] == Ticket(50, (2,))


def test_a_campaign_whose_rows_are_all_asked_for_gets_no_further_ticket():
    queue = Queue({1: 30, 2: 20})
    assert len(queue.look(8)) == 2
    assert queue.look(6) == []


def test_what_was_lost_is_asked_for_again():
    queue = Queue({1: 30})
    first = queue.look(8)
    queue.turns.note(0, 4, 5)  # the queue was emptied, nothing was done
    assert queue.look(8) == first


def test_a_provider_that_is_slow_gets_smaller_tickets_and_a_fast_one_larger_ones():
    queue = Queue({LARGE: 10**9}, most_rows=400)
    for now in range(1, 20):
        queue.look(8 - len(queue.out))
        queue.work(4, now / 10)
    assert queue.turns.rows == 400
    for now in range(20, 60):
        queue.look(8 - len(queue.out))
        queue.work(0 if now % 10 else 1, now)
    assert queue.turns.rows < 10


def test_an_empty_queue_says_nothing_about_a_slow_provider():
    turns = Turns(200)
    for now in range(1, 10):
        turns.note(0, 4, now)
    assert turns.rows == LEAST_TURN


def test_first_tickets_name_fewer_campaigns_where_they_take_long():
    queue = Queue(dict.fromkeys(range(1, 1501), 1000))
    for now in range(2, 40):
        queue.look(8 - len(queue.out))
        queue.work(now % 2, now)
    assert max(len(ticket.campaigns) for ticket in queue.out) <= 2


@given(
    due=st.dictionaries(st.integers(1, 200), st.integers(0, 3000), max_size=120),
    rooms=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12),
    begun=st.sets(st.integers(1, 200)),
)
def test_tickets_are_bounded_and_nobody_due_is_forgotten(
    due: dict[int, int], rooms: list[tuple[int, int]], begun: set[int]
):
    queue = Queue(dict(due))
    queue.begun = begun
    for now, (room, done) in enumerate(rooms):
        tickets = queue.look(room)
        assert len(tickets) <= room
        for ticket in tickets:
            assert 1 <= ticket.rows <= 200
            assert 1 <= len(ticket.campaigns) <= MOST_CAMPAIGNS
            assert ticket.rows * len(ticket.campaigns) <= max(queue.turns.rows, MOST_CAMPAIGNS)
        queue.work(done, now)
    for now in range(len(rooms), len(rooms) + 5000):
        if not any(queue.due.values()):
            break
        queue.look(max(20 - len(queue.out), 1))
        queue.work(20, now / 100)
    assert not any(queue.due.values())
    assert set(Counter(campaign for ticket in queue.taken for campaign in ticket.campaigns)) >= {
        campaign for campaign, rows in due.items() if rows
    }


def test_campaigns_that_never_begin_do_not_starve_the_others():
    queue = Queue(dict.fromkeys(range(1, 1000), 10))
    queue.begun = {500}
    taken: list[int] = []
    for now in range(40):
        taken += [campaign for ticket in queue.look(2) if ticket.rows > 1 for campaign in ticket.campaigns]
        queue.out = []
        queue.turns.note(0, 4, now)  # all were taken, and none could hand over a message
    assert 500 in taken
