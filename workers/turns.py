"""Whose turn it is: a round-robin in rows over the campaigns of one channel. Decides only; see `feeder`.

A row is the unit, so each turn is spent whole: it is a deficit round-robin whose deficits are always zero.
Three laws: a campaign gets its first message before any gets a second ticket; every campaign that has something
due gets as many rows as any other before one gets more; a ticket lasts about a second however slow the provider
is, so that who comes now waits for seconds, not for the batches of a large campaign.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

#: campaigns one ticket may name: each is a claim of its own, made at the same time
MOST_CAMPAIGNS = 16
#: rows of a turn when many wait, and of a ticket before its pace is known: one hint of `due`
LEAST_TURN = 50
#: how long a ticket should last
TICKET_S = 1.0
#: by how much a ticket may become larger or smaller at once
_MOST_CHANGE = 8


class Ticket(NamedTuple):
    """What one message of the queue asks for: up to `rows` due deliveries of each campaign."""

    rows: int
    campaigns: tuple[int, ...]


class Turns:
    """The tickets of one channel: what is out, how long they last, who comes next."""

    def __init__(self, most_rows: int, first_rows: int = LEAST_TURN) -> None:
        """`most_rows` is what one claim may take; `first_rows` what a ticket asks for before its pace is known."""
        self._most_rows = most_rows
        #: rows of a whole ticket
        self.rows = min(first_rows, most_rows)
        # Due campaigns: who was served longest ago comes first.
        self._served: OrderedDict[int, None] = OrderedDict()
        self._begun: set[int] = set()
        self._tried: set[int] = set()
        # Not done as far as is known: the queue tells only how many are left.
        self._out: deque[Ticket] = deque()
        self._done = 0
        self._since = 0.0
        self._was_idle = True

    def note(self, left: int, slots: int, now: float) -> None:
        """Takes in how many tickets of the queue are not done yet; `now` in seconds of any steady clock."""
        self._was_idle |= left * 2 < slots
        while len(self._out) > left:
            self._out.popleft()
            self._done += 1
        elapsed = now - self._since
        if self._done < slots and elapsed < 2 * TICKET_S:
            return
        if self._done or not self._was_idle:
            change = TICKET_S * max(self._done, 1) / (max(elapsed, 0.001) * slots)
            # Some slots were empty: a ticket lasts less than that, or it is not known.
            least = 1.0 if self._was_idle else 1 / _MOST_CHANGE
            self.rows = round(min(max(self.rows * min(max(change, least), _MOST_CHANGE), 1), self._most_rows))
        self._done, self._since, self._was_idle = 0, now, left * 2 < slots

    def plan(
        self,
        due: Sequence[int],
        room: int,
        begun: Callable[[Sequence[int]], set[int]],
        counts: Callable[[Sequence[int]], Mapping[int, int]],
    ) -> list[Ticket]:
        """The next tickets, at most `room`, for campaigns with something due.

        `begun` tells which of some campaigns have handed over a message, `counts` how many rows each has due;
        each is asked only where the answer matters.
        """
        for campaign in self._served.keys() - set(due):
            del self._served[campaign]
        self._begun.intersection_update(due)
        self._tried.intersection_update(due)
        # A new campaign comes before all.
        order = [*(campaign for campaign in due if campaign not in self._served), *self._served]
        asked = _rows_of(self._out)
        waiting = [campaign for campaign in order if campaign not in asked]
        tickets: list[Ticket] = []
        is_crowded = len(waiting) > room
        if is_crowded:
            tickets = self._first_messages(waiting, room, begun)
            served = _rows_of(tickets)
            waiting = [campaign for campaign in waiting if campaign in self._begun and campaign not in served]
        tickets += self._one_turn_each(waiting, room - len(tickets), MOST_CAMPAIGNS if tickets else self.rows)
        self._served = OrderedDict.fromkeys(order)
        for campaign in _rows_of(tickets):
            self._served.move_to_end(campaign)
        if not is_crowded:
            more = _further_turns(list(self._served), asked + _rows_of(tickets), counts, self.rows)
            tickets += itertools.islice(more, room - len(tickets))
        self._out.extend(tickets)
        return tickets

    def _first_messages(
        self, waiting: Sequence[int], room: int, begun: Callable[[Sequence[int]], set[int]]
    ) -> list[Ticket]:
        """One row each for those that have told nobody yet: more than there are tickets for wait."""
        unknown = [campaign for campaign in waiting if campaign not in self._begun]
        if unknown:
            self._begun |= begun(unknown)
        fresh = [campaign for campaign in waiting if campaign not in self._begun]
        together = min(self.rows, MOST_CAMPAIGNS)
        tickets = _packed([campaign for campaign in fresh if campaign not in self._tried], 1, together, room)
        again = [campaign for campaign in fresh if campaign in self._tried]
        # One ticket is left to the others: something may be wrong with many that never begin.
        tickets += _packed(again, 1, together, max(room - len(tickets) - 1, 0))
        self._tried.update(_rows_of(tickets))
        return tickets

    def _one_turn_each(self, waiting: Sequence[int], room: int, most: int) -> list[Ticket]:
        """The same number of rows for each, at most `most`: a whole ticket if few wait, less if many do."""
        share = self.rows * room // max(len(waiting), 1)
        rows = min(max(share, LEAST_TURN), self.rows, most)
        return _packed(waiting, rows, min(max(self.rows // rows, 1), MOST_CAMPAIGNS), room)


def _rows_of(tickets: Iterable[Ticket]) -> Counter[int]:
    """How many rows of each campaign some tickets ask for."""
    rows: Counter[int] = Counter()
    for ticket in tickets:
        rows.update(dict.fromkeys(ticket.campaigns, ticket.rows))
    return rows


def _packed(campaigns: Sequence[int], rows: int, together: int, most: int) -> list[Ticket]:
    starts = range(0, len(campaigns), together)[:most]
    return [Ticket(rows, tuple(campaigns[start : start + together])) for start in starts]


def _further_turns(
    campaigns: Sequence[int],
    asked: Mapping[int, int],
    counts: Callable[[Sequence[int]], Mapping[int, int]],
    rows: int,
) -> Iterator[Ticket]:
    """Round after round, a ticket for each campaign that has more due than it was given tickets for."""
    due = counts(campaigns)
    left = {campaign: due[campaign] - asked.get(campaign, 0) for campaign in campaigns}
    while left := {campaign: rest for campaign, rest in left.items() if rest > 0}:
        for campaign in left:
            yield Ticket(rows, (campaign,))
            left[campaign] -= rows
