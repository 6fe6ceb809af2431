"""Lists that come while everything else happens: the engine's model, with lists among what can happen to it.

Every law of `test_engine_model` holds as before, and two more. What a list took away is not sent to once it is
saved, unless it was in a provider's hands then; and patients and rows add up at every moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import invariant, rule
from sqlalchemy import text

from notifier import fanout, store
from notifier.errors import ConflictError
from notifier.reaching import is_wanted
from notifier.states import Campaign, Channel
from notifier.store import Database
from tests.factories import import_more, person
from tests.journey.test_engine_model import EXAMPLES, SHARED, HandOver, Machine, World, answers, run_at_random

#: tables that lists change besides those of the engine
LISTED = ("list_file", "list_problem", "contact", "patient_contact")

#: number, email, phone, deceased: people of the first list, and some whom it does not name
rows = st.lists(
    st.tuples(
        st.integers(1, 11),
        st.sampled_from(["", "", "new@example.org", '"old@example.org; new@example.org"', None]),
        st.sampled_from(["", SHARED, "06 39 98 88 88", None]),
        st.sampled_from(["", "", "oui"]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[0],
)
Rows = list[tuple[int, str | None, str | None, str]]


class ListWorld(World):
    """The world, with lists."""

    def __init__(self, database: Database, url: str) -> None:
        super().__init__(database, url)
        with database.engine.begin() as connection:
            for table in LISTED:
                connection.execute(text(f"CREATE TABLE kept_{table} AS TABLE {table}"))

    def reset(self) -> None:
        super().reset()
        with self.database.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for table in LISTED:
                connection.execute(text(f"DELETE FROM {table}"))
                connection.execute(text(f"INSERT INTO {table} SELECT * FROM kept_{table}"))
        #: hand-overs that were marked when a list was saved: delivery and fence
        self.in_flight: set[tuple[int, int]] = set()
        self.lists = 0

    def take(self, given: Rows) -> None:
        """A list is imported; a cancelled campaign takes none."""
        self.lists += 1
        lines = [
            person(number, email=email, phone=phone, decede=dead, ville=f"Paris{self.lists}")
            for number, email, phone, dead in given
        ]
        try:
            import_more(self.database, self.settings, self.campaign, lines)
        except ConflictError:
            assert self.state() == Campaign.CANCELLED
        with self.database.staff() as session:
            marked = session.execute(text("SELECT id, fence FROM delivery WHERE state = 'sending'"))
            self.in_flight.update((row.id, row.fence) for row in marked)

    def called(self, delivery: int, channel: Channel, answer: str) -> HandOver:
        with self.database.staff() as session:
            row = session.execute(
                text(f"SELECT d.fence, {is_wanted('d')} AS wanted FROM delivery d WHERE d.id = :id"),
                {"id": delivery},
            ).one()
        if not row.wanted and (delivery, row.fence) not in self.in_flight:
            self.faults.append(f"{channel} {delivery} sent although a list had taken it back")
        return super().called(delivery, channel, answer)


class ListMachine(Machine):
    """What can happen, and lists."""

    world: ListWorld

    @rule(given=rows)
    def a_list_comes(self, given: Rows) -> None:
        self.world.take(given)

    @rule(given=rows, channel=st.sampled_from(Channel), script=st.lists(answers, max_size=6))
    def a_list_comes_in_the_middle_of_a_call(self, given: Rows, channel: Channel, script: list[str]) -> None:
        self._let_go()

        async def during(_: HandOver) -> None:
            self.world.take(given)

        self.world.providers[channel].during = during
        self.world.work(channel, script, self.world.epoch())

    @rule(limit=st.integers(1, 4), pieces=st.integers(1, 3))
    def somebody_extends_once_more(self, limit: int, pieces: int) -> None:
        """In pieces, and does not come to the end of it."""
        after: int | None = 0
        for _ in range(pieces):
            if after is not None and self.world.state() != Campaign.CANCELLED:
                with self.world.database.staff() as session:
                    done = fanout.extend(
                        session, self.world.campaign, now=datetime.now(UTC), after=after, limit=limit
                    )
                after = done.last

    @invariant()
    def rows_and_people_add_up(self) -> None:
        with self.world.database.staff() as session:
            counts = store.outcome_counts(session, self.world.campaign)
            rows = session.scalar(text("SELECT sum(rows - refused) FROM list_file"))
        assert counts["imported"] == rows

    def _check_the_end(self) -> None:
        """Who is informed was told by a message that may have arrived."""
        with self.world.database.staff() as session:
            people = session.execute(
                text(
                    "SELECT p.id, array_agg(dp.delivery_id) AS ids FROM patient p JOIN delivery_patient dp "
                    "ON dp.patient_id = p.id WHERE p.outcome = 'informed' GROUP BY p.id"
                )
            ).all()
        for one in people:
            theirs = [handed for handed in self.world.ledger if handed.delivery in one.ids]
            assert any(handed.may_have_arrived for handed in theirs), f"patient {one.id} was told by nothing"


@pytest.fixture
def world(database: Database, database_url: str) -> Iterator[ListWorld]:
    made = ListWorld(database, database_url)
    yield made
    made.close()


def _machine(world: ListWorld) -> type[ListMachine]:
    class OfThisWorld(ListMachine):
        pass

    OfThisWorld.world = world
    return OfThisWorld


@pytest.mark.timeout(7200 if EXAMPLES else 600)
def test_whatever_lists_come_everybody_is_told_once_or_known_not_to_be(world: ListWorld) -> None:
    run_at_random(_machine(world), 15, steps=30 if EXAMPLES else 20)
