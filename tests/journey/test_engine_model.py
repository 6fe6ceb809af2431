"""The engine against a small model of its law, under random mixtures of everything that can happen to it.

The database, the sender, the sweeper's steps, receipts and the acts of persons are the real ones; the provider is
handed in and keeps its own ledger of what it was given, as the outside world does. Workers vanish with a batch in
any stage, or come back late; leases run out; providers answer in every way; receipts come early, late, twice and
in any order; people pause, resume, cancel, stop, send again, release; days pass at a stroke.

After every step the database must be whole (`VIOLATIONS`); at every call the provider must be allowed to get it
(`World.called`); and in the end, whatever happened, everybody is told or known not to be (`Machine.teardown`).

A short run belongs to the suite; ENGINE_MODEL_EXAMPLES=500 makes a long one, with examples of its own each time.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from notifier import controlling, fallback, profiles, receipts, schedule, store
from notifier.controlling import Chosen
from notifier.providers.base import Blame, Event, Kind, Message, Outcome, Receipt
from notifier.sending import Gate, Sender, Writer
from notifier.states import Campaign, Channel, Delivery
from notifier.store import AsyncDatabase, Database, Result
from tests.factories import make_settings, person, start_campaign
from tests.notifier.test_sending import Unlimited

EXAMPLES = int(os.environ.get("ENGINE_MODEL_EXAMPLES", "0"))
PROVIDER = {Channel.EMAIL: "smtp", Channel.SMS: "brevo-sms"}
SHARED = "06 39 98 77 77"
PEOPLE = [
    person(1),
    person(2, phone=None),
    person(3, email=None),
    # a household: one SMS for three, one of whom has an email too
    person(4, email=None, phone=SHARED),
    person(5, email=None, phone=SHARED),
    person(6, phone=SHARED),
    person(7, email='"one@example.org; two@example.org"'),
    person(8),
]
#: tables that a run changes and that the next one finds as they were
CHANGED = ("campaign", "patient", "delivery", "delivery_patient", "due", "tally", "patient_tally")
EMPTY = ("attempt", "receipt", "hold", "bounce")
HOUR, QUIET, DAYS = timedelta(hours=1), timedelta(minutes=31), timedelta(hours=80)

#: How a call may end. What it says is in `code`; an exception is a bug of the provider.
ANSWERS: dict[str, Outcome | None] = {
    "accepted": Outcome(Kind.ACCEPTED, "accepted"),
    "no such person": Outcome(Kind.REFUSED, "smtp_550_5.1.1", Blame.PERSON),
    "later": Outcome(Kind.REFUSED, "smtp_451", Blame.LATER),
    "throttled": Outcome(Kind.REFUSED, "http_429", Blame.THROTTLED, timedelta(minutes=20)),
    "ours": Outcome(Kind.REFUSED, "smtp_550_5.7.1", Blame.OURS),
    "unknown": Outcome(Kind.UNKNOWN, "no_answer"),
    "raises": None,
}
answers = st.sampled_from(list(ANSWERS))
#: True three times of four
mostly = st.sampled_from([True, True, True, False])

#: Each is a name and the rows that break it; every one must be empty after every step.
VIOLATIONS = """
    SELECT 'the tally is not what there is', coalesce(t.state, d.state) || ' ' || coalesce(t.channel, d.channel)
    FROM (SELECT channel, state, sum(n) AS n FROM tally GROUP BY channel, state HAVING sum(n) <> 0) t
    FULL JOIN (SELECT channel, state, count(*) AS n FROM delivery GROUP BY channel, state) d USING (channel, state)
    WHERE t.n IS DISTINCT FROM d.n
    UNION ALL
    SELECT 'the patients'' tally is not what there is', coalesce(t.outcome, p.outcome)
    FROM (
        SELECT campaign_id, language, variant, has_postal, outcome, coalesce(reason, '') AS reason,
               sum(n) AS n, sum(merged) AS merged
        FROM patient_tally GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0 OR sum(merged) <> 0
    ) t
    FULL JOIN (
        SELECT campaign_id, language, variant, has_postal, outcome, coalesce(outcome_reason, '') AS reason,
               count(*) AS n, sum(merged) AS merged
        FROM patient GROUP BY 1, 2, 3, 4, 5, 6
    ) p USING (campaign_id, language, variant, has_postal, outcome, reason)
    WHERE t.n IS DISTINCT FROM p.n OR t.merged IS DISTINCT FROM p.merged
    UNION ALL
    SELECT 'nothing will ever send it', id::text FROM delivery d WHERE state = 'pending' AND NOT EXISTS (
        SELECT FROM due WHERE d.id = ANY(ids) AND (
            (kind = 'send' AND at <= d.due_at + interval '250 milliseconds' AND channel = d.channel)
            OR (kind = 'lease' AND fences[array_position(ids, d.id)] = d.fence)
        )
    )
    UNION ALL
    SELECT 'nobody will ever ask how it ended', id::text FROM delivery d WHERE state = 'sending' AND NOT EXISTS (
        SELECT FROM due WHERE kind = 'lease' AND d.id = ANY(ids) AND fences[array_position(ids, d.id)] = d.fence - 1
    )
    UNION ALL
    SELECT 'nothing will ever settle it', id::text FROM delivery d
    WHERE state NOT IN ('pending', 'sending') AND (due_at IS NOT NULL OR state = 'unknown') AND NOT EXISTS (
        SELECT FROM due WHERE kind = 'settle' AND d.id = ANY(ids) AND at <= d.due_at + interval '250 milliseconds'
    )
    UNION ALL
    SELECT 'informed, but by nothing', p.id::text FROM patient p WHERE outcome = 'informed' AND NOT EXISTS (
        SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id WHERE dp.patient_id = p.id AND (
            d.state = 'delivered' OR (d.state = 'accepted' AND d.due_at IS NULL AND d.channel = 'email')
            -- a failure that came back, about to be handed on
            OR (d.state = 'failed' AND d.due_at IS NOT NULL)
        )
    )
    UNION ALL
    SELECT 'unreached, but something is on its way', p.id::text FROM patient p
    WHERE outcome = 'unreached' AND EXISTS (
        SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id WHERE dp.patient_id = p.id AND (
            d.state IN ('pending', 'sending', 'unknown', 'accepted') OR (d.state = 'delivered' AND d.due_at IS NULL)
        )
    )
    UNION ALL
    SELECT 'on the way, but by nothing', p.id::text FROM patient p WHERE outcome = 'on_the_way' AND NOT EXISTS (
        SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id WHERE dp.patient_id = p.id
          AND (d.state IN ('pending', 'sending', 'unknown') OR d.due_at IS NOT NULL)
    )
    UNION ALL
    SELECT 'an attempt is open, but its delivery is not being sent', a.delivery_id::text
    FROM attempt a JOIN delivery d ON d.id = a.delivery_id
    WHERE a.ended_at IS NULL AND d.state IN ('pending', 'unknown', 'quarantined') AND NOT EXISTS (
        SELECT FROM due WHERE kind = 'lease' AND d.id = ANY(ids) AND fences[array_position(ids, d.id)] = a.fence - 1
    )
"""

#: What must be so once nothing moves any more.
UNFINISHED = """
    SELECT 'still on the way', id::text FROM patient WHERE outcome = 'on_the_way'
    UNION ALL
    SELECT 'still to be sent or settled', id::text FROM delivery
    WHERE state IN ('pending', 'sending', 'unknown') OR due_at IS NOT NULL
    UNION ALL
    SELECT 'the campaign is not over', state FROM campaign WHERE state NOT IN ('completed', 'cancelled')
    UNION ALL
    SELECT 'given up with a contact that was never tried', p.id::text
    FROM patient p JOIN campaign c ON c.id = p.campaign_id AND c.state <> 'cancelled'
    JOIN patient_contact pc ON pc.patient_id = p.id
    WHERE p.outcome = 'unreached' AND p.outcome_reason <> 'quarantined' AND NOT EXISTS (
        SELECT FROM delivery d WHERE d.contact_id = pc.contact_id AND coalesce(d.addressee_id, p.id) = p.id
          AND (d.reason = 'given_up' OR EXISTS (SELECT FROM attempt a WHERE a.delivery_id = d.id))
    )
"""


@dataclass(eq=False)
class HandOver:
    """One call of the provider, as the outside world knows it."""

    delivery: int
    channel: Channel
    message_id: str
    #: the message may be with the person
    may_have_arrived: bool
    #: the provider has told us that it did not arrive, or that it did
    reported_failed: bool = False
    reported_delivered: bool = False


@dataclass(eq=False)
class Ghost:
    """A worker that vanished or is very slow: what it holds in its memory."""

    channel: Channel
    epoch: int
    lease: int
    #: claimed and not yet marked
    rows: list[store.Claimed]
    #: marked, with how the call ended; None if it was not made
    marked: list[tuple[int, int, HandOver | None, str]] = field(default_factory=list)


class FreezableGate(Gate):
    """A process that was frozen wakes with an old answer, and starts nothing."""

    frozen = False

    def is_open(self, campaign_id: int, epoch: int, channel: str, provider: str) -> bool:
        return not self.frozen and super().is_open(campaign_id, epoch, channel, provider)


class Bug(Exception):
    """What a provider or the keeper of limits should never raise."""


class Governor(Unlimited):
    """Says no, or fails, as told; else lets everything start."""

    def __init__(self) -> None:
        super().__init__()
        self.script: deque[str] = deque()

    async def permit(self, campaign_id: int, receiver: str) -> tuple[float, str]:
        match self.script.popleft() if self.script else "go":
            case "receiver":
                return 60.0, "receiver:orange"
            case "campaign":
                return 60.0, f"campaign:{campaign_id}"
            case "raises":
                raise Bug
        return 0.0, ""


class FakeProvider:
    """Hands every message to the world, and answers as told."""

    #: one, so that a stop in the middle of a call is known before the next one
    concurrency = 1

    def __init__(self, world: World, channel: Channel) -> None:
        self.world, self.channel, self.name = world, channel, PROVIDER[channel]
        self.script: deque[str] = deque()
        self.during: Callable[[HandOver], Awaitable[None]] | None = None

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, message: Message) -> Outcome:
        name = self.script.popleft() if self.script else "accepted"
        handed = self.world.called(int(message.reference.partition(".")[0]), self.channel, name)
        if self.during is not None:
            during, self.during = self.during, None
            await during(handed)
        return self.world.answer(handed, name)


class Parser:
    """Receipts as a provider would report them: the body is the number of one in `waiting`."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.name = channel, PROVIDER[channel]
        self.waiting: list[Receipt] = []

    def parse_receipts(self, reference: str, body: bytes) -> list[Receipt]:
        return [self.waiting[int(body)]]


class World:
    """The database, the engine's parts, and the outside world's own ledger. One for all runs; `reset` between them."""

    def __init__(self, database: Database, url: str) -> None:
        self.database = database
        self.settings = make_settings(url, time_scale=1)
        self.profile = profiles.load("eu-gdpr-fr", self.settings.config_dir)
        self.rules = {channel: schedule.rules(self.profile, channel, 1) for channel in Channel}
        self.campaign = start_campaign(database, self.settings, PEOPLE).id
        self.runner = asyncio.Runner()
        self.runner.run(self._open())
        with database.engine.begin() as connection:
            for table in CHANGED:
                connection.execute(text(f"CREATE TABLE kept_{table} AS TABLE {table}"))
            self.notices = {
                row.channel: row.id for row in connection.execute(text("SELECT channel, id FROM notice"))
            }

    async def _open(self) -> None:
        self.loose = AsyncDatabase(self.settings.sqlalchemy_url)
        engine = self.settings.engine.model_copy(update={"claim_rows": 6, "intent_rows": 2, "result_ms": 1})
        self.gate = FreezableGate(self.loose, timedelta(milliseconds=20), stale=timedelta(minutes=1))
        writer = Writer(self.loose, engine)
        self.providers = {channel: FakeProvider(self, channel) for channel in Channel}
        self.governor = Governor()
        self.senders = {
            channel: Sender(
                database=self.loose,
                master=self.settings.master,
                provider=self.providers[channel],
                rules=self.rules[channel],
                engine=engine,
                gate=self.gate,
                writer=writer,
                governor=self.governor,
                owner="model",
                reference=receipts.reference,
                default_language=self.profile.languages[0],
                jitter=lambda: 0.5,
            )
            for channel in Channel
        }
        runs = (self.gate.run(), writer.run(), *(sender.run() for sender in self.senders.values()))
        self._tasks = [asyncio.create_task(run) for run in runs]

    def close(self) -> None:
        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.loose.dispose()

        self.runner.run(end())
        self.runner.close()

    def reset(self) -> None:
        """As it was when the campaign had just been started."""
        with self.database.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers, no keys
            for table in (*EMPTY, *CHANGED):
                connection.execute(text(f"DELETE FROM {table}"))
            for table in CHANGED:
                connection.execute(text(f"INSERT INTO {table} SELECT * FROM kept_{table}"))
        self.ledger: list[HandOver] = []
        #: calls that should not have been made
        self.faults: list[str] = []
        #: how often a person has asked for one more although it may have arrived
        self.asked: Counter[int] = Counter()
        #: what may go to people who were told: a person has asked for it, or it was under way when they were told
        self.may_go_to_the_told: set[int] = set()
        self.parsers = {channel: Parser(channel) for channel in Channel}
        self.gate.frozen = False
        self.governor.script.clear()
        for provider in self.providers.values():
            provider.script.clear()
            provider.during = None
        # Texts are kept by epoch, and epochs begin anew.
        for sender in self.senders.values():
            sender._texts.clear()

    # --- the outside world's side ------------------------------------------------------------------------

    def called(self, delivery: int, channel: Channel, answer: str) -> HandOver:
        """A message comes in: it must be allowed to. Returns its entry in the ledger."""
        with self.database.staff() as session:
            row = session.execute(
                text(
                    """
                    SELECT d.state, d.possibly_twice, c.state AS campaign,
                           EXISTS (SELECT FROM hold WHERE scope IN ('everything', :channel, :provider)) AS held,
                           EXISTS (SELECT FROM attempt a
                                   WHERE a.delivery_id = d.id AND a.fence = d.fence AND a.ended_at IS NULL) AS noted,
                           EXISTS (SELECT FROM delivery_patient dp JOIN patient p ON p.id = dp.patient_id
                                   WHERE dp.delivery_id = d.id AND p.outcome <> 'informed') AS is_needed
                    FROM delivery d JOIN campaign c ON c.id = d.campaign_id WHERE d.id = :id
                    """
                ),
                {"id": delivery, "channel": f"channel:{channel}", "provider": f"provider:{PROVIDER[channel]}"},
            ).one()
        earlier = [
            one
            for one in self.ledger
            if one.delivery == delivery and one.may_have_arrived and not one.reported_failed
        ]
        # Not raised here: the engine would take it for a bug of the provider.
        for holds, fault in (
            (row.campaign == Campaign.SENDING, f"sent while the campaign is {row.campaign}"),
            (not row.held, "sent while it is on hold"),
            (row.noted, f"sent without an open attempt in the database ({row.state})"),
            (not earlier or row.possibly_twice, "sent again, not declared as possibly twice"),
            (len(earlier) < 2 + self.asked[delivery], "sent a third time, and nobody asked for it"),
            (row.is_needed or delivery in self.may_go_to_the_told, "sent to those who were told"),
        ):
            if not holds:
                self.faults.append(f"{channel} {delivery} {fault}")
        handed = HandOver(delivery, channel, f"m-{len(self.ledger)}", answer in ("accepted", "unknown", "raises"))
        self.ledger.append(handed)
        return handed

    def answer(self, handed: HandOver, name: str) -> Outcome:
        """What the provider says."""
        outcome = ANSWERS[name]
        if outcome is None:
            raise Bug
        if outcome.kind is Kind.ACCEPTED:
            return Outcome(Kind.ACCEPTED, "accepted", provider_message_id=handed.message_id)
        return outcome

    def report(self, handed: HandOver, event: Event, minutes: int) -> None:
        """The provider reports an event that was so many minutes after the start."""
        handed.reported_failed |= event in (Event.SOFT_FAILED, Event.HARD_FAILED)
        handed.reported_delivered |= event is Event.DELIVERED
        parser = self.parsers[handed.channel]
        at = datetime(2026, 11, 20, 9, tzinfo=UTC) + timedelta(minutes=minutes)
        reference = receipts.webhook_reference(self.settings.master, parser.name, handed.delivery)
        parser.waiting.append(Receipt(reference, event, str(event), at, handed.message_id))
        body = str(len(parser.waiting) - 1).encode()
        with self.database.staff() as session:
            receipts.accept(session, self.settings.master, parser, reference, body, now=datetime.now(UTC))

    # --- the engine's side -------------------------------------------------------------------------------

    def epoch(self) -> int:
        with self.database.staff() as session:
            return int(session.scalar(text("SELECT epoch FROM campaign")) or 0)

    def state(self) -> Campaign:
        with self.database.staff() as session:
            return Campaign(session.scalar(text("SELECT state FROM campaign")))

    def work(self, channel: Channel, script: list[str], epoch: int) -> int:
        provider = self.providers[channel]
        provider.script.extend(script)
        try:
            return self.runner.run(self.senders[channel].work(self.campaign, epoch))
        finally:
            provider.script.clear()
            provider.during = None
            self.governor.script.clear()
            self.gate.frozen = False

    def apply_receipts(self) -> None:
        with self.database.staff() as session:
            receipts.apply(session, self.rules.__getitem__, now=datetime.now(UTC))

    def settle(self) -> None:
        with self.database.staff() as session:
            self.may_go_to_the_told.update(
                session.scalars(text("SELECT id FROM delivery WHERE state = 'sending'"))
            )
            fallback.settle(session, self.profile, now=datetime.now(UTC))

    def sweep(self) -> None:
        with self.database.staff() as session:
            quiet = {channel: rules.unknown_quiet for channel, rules in self.rules.items()}
            store.sweep(session, quiet=quiet, max_crashes=2, leases=3)
            store.fold_tally(session, limit=7)

    def expire_leases(self) -> None:
        """As if every lease had run out, and the sweeper has seen it."""
        with self.database.staff() as session:
            session.execute(text("UPDATE due SET at = now() - interval '1 second' WHERE kind = 'lease'"))
        for _ in range(5):
            self.sweep()

    def pass_time(self, span: timedelta) -> None:
        """Everything noted for later is nearer by that."""
        with self.database.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for change in (
                "delivery SET due_at = due_at - :span, first_tried_at = first_tried_at - :span",
                "due SET at = at - :span",
                "hold SET until = until - :span",
                "bounce SET since = since - :span",
            ):
                connection.execute(text(f"UPDATE {change}"), {"span": span})

    def broken(self, laws: str) -> list[tuple[str, str]]:
        with self.database.staff() as session:
            return [tuple(row) for row in session.execute(text(laws))]


class Machine(RuleBasedStateMachine):
    """What can happen, in any order."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self.ghosts: list[Ghost] = []

    # --- workers -----------------------------------------------------------------------------------------

    @initialize(
        script=st.lists(answers, min_size=1, max_size=8), channels=st.lists(st.sampled_from(Channel), max_size=2)
    )
    def begin(self, script: list[str], channels: list[Channel]) -> None:
        for channel in channels:
            self.world.work(channel, script, self.world.epoch())

    @rule(
        channel=st.sampled_from(Channel),
        script=st.lists(answers, max_size=8),
        permits=st.lists(st.sampled_from(["go", "receiver", "campaign", "raises"]), max_size=3),
        is_let_go=mostly,
    )
    def work(self, channel: Channel, script: list[str], permits: list[str], is_let_go: bool) -> None:
        if is_let_go:
            self._let_go()
        self.world.governor.script.extend(permits)
        self.world.work(channel, script, self.world.epoch())

    @rule(span=st.sampled_from([timedelta(0), QUIET, HOUR, DAYS]), script=st.lists(answers, max_size=8))
    def a_day_of_work(self, span: timedelta, script: list[str]) -> None:
        """Everybody does what they should, and providers answer as they like."""
        self._let_go()
        self.world.pass_time(span)
        self.world.apply_receipts()
        self.world.settle()
        for channel in Channel:
            self.world.work(channel, script, self.world.epoch())

    @rule(
        channel=st.sampled_from(Channel),
        script=st.lists(answers, max_size=6),
        what=st.sampled_from(["pause", "cancel", "hold", "freeze", "delivered", "soft", "hard", "settle"]),
    )
    def work_while_something_happens(self, channel: Channel, script: list[str], what: str) -> None:
        """In the middle of the first call."""
        world = self.world
        self._let_go()

        async def during(handed: HandOver) -> None:
            match what:
                case "pause":
                    self._pause()
                case "cancel" if len(world.ledger) > 5:
                    self._cancel()
                case "hold":
                    self._hold("everything")
                case "freeze":
                    world.gate.frozen = True
                    world.expire_leases()
                case "settle":
                    world.settle()
                case "delivered" | "soft" | "hard" if handed.may_have_arrived:
                    events = {"delivered": Event.DELIVERED, "soft": Event.SOFT_FAILED, "hard": Event.HARD_FAILED}
                    world.report(handed, events[what], 5)
                    world.apply_receipts()
            await world.gate.read()

        world.providers[channel].during = during
        world.work(channel, script, world.epoch())

    @rule(
        channel=st.sampled_from(Channel),
        rows=st.integers(1, 6),
        marked=st.integers(0, 6),
        script=st.lists(answers, max_size=6),
    )
    def a_worker_vanishes(self, channel: Channel, rows: int, marked: int, script: list[str]) -> None:
        """With rows claimed, some of them marked, and some of those called."""
        self._let_go()
        self.world.pass_time(timedelta(minutes=16))
        world, epoch = self.world, self.world.epoch()

        async def vanish() -> Ghost | None:
            async with world.loose.hot() as connection:
                claim = await store.claim(
                    connection,
                    campaign_id=world.campaign,
                    epoch=epoch,
                    channel=channel,
                    provider=PROVIDER[channel],
                    owner="ghost",
                    lease=timedelta(seconds=60),
                    rows=rows,
                    hints=rows,
                )
            if claim is None or not claim.rows:
                return None
            ghost = Ghost(channel, epoch, claim.lease, list(claim.rows))
            await self._mark(ghost, marked, script)
            return ghost

        ghost = world.runner.run(vanish())
        if ghost is not None:
            self.ghosts.append(ghost)

    async def _mark(self, ghost: Ghost, count: int, script: list[str]) -> None:
        """The next rows are marked; as many as there are answers are called."""
        rows, ghost.rows = ghost.rows[:count], ghost.rows[count:]
        if not rows:
            return
        async with self.world.loose.hot() as connection:
            going = await store.intend(
                connection,
                [(row.id, row.fence, self.world.notices[ghost.channel]) for row in rows],
                lease_id=ghost.lease,
                epoch=ghost.epoch,
                channel=ghost.channel,
                provider=PROVIDER[ghost.channel],
                lease=timedelta(seconds=60),
            )
        left = deque(script)
        for row in rows:
            if row.id not in going:
                ghost.rows.append(row)
                continue
            name = left.popleft() if left else ""
            handed = self.world.called(row.id, ghost.channel, name) if name else None
            ghost.marked.append((row.id, row.fence + 1, handed, name))

    @precondition(lambda self: self.ghosts)
    @rule(which=st.integers(0, 9), marked=st.integers(0, 2), script=st.lists(answers, max_size=2))
    def a_vanished_worker_comes_back(self, which: int, marked: int, script: list[str]) -> None:
        """It goes on where it was: marks a few more, writes its results, gives the rest back, ends its lease."""
        ghost = self.ghosts.pop(which % len(self.ghosts))

        async def go_on() -> None:
            await self._mark(ghost, marked, script)
            now = datetime.now(UTC)
            async with self.world.loose.hot() as connection:
                if ghost.marked:
                    await store.close(connection, [self._result(*one, ghost, now) for one in ghost.marked])
                if ghost.rows:
                    await store.release(connection, [(row.id, row.fence, None) for row in ghost.rows])
                await store.end_lease(connection, ghost.lease)

        self.world.runner.run(go_on())

    def _result(
        self, delivery: int, fence: int, handed: HandOver | None, name: str, ghost: Ghost, now: datetime
    ) -> Result:
        if handed is None:
            return Result(delivery, fence, Delivery.PENDING, now, 1, Kind.REFUSED, "not_sent", None, None)
        try:
            outcome = self.world.answer(handed, name)
        except Bug:
            outcome = Outcome(Kind.UNKNOWN, "provider_raised")
        rules = self.world.rules[ghost.channel]
        step = schedule.after_hand_over(outcome, rules, tries=1, first_tried_at=now, now=now, jitter=0.5)
        uncounted = 0 if step.counts else 1
        return Result(
            delivery, fence, step.state, step.due_at, uncounted, outcome.kind, outcome.code,
            outcome.provider_message_id, None,
        )  # fmt: skip

    # --- time and the sweeper ----------------------------------------------------------------------------

    @rule()
    def leases_run_out(self) -> None:
        self.world.expire_leases()

    @rule(span=st.sampled_from([timedelta(minutes=16), QUIET, HOUR, DAYS, DAYS]), is_settled=mostly)
    def time_passes(self, span: timedelta, is_settled: bool) -> None:
        self.world.pass_time(span)
        if is_settled:
            self.world.settle()

    @rule(is_settled=st.booleans())
    def receipts_are_applied(self, is_settled: bool) -> None:
        self.world.apply_receipts()
        if is_settled:
            self.world.settle()

    @rule(ago=st.integers(1, 2))
    def nothing_was_forgotten_and_no_old_ticket_works(self, ago: int) -> None:
        """Also, the engine may stop a campaign with too many dead addresses at any time."""
        self.world.settle()
        with self.world.database.staff() as session:
            assert store.rehint(session, self.world.campaign) == 0
            controlling.pause_bouncing(session, limit=0.6, least=4)
        for channel in Channel:
            assert self.world.work(channel, [], self.world.epoch() - ago) == 0

    # --- what providers report ---------------------------------------------------------------------------

    @precondition(lambda self: any(one.may_have_arrived for one in self.world.ledger))
    @rule(
        which=st.integers(0, 99),
        event=st.sampled_from([Event.SENT, Event.DELIVERED, Event.SOFT_FAILED, Event.HARD_FAILED]),
        minutes=st.integers(0, 9),
        is_applied=mostly,
        is_settled=mostly,
    )
    def a_receipt_comes(self, which: int, event: Event, minutes: int, is_applied: bool, is_settled: bool) -> None:
        """Early, late, again, in any order: `minutes` is when it happened, not when it comes."""
        handed = [one for one in self.world.ledger if one.may_have_arrived]
        self.world.report(handed[which % len(handed)], event, minutes)
        if is_applied:
            self.world.apply_receipts()
        if is_settled:
            self.world.settle()

    # --- what people do ----------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["pause", "everything", "channel:sms", "provider:smtp", "go on", "give up", "cancel"])
    )
    def a_person_acts(self, what: str) -> None:
        match what:
            case "pause":
                self._pause()
            case "go on":
                self._let_go()
            case "give up":
                self._give_up()
            case "cancel" if len(self.world.ledger) > 9:
                self._cancel()
            case "everything" | "channel:sms" | "provider:smtp":
                self._hold(what)

    def _pause(self) -> None:
        if self.world.state() == Campaign.SENDING:
            with self.world.database.staff() as session:
                controlling.pause(session, self.world.campaign, actor="cli:test", reason="a doubt")

    def _hold(self, scope: str) -> None:
        with self.world.database.staff() as session:
            controlling.hold(session, scope, actor="cli:test", reason="a doubt", now=datetime.now(UTC))

    def _let_go(self) -> None:
        with self.world.database.staff() as session:
            session.execute(text("DELETE FROM hold"))
            if session.scalar(text("SELECT state FROM campaign")) == Campaign.PAUSED:
                controlling.resume(session, self.world.campaign, actor="cli:test")

    def _cancel(self) -> None:
        if self.world.state() in (Campaign.SENDING, Campaign.PAUSED):
            with self.world.database.staff() as session:
                controlling.cancel(
                    session, self.world.campaign, actor="cli:test", reason="wrong", now=datetime.now(UTC)
                )

    @rule(
        possibly_twice=st.booleans(),
        even_told=st.booleans(),
        state=st.sampled_from(["failed", "failed", "unknown"]),
        is_settled=mostly,
    )
    def replay(self, possibly_twice: bool, even_told: bool, state: str, is_settled: bool) -> None:
        if is_settled:
            self.world.settle()
        if state == "unknown" and not possibly_twice:
            return
        with self.world.database.staff() as session:
            done = controlling.replay(
                session,
                Chosen(campaign_id=self.world.campaign),
                Delivery(state),
                actor="cli:test",
                reason="again",
                now=datetime.now(UTC),
                possibly_twice=possibly_twice,
                even_told=even_told,
            )
        self._asked(done.ids, possibly_twice=possibly_twice, even_told=even_told)

    @rule(even_told=st.booleans())
    def release(self, even_told: bool) -> None:
        chosen = Chosen(campaign_id=self.world.campaign)
        with self.world.database.staff() as session:
            done = controlling.release(
                session, chosen, actor="cli:test", reason="mended", now=datetime.now(UTC), even_told=even_told
            )
        self._asked(done.ids, possibly_twice=False, even_told=even_told)

    def _asked(self, ids: list[int], *, possibly_twice: bool, even_told: bool) -> None:
        for delivery in ids:
            self.world.asked[delivery] += possibly_twice
        if even_told:
            self.world.may_go_to_the_told.update(ids)

    def _give_up(self) -> None:
        with self.world.database.staff() as session:
            controlling.give_up(
                session,
                Chosen(campaign_id=self.world.campaign),
                actor="cli:test",
                reason="no use",
                now=datetime.now(UTC),
            )

    # --- the law -----------------------------------------------------------------------------------------

    @invariant()
    def the_database_is_whole(self) -> None:
        assert self.world.faults == []
        assert self.world.broken(VIOLATIONS) == []

    def teardown(self) -> None:
        """Workers come back to work, providers are well, people let everything go on: then everybody is told."""
        world = self.world
        if world.faults or world.broken(VIOLATIONS):
            return  # said already
        for _ in range(12):
            self._let_go()
            world.expire_leases()
            world.apply_receipts()
            for channel in Channel:
                for _ in range(4):
                    world.work(channel, [], world.epoch())
            for _ in range(3):
                world.settle()
            self.the_database_is_whole()
            if not world.broken(UNFINISHED):
                break
            world.pass_time(DAYS)
        assert world.broken(UNFINISHED) == []
        self._check_the_end()

    def _check_the_end(self) -> None:
        """What we say of each person is what the outside world knows."""
        world = self.world
        with world.database.staff() as session:
            people = session.execute(
                text(
                    "SELECT p.id, p.outcome, array_agg(dp.delivery_id) FILTER (WHERE dp.delivery_id IS NOT NULL) AS ids "
                    "FROM patient p LEFT JOIN delivery_patient dp ON dp.patient_id = p.id GROUP BY p.id"
                )
            ).all()
            counts = store.outcome_counts(session, world.campaign)
            accepted = session.scalar(text("SELECT count(*) FROM attempt WHERE outcome = 'accepted'"))
        assert counts["imported"] == len(PEOPLE)
        assert accepted <= sum(one.may_have_arrived for one in world.ledger)
        for one in people:
            theirs = [handed for handed in world.ledger if handed.delivery in (one.ids or [])]
            if one.outcome == "informed":
                assert any(handed.may_have_arrived for handed in theirs), f"patient {one.id} was told by nothing"


@pytest.fixture
def world(database: Database, database_url: str) -> Iterator[World]:
    made = World(database, database_url)
    yield made
    made.close()


@pytest.fixture
def machine(world: World) -> Machine:
    return _machine(world)()


def _machine(world: World) -> type[Machine]:
    class OfThisWorld(Machine):
        pass

    OfThisWorld.world = world
    return OfThisWorld


def run_at_random(machine: type[RuleBasedStateMachine], examples: int, *, steps: int) -> None:
    """The same examples in each run of the suite; many and new ones where EXAMPLES says how many."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=bool(EXAMPLES),
        ),
    )


@pytest.mark.timeout(7200 if EXAMPLES else 600)
def test_whatever_happens_everybody_is_told_or_known_not_to_be(world: World) -> None:
    run_at_random(_machine(world), 40, steps=40 if EXAMPLES else 25)


# --- what it has found -----------------------------------------------------------------------------------


def work(machine: Machine, channel: Channel, *script: str) -> None:
    machine.world.work(channel, list(script), machine.world.epoch())
    machine.the_database_is_whole()


def report(machine: Machine, event: Event, minutes: int) -> None:
    """About the first hand-over."""
    machine.a_receipt_comes(0, event, minutes, is_applied=True, is_settled=True)
    machine.the_database_is_whole()


def test_who_was_told_by_silence_is_not_when_a_failure_comes_back_after_all(machine: Machine) -> None:
    work(machine, Channel.EMAIL)
    machine.time_passes(DAYS, is_settled=True)
    report(machine, Event.SOFT_FAILED, 3)
    machine.teardown()


def test_nobody_gets_an_uncertain_sms_again_who_was_told_by_email_after_all(machine: Machine) -> None:
    work(machine, Channel.EMAIL)
    report(machine, Event.HARD_FAILED, 1)
    work(machine, Channel.SMS, *["unknown"] * 8)
    report(machine, Event.DELIVERED, 5)
    machine.time_passes(HOUR, is_settled=True)
    work(machine, Channel.SMS)
    machine.teardown()


def test_nor_one_that_was_in_the_hands_of_a_worker_that_died(machine: Machine) -> None:
    work(machine, Channel.EMAIL)
    report(machine, Event.HARD_FAILED, 1)
    machine.a_worker_vanishes(Channel.SMS, rows=6, marked=6, script=["accepted"] * 6)
    report(machine, Event.DELIVERED, 5)
    machine.leases_run_out()
    machine.time_passes(HOUR, is_settled=True)
    machine.world.may_go_to_the_told.clear()
    work(machine, Channel.SMS)
    machine.teardown()


def test_an_sms_that_an_email_made_needless_goes_out_when_the_email_bounces_later(machine: Machine) -> None:
    work(machine, Channel.EMAIL)
    report(machine, Event.HARD_FAILED, 1)
    report(machine, Event.DELIVERED, 5)
    report(machine, Event.HARD_FAILED, 8)
    machine.teardown()


def test_a_second_report_about_a_hand_over_without_a_name_is_not_taken_for_one_about_the_next(
    machine: Machine,
) -> None:
    work(machine, Channel.EMAIL, "unknown")
    report(machine, Event.SOFT_FAILED, 1)
    machine.time_passes(HOUR, is_settled=True)
    work(machine, Channel.EMAIL)
    report(machine, Event.SOFT_FAILED, 2)
    machine.time_passes(HOUR, is_settled=True)
    work(machine, Channel.EMAIL)
    assert Counter(one.delivery for one in machine.world.ledger).most_common(1)[0][1] == 2
    machine.teardown()


def test_a_report_that_may_be_about_either_of_two_hand_overs_makes_the_next_a_declared_one(
    machine: Machine,
) -> None:
    work(machine, Channel.EMAIL, "unknown")
    report(machine, Event.SOFT_FAILED, 1)
    machine.time_passes(HOUR, is_settled=True)
    work(machine, Channel.EMAIL, "unknown")
    report(machine, Event.SOFT_FAILED, 2)
    machine.time_passes(HOUR, is_settled=True)
    work(machine, Channel.EMAIL)
    machine.teardown()


def test_who_was_told_by_an_email_that_bounces_again_waits_for_the_sms_of_the_household(machine: Machine) -> None:
    work(machine, Channel.EMAIL)
    work(machine, Channel.SMS)
    with machine.world.database.staff() as session:  # the list's sixth person: their row is 7
        email = session.scalar(
            text("SELECT id FROM delivery WHERE addressee_id = (SELECT id FROM patient WHERE row = 7)")
        )
    sixth = [one.delivery for one in machine.world.ledger].index(email)
    for minutes, event in enumerate((Event.HARD_FAILED, Event.DELIVERED, Event.HARD_FAILED)):
        machine.a_receipt_comes(sixth, event, minutes, is_applied=True, is_settled=True)
        machine.the_database_is_whole()
    machine.teardown()


def test_who_is_sent_a_failed_email_again_before_it_was_settled_is_on_the_way(machine: Machine) -> None:
    work(machine, Channel.EMAIL)
    machine.time_passes(DAYS, is_settled=True)
    machine.a_receipt_comes(0, Event.HARD_FAILED, 1, is_applied=True, is_settled=False)
    machine.replay(possibly_twice=False, even_told=True, state="failed", is_settled=False)
    machine.the_database_is_whole()
    machine.teardown()


def test_a_row_that_two_hints_name_is_sent_once(machine: Machine) -> None:
    with machine.world.database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = due_at"))
    for channel in Channel:
        work(machine, channel)
    assert len(machine.world.ledger) == len({one.delivery for one in machine.world.ledger}) == 7


def test_a_row_whose_permit_could_not_be_asked_for_is_brought_back_by_its_lease(machine: Machine) -> None:
    machine.world.governor.script.extend(["go", "raises"])
    work(machine, Channel.EMAIL)
    machine.teardown()
