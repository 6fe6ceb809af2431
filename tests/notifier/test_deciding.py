"""Doubtful pairs are named by number, decided by a person, and told once if they are one."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from sqlalchemy import select

from notifier import acts, deciding, lists
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Campaign, Decision, Journal, Patient, PatientContact
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import NOW, make_campaign, make_settings, person

TWIN = {"nom": "Durand", "prenom": "Luc"}


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


def campaign_of(database: Database, current: Settings, *lines: str) -> int:
    return make_campaign(database, current, [person(9), *lines])


def pairs(database: Database, campaign: int) -> list[deciding.Pair]:
    with database.staff() as session:
        return deciding.pairs(session, campaign)


def decide(database: Database, doubt: int, same: bool, other: int | None = None, minutes: int = 1) -> Decision:
    with database.staff() as session:
        made = lists.decide(
            session, doubt, is_same=same, other_id=other, actor="cli:test", now=NOW + timedelta(minutes=minutes)
        )
        session.expunge_all()
        return made


def stands(database: Database, campaign: int) -> dict[int, tuple[str, str | None, int]]:
    """By row: outcome, reason, number of contacts."""
    with database.staff() as session:
        patients = session.scalars(select(Patient).where(Patient.campaign_id == campaign)).all()
        links = session.scalars(select(PatientContact.patient_id)).all()
        return {one.row: (one.outcome, one.outcome_reason, links.count(one.id)) for one in patients}


@pytest.fixture
def twins(database: Database, current: Settings) -> int:
    """Rows 3 and 4 have one name and birth date, two ids, and no contact in common."""
    return campaign_of(database, current, person(1, phone=None, **TWIN), person(2, email=None, **TWIN))


def test_a_pair_names_the_other_by_list_and_row(database, twins):
    (pair,) = pairs(database, twins)
    assert pair.reason == "possible_double"
    assert pair.mine.row == 4
    assert [other.row for other in pair.others] == [3]


def test_one_id_with_two_names_is_a_pair(database, current):
    campaign = campaign_of(
        database, current, person(1), person(1, nom="Autre", prenom="Max", email="m@example.org")
    )
    (pair,) = pairs(database, campaign)
    assert (pair.reason, pair.mine.row, pair.others[0].row) == ("same_id_other_person", 4, 3)


def test_two_who_are_one_are_told_once_at_the_contacts_of_both(database, twins):
    (pair,) = pairs(database, twins)
    decide(database, pair.id, True)
    assert stands(database, twins) == {
        2: ("on_the_way", None, 2), 3: ("on_the_way", None, 2), 4: ("excluded", "same_person", 1),
    }  # fmt: skip
    (pair,) = pairs(database, twins)
    assert pair.others == ()
    assert list(pair.decided.values()) == [True]


def test_two_who_are_two_stay_and_are_not_asked_about_again(database, twins):
    before = stands(database, twins)
    (pair,) = pairs(database, twins)
    decide(database, pair.id, False)
    assert stands(database, twins) == before
    assert pairs(database, twins)[0].others == ()


def test_a_decision_can_be_taken_back_before_the_start(database, twins):
    before = stands(database, twins)
    (pair,) = pairs(database, twins)
    decide(database, pair.id, True)
    decide(database, pair.id, False, minutes=2)
    assert stands(database, twins) == before
    decide(database, pair.id, True, minutes=3)
    assert stands(database, twins)[4][1] == "same_person"


def test_the_same_answer_again_changes_nothing(database, twins):
    (pair,) = pairs(database, twins)
    first = decide(database, pair.id, True)
    again = decide(database, pair.id, True, minutes=5)
    assert again.decided_at == first.decided_at
    with database.staff() as session:
        entries = session.scalars(select(Journal).where(Journal.action == "doubt.decide")).all()
        assert [entry.detail for entry in entries] == [{"other": first.other_id, "same": True}]


def test_who_is_to_be_told_stays_and_who_has_died_is_told_by_neither_row(database, current):
    campaign = campaign_of(database, current, person(1, decede="oui", **TWIN), person(2, **TWIN))
    (pair,) = pairs(database, campaign)
    decide(database, pair.id, True)
    assert {row: stands(database, campaign)[row][:2] for row in (3, 4)} == {
        3: ("excluded", "deceased"), 4: ("excluded", "same_person"),
    }  # fmt: skip
    decide(database, pair.id, False, minutes=2)
    assert {row: stands(database, campaign)[row][:2] for row in (3, 4)} == {
        3: ("excluded", "deceased"), 4: ("on_the_way", None),
    }  # fmt: skip


def test_somebody_without_a_contact_is_on_the_way_with_the_others(database, current):
    campaign = campaign_of(
        database,
        current,
        person(1, email=None, phone=None, **TWIN),
        person(2, adresse="", cp="", ville="", **TWIN),
    )
    (pair,) = pairs(database, campaign)
    decide(database, pair.id, True)
    assert {row: stands(database, campaign)[row] for row in (3, 4)} == {
        3: ("on_the_way", None, 2), 4: ("excluded", "same_person", 2),
    }  # fmt: skip


def test_one_of_several_has_to_be_named(database, current):
    campaign = campaign_of(database, current, *(person(n, **TWIN) for n in (1, 2, 3)))
    _, third = pairs(database, campaign)
    assert [other.row for other in third.others] == [3, 4]
    with pytest.raises(InputError, match="Name one of them"):
        decide(database, third.id, True)
    with pytest.raises(InputError, match="Name one of them"):
        decide(database, third.id, True, other=10**6)
    decide(database, third.id, False, other=third.others[0].patient)
    assert [other.row for other in pairs(database, campaign)[1].others] == [4]


def test_a_double_of_a_double_is_refused(database, current):
    campaign = campaign_of(database, current, *(person(n, **TWIN) for n in (1, 2, 3)))
    second, third = pairs(database, campaign)
    decide(database, second.id, True)
    with pytest.raises(ConflictError, match="double already"):
        decide(database, third.id, True, other=second.mine.patient)


def test_a_change_of_who_is_told_voids_an_approval_and_is_refused_once_sending(database, current, twins):
    (pair,) = pairs(database, twins)

    def approve() -> None:
        with database.staff() as session:
            shown = acts.draft(session, current, twins)
            acts.approve(session, current, twins, expected_hash=shown.hash, actor="cli:test", now=NOW)

    approve()
    decide(database, pair.id, True)
    with database.staff() as session:
        assert session.get_one(Campaign, twins).state == "draft"
    approve()
    with database.staff() as session:
        acts.start(session, twins, actor="cli:test", now=NOW)
    with pytest.raises(ConflictError, match="only before the start"):
        decide(database, pair.id, False, minutes=2)


def test_a_further_list_keeps_the_double_excluded(database, current, twins):
    (pair,) = pairs(database, twins)
    decide(database, pair.id, True)
    from tests.factories import HEADER

    data = "\n".join([HEADER, person(1, phone=None, **TWIN), person(2, email=None, **TWIN), ""]).encode()
    with database.staff() as session:
        acts.import_list(session, current, twins, io.BytesIO(data), actor="cli:test", now=NOW)
    assert stands(database, twins)[4][:2] == ("excluded", "same_person")
    assert stands(database, twins)[3][0] == "on_the_way"


def test_another_doctors_doubts_are_out_of_reach(database, current, twins):
    (pair,) = pairs(database, twins)
    with database.staff() as session:
        other = make_campaign(database, current, [person(1)], number=2)
        doctor = session.get_one(Campaign, other).doctor_id
        own = session.get_one(Campaign, twins).doctor_id
    with database.scope(doctor) as session, pytest.raises(NotFoundError):
        lists.decide(session, pair.id, is_same=True, other_id=None, actor="key:1", now=NOW)
    with database.scope(own) as session:
        lists.decide(session, pair.id, is_same=True, other_id=None, actor="key:1", now=NOW)
    with database.staff() as session, pytest.raises(NotFoundError):
        lists.decide(session, 10**6, is_same=True, other_id=None, actor="key:1", now=NOW)
