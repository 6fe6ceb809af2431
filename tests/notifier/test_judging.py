"""A row is a person with the contacts that can be nobody else's, or says why it is none."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.addresses import tidy
from notifier.importers import Column, Doubt, RawRow
from notifier.judging import WORDS, Identity, RowReason, Setting, judge, national_id, own_keys, parse_birth_date

TODAY = date(2026, 11, 25)


def _judge(region: str = "FR", **cells: str):
    raw = RawRow(2, {Column(name): [value] for name, value in cells.items()})
    return judge(raw, Setting(region, TODAY))


def _codes(judged) -> list[tuple[str, str]]:
    return [(problem.column, problem.reason) for problem in judged.problems]


# --- one row ----------------------------------------------------------------------------------------


def test_a_row_keeps_every_usable_contact_in_its_order():
    raw = RawRow(
        2,
        {
            Column.LAST_NAME: ["Martin"],
            Column.EMAIL: ["b@example.fr / a@example.fr", "B@example.fr"],
            Column.PHONE: ["01 99 00 12 34 ; 06 39 98 00 02", "0639980001 (mère)"],
        },
    )
    judged = judge(raw, Setting("FR", TODAY))
    assert judged.emails == ["b@example.fr", "a@example.fr"]
    assert judged.numbers == ["+33639980002", "+33639980001"]
    assert judged.identity.phones == ("+33199001234",)
    assert _codes(judged) == [("phone", "contact_of_another_person")]


def test_a_named_person_without_any_contact_is_accepted():
    judged = _judge(last_name="Martin", email="neant@neant.fr", phone="0000000000")
    assert judged.key is not None
    assert judged.emails == judged.numbers == []
    assert _codes(judged) == [("email", "filler"), ("phone", "filler")]


def test_a_contact_without_a_name_is_accepted_with_a_doubt():
    judged = _judge(email="a@example.fr")
    assert judged.key == "contact:a@example.fr"
    assert ("row", "no_name") in _codes(judged)


def test_a_row_with_neither_is_refused_with_a_reason():
    judged = _judge(town="Ville")
    assert judged.key is None
    assert _codes(judged) == [("row", "no_identity")]


@pytest.mark.parametrize(
    "cells",
    [
        {"last_name": "TOTAL"},
        {"patient_id": "Total : 3"},
        {"last_name": "Total", "phone": "2"},
        {"last_name": "Total général", "phone": "2"},
        {"last_name": "Somme des lignes : 3"},
        {"last_name": "Nombre de patients : 3"},
        {"patient_id": "Total", "last_name": "3"},
    ],
)
def test_a_totals_line_is_no_person(cells):
    judged = _judge(**cells)
    assert judged.key is None
    assert _codes(judged) == [("row", "totals_line")]


@pytest.mark.parametrize(
    "cells",
    [
        {"patient_id": "17", "last_name": "SOMME Jean", "postal_code": "80000"},
        {"patient_id": "19", "last_name": "Total Marie"},
        {"patient_id": "20", "last_name": "Total"},
        {"last_name": "SOMME Jean", "postal_code": "80000"},
        {"last_name": "Total-Martin"},
    ],
)
def test_a_named_patient_is_no_totals_line(cells):
    judged = _judge(**cells)
    assert judged.key is not None
    assert _codes(judged) == []


def test_a_person_called_total_is_a_person():
    assert _judge(last_name="Total", first_name="Luc", birth_date="01/02/1960").key is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"last_name": "MARTIN", "first_name": "Zoé"}, {"last_name": "Martin", "first_name": "ZOE"}),
        (
            {"last_name": "d'Alembert", "first_name": "Jean-Luc"},
            {"last_name": "D’ALEMBERT", "first_name": "JEAN LUC"},
        ),
        ({"last_name": "Mme Lefèvre", "first_name": "A"}, {"last_name": "LEFEVRE", "first_name": "a"}),
    ],
)
def test_one_person_written_in_two_ways_is_one_person(one, other):
    born = {"birth_date": "03/04/1975"}
    assert _judge(**one, **born).key == _judge(**other, birth_date="1975-04-03").key


def test_the_patient_id_comes_before_the_name():
    assert _judge(patient_id="A7", last_name="Martin").key == _judge(patient_id="a7", last_name="Martain").key


def test_a_contact_of_another_adult_is_not_used():
    judged = _judge(last_name="M", phone="0639980001 (voisine)", email="a@example.fr (mari)")
    assert (judged.emails, judged.numbers) == ([], [])
    assert _codes(judged) == [("email", "contact_of_another_adult"), ("phone", "contact_of_another_adult")]


def test_namesakes_without_a_birth_date_stay_two_people():
    one = _judge(last_name="Martin", first_name="Luc", email="a@example.fr")
    other = _judge(last_name="Martin", first_name="Luc", email="b@example.fr")
    assert one.key != other.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"town": "Lyon"}, {"town": "Paris"}),
        ({"postal_code": "12340", "town": "Bozouls"}, {"postal_code": "12340", "town": "Rodelle"}),
        ({"email": "jean1@gmial.com"}, {"email": "jean2@gmial.com"}),
        ({"email": "jean1@gmial.com"}, {}),
        ({"phone": "06 12 34 XX XX"}, {"phone": "06 99 88 XX XX"}),
        ({"email": "a@example.fr (voisine)"}, {"email": "b@example.fr (voisine)"}),
        ({"email": "jean1@gmial.com", "town": "Lyon"}, {"email": "jean1@gmial.com", "town": "Paris"}),
    ],
)
def test_namesakes_without_a_usable_contact_stay_two_where_anything_differs(one, other):
    names = {"last_name": "Dupont", "first_name": "Jean"}
    assert _judge(**names, **one).key != _judge(**names, **other).key
    assert _judge(**names, **one).key == _judge(**names, **one).key is not None


def test_a_filler_does_not_make_two_of_one():
    names = {"last_name": "Dupont", "first_name": "Jean", "town": "Lyon"}
    assert _judge(**names, phone="0000000000").key == _judge(**names, email="neant@neant.fr").key


def test_two_without_names_at_one_address_are_two_by_their_birth_dates():
    one = _judge(email="a@example.fr", birth_date="03/04/1975")
    other = _judge(email="a@example.fr", birth_date="05/06/2010")
    assert one.key != other.key
    assert one.key == _judge(email="A@example.fr", birth_date="1975-04-03").key


@pytest.mark.parametrize(
    ("cells", "excluded", "problems"),
    [
        ({"deceased": "oui"}, "deceased", []),
        ({"deceased": "Décédée"}, "deceased", []),
        ({"deceased": "12/03/2020"}, "deceased", []),
        ({"deceased": "DCD"}, "deceased", []),
        ({"deceased": "non"}, None, []),
        ({"deceased": "?"}, None, [("deceased", "unclear_yes_or_no")]),
        ({"affected": "non"}, "not_affected", []),
        ({"affected": "oui"}, None, []),
        ({"affected": "peut-être"}, None, [("affected", "unclear_yes_or_no")]),
    ],
)
def test_only_a_clear_word_excludes_a_person(cells, excluded, problems):
    judged = _judge(last_name="Martin", **cells)
    assert (judged.excluded, _codes(judged)) == (excluded, problems)


@pytest.mark.parametrize(
    "written",
    [
        "12/03/15", "2015-03-12T00:00:00", "le 12/03/2015", "DCD 12/03/2015", "décédée le 12 mars 2015",
        "Décédé(e)", "décédé(e) le 12/03/2015", "décédé (12/03/2015)", "décédé en 2015", "décédé en mars 2015",
        "décédé le 2015", "décédé le 2015-03", "mort le 12/03/2015", "42075", "25/11/2026",
    ],
)  # fmt: skip
def test_a_date_of_death_or_a_word_for_it_excludes(written):
    judged = _judge(last_name="Martin", birth_date="03/04/1975", deceased=written)
    assert (judged.excluded, _codes(judged)) == ("deceased", [])


@pytest.mark.parametrize(
    "written",
    [
        # what programs write where no date is known
        "30/12/1899", "31/12/1899", "01/01/1900", "1900-01-01 00:00:00", "1900-01-01T00:00:00Z", "01/01/1970",
        "0001-01-01", "1753-01-01", "décédé le 1900-01-01", "25569", "00/00/0000", "31/12/9999",
        # before the birth, after today
        "02/04/1975", "décédé en 1974", "26/11/2026", "décédé le 26/11/2026", "décédé en 2027",
        # about the contrary, a doubt, or somebody else
        "Le patient est vivant", "le conjoint est décédé", "décédé : non", "decede(e) : N", "décédé?", "Décédé ?",
        "décédé : -", "décédé :", "décédé non confirmé", "DCD à vérifier", "mort-né frère", "decedes", "2015",
    ],
)  # fmt: skip
def test_whoever_may_be_alive_is_told(written):
    judged = _judge(last_name="Martin", birth_date="03/04/1975", deceased=written)
    assert (judged.excluded, _codes(judged)) == (None, [("deceased", "unclear_yes_or_no")])


@pytest.mark.parametrize(("written", "excluded"), [("12/03/1949", None), ("12/03/1951", "deceased")])
def test_without_a_birth_date_a_date_of_death_is_one_of_our_time(written, excluded):
    assert _judge(last_name="Martin", deceased=written).excluded == excluded


@pytest.mark.parametrize(
    ("written", "language", "doubts"),
    [
        ("fr", "fr", 0),
        ("Français", "fr", 0),
        ("en-GB", "en", 0),
        ("English", "en", 0),
        ("arabe", "fr", 1),
        ("de", "fr", 1),
    ],
)
def test_languages_we_cannot_compose_fall_back_with_a_doubt(written, language, doubts):
    judged = _judge(last_name="Martin", language=written)
    assert (judged.language, len(judged.problems)) == (language, doubts)


def test_a_sensitive_comment_counts_as_a_comment():
    judged = _judge(last_name="Martin", comment_sensitive="oui")
    assert judged.comment
    assert judged.comment_sensitive


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"address": "1 rue A", "postal_code": "1000", "town": "Bourg"}, (("1 rue A",), "01000", "Bourg")),
        (
            {"address": "1 rue A\nBât. 2", "postal_code": "75001.0", "town": "Paris"},
            (("1 rue A", "Bât. 2"), "75001", "Paris"),
        ),
        ({"address": "1 rue A, 75001 Paris"}, (("1 rue A",), "75001", "Paris")),
        ({"address": "1 rue A\n20090 Ajaccio"}, (("1 rue A",), "20090", "Ajaccio")),
    ],
)
def test_a_letter_can_be_addressed(cells, expected):
    identity = _judge(last_name="Martin", **cells).identity
    assert (identity.address, identity.postal_code, identity.town) == expected
    assert identity.has_postal


def test_overseas_numbers_go_by_the_postal_code():
    assert _judge(last_name="M", phone="0692 12 34 56", postal_code="97400").numbers == ["+262692123456"]


@pytest.mark.parametrize(
    ("country", "phone", "numbers"),
    [
        # a mobile there and, as it stands, a stranger's here
        ("Suisse", "079 123 45 67", []),
        ("CH", "0791234567", []),
        ("Pays-Bas", "0612345678", []),
        ("Espagne", "612345679", []),
        ("Luxembourg", "628 123 456", []),
        ("Monaco", "06 12 34 56 78", []),
        # a number here only may be one of there with a wrong digit
        ("Belgique", "06 39 98 00 01", []),
        # a number there only
        ("Royaume-Uni", "07400 123456", ["+447400123456"]),
        ("Allemagne", "01512 3456789", ["+4915123456789"]),
        # with its country code
        ("Suisse", "+41 79 123 45 67", ["+41791234567"]),
        ("Suisse", "0041791234567", ["+41791234567"]),
        ("Suisse", "+33 6 39 98 00 01", ["+33639980001"]),
        ("Suisse", "33639980001", ["+33639980001"]),
        ("Suisse", "41791234567", ["+41791234567"]),
        # here, or nobody knows where
        ("France", "0639980001", ["+33639980001"]),
        ("La Réunion", "0692123456", ["+262692123456"]),
        ("Atlantide", "0639980001", ["+33639980001"]),
    ],
)
def test_a_number_of_somebody_abroad_is_read_only_where_it_is_none_here(country, phone, numbers):
    judged = _judge(last_name="Martin", country=country, phone=phone)
    assert judged.numbers == numbers
    assert _codes(judged) == ([] if numbers else [("phone", "ambiguous")])


def test_a_service_number_is_nobodys():
    judged = _judge(last_name="M", phone="0 891 12 34 56")
    assert judged.numbers == []
    assert _codes(judged) == [("phone", "service_number")]


def test_accents_damaged_by_an_earlier_program_are_mended_with_a_doubt():
    judged = _judge(last_name="Martin", first_name="RenÃ©")
    assert judged.identity.first_name == "René"
    assert _codes(judged) == [("last_name", "damaged_accents")]
    assert _judge(last_name="Martin", first_name="JOÃO").identity.first_name == "JOÃO"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("03/04/1975", "1975-04-03"),
        ("3.4.1975", "1975-04-03"),
        ("1975-04-03", "1975-04-03"),
        ("1975-04-03T00:00:00", "1975-04-03"),
        ("19750403", "1975-04-03"),
        ("03041975", "1975-04-03"),
        ("27395", "1975-01-01"),
        ("27395.0", "1975-01-01"),
        ("1975-04-03 00:00:00.000", "1975-04-03"),
        ("1975-04-03T00:00:00+00:00", "1975-04-03"),
        ("03/04/1975 00:00", "1975-04-03"),
        ("3 avril 1975", "1975-04-03"),
        ("1er avril 1975", "1975-04-01"),
        ("3-AVR-1975", "1975-04-03"),
        ("03 févr. 1975", "1975-02-03"),
        ("12-Aug-60", "1960-08-12"),
        ("April 3, 1975", "1975-04-03"),
        ("né le 03/04/1975", "1975-04-03"),
        ("Née le : 3 août 1975", "1975-08-03"),
        ("1975", RowReason.INVALID_DATE),
        ("1975-04-02T22:00:00Z", RowReason.INVALID_DATE),
        ("3 brumaire 1975", RowReason.INVALID_DATE),
        ("00/00/0000", RowReason.INVALID_DATE),
        ("3 avril 15", RowReason.AMBIGUOUS_YEAR),
        ("03/04/60", "1960-04-03"),
        ("29/02/2000", "2000-02-29"),
        ("00/00/1950", RowReason.INVALID_DATE),
        ("31/02/1950", RowReason.INVALID_DATE),
        ("01/22/1950", RowReason.INVALID_DATE),
        ("03/04/2999", RowReason.INVALID_DATE),
        ("03/04/15", RowReason.AMBIGUOUS_YEAR),
        ("avril 1975", RowReason.INVALID_DATE),
        ("", RowReason.INVALID_DATE),
    ],
)
def test_birth_dates(written, expected):
    born, reason = parse_birth_date(written, TODAY)
    assert (reason if born is None else born) == expected
    assert (born is None) == (reason is not None)


@settings(deadline=None)
@given(st.dates(date(1900, 1, 1), TODAY))
def test_a_date_in_any_form_is_the_same_date(born):
    months = ["janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre"]
    months += ["novembre", "décembre"]
    forms = [
        born.isoformat(), f"{born:%d/%m/%Y}", f"{born:%d.%m.%Y}", f"{born:%d-%m-%Y}", f"{born:%Y%m%d}",
        f"{born.day}/{born.month}/{born.year}", f"{born.day} {months[born.month - 1]} {born.year}",
    ]  # fmt: skip
    assert {parse_birth_date(form, TODAY) for form in forms} == {(born.isoformat(), None)}


@settings(deadline=None)
@given(st.text(max_size=30))
def test_no_birth_date_crashes(written):
    born, reason = parse_birth_date(written, TODAY)
    assert (born is None) == (reason is not None)


_cell = st.text(alphabet=st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["a@example.fr", "0639980001", "Martin", "TOTAL", "oui", "non", "12/03/1950", "Ã©", "x@x;y", "/", "97400"]
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(list(Column)), st.lists(_cell, min_size=1, max_size=3)),
    st.sampled_from(["FR", "GP", "BE", "US"]),
)
def test_no_row_crashes_and_a_refused_row_says_why(cells, region):
    judged = judge(RawRow(2, cells), Setting(region, TODAY))
    assert judged.key is not None or judged.problems
    assert all(problem.column and problem.reason for problem in judged.problems)
    assert Identity.from_json(judged.identity.to_json()) == judged.identity


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([column for column in Column if column not in (Column.COMMENT, Column.DOCTOR)]),
        st.lists(_cell.filter(tidy), min_size=1, max_size=1),  # a reader hands on no empty cell
    ),
    st.sampled_from(["FR", "GP", "BE"]),
)
def test_what_was_understood_is_understood_the_same_again(cells, region):
    once = judge(RawRow(2, cells), Setting(region, TODAY))
    who = once.identity
    again = {
        Column.PATIENT_ID: who.patient_id,
        Column.USED_NAME: who.last_name,
        Column.BIRTH_NAME: who.birth_name,
        Column.FIRST_NAME: who.first_name,
        Column.BIRTH_DATE: who.birth_date,
        Column.ADDRESS: "\n".join(who.address),
        Column.POSTAL_CODE: who.postal_code,
        Column.TOWN: who.town,
        Column.COUNTRY: who.country,
        Column.EMAIL: ";".join(once.emails),
        Column.PHONE: ";".join([*once.numbers, *who.phones]),
    }
    twice = judge(RawRow(2, {column: [value] for column, value in again.items() if value}), Setting(region, TODAY))
    reasons = {problem.reason for problem in (*once.problems, *twice.problems)}
    if once.key is not None and not reasons & {"damaged_accents", "totals_line"}:
        assert twice.identity == who
        assert (twice.emails, twice.numbers) == (once.emails, once.numbers)


def test_half_characters_of_a_damaged_file_do_no_harm():
    judged = _judge(
        last_name="M\ud800", patient_id="\ud800", address="\udfff rue", town="\ud800", country="\ud800"
    )
    assert Identity.from_json(judged.identity.to_json()) == judged.identity
    assert judged.identity.last_name == "M?"


def test_every_reason_has_words_in_both_languages():
    assert set(WORDS) == {str(code) for code in (*RowReason, *Doubt)}
    assert all(french and english for french, english in WORDS.values())


# --- keys -------------------------------------------------------------------------------------------


def _nir(start: str) -> str:
    digits = start.replace("2A", "19").replace("2B", "18")
    return f"{start}{97 - int(digits) % 97:02}"


@pytest.mark.parametrize(
    ("written", "born", "found"),
    [
        (_nir("2750499000001"), "1975-04-03", "2750499000001"),
        ("2 75 04 99 000 001", "1975-04-03", "2750499000001"),
        (_nir("175042A000001"), "1975-04-03", "175042A000001"),
        (_nir("175042B000001"), "1975-04-03", "175042B000001"),
        (_nir("2753099000001"), "1975-04-03", "2753099000001"),  # the month was not known
        ("275049900000199", "1975-04-03", None),
        (_nir("2750499000001"), "1975-05-03", None),
        (_nir("2750499000001"), "2005-04-03", None),  # a mother's on her child's file
        (_nir("2750499000001"), None, None),
        ("8750499000001", "1975-04-03", None),
        ("2750499", "1975-04-03", None),
        ("", "1975-04-03", None),
    ],
)
def test_a_national_identifier_counts_only_where_it_is_the_persons_own(written, born, found):
    assert national_id(written, born) == found


def test_a_wrong_national_identifier_is_a_doubt_and_no_key():
    judged = _judge(last_name="M", national_id="2750499000001", birth_date="03/04/2015")
    assert _codes(judged) == [("national_id", "national_id_not_theirs")]
    assert judged.keys.national is None


def test_the_national_identifier_is_not_part_of_what_is_kept():
    judged = _judge(last_name="M", national_id=_nir("2750499000001"), birth_date="03/04/1975")
    assert judged.keys.national == "national:2750499000001"
    assert b"2750499" not in judged.identity.to_json()


def test_the_strongest_key_comes_first():
    cells = {"patient_id": "7", "national_id": _nir("2750499000001"), "last_name": "M", "first_name": "L"}
    judged = _judge(**cells, birth_date="03/04/1975")
    assert judged.keys == ("id:7", "national:2750499000001", "name:ml|1975-04-03", None)
    assert judged.key == "id:7"


def test_both_names_in_one_column_are_the_names_in_two():
    one = _judge(last_name="MARTIN Jean", birth_date="03/04/1975")
    two = _judge(last_name="Martin", first_name="Jean", birth_date="03/04/1975")
    assert one.keys.name == two.keys.name is not None


def test_a_family_name_and_a_birth_date_alone_may_be_twins():
    one = _judge(last_name="Martin", birth_date="03/04/2015", email="a@example.fr")
    other = _judge(last_name="Martin", birth_date="03/04/2015", email="b@example.fr")
    assert one.key != other.key


def test_an_unreadable_birth_date_does_not_make_one_of_two_namesakes():
    one = _judge(last_name="M", first_name="L", birth_date="00/00/0000", email="a@example.fr")
    other = _judge(last_name="M", first_name="L", birth_date="00/00/0000", email="b@example.fr")
    assert one.key != other.key


# --- contacts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "emails", "reasons"),
    [
        ("contact@garage.example.org", [], ["role_address"]),
        ("Secretariat@example.org", [], ["role_address"]),
        ("cabinet.martin@example.org", [], ["role_address"]),
        ("noreply@example.org", [], ["filler"]),
        ("contact@garage.example.org (perso)", ["contact@garage.example.org"], []),
        ("contact.martin@example.org", ["contact.martin@example.org"], []),
        ("jean@gmial.com", [], ["domain_probably_mistyped"]),
        ("a@example.org ; info@example.org", ["a@example.org"], ["role_address"]),
    ],
)
def test_a_mailbox_that_others_read_is_used_only_if_it_is_said_to_be_the_persons(cell, emails, reasons):
    judged = _judge(last_name="M", email=cell)
    assert (judged.emails, [problem.reason for problem in judged.problems]) == (emails, reasons)


def test_a_suggestion_stands_beside_what_was_read():
    (problem,) = _judge(last_name="M", email="jean@orange.fe").problems
    assert problem == ("email", "domain_probably_mistyped", "jean@orange.fe", "jean@orange.fr")


@pytest.mark.parametrize(
    ("phone", "sms", "calls", "reasons"),
    [
        ("01 99 00 12 34", [], ("+33199001234",), []),
        ("09 48 12 34 56", [], ("+33948123456",), []),
        ("0 891 12 34 56", [], (), ["service_number"]),
        ("07 00 01 23 45", [], (), ["m2m"]),
        ("06 39 98 00 01", ["+33639980001"], (), []),
        ("0639980001 (voisine)", [], (), ["contact_of_another_adult"]),
        ("0639980001 ne pas appeler", [], (), ["do_not_use"]),
        ("3,36E+10", [], (), ["digits_lost"]),
    ],
)
def test_a_number_serves_for_what_it_can(phone, sms, calls, reasons):
    judged = _judge(last_name="M", phone=phone)
    assert (judged.numbers, judged.identity.phones) == (sms, calls)
    assert [problem.reason for problem in judged.problems] == reasons
    assert judged.key is not None


def test_the_practices_own_contacts_are_found_in_any_writing():
    own = own_keys(["Cabinet@example.org", "01 99 00 12 34", ""], "FR")
    raw = RawRow(
        2, {Column.LAST_NAME: ["M"], Column.EMAIL: ["CABINET@example.org"], Column.PHONE: ["+33199001234"]}
    )
    judged = judge(raw, Setting(practice=own))
    assert (judged.emails, judged.identity.phones) == ([], ())
    assert _codes(judged) == [("email", "practice_contact"), ("phone", "practice_contact")]


# --- people -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("born", "minor"),
    [("2008-11-26", True), ("2008-11-25", False), ("2026-11-25", True), ("1950-01-01", False), (None, False)],
)
def test_who_is_under_eighteen_is_a_minor(born, minor):
    assert Identity(birth_date=born).is_minor(TODAY) == minor


def test_code_and_town_in_one_cell_make_a_letter_possible():
    identity = _judge(last_name="M", address="1 rue A", town="1000 Bourg").identity
    assert (identity.postal_code, identity.town, identity.has_postal) == ("01000", "Bourg", True)
