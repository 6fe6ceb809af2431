"""Faults are declared: rates are met, and what decides a person's fate is the same at every try."""

import random
from collections import Counter

import pytest

from notifier.errors import InputError
from notifier.rehearsal.faults import (
    PRESETS,
    Both,
    Fate,
    Faults,
    Trouble,
    changed,
    fate,
    plan_receipts,
    preset,
    trouble,
)

CONTACTS = [f"person{n}@example.org" for n in range(5000)]


def test_the_same_contact_always_meets_the_same_fate():
    faults = Faults(refused=0.2, hard_bounced=0.1, soft_bounced=0.1, silent=0.1)
    once = [fate(faults, 7, contact) for contact in CONTACTS]
    assert once == [fate(faults, 7, contact.upper()) for contact in CONTACTS]
    assert once != [fate(faults, 8, contact) for contact in CONTACTS]


def test_fates_come_in_the_declared_shares():
    faults = Faults(refused=0.2, hard_bounced=0.1, soft_bounced=0.05, silent=0.05)
    seen = Counter(fate(faults, 1, contact) for contact in CONTACTS)
    for end, rate in (
        (Fate.REFUSED, 0.2),
        (Fate.HARD_BOUNCES, 0.1),
        (Fate.SOFT_BOUNCES_ONCE, 0.05),
        (Fate.ARRIVES, 0.6),
    ):
        assert abs(seen[end] / len(CONTACTS) - rate) < 0.02, end


def test_more_refusals_never_save_a_refused_contact():
    few, many = Faults(refused=0.05), Faults(refused=0.3)
    refused = {contact for contact in CONTACTS if fate(few, 1, contact) is Fate.REFUSED}
    assert refused
    assert refused <= {contact for contact in CONTACTS if fate(many, 1, contact) is Fate.REFUSED}


def test_a_named_contact_is_refused_however_it_is_written():
    faults = Faults(refused_contacts=frozenset({"+33639980001", "Eve@Example.org"}))
    assert fate(faults, 1, "33639980001") is Fate.REFUSED
    assert fate(faults, 1, "eve@example.org") is Fate.REFUSED
    assert fate(faults, 1, "33639980002") is Fate.ARRIVES


def test_troubles_come_in_the_declared_shares():
    faults = Faults(closed=0.1, throttled=0.2, broken=0.05, lost_reply=0.05)
    dice = random.Random(1)
    seen = Counter(trouble(faults, dice) for _ in range(10_000))
    for kind, rate in ((Trouble.CLOSED, 0.1), (Trouble.THROTTLED, 0.2), (Trouble.LOST_REPLY, 0.05), (None, 0.6)):
        assert abs(seen[kind] / 10_000 - rate) < 0.02, kind


def test_no_fault_is_no_trouble():
    dice = random.Random(1)
    assert {trouble(PRESETS["none"].email, dice) for _ in range(100)} == {None}
    assert {fate(PRESETS["none"].sms, 1, contact) for contact in CONTACTS[:100]} == {Fate.ARRIVES}


@pytest.mark.parametrize("name", PRESETS)
def test_under_every_preset_most_people_can_still_be_told(name):
    both = preset(name)
    for faults in (both.email, both.sms):
        assert faults.refused + faults.hard_bounced + faults.soft_bounced + faults.silent < 0.5
        assert faults.closed + faults.throttled + faults.broken + faults.lost_reply < 0.5


def test_receipts_end_as_fate_says():
    dice = random.Random(1)

    def ends(end: Fate, is_first: bool) -> list[str]:
        return [one.status for one in plan_receipts(Faults(), end, is_first, dice)]

    assert ends(Fate.ARRIVES, True) == ["sent", "delivered"]
    assert ends(Fate.HARD_BOUNCES, False) == ["sent", "hard_bounce"]
    assert ends(Fate.SOFT_BOUNCES_ONCE, True) == ["sent", "soft_bounce"]
    assert ends(Fate.SOFT_BOUNCES_ONCE, False) == ["sent", "delivered"]
    assert ends(Fate.SILENT, True) == []


def test_disordered_receipts_keep_their_true_times():
    plan = plan_receipts(Faults(receipts_disordered=1), Fate.ARRIVES, True, random.Random(1))
    assert [one.status for one in plan] == ["delivered", "sent"]
    assert plan[1].happens_s < plan[0].happens_s


def test_double_early_and_late_receipts():
    plan = plan_receipts(
        Faults(receipts_double=1, receipts_early=1, receipts_late=1, late_s=9),
        Fate.ARRIVES,
        True,
        random.Random(1),
    )
    assert sorted(one.status for one in plan) == ["delivered", "delivered", "sent", "sent"]
    assert [one.early for one in plan] == [True, False, False, False]
    assert plan[-1].comes_s > 9


def test_faults_change_in_part():
    both = changed(Both(), {"preset": "harsh", "sms": {"throttled": 0.5}})
    assert both.sms.throttled == 0.5
    assert both.sms.broken == PRESETS["harsh"].sms.broken
    assert both.email == PRESETS["harsh"].email


@pytest.mark.parametrize(
    "values",
    [
        *([], "x", {"preset": "mild"}, {"fax": {}}, {"sms": {"trottled": 1}}, {"sms": {"throttled": 1.5}}),
        *({"sms": 3}, {"sms": {"refused": 0.7, "silent": 0.7}}),
    ],
)
def test_wrong_faults_are_refused_by_name(values):
    with pytest.raises(InputError):
        changed(Both(), values)
