"""Rows of one person become one, rows of two stay two, and every pair in doubt is said."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import matching
from notifier.importers import Column
from notifier.judging import Identity, RowReason
from notifier.matching import Keys, People, Person, Said, Seen
from notifier.states import Channel, Exclusion, Variant

ALL = frozenset(Column)


def _said(row: int = 2, *, emails: str = "", numbers: str = "", **changes) -> Said:
    """A row of Luc M, born in 1960; keys as `judging` makes them."""
    identity = {"last_name": "M", "first_name": "Luc", "birth_date": "1960-02-01"}
    identity |= {name: value for name, value in changes.items() if name in Identity.__slots__}
    rest = {name: value for name, value in changes.items() if name not in Identity.__slots__}
    who = Identity(**identity)
    names = f"{who.last_name}{who.first_name}".casefold()
    keys = Keys(
        id=f"id:{who.patient_id}" if who.patient_id else None,
        national=rest.pop("national", None),
        name=f"name:{names}|{who.birth_date}" if who.last_name and who.first_name and who.birth_date else None,
        other=rest.pop("other", None),
        apart=f"{who.patient_id}|{names}|{who.birth_date}" if who.patient_id else None,
    )
    contacts = [(Channel.EMAIL, email) for email in emails.split()]
    contacts += [(Channel.SMS, number) for number in numbers.split()]
    said = Said(row, keys, who, contacts, "fr", None, None, False, None)
    return replace(said, **rest)


def _place(*said: Said, known: tuple[Person, ...] = (), columns=ALL):
    people = People(columns, known)
    return [people.place(one) for one in said]


def _known(said: Said) -> Person:
    """Somebody of an earlier list."""
    person = Person.new(said.keys.present()[0], said)
    person.rows, person.is_earlier = [], True
    return person


def _reasons(placed) -> list[str]:
    return [reason for _, reason in placed.doubts]


def test_a_further_row_adds_its_contacts_in_order():
    one, two = _place(
        _said(patient_id="1", emails="a b", numbers="1"), _said(patient_id="1", emails="b c", numbers="2")
    )
    assert two.person is one.person
    assert (one.is_new, two.is_new) == (True, False)
    assert one.person.contacts == [
        (Channel.EMAIL, "a"), (Channel.EMAIL, "b"), (Channel.SMS, "1"), (Channel.EMAIL, "c"), (Channel.SMS, "2")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        # patient id
        ({"patient_id": "1"}, {"patient_id": "1", "first_name": None, "birth_date": None}, True),
        ({"patient_id": "1"}, {"patient_id": "1", "birth_date": "1990-01-01"}, False),
        ({"patient_id": "1"}, {"patient_id": "1", "first_name": "Léa"}, False),
        # national identifier
        ({"patient_id": "1", "national": "n"}, {"patient_id": "2", "national": "n", "last_name": "N"}, False),
        ({"patient_id": "1", "national": "n"}, {"patient_id": "2", "national": "n"}, True),
        ({"national": "n", "birth_date": None}, {"national": "n"}, True),
        ({"national": "n"}, {"national": "n", "first_name": "Léa"}, False),
        # names and birth date
        ({}, {}, True),
        ({"patient_id": "1"}, {}, True),
        ({}, {"patient_id": "1"}, True),
        ({"patient_id": "1"}, {"patient_id": "2"}, False),
        ({"patient_id": "1", "emails": "a"}, {"patient_id": "2", "emails": "b a"}, True),
        ({"patient_id": "1", "numbers": "1"}, {"patient_id": "2", "emails": "1"}, False),
        ({"national": "n"}, {"national": "m"}, False),
        # with neither, all that is known
        ({"birth_date": None, "other": "m|luc|a"}, {"birth_date": None, "other": "m|luc|a"}, True),
        ({"birth_date": None, "other": "m|luc|a"}, {"birth_date": None, "other": "m|luc|b"}, False),
    ],
)
def test_who_is_one_and_who_is_two(first, second, same):
    one, two = _place(_said(2, **first), _said(3, **second))
    assert (two.person is one.person) == same
    assert one.person.key != two.person.key or same


MARTIN = {"patient_id": "1", "last_name": "Martin", "first_name": "Anne-Marie", "emails": "a"}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"last_name": "Durand"}, True),
        ({"first_name": "Anne"}, True),
        ({"first_name": "A."}, True),
        ({"first_name": "Anne", "last_name": "Durand"}, True),
        ({"birth_date": "1961-02-01"}, True),
        ({"birth_date": "1960-01-02"}, True),
        # nothing but the id says that they are one
        ({"last_name": "Durand", "emails": "b"}, False),
        ({"last_name": "Durand", "birth_date": None}, False),
        # twins, mother and daughter, two dates that no slip makes one
        ({"first_name": "Annette"}, False),
        ({"first_name": "Anne", "birth_date": "1961-02-01"}, False),
        ({"birth_date": "1985-07-01"}, False),
    ],
)
def test_one_id_and_a_contact_in_common_let_one_thing_be_corrected(changes, same):
    """Else who was told is told again, under the name of today."""
    one, two = _place(_said(2, **MARTIN), _said(3, **MARTIN | changes))
    assert (two.person is one.person) == same
    (again,) = _place(_said(3, **MARTIN | changes), known=(known := _known(_said(2, **MARTIN)),))
    assert (again.person is known) == same


def test_two_people_in_doubt_are_said():
    _, two = _place(_said(patient_id="1"), _said(patient_id="1", birth_date="1990-01-01"))
    assert two.doubts == [("patient_id", RowReason.SAME_ID)]
    _, two = _place(_said(patient_id="1", emails="a"), _said(patient_id="2", emails="b"))
    assert two.doubts == [("patient_id", RowReason.POSSIBLE_DOUBLE)]


def test_two_who_share_a_contact_stay_two():
    one, two = _place(_said(emails="a"), _said(first_name="Léa", emails="a"))
    assert one.person is not two.person
    assert two.doubts == []


def test_a_third_row_finds_the_second_person_of_an_id():
    rows = (_said(2, patient_id="1"), _said(3, patient_id="1", first_name="Léa"))
    *_, third = _place(*rows, _said(4, patient_id="1", first_name="Léa", birth_date=None))
    assert third.person.rows == [3, 4]


def test_a_row_without_id_goes_to_the_double_whose_contact_it_has():
    rows = (_said(2, patient_id="1", emails="a"), _said(3, patient_id="2", emails="b"))
    *_, third = _place(*rows, _said(4, emails="b"))
    assert third.person.rows == [3, 4]
    assert third.doubts == []


def test_a_couple_of_an_earlier_list_is_known_again_in_any_order():
    family = {"patient_id": "1", "first_name": None, "birth_date": None}
    known = tuple(_known(_said(emails=email, **family)) for email in "ab")
    placed = _place(_said(2, emails="b", **family), _said(3, emails="a", **family), known=known)
    assert [one.person for one in placed] == [known[1], known[0]]
    assert [one.is_new for one in placed] == [False, False]


def test_a_family_name_with_a_new_contact_in_a_later_list_is_the_same_person():
    family = {"patient_id": "1", "first_name": None, "birth_date": None}
    known = _known(_said(emails="a", **family))
    (placed,) = _place(_said(emails="b", **family), known=(known,))
    assert placed.person is known


def test_what_one_row_lacks_comes_from_the_other():
    address = {"address": ("1 rue A",), "postal_code": "75001", "town": "Paris"}
    one, _ = _place(_said(patient_id="1", birth_date=None), _said(patient_id="1", **address))
    assert one.person.identity == Identity("1", "M", None, "Luc", "1960-02-01", ("1 rue A",), "75001", "Paris")


def test_death_on_any_row_and_affected_on_any_row_count():
    one, _ = _place(_said(patient_id="1", is_deceased=True), _said(patient_id="1"))
    assert one.person.excluded == Exclusion.DECEASED
    one, two = _place(_said(patient_id="1", affected=False), _said(patient_id="1", affected=True))
    assert (one.person.excluded, _reasons(two)) == (None, [RowReason.YES_AND_NO])
    one, two = _place(_said(patient_id="1", affected=None), _said(patient_id="1", affected=False))
    assert (one.person.excluded, _reasons(two)) == (Exclusion.NOT_AFFECTED, [])


def test_a_further_list_replaces_what_it_has_columns_for():
    known = _known(_said(patient_id="1", emails="a", numbers="1", phones=("2",), comment=True, is_deceased=True))
    said = _said(9, patient_id="1", emails="b", language="en")
    (placed,) = _place(said, known=(known,), columns={Column.EMAIL, Column.LANGUAGE})
    person = placed.person
    assert not placed.is_new
    assert person.contacts == [(Channel.SMS, "1"), (Channel.EMAIL, "b")]
    assert (person.language, person.variant, person.excluded) == ("en", Variant.COMMENT, Exclusion.DECEASED)
    assert person.identity.phones == ("2",)


def test_a_further_list_says_who_is_alive_and_what_is_no_comment():
    known = _known(_said(patient_id="1", comment=True, sensitive=True, is_deceased=True, affected=False))
    (placed,) = _place(_said(9, patient_id="1", comment=False), known=(known,))
    assert (placed.person.excluded, placed.person.variant, placed.person.sensitive) == (
        None, Variant.STANDARD, False
    )  # fmt: skip


def test_the_second_row_of_a_further_list_adds_to_its_first():
    known = _known(_said(patient_id="1", emails="old"))
    first, second = _place(
        _said(9, patient_id="1", emails="a"), _said(10, patient_id="1", emails="b"), known=(known,)
    )
    assert first.person is second.person
    assert [address for _, address in second.person.contacts] == ["a", "b"]


def test_a_person_is_known_again_by_name_where_the_further_list_has_other_numbers():
    known = _known(_said(patient_id="1", emails="a"))
    (placed,) = _place(_said(9, patient_id="77", emails="a"), known=(known,))
    assert not placed.is_new
    (placed,) = _place(_said(9, patient_id="77", emails="b"), known=(_known(_said(patient_id="1", emails="a")),))
    assert (placed.is_new, _reasons(placed)) == (True, [RowReason.POSSIBLE_DOUBLE])


def test_an_id_that_everybody_has_makes_nobody_one():
    people = People(ALL)
    placed = [people.place(_said(row, patient_id="1", last_name=f"N{row % 300}")) for row in range(600)]
    assert sum(one.is_new for one in placed) == 300
    assert len(list(people)) == 300


def test_seen_never_misses_a_key_and_is_seldom_wrong():
    keys = [hash((n, "key")) & 0xFFFF_FFFF for n in range(20_000)]
    for expected, most in ((20_000, 20_000 // 64), (1 << 30, 20), (0, 20_000)):
        seen = Seen(expected)
        assert sum(seen.add(key) for key in keys) <= most
        assert all(seen.add(key) for key in keys)


_said_of_one_name = st.builds(
    lambda number, id_, emails, national, first: _said(
        number, patient_id=id_, emails=emails, national=national, first_name=first
    ),
    st.integers(2, 99),
    st.sampled_from([None, None, "1", "2", "3", "A", "a"]),
    st.sampled_from(["", "a", "b", "c", "a b", "d"]),
    st.sampled_from([None, None, None, "N1", "N2"]),
    st.sampled_from(["Luc", "Luc", "Luc", None]),
)


@given(st.lists(_said_of_one_name, max_size=25), st.integers(0, 12))
def test_many_namesakes_are_told_apart_as_few_are(rows: list[Said], earlier: int):
    def placed(few: int) -> list[tuple[int, bool, list[str]]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matching, "_FEW", few)
            known = tuple(_known(copy.deepcopy(said)) for said in rows[:earlier] if said.keys.present())
            said_later = [copy.deepcopy(said) for said in rows[earlier:] if said.keys.present()]
            results = _place(*said_later, known=known)
            number: dict[int, int] = {}
            return [(number.setdefault(id(one.person), len(number)), one.is_new, _reasons(one)) for one in results]

    assert placed(0) == placed(1000)


def test_who_gets_the_name_of_many_later_is_found_by_the_contacts_had_before():
    people = People(ALL)
    for number in range(matching._FEW + 4):
        people.place(_said(number, patient_id=f"{number}"))
    late = people.place(_said(98, patient_id="98", emails="c", first_name=None)).person
    assert people.place(_said(99, patient_id="98", first_name="Luc")).person is late
    assert people.place(_said(100, emails="c", first_name="Luc")).person is late


def test_what_a_row_costs_does_not_grow_with_the_namesakes():
    """Nobody but the one it could be is looked at."""
    people = People(ALL)
    for number in range(200):
        people.place(_said(number, patient_id=f"{number}", emails=f"e{number}"))
    looked_at: list[Person] = []
    with pytest.MonkeyPatch.context() as patch:
        real = matching._one_without_id
        patch.setattr(
            matching, "_one_without_id", lambda person, said: looked_at.append(person) or real(person, said)
        )
        assert people.place(_said(300, patient_id="300", emails="e300")).is_new
        assert not people.place(_said(301, patient_id="301", emails="e150")).is_new
        assert not people.place(_said(302, emails="e302")).is_new
    assert len(looked_at) <= 2
