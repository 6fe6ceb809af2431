"""What becomes of a delivery after a hand-over or a receipt: retry at, fall back, settle, or give up.

Pure: no clock, no database, no network. `now` and `jitter` (0 to 1) are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from notifier.profiles import Profile
from notifier.providers.base import Blame, Event, Kind, Outcome
from notifier.states import Channel, Delivery

_SHORTEST_RETRY = timedelta(seconds=0.5)
_SHORTEST_QUIET = timedelta(seconds=4)


@dataclass(frozen=True, slots=True)
class Rules:
    """The waits of one channel, from the legal profile. All are shortened alike for a rehearsal."""

    first_wait: timedelta
    longest_wait: timedelta
    tries: int
    give_up_after: timedelta
    #: how long an uncertain hand-over waits for a receipt
    unknown_quiet: timedelta
    #: how long an accepted one waits for news, and what none means
    silence: timedelta
    silence_informs: bool


@dataclass(frozen=True, slots=True)
class Step:
    """The next state of a delivery and when it is due; `counts` is whether the try counts."""

    state: Delivery
    due_at: datetime | None
    counts: bool = True


def rules(profile: Profile, channel: Channel, time_scale: float) -> Rules:
    """The profile's waits for a channel, divided by `time_scale` (1 outside rehearsals).

    Two have a floor of some seconds in a rehearsal, because its networks are no faster than real ones: a retry,
    and the wait for a receipt after an uncertain hand-over.
    """
    retry, silence = profile.retry[channel], profile.silence[channel]
    return Rules(
        first_wait=max(retry.first_wait / time_scale, min(retry.first_wait, _SHORTEST_RETRY)),
        longest_wait=retry.longest_wait / time_scale,
        tries=retry.tries,
        give_up_after=retry.give_up_after / time_scale,
        unknown_quiet=max(profile.unknown_quiet / time_scale, min(profile.unknown_quiet, _SHORTEST_QUIET)),
        silence=silence.after / time_scale,
        silence_informs=silence.means == "informed",
    )


def after_hand_over(
    outcome: Outcome, rules: Rules, *, tries: int, first_tried_at: datetime, now: datetime, jitter: float
) -> Step:
    """What follows a hand-over. `tries` counts this one; `first_tried_at` is when the first was made.

    Waits double from `first_wait` to `longest_wait` with full jitter, never less than a tenth of the first;
    a longer `retry_after` of the provider is obeyed. What is not the person's fault does not count as a try,
    but time runs: after `give_up_after` the next channel takes over, because being told late is a harm too.
    """
    match outcome.kind:
        case Kind.ACCEPTED:
            return Step(Delivery.ACCEPTED, now + rules.silence)
        case Kind.UNKNOWN:
            return Step(Delivery.UNKNOWN, now + rules.unknown_quiet)
        case Kind.REFUSED:
            pass
        case _:
            assert_never(outcome.kind)
    blame = outcome.blame or Blame.LATER
    if blame is Blame.PERSON:
        return Step(Delivery.FAILED, now)
    counts = blame is Blame.LATER
    if (counts and tries >= rules.tries) or now - first_tried_at >= rules.give_up_after:
        return Step(Delivery.FAILED, now, counts)
    doubled = min(rules.first_wait * 2 ** min(max(tries - 1, 0), 20), rules.longest_wait)
    wait = max(doubled * jitter, rules.first_wait / 10)
    if outcome.retry_after is not None:
        # A throttled try waits as long as it was told to and little more; the rest waits at least so long.
        wait = outcome.retry_after * (1 + jitter / 10) if not counts else max(wait, outcome.retry_after)
    return Step(Delivery.PENDING, now + wait, counts)


def after_receipt(
    event: Event,
    *,
    event_at: datetime,
    state: Delivery,
    last_event_at: datetime | None,
    of_latest_attempt: bool,
    rules: Rules,
    tries: int,
    now: datetime,
) -> Step | None:
    """What a receipt changes, None if nothing. Depends on what happened when, never on what arrived when.

    A later event beats an earlier one; a failure beats a delivery of the same instant. A receipt may come
    before our own write (`sending`), after a crash (`unknown`), twice, or for an earlier hand-over: then
    "delivered" still means the person has it, while a failure says nothing about the newer one.
    """
    match event:
        case Event.SENT | Event.NOTED:
            # An uncertain hand-over is known to have arrived at the provider: silence is judged from here.
            if state in (Delivery.UNKNOWN, Delivery.SENDING) and of_latest_attempt and event is Event.SENT:
                return Step(Delivery.ACCEPTED, now + rules.silence)
            return None
        case Event.DELIVERED:
            if state is Delivery.DELIVERED:
                return None
            if state is Delivery.FAILED and last_event_at is not None and event_at <= last_event_at:
                return None
            return Step(Delivery.DELIVERED, now)
        case Event.HARD_FAILED | Event.SOFT_FAILED:
            pass
        case _:
            assert_never(event)
    if not of_latest_attempt or state in (Delivery.FAILED, Delivery.CANCELLED):
        return None
    if state is Delivery.DELIVERED and last_event_at is not None and event_at < last_event_at:
        return None
    if event is Event.HARD_FAILED:
        return Step(Delivery.FAILED, now)
    if state in (Delivery.PENDING, Delivery.DELIVERED, Delivery.QUARANTINED):
        return None  # a new hand-over is on its way already, or there is nothing to repeat
    if tries >= rules.tries:
        return Step(Delivery.FAILED, now)
    wait = min(rules.first_wait * 2 ** min(max(tries - 1, 0), 20), rules.longest_wait)
    return Step(Delivery.PENDING, now + wait)
