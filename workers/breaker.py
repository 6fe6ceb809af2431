"""Breakers: when a provider or a group of receivers fails, calls stop, try again one by one, and come back slowly.

One for each provider account and each named group of receivers. It opens when half of the calls that ended
lately did so through the other side's fault; a person's refusal is the other side at work. After a wait that
doubles each time, single calls probe; three good ones let a tenth of the rate through, then more and more.

All processes share the states through the table `breaker`: each decides by what it sees, the first to
write wins (`notifier/breakers.py`), and everybody reads it every quarter of a second.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import structlog
from sqlalchemy.exc import SQLAlchemyError

from notifier import breakers
from notifier.breakers import OpenScope
from notifier.providers.base import Blame, Kind, Outcome
from notifier.receivers import OTHER
from notifier.settings import Engine
from notifier.store import AsyncDatabase

log = structlog.get_logger()

#: how old a state that another process wrote may be
READ_S = 0.25
#: good probes until it heals
PROBES = 3
#: part of the rate while it begins to heal; doubles with each level
_FIRST_PART = 0.1
#: the rate that a part is taken of where there is no limit, per second
_NO_LIMIT = 100.0
#: groups of receivers that asked for a long pause are left alone after so many such answers
_PAUSES = 3
_SLOTS = 20
_DATABASE_ERRORS = (SQLAlchemyError, OSError, TimeoutError)


class State(StrEnum):
    """What a breaker does that is not closed."""

    #: no calls
    OPEN = "open"
    #: one now and then
    PROBING = "probing"
    #: a part of the rate
    HEALING = "healing"


@dataclass(frozen=True, slots=True)
class Rules:
    """When breakers open and how they close; seconds."""

    #: ends of calls older than this say nothing
    window_s: float = 20.0
    #: with fewer ends nothing is decided
    calls: int = 10
    #: part of them that must be the other side's fault
    share: float = 0.5
    #: how long it stays open: doubles from the first to the longest
    first_s: float = 5.0
    longest_s: float = 300.0
    #: between two probes
    probe_s: float = 1.0
    #: at one level of healing
    heal_s: float = 5.0
    #: how long a provider that refused the whole account is left alone
    refused_s: float = 60.0

    @classmethod
    def of(cls, engine: Engine, time_scale: float) -> Rules:
        """As the settings say; rehearsals shorten the waits, but their servers are no faster than real ones."""
        return cls(
            window_s=max(engine.breaker_window_s / time_scale, min(engine.breaker_window_s, 2)),
            calls=engine.breaker_calls,
            share=engine.breaker_share,
            first_s=max(engine.breaker_first_s / time_scale, min(engine.breaker_first_s, 0.5)),
            longest_s=max(engine.breaker_longest_s / time_scale, min(engine.breaker_longest_s, 1)),
            probe_s=max(1 / time_scale, 0.1),
            heal_s=max(5 / time_scale, 0.25),
            refused_s=max(60 / time_scale, 1),
        )

    def wait_s(self, failures: int) -> float:
        """How long it stays open for the n-th time in a row."""
        return min(self.first_s * 2.0 ** min(failures - 1, 30), self.longest_s)


@dataclass(frozen=True, slots=True)
class Condition:
    """One breaker that is not closed, as this process knows it. Times are of the process's clock."""

    scope: str
    state: State
    level: int
    failures: int
    until: float
    reason: str
    #: since when the process knows it so: calls that started before say nothing about it
    since: float
    #: as written in the table; None while it is not
    version: datetime | None = None


def opened(
    before: Condition | None, scope: str, reason: str, now: float, rules: Rules, *, wait_s: float = 0
) -> Condition:
    """It fails, for the first time or again while it was being tried."""
    failures = (before.failures if before else 0) + 1
    until = now + max(rules.wait_s(failures), wait_s)
    return Condition(scope, State.OPEN, 0, failures, until, reason, now)


def paused(before: Condition | None, scope: str, reason: str, now: float, wait_s: float) -> Condition:
    """The other side asked for a pause, which is no fault: calls go on as before when it is over."""
    failures = before.failures if before else 0
    until = max(now + wait_s, before.until if before and before.state is State.OPEN else now)
    return Condition(scope, State.OPEN, 0, failures, until, reason, now)


def probed(before: Condition, now: float, rules: Rules) -> Condition:
    """A probe came back well."""
    if before.level + 1 < PROBES:
        return replace(before, level=before.level + 1, since=before.since)
    return replace(before, state=State.HEALING, level=0, until=now + rules.heal_s, since=now)


def timed(before: Condition, now: float, rules: Rules) -> Condition | None:
    """What it is when its time is over; None: closed. The same as before if it is not over."""
    if now < before.until or before.state is State.PROBING:
        return before
    if before.state is State.OPEN:
        return replace(before, state=State.PROBING, level=0, until=now, since=now) if before.failures else None
    if _FIRST_PART * 2 ** (before.level + 1) >= 1:
        return None
    return replace(before, level=before.level + 1, until=now + rules.heal_s, since=now)


def receiver_scope(receiver: str) -> str:
    return f"receiver:{receiver}"


def is_fault(outcome: Outcome) -> bool | None:
    """Whether a call ended through the other side's fault; None if its end says nothing about it."""
    if outcome.kind is Kind.ACCEPTED:
        return False
    if outcome.kind is Kind.UNKNOWN:
        return True
    answered = outcome.code.startswith(("smtp_", "http_"))
    match outcome.blame:
        case Blame.PERSON:
            return False if answered else None
        case Blame.THROTTLED:
            # Without any answer it is no wish of theirs: they cannot be reached.
            return None if answered else True
        case Blame.OURS:
            # Without any answer it is about one message that we could not even hand over.
            return True if answered and not outcome.alone else None
        case Blame.LATER | None:
            # SMTP says so of one mailbox or of grey-listing (RFC 5321 §4.2.1), but x.3.x is about the mail system
            # itself (RFC 3463 §3.4); HTTP says it of the service.
            return outcome.code.startswith(("http_", "smtp_451_4.3.", "smtp_452_4.3.")) and not outcome.alone


def _is_about_receiver(outcome: Outcome) -> bool:
    """Whether the receiver's server decided, through whatever relay: it answered about this very message."""
    return outcome.code.startswith("smtp_") and not outcome.hold


class Ends:
    """How calls ended lately, by group of receivers; "" for what is the provider's own."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._slot_s = rules.window_s / _SLOTS
        self._slots: deque[tuple[int, dict[str, list[int]]]] = deque()
        self._sums: dict[str, list[int]] = {}

    def add(self, now: float, receiver: str, *, fault: bool) -> None:
        slot = math.floor(now / self._slot_s)
        while self._slots and self._slots[0][0] <= slot - _SLOTS:
            for key, (good, bad) in self._slots.popleft()[1].items():
                self._sums[key][0] -= good
                self._sums[key][1] -= bad
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append((slot, {}))
        for counts in (self._slots[-1][1], self._sums):
            counts.setdefault(receiver, [0, 0])[fault] += 1

    def failing(self, receiver: str) -> str | None:
        """After a fault: "" if the provider fails, `receiver` if that group alone does, else None.

        One group that fails among others is not the provider's doing; two or more are.
        """
        suspects = [
            key
            for key, (good, bad) in self._sums.items()
            if key not in ("", OTHER) and bad > 0 and bad >= self._rules.share * (good + bad)
        ]
        if self._fails([key for key in self._sums if suspects != [key]]):
            return ""
        return receiver if receiver in suspects and self._fails([receiver]) else None

    def forget(self, receiver: str = "") -> None:
        """Begins anew: for one group, or for the provider and all of them."""
        if not receiver:
            self._slots.clear()
            self._sums.clear()
            return
        for counts in (self._sums, *(counts for _, counts in self._slots)):
            counts.pop(receiver, None)

    def _fails(self, keys: Iterable[str]) -> bool:
        good = bad = 0
        for key in keys:
            good += self._sums[key][0]
            bad += self._sums[key][1]
        return good + bad >= self._rules.calls and bad >= self._rules.share * (good + bad)


class Breaker:
    """The breakers of one provider account and of its receivers, in one process."""

    def __init__(
        self, provider: str, rules: Rules, clock: Callable[[], float], on_change: Callable[[], None] = lambda: None
    ) -> None:
        """`clock` never goes back and runs in seconds; `on_change` is called when any state changes."""
        self._provider = provider
        self._scope = f"provider:{provider}"
        self._rules = rules
        self._clock = clock
        self._on_change = on_change
        self._ends = Ends(rules)
        self._pauses: dict[str, deque[float]] = {}
        self.conditions: dict[str, Condition] = {}
        #: what the table does not know yet: the version it replaces, and what it is to be
        self._unwritten: dict[str, tuple[datetime | None, Condition | None]] = {}
        self._changed = asyncio.Event()

    def stop(self, receiver: str, now: float) -> Condition | None:
        """What forbids a call to this group ("" for none) now: the provider's open breaker, or the group's."""
        for scope in (self._scope, receiver_scope(receiver)):
            condition = self.conditions.get(scope)
            if condition and condition.state is State.OPEN:
                if now < condition.until:
                    return condition
                self._tick(condition, now)
        return None

    def rate(self, scope: str, limit: float | None) -> float | None:
        """Calls per second that may go there now, None for no limit by the breaker."""
        condition = self.conditions.get(scope)
        if condition is None or condition.state is State.OPEN:
            return None
        probes = 1 / self._rules.probe_s
        if condition.state is State.PROBING:
            return probes
        return max((limit or _NO_LIMIT) * _FIRST_PART * 2.0**condition.level, probes)

    def note(self, outcome: Outcome, receiver: str, now: float, started_at: float | None = None) -> None:
        """Takes in how a call ended that started at `started_at` (not known: after the last change)."""
        if outcome.kind is Kind.ACCEPTED and not self.conditions:
            self._ends.add(now, receiver, fault=False)
            return
        if outcome.hold:
            self._hold(outcome, now)
            return
        fault = is_fault(outcome)
        if fault is None:
            self._pause_receiver(outcome, receiver, now)
            return
        about_receiver = _is_about_receiver(outcome) or not fault
        charged = receiver if about_receiver else ""
        for scope in (self._scope, receiver_scope(receiver)):
            condition = self.conditions.get(scope)
            is_old = condition and started_at is not None and started_at < condition.since
            if is_old or (condition and condition.state is State.OPEN):
                return  # it started before we knew
            if condition and condition.state is State.PROBING and (about_receiver or scope == self._scope):
                self._probe(condition, outcome, now, fault=fault)
                return
        self._ends.add(now, charged, fault=fault)
        failing = self._ends.failing(charged) if fault else None
        if failing is not None:
            self._open(receiver_scope(failing) if failing else self._scope, outcome.code, now)

    def tick(self, now: float) -> None:
        """Moves on what is over by now."""
        for condition in list(self.conditions.values()):
            self._tick(condition, now)

    async def run(self, database: AsyncDatabase) -> None:
        """For ever: writes what changed here, reads what changed elsewhere; decides alone without database."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self.share(database)
            except _DATABASE_ERRORS as error:
                log.warning("breakers_unshared", error=type(error).__name__)
                await asyncio.sleep(READ_S)
            timer = loop.call_later(READ_S, self._changed.set)
            await self._changed.wait()
            timer.cancel()
            self._changed.clear()
            self.tick(self._clock())

    async def share(self, database: AsyncDatabase) -> None:
        """One round of `run`."""
        writing = dict(self._unwritten)
        async with database.begin() as connection:
            for scope, (version, condition) in writing.items():
                if condition is not None:
                    waits = condition.state is not State.PROBING
                    await breakers.change(
                        connection,
                        scope,
                        version,
                        state=condition.state,
                        level=condition.level,
                        failures=condition.failures,
                        left_s=condition.until - self._clock() if waits else None,
                        reason=condition.reason,
                    )
                elif version is not None:
                    await breakers.remove(connection, scope, version)
            read_at = self._clock()
            rows = await breakers.read(connection)
        versions = {row.scope: row.changed_at for row in rows}
        for scope, written in writing.items():
            now_wanted = self._unwritten.pop(scope)
            if now_wanted is not written:  # it moved on meanwhile: what is newer stays wanted
                self._unwritten[scope] = (versions.get(scope), now_wanted[1])
        self._adopt(rows, read_at)

    def _adopt(self, rows: list[OpenScope], read_at: float) -> None:
        """The table is right, except about what is not written yet."""
        before = dict(self.conditions)
        mine = {row.scope: row for row in rows if row.scope == self._scope or row.scope.startswith("receiver:")}
        for scope in {*before, *mine} - set(self._unwritten):
            row, old = mine.get(scope), before.get(scope)
            if row is None:
                del self.conditions[scope]
                self._forget(scope)
            elif old is None or old.version != row.changed_at:
                self.conditions[scope] = _known(row, old, read_at)
                if old is None:
                    self._forget(scope)
        if before != self.conditions:
            self._on_change()

    def _set(self, scope: str, condition: Condition | None) -> None:
        before = self.conditions.get(scope)
        version = before.version if before else None
        if scope in self._unwritten:
            version = self._unwritten[scope][0]
        self._unwritten[scope] = (version, condition)
        if condition is None:
            self.conditions.pop(scope, None)
        else:
            self.conditions[scope] = condition
        self._changed.set()
        self._on_change()

    def _tick(self, condition: Condition, now: float) -> None:
        after = timed(condition, now, self._rules)
        if after is not condition:
            self._set(condition.scope, after)
            if after is None or after.state is not condition.state:
                self._forget(condition.scope)
            log.info("breaker_moved", scope=condition.scope, state=after.state if after else "closed")

    def _probe(self, condition: Condition, outcome: Outcome, now: float, *, fault: bool) -> None:
        if fault:
            self._open(condition.scope, outcome.code, now)
        else:
            self._set(condition.scope, probed(condition, now, self._rules))

    def _open(self, scope: str, code: str, now: float, wait_s: float = 0) -> None:
        before = self.conditions.get(scope)
        condition = opened(before, scope, self._reason(scope, code), now, self._rules, wait_s=wait_s)
        self._set(scope, condition)
        self._forget(scope)
        log.warning("breaker_opened", scope=scope, code=code, seconds=round(condition.until - now, 1))

    def _hold(self, outcome: Outcome, now: float) -> None:
        """The whole account was refused, or asked to wait: one answer is enough."""
        before = self.conditions.get(self._scope)
        wait_s = outcome.retry_after.total_seconds() if outcome.retry_after else self._rules.refused_s
        if outcome.blame is Blame.OURS:
            if not (before and before.state is State.OPEN and before.failures):
                self._open(self._scope, outcome.code, now, wait_s)
        elif not (before and before.state is State.OPEN and before.until >= now + wait_s - READ_S):
            reason = self._reason(self._scope, outcome.code)
            self._set(self._scope, paused(before, self._scope, reason, now, wait_s))
            log.warning("provider_paused", scope=self._scope, code=outcome.code, seconds=wait_s)

    def _pause_receiver(self, outcome: Outcome, receiver: str, now: float) -> None:
        """A named group that says "not now" several times is left alone for as long as it wants."""
        wanted = outcome.retry_after
        if receiver in ("", OTHER) or wanted is None or outcome.blame is not Blame.THROTTLED:
            return
        seen = self._pauses.setdefault(receiver, deque(maxlen=_PAUSES))
        seen.append(now)
        scope = receiver_scope(receiver)
        before = self.conditions.get(scope)
        if len(seen) == _PAUSES and seen[0] > now - self._rules.window_s:
            seen.clear()
            if not (before and before.state is State.OPEN):
                reason = self._reason(scope, outcome.code)
                self._set(scope, paused(before, scope, reason, now, wanted.total_seconds()))
                log.warning("receiver_paused", scope=scope, code=outcome.code, seconds=wanted.total_seconds())

    def _reason(self, scope: str, code: str) -> str:
        if scope == self._scope:
            return plain_reason(self._provider, code)
        return receiver_reason(scope.removeprefix("receiver:"), code)

    def _forget(self, scope: str) -> None:
        self._ends.forget("" if scope == self._scope else scope.removeprefix("receiver:"))


def _known(row: OpenScope, old: Condition | None, read_at: float) -> Condition:
    """A row of the table by this process's clock. A count of probes begins nothing new."""
    state = State(row.state)
    same = old is not None and old.state is state and (state is State.PROBING or old.level == row.level)
    since = old.since if old is not None and same else read_at
    return Condition(
        row.scope, state, row.level, row.failures, read_at + row.left_s, row.reason, since, row.changed_at
    )


_KEYS = {
    "smtp": "NOTIFIER_SMTP__USERNAME and NOTIFIER_SMTP__PASSWORD",
    "brevo-sms": "NOTIFIER_BREVO_SMS__API_KEY",
    "brevo-email": "NOTIFIER_BREVO_EMAIL__API_KEY",
}
_ADDRESSES = {
    "smtp": "NOTIFIER_SMTP__HOST and NOTIFIER_SMTP__PORT",
    "brevo-sms": "NOTIFIER_BREVO_SMS__BASE_URL",
    "brevo-email": "NOTIFIER_BREVO_EMAIL__BASE_URL",
}
#: (beginnings of codes, what it means and what to do); first match wins
_REASONS = (
    (("http_401", "http_403", "smtp_530", "smtp_534", "smtp_535"), "refused our credentials{code}: check {keys}."),
    (("http_402",), "says that the account has no credit left{code}: add some there."),
    (("http_429", "smtp_421"), "asked us to slow down{code}; if it happens often, lower rate_per_s."),
    (("connect_failed",), "cannot be reached{code}: check {addresses} and the network."),
    (("connection_lost", "no_answer", "timeout"), "breaks off or does not answer{code}: ask for its state."),
    (("http_5",), "reports a fault of its own{code}: ask for its state."),
    (
        ("smtp_5",),
        "refuses our mail, or all receivers do{code}: check SPF, DKIM and DMARC of the sender's domain, and block "
        "lists.",
    ),
    (("http_",), "refuses our requests{code}: check our account and sender there."),
    (("",), "fails{code}: ask for its state."),
)


def plain_reason(provider: str, code: str) -> str:
    """What a code of `Outcome` means to a person, and where to mend it."""
    words = next(words for starts, words in _REASONS if code.startswith(starts))
    keys, addresses = _KEYS.get(provider, "its account's settings"), _ADDRESSES.get(provider, "its address")
    return "The provider " + words.format(code=f" ({code})", keys=keys, addresses=addresses)


def receiver_reason(receiver: str, code: str) -> str:
    """The same for a group of receivers."""
    if code.startswith("smtp_4"):
        return (
            f"The receiver {receiver} asked us to wait ({code}); if it happens often, set or lower its rate_per_s."
        )
    return (
        f"The receiver {receiver} refuses our mail ({code}): check SPF, DKIM and DMARC of the sender's domain, "
        "and whether the receiver blocks our address."
    )
