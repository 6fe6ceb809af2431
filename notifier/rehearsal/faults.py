"""What goes wrong at the rehearsal's providers: settable rates, and one seed that decides who is refused.

What decides a person's fate (a refused address, a number that bounces) follows from the seed and the contact
alone, so the same contact meets the same fate at every try and a run can be judged afterwards. What only makes
a single try fail (a busy server, a lost reply) is drawn anew each time.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from notifier.errors import InputError

Rate = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=3600)]


class Fate(StrEnum):
    """What becomes of every message to one contact."""

    ARRIVES = "arrives"
    #: refused when handed over: unknown mailbox, number not in service
    REFUSED = "refused"
    #: taken, then reported as not deliverable for good
    HARD_BOUNCES = "hard_bounces"
    #: the first message is taken, then reported as not deliverable for now; later ones arrive
    SOFT_BOUNCES_ONCE = "soft_bounces_once"
    #: arrives, and nothing is ever reported
    SILENT = "silent"


class Trouble(StrEnum):
    """What happens to one try."""

    #: the connection ends before anything was taken
    CLOSED = "closed"
    #: too many requests: not now
    THROTTLED = "throttled"
    #: the provider's own fault (5xx of HTTP, 451 of SMTP)
    BROKEN = "broken"
    #: taken and counted, but the answer never comes
    LOST_REPLY = "lost_reply"


class Faults(BaseModel):
    """The faults of one provider; all off by default. Rates are shares between 0 and 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_s: Seconds = 0
    #: up to this much more, drawn evenly
    jitter_s: Seconds = 0
    #: tries answered 429 (HTTP) or 421/450 (SMTP)
    throttled: Rate = 0
    #: tries answered 500 to 503 (HTTP) or 451 (SMTP)
    broken: Rate = 0
    #: tries whose connection ends before anything was taken
    closed: Rate = 0
    #: tries that are taken and counted, and whose answer is lost
    lost_reply: Rate = 0
    #: how long such a connection stays open without an answer
    lost_reply_hangs_s: Seconds = 0
    #: share of contacts that are always refused
    refused: Rate = 0
    #: and these in any case: email addresses, numbers with or without "+"
    refused_contacts: frozenset[str] = frozenset()
    #: our sender or account is refused: 550 5.7.1 (SMTP), 402 not_enough_credits (HTTP)
    sender_refused: bool = False
    #: requests taken per second before 429 (HTTP only); 0 is no limit
    rate_per_s: Annotated[int, Field(ge=0)] = 0
    # Receipts (SMS only).
    hard_bounced: Rate = 0
    soft_bounced: Rate = 0
    silent: Rate = 0
    #: seconds until the operator reports the end
    receipt_delay_s: Seconds = 0.2
    receipts_late: Rate = 0
    late_s: Seconds = 3
    receipts_double: Rate = 0
    #: `delivered` comes before `sent`
    receipts_disordered: Rate = 0
    #: the first receipt comes before our own HTTP answer
    receipts_early: Rate = 0

    @model_validator(mode="after")
    def _shares_fit(self) -> Faults:
        if self.refused + self.hard_bounced + self.soft_bounced + self.silent > 1:
            raise ValueError("refused, hard_bounced, soft_bounced and silent are shares of the same people")
        if self.closed + self.throttled + self.broken + self.lost_reply > 1:
            raise ValueError("closed, throttled, broken and lost_reply are shares of the same tries")
        return self


class Both(BaseModel):
    """The faults of the pair: the inbox and the SMS simulator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: Faults = Faults()
    sms: Faults = Faults()


PRESETS: dict[str, Both] = {
    "none": Both(sms=Faults(receipt_delay_s=0.02)),
    #: a few of every hundred
    "usual": Both(
        email=Faults(
            latency_s=0.002,
            jitter_s=0.01,
            throttled=0.02,
            broken=0.01,
            closed=0.005,
            lost_reply=0.003,
            refused=0.04,
        ),
        sms=Faults(
            latency_s=0.02,
            jitter_s=0.03,
            throttled=0.03,
            broken=0.02,
            closed=0.01,
            lost_reply=0.005,
            refused=0.02,
            hard_bounced=0.03,
            soft_bounced=0.02,
            silent=0.01,
            receipts_late=0.03,
            late_s=1,
            receipts_double=0.05,
            receipts_disordered=0.05,
            receipts_early=0.03,
        ),
    ),
    #: every fourth try fails, and still everybody can be told or falls back
    "harsh": Both(
        email=Faults(
            latency_s=0.01, jitter_s=0.05, throttled=0.1, broken=0.06, closed=0.05, lost_reply=0.02, refused=0.12
        ),
        sms=Faults(
            latency_s=0.03,
            jitter_s=0.1,
            throttled=0.1,
            broken=0.06,
            closed=0.05,
            lost_reply=0.03,
            refused=0.08,
            hard_bounced=0.08,
            soft_bounced=0.08,
            silent=0.05,
            receipts_late=0.1,
            late_s=2,
            receipts_double=0.25,
            receipts_disordered=0.25,
            receipts_early=0.15,
        ),
    ),
}


def preset(name: str) -> Both:
    """Raises InputError naming the presets there are."""
    if name not in PRESETS:
        raise InputError(f"There are no faults called {name!r}; there are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def changed(current: Both, values: object) -> Both:
    """`current` with what `values` names: {"preset": name} or {"email": {…}, "sms": {…}}, both in part.

    Raises InputError naming each wrong key and what is allowed.
    """
    if not isinstance(values, dict):
        raise InputError('Faults are a JSON object: {"preset": "usual"} or {"email": {…}, "sms": {…}}.')
    rest = dict(values)
    base = preset(str(rest.pop("preset"))) if "preset" in rest else current
    merged: dict[str, Any] = base.model_dump()
    for channel, changes in rest.items():
        known = merged.get(channel)
        merged[channel] = {**known, **changes} if known is not None and isinstance(changes, dict) else changes
    try:
        return Both.model_validate(merged)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise InputError("These faults cannot be set. " + "; ".join(problems)) from error


def share(seed: int, *parts: str) -> float:
    """A number in [0, 1) that is always the same for the same seed and parts."""
    digest = hashlib.blake2b("\0".join((str(seed), *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def normal(contact: str) -> str:
    """How a contact is counted here: an email address in lower case, a number in digits."""
    return contact.strip().lower().removeprefix("+")


def fate(faults: Faults, seed: int, contact: str) -> Fate:
    """What becomes of every message to this contact."""
    contact = normal(contact)
    if contact in {normal(refused) for refused in faults.refused_contacts}:
        return Fate.REFUSED
    point = share(seed, "fate", contact)
    for rate, end in (
        (faults.refused, Fate.REFUSED),
        (faults.hard_bounced, Fate.HARD_BOUNCES),
        (faults.soft_bounced, Fate.SOFT_BOUNCES_ONCE),
        (faults.silent, Fate.SILENT),
    ):
        if point < rate:
            return end
        point -= rate
    return Fate.ARRIVES


def trouble(faults: Faults, dice: random.Random) -> Trouble | None:
    """What happens to this try, drawn anew each time."""
    point = dice.random()
    for rate, kind in (
        (faults.closed, Trouble.CLOSED),
        (faults.throttled, Trouble.THROTTLED),
        (faults.broken, Trouble.BROKEN),
        (faults.lost_reply, Trouble.LOST_REPLY),
    ):
        if point < rate:
            return kind
        point -= rate
    return None


def latency_s(faults: Faults, dice: random.Random) -> float:
    return faults.latency_s + faults.jitter_s * dice.random()


@dataclass(frozen=True, slots=True)
class PlannedReceipt:
    """One call back to us. `happens_s` is the event's own time, `comes_s` when we hear of it, both from now.

    `early` ones come before our request is answered.
    """

    status: str
    happens_s: float
    comes_s: float
    early: bool = False


def plan_receipts(faults: Faults, end: Fate, is_first: bool, dice: random.Random) -> list[PlannedReceipt]:
    """Every receipt for one message that was taken, in the order in which they come.

    `is_first`: no message to this contact was taken before.
    """
    if end is Fate.SILENT:
        return []
    last = {Fate.HARD_BOUNCES: "hard_bounce", Fate.SOFT_BOUNCES_ONCE: "soft_bounce" if is_first else "delivered"}
    delay = faults.receipt_delay_s + (faults.late_s if dice.random() < faults.receipts_late else 0)
    comes = [("sent", 0.0, min(0.01, delay)), (last.get(end, "delivered"), delay, delay)]
    if dice.random() < faults.receipts_disordered:
        comes = [("sent", 0.0, delay + 0.2), comes[1]]
    early = dice.random() < faults.receipts_early
    double = dice.random() < faults.receipts_double
    plan = [PlannedReceipt(status, happens, at) for status, happens, at in sorted(comes, key=lambda c: c[2])]
    if early:
        plan[0] = PlannedReceipt(plan[0].status, 0.0, 0.0, early=True)
    if double:
        plan += [PlannedReceipt(one.status, one.happens_s, one.comes_s + 0.05) for one in plan]
    return sorted(plan, key=lambda one: one.comes_s)
