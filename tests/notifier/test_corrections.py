"""The rows that need a person, as a list of their own that is filled in and handed in again."""

from __future__ import annotations

import csv
import io
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier import corrections
from notifier.checking import check_list
from notifier.corrections import Corrections
from notifier.errors import InputError
from notifier.importers import Column, open_list, recognise
from notifier.judging import Setting, judge
from tests.notifier.importers.books import ndjson, patient

TODAY = date(2026, 11, 25)
LIST = (
    "Secret;N° patient;Nom;Prénom;né(e) le;Portable;Email;CP;Observations;Autre\n"
    "s;1;Dupont;Zoé;12/03/1975;+33639980001;z@example.fr;01000;diabète;\n"
    "s;2;Durand;Luc;01/01/1975;0639980002;jean@gmial.com;75001;diabète;\n"
    "s;3;Durand;Luc;01/01/1975;06 39 98 XX XX;=1+1;75001;RAS;0639980099\n"
    "s;4;Petit;Ana;02/01/1975;0639980004;néant;;;\n"
    "s;5;Roux;Max;02/01/1976;;néant;;;\n"
    "s;6;Blanc;Éva;31/02/1976;;e@example.fr;;;\n"
    "Total;6;;;;;;;;\n"
)


def written(text: str | bytes = LIST, language: str = "fr") -> bytes:
    data = text.encode() if isinstance(text, str) else text
    with open_list(io.BytesIO(data), today=TODAY) as reader:
        made = Corrections(reader, Setting("FR", TODAY, reader.names_people), language)
        content = b"".join(made)
    assert made.rows == len(table_of(content))
    return content


def table_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig")), delimiter=";"))


def corrected(text: str | bytes = LIST, language: str = "fr") -> list[dict[str, str]]:
    return table_of(written(text, language))


def test_it_has_the_lists_own_columns_in_order_and_one_that_says_what_is_wrong():
    rows = corrected()
    assert list(rows[0]) == [*LIST.partition("\n")[0].split(";"), "À corriger"]
    assert list(corrected(language="en")[0])[-1] == "To be corrected"


def test_only_rows_that_need_a_person_are_in_it():
    assert [row["N° patient"] for row in corrected()] == ["2", "3", "5", "6"]
    assert corrected("id;nom;email\n1;M;a@example.fr\n2;N;\n") == []


TWO_ROWS = (
    "id;nom;prenom;né le;email;portable\n1;Petit;Ana;1/2/1980;ana@example.fr;0639980001\n"
    "2;Roux;Max;2/2/1980;max@example.fr;0639980002\n1;Petit;Ana;1/2/1980;b@gmial.com;06 39 98 XX XX\n"
    "1;Petit;Ana;1/2/1980;c@example.fr;\n"
)


def test_with_a_row_go_all_rows_of_the_same_patient():
    one, wrong, other = corrected(TWO_ROWS)
    assert [row["email"] for row in (one, wrong, other)] == ["ana@example.fr", "b@gmial.com", "c@example.fr"]
    assert "b@gmail.com" in wrong["À corriger"]
    assert one["À corriger"] == other["À corriger"]
    assert "même patient que la ligne 4" in one["À corriger"]
    assert "row 4" in corrected(TWO_ROWS, "en")[0]["To be corrected"]


def test_what_two_rows_of_a_patient_say_against_each_other_is_said_with_both():
    text = "id;nom;email;concerné\n1;Petit;a@example.fr;oui\n2;Roux;b@example.fr;oui\n1;Petit;;non\n"
    one, other = corrected(text)
    assert "même patient que la ligne 4" in one["À corriger"]
    assert (other["concerné"], "Rien" in other["À corriger"]) == ("non", False)


def test_it_says_what_is_wrong_in_the_doctors_language():
    two, three, five, six = corrected()
    assert "« jean@gmial.com » : La partie après @ est sans doute mal saisie." in two["À corriger"]
    assert two["À corriger"].count("jean@gmail.com") == 1
    assert "(ligne 4)" in two["À corriger"]
    assert "(ligne 3)" in three["À corriger"]
    assert "« 06 39 98 XX XX »" in three["À corriger"]
    assert "JJ/MM/AAAA" in six["À corriger"]
    assert "remplissage" in five["À corriger"]
    assert "The part after @ is probably mistyped." in corrected(language="en")[0]["To be corrected"]


def test_no_comment_and_nothing_of_a_column_that_is_not_read_is_in_it():
    content = written()
    rows = table_of(content)
    assert b"diab" not in content
    assert [row["Observations"] for row in rows] == ["présent", "RAS", "", ""]
    assert {row["Secret"] for row in rows} == {""}
    assert rows[1]["Autre"] == "'0639980099", "a contact may be what is wrong: the column has to be named"


def test_a_formula_in_it_is_text_and_a_number_keeps_its_zero():
    rows = corrected()
    assert rows[1]["Email"] == "'=1+1"
    assert rows[0]["Portable"] == "'0639980002"


def test_handed_in_again_it_says_the_same_and_again_lists_the_same_rows():
    content = written()
    rows, again = table_of(content), corrected(content)
    assert [row | {"À corriger": ""} for row in again] == [row | {"À corriger": ""} for row in rows]
    answer = check_list(io.BytesIO(content), today=TODAY, show=True)
    assert [one["patient_id"] for one in answer["patients"]] == ["2", "3", "5", "6"]
    assert "contact_column_not_read" not in {
        one["reason"] for one in answer["problems"] if one["column"] == "À corriger"
    }


def test_filled_in_it_is_an_ordinary_list():
    mended = written().decode("utf-8-sig").replace("jean@gmial.com", "jean@gmail.com", 1)
    answer = check_list(io.BytesIO(mended.encode()), today=TODAY, show=True)
    assert answer["patients"][0]["email"] == "jean@gmail.com"


def test_nobody_has_to_correct_the_contact_of_somebody_who_is_not_told():
    rows = corrected("id;nom;email;décédé\n1;M;x;oui\n2;N;x;non\n3;O;x;?\n")
    assert [row["id"] for row in rows] == ["2", "3"]
    assert "oui" in rows[1]["À corriger"]


def test_columns_with_one_name_and_of_a_parent_stay_what_they_were():
    text = "id;nom;Tel mère;email 1;email 2\n1;M;06 39 98 XX;a@example.fr;b@gmial.com\n"
    content = written(text)
    assert table_of(content)[0]["Tel mère"] == "06 39 98 XX"
    with open_list(io.BytesIO(content)) as reader:
        (raw,) = reader
        assert raw.cells[Column.PHONE] == ["06 39 98 XX (parent)"]
        assert raw.cells[Column.EMAIL] == ["a@example.fr", "b@gmial.com"]


def test_fhir_patients_get_columns_of_their_own_that_are_read_again():
    telecom = [{"system": "phone", "value": "06 39 98 XX XX"}, {"system": "email", "value": "a@gmial.com"}]
    content = written(ndjson(patient(id="7", telecom=telecom), patient(id="8")))
    (row,) = table_of(content)
    assert (row["id patient"], row["email"], row["téléphone"]) == ("7", "a@gmial.com", "06 39 98 XX XX")
    with open_list(io.BytesIO(content)) as reader:
        assert all(recognise(name) for name in list(row)[:-1])
        assert reader.questions == ()


@pytest.mark.parametrize("column", corrections._NAMES)
def test_names_of_our_own_columns_are_known_again(column):
    assert recognise(corrections._NAMES[column]).column is column


def test_our_own_column_means_nothing_to_the_reader():
    for name in corrections.WRONG.values():
        assert recognise(name) is None
        assert corrections.is_ours(name.upper())


CELL = st.text(
    st.one_of(
        st.sampled_from("=+-@'\";,| 0123456789é./\n\u00a0\u2028"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=10,
)


@settings(deadline=None)
@given(st.lists(st.tuples(CELL, CELL, CELL, CELL), min_size=1, max_size=5))
def test_a_row_that_is_written_is_judged_as_before(rows):
    text = io.StringIO()
    csv.writer(text, delimiter=";").writerows(
        [["id", "nom", "adresse", "email", "portable"], *([f"P{n}", *row] for n, row in enumerate(rows))]
    )
    mapping = dict(
        zip(
            ["id", "nom", "adresse", "email", "portable"],
            ["patient_id", "last_name", "address", "email", "phone"],
            strict=True,
        )
    )
    setting = Setting("FR", TODAY)

    def judged(data: bytes):
        with open_list(io.BytesIO(data), mapping=mapping) as reader:
            return {one.identity.patient_id: one for one in (judge(raw, setting) for raw in reader)}

    data = ("\ufeff" + text.getvalue()).encode()
    with open_list(io.BytesIO(data), mapping=mapping) as reader:
        content = b"".join(Corrections(reader, setting, "fr"))
    before, after = judged(data), judged(content)
    assert after.keys() <= before.keys()
    for key, one in after.items():
        other = before[key]
        assert (one.emails, one.numbers, one.identity.phones) == (
            other.emails,
            other.numbers,
            other.identity.phones,
        )
        assert one.identity.last_name == other.identity.last_name


# --- suggestions ------------------------------------------------------------------------------------


def accepted(rows, text: str = LIST):
    with open_list(io.BytesIO(text.encode()), today=TODAY) as reader:
        return corrections.accept(reader, Setting("FR", TODAY, reader.names_people), rows)


def test_suggestions_are_listed_with_their_row():
    with open_list(io.BytesIO(LIST.encode())) as reader:
        (one,) = corrections.suggestions(reader, Setting("FR", TODAY))
    assert (one.row, one.read, one.suggestion) == (3, "jean@gmial.com", "jean@gmail.com")


def test_an_accepted_suggestion_changes_the_email_of_that_row_and_nothing_else():
    taken = accepted([3])
    assert table_of(taken.content) == [
        {
            "N° patient": "2",
            "Nom": "Durand",
            "Prénom": "Luc",
            "né(e) le": "01/01/1975",
            "Email": "jean@gmail.com",
        }
    ]
    assert accepted(None) == taken


def test_what_else_the_patient_has_rows_of_goes_with_an_accepted_one():
    taken = accepted([4], TWO_ROWS)
    assert [row["email"] for row in table_of(taken.content)] == ["ana@example.fr", "b@gmail.com", "c@example.fr"]
    assert [one.row for one in taken.suggestions] == [4]
    assert "portable" not in table_of(taken.content)[0]


def test_of_several_addresses_only_the_wrong_one_is_replaced():
    text = (
        "id;nom;email\n1;M;ba@gmial.com.example.org; \n2;N;xa@example.fr, a@gmial.com\n3;O;a@gmial.com (perso)\n"
    )
    text = text.replace("example.org; ", "example.org")
    rows = table_of(accepted(None, text).content)
    assert [row["email"] for row in rows] == ["xa@example.fr, a@gmail.com", "a@gmail.com (perso)"]


def test_a_shared_mailbox_is_accepted_by_its_row_alone():
    text = "id;nom;email\n1;M;contact@garage.example.org\n2;N;a@gmial.com\n"
    assert len(accepted(None, text).suggestions) == 1
    (row,) = table_of(accepted([2], text).content)
    assert row["email"] == "contact@garage.example.org (perso)"


@pytest.mark.parametrize(
    ("rows", "text", "words"),
    [
        ([2], LIST, "has no suggestion"),
        ([99], LIST, "no row 99"),
        (None, "id;nom;email\n1;M;a@example.fr\n", "no suggestion that could be accepted"),
        ([2], "nom;email\nMartin;a@gmial.com\n", "would not be known again"),
    ],
)
def test_what_cannot_be_accepted_says_why(rows, text, words):
    with pytest.raises(InputError, match=words):
        accepted(rows, text)
