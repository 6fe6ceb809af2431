"""One scenario at work: its own incident on a stage, what disturbed it, and how it ended."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from notifier import acts, controlling, store
from notifier.cli.drill import law
from notifier.cli.drill.stage import FATES, Stage
from notifier.errors import NotifierError, ServiceError
from notifier.models import Doctor
from notifier.rehearsal import incidents, judging
from notifier.rehearsal import main as rehearsal
from notifier.states import Campaign

ACTOR = "cli:drill"
#: what a drill may meet among servers that it kills
_TROUBLE = (NotifierError, SQLAlchemyError, redis.RedisError, httpx.HTTPError, OSError, subprocess.SubprocessError)
#: after the bound, so long is waited for a late end, so that slow is told from lost
_LATE_S = 60.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One failure mode: what is done, and within how many seconds after it all is well again."""

    mode: str
    #: one sentence: what happens, and what must come of it
    sentence: str
    bound_s: float
    act: Callable[[Run], None]
    patients: int = 120


@dataclass(slots=True)
class Ended:
    """How one scenario ended once."""

    mode: str
    seconds: float = 0.0
    #: from the end of the disturbance until every campaign was completed
    recovered_s: float = 0.0
    judged: law.Judged = field(default_factory=lambda: law.Judged(0, 0, 0, 0, ()))
    problems: list[str] = field(default_factory=list)
    #: what a scenario measured besides
    measured: dict[str, float] = field(default_factory=dict)


class Run:
    """What a scenario acts with. All it does can be repeated from the seed, but for the machine's timing."""

    def __init__(self, stage: Stage, scenario: Scenario, dice: random.Random, name: str) -> None:
        self.stage = stage
        self.scenario = scenario
        self.dice = dice
        #: in the references of this incident and its doctors
        self.name = name
        self.campaigns: dict[str, int] = {}
        self.ended = Ended(scenario.mode)
        self._mended_at: float | None = None
        self._queue: dict[str, int] = {}
        self._truth = self._make()

    # --- the incident -------------------------------------------------------------------------------------

    def _make(self) -> incidents.Truth:
        """Two doctors' lists, imported and approved."""
        stage = self.stage
        folder = stage.folder / "incidents" / self.name
        truth = incidents.make_incident(
            self.dice.randrange(2**31), 2, self.scenario.patients, folder, FATES, fates=stage.seed
        )
        facts = json.loads((folder / "incident.json").read_text(encoding="utf-8"))["facts"]
        with stage.database.staff() as session:
            incident = acts.create_incident(session, stage.settings, self.name, "eu-gdpr-fr", facts, actor=ACTOR)
        for values in truth.doctors:
            known = values["reference"]
            with stage.database.staff() as session:
                values = {**values, "reference": f"{self.name}-{known}"}
                doctor: Doctor = acts.create_doctor(session, actor=ACTOR, **values)
                campaign = controlling.create(session, stage.settings.master, incident.id, doctor.id, actor=ACTOR)
                now = datetime.now(UTC)
                source = folder / f"list-{known}.csv"
                acts.import_list(session, stage.settings, campaign.id, source, actor=ACTOR, now=now)
                session.flush()
                shown = acts.draft(session, stage.settings, campaign.id)
                acts.approve(session, stage.settings, campaign.id, expected_hash=shown.hash, actor=ACTOR, now=now)
            self.campaigns[known] = campaign.id
        return truth

    def start(self, *chosen: int) -> None:
        """Lets the campaigns send: both, or those of these numbers."""
        with self.stage.database.staff() as session:
            for campaign_id in chosen or self.campaigns.values():
                acts.start(session, campaign_id, actor=ACTOR, now=datetime.now(UTC))

    def hold(self) -> None:
        """Nothing goes out until `lift`."""
        with self.stage.database.staff() as session:
            controlling.hold(session, "everything", actor=ACTOR, reason="drill", now=datetime.now(UTC))

    def lift(self) -> None:
        with self.stage.database.staff() as session:
            controlling.lift(session, "everything", actor=ACTOR)

    def sending(self, most: int | None = None) -> None:
        """Waits until the servers have taken some messages of this incident, at most `most`."""
        wanted = self.stage.next_message + (most or self.dice.randint(8, 25))
        self.stage.until("messages go out", lambda: self.stage.taken() >= wanted or self.is_over(), 60)

    def sent(self) -> int:
        """Messages of this incident that the servers took."""
        return self.stage.taken() - self.stage.next_message

    def is_over(self) -> bool:
        """Whether every campaign is completed; looks into the queue on the way."""
        self._look_into_queue()
        ids = list(self.campaigns.values())
        count = self.scalar(
            "SELECT count(*) FROM campaign WHERE id = ANY(:ids) AND state = :done", done=Campaign.COMPLETED
        )
        return bool(count == len(ids))

    def scalar(self, statement: str, **values: object) -> Any:
        """One value about this incident: `:ids` are its campaigns."""
        return self.stage.scalar(statement, ids=list(self.campaigns.values()), **values)

    def rows(self, statement: str) -> Sequence[Any]:
        with self.stage.database.staff() as session:
            return session.execute(text(statement), {"ids": list(self.campaigns.values())}).all()

    def mended(self) -> None:
        """From here the time to recover counts: nothing is wrong outside any more."""
        self._mended_at = time.monotonic()

    def expect(self, holds: bool, otherwise: str) -> None:
        """Notes a problem in words where something of this scenario alone does not hold."""
        if not holds:
            self.ended.problems.append(otherwise)

    def measure(self, name: str, seconds: float, bound_s: float) -> None:
        """Notes how long something took, and a problem if that was too long."""
        self.ended.measured[name] = round(seconds, 2)
        self.expect(seconds <= bound_s, f"{name}: {seconds:.1f} s, more than {bound_s:.0f} s")

    # --- from beginning to end ----------------------------------------------------------------------------

    def play(self) -> Ended:
        """Does the scenario, waits for its end and judges it. Errors become problems: the next one still runs."""
        started = time.monotonic()
        for part in (self._act, self._await_end, self._judge):
            try:
                part()
            except _TROUBLE as error:
                said = error.message if isinstance(error, NotifierError) else f"{type(error).__name__}: {error}"
                self.ended.problems.append(said.splitlines()[0])
        self.ended.seconds = time.monotonic() - started
        return self.ended

    def _act(self) -> None:
        self.scenario.act(self)

    def _judge(self) -> None:
        self.ended.judged = law.judge(self._facts())
        self.ended.problems += self.ended.judged.broken

    def _await_end(self) -> None:
        mended_at = self._mended_at or time.monotonic()
        bound = self.scenario.bound_s
        left = max(bound - (time.monotonic() - mended_at), 0)
        try:
            self.stage.until("every patient has an outcome", self.is_over, left + _LATE_S)
        except ServiceError as error:
            self.ended.problems.append(error.message)
        self.ended.recovered_s = time.monotonic() - mended_at
        if self.ended.recovered_s > bound:
            self.ended.problems.append(f"recovered after {self.ended.recovered_s:.1f} s, bound {bound:.0f} s")

    def _look_into_queue(self) -> None:
        """The largest number ever seen of what must not be there."""
        try:
            left = self.stage.left_in_queue()
        except redis.RedisError:
            return  # that it is away is the scenario's own matter
        self._queue = {name: max(number, self._queue.get(name, 0)) for name, number in left.items()}

    def _facts(self) -> law.Facts:
        stage = self.stage
        asked, messages = stage.asked(), list(rehearsal.fetch_messages(stage.here, stage.next_message))
        with stage.database.staff() as session:
            numbers = [store.outcome_counts(session, one) for one in self.campaigns.values()]
        facts = law.Facts(
            numbers=numbers,
            outcomes=list(self._outcomes()),
            deliveries=[
                law.Row(*row)
                for row in self.rows(
                    "SELECT id, state, possibly_twice FROM delivery WHERE campaign_id = ANY(:ids)"
                )
            ],
            attempts=[
                law.Try(*row)
                for row in self.rows(
                    "SELECT a.delivery_id, a.outcome, a.code "
                    "FROM attempt a JOIN delivery d ON d.id = a.delivery_id WHERE d.campaign_id = ANY(:ids)"
                )
            ],
            messages=messages,
            excused=self.scalar(
                "SELECT count(*) FROM patient p WHERE p.campaign_id = ANY(:ids) AND p.outcome = 'unreached' "
                "AND EXISTS (SELECT FROM delivery_patient dp JOIN delivery d ON d.id = dp.delivery_id "
                "WHERE dp.patient_id = p.id AND d.reason = ANY(:excused))",
                excused=list(law.EXCUSED),
            ),
            asked=asked - stage.asked_before,
            verdict=judging.judge(self._truth, messages, self._outcomes()),
            queue=self._queue,
        )
        stage.asked_before, stage.next_message = asked, stage.next_message + len(messages)
        return facts

    def _outcomes(self) -> Iterator[dict[str, Any]]:
        doctor_of = {campaign: doctor for doctor, campaign in self.campaigns.items()}
        for row in self.rows(
            "SELECT campaign_id, row, outcome, outcome_reason FROM patient WHERE campaign_id = ANY(:ids)"
        ):
            yield {
                "doctor": doctor_of[row.campaign_id],
                "row": row.row,
                "outcome": row.outcome,
                "reason": row.outcome_reason,
            }
