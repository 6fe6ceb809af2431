"""A list is checked without a database exactly as an import would take it."""

from __future__ import annotations

import io
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.checking import check_list

TODAY = date(2026, 11, 25)
HEADER = "id;nom;prenom;date de naissance;email;portable;fixe;adresse;code postal;ville\n"


def _check(text: str, **options):
    return check_list(io.BytesIO(text.encode()), show=True, today=TODAY, **options)


def test_the_report_of_a_list_has_every_row_and_adds_up():
    report = _check(
        HEADER
        + "1;Martin;Zoé;03/04/1975;z@example.fr;;;;;\n"
        + "2;Durand;Luc;;;06 39 98 00 02;;;;\n"
        + "1;MARTIN;Zoe;03/04/1975;;0639980001;;;;\n"
        + ";;;;;;;;;\n"
        + "3;Petit;Anne;;neant@neant.fr;;01 99 00 12 34;1 rue A;75001;Paris\n"
        + "4;Roux;Max;;jean@orange,fr;06 12 34 XX XX;;;;\n"
        + "Total;4;;;;;;;;\n"
    )
    assert [report[name] for name in ("rows", "accepted", "merged", "refused", "excluded")] == [6, 4, 1, 1, 0]
    assert report["reach"] == {"email": 1, "sms": 1, "letter": 1, "none": 1}
    assert report["problems"] == [
        {"row": 6, "column": "email", "reason": "filler"},
        {"row": 7, "column": "email", "reason": "comma_for_dot"},
        {"row": 7, "column": "phone", "reason": "letters_in_number"},
        {"row": 8, "column": "row", "reason": "totals_line"},
    ]
    assert [patient["row"] for patient in report["patients"]] == [2, 3, 4, 6, 7, 8]
    assert report["patients"][0] == {
        "row": 2,
        "patient_id": "1",
        "email": "z@example.fr",
        "phones": [],
        "language": "fr",
        "birth_date": "1975-04-03",
        "excluded": None,
    }


def test_a_person_in_two_rows_is_reached_by_the_contact_of_either():
    report = _check("nom;prenom;ne le;portable;email\nM;L;1/2/1960;0639980001;\nM;L;1/2/1960;;a@example.fr\n")
    assert report["merged"] == 1
    assert report["reach"] == {"email": 1, "sms": 0, "letter": 0, "none": 0}


@pytest.mark.parametrize(
    "rows",
    [
        "12;M. DUPONT;m@example.fr\n12;Mme DUPONT;mme@example.fr\n",
        "12;M. DUPONT;m@example.fr\n12;Mme DUPONT;m@example.fr\n",
        "12;Monsieur DUPONT;m@example.fr\n12;Madame DUPONT;\n",
        "12;DUPONT;m@example.fr\n12;DUPONT;mme@example.fr\n",
    ],
)
def test_of_a_couple_with_one_file_both_are_told(rows):
    report = _check("dossier;patient;email\n" + rows)
    assert (report["accepted"], report["merged"]) == (2, 0)
    assert {"row": 3, "column": "patient_id", "reason": "same_id_other_person"} in report["problems"]


def test_the_child_of_a_couple_with_one_file_is_told_too():
    report = _check("dossier;patient;email\n" + "".join(f"12;DUPONT;{name}@example.fr\n" for name in "abcab"))
    assert (report["accepted"], report["merged"]) == (3, 2)


@pytest.mark.parametrize(
    "rows",
    [
        "12;M. DUPONT;m@example.fr\n12;DUPONT;m@example.fr\n",
        "12;M. DUPONT;m@example.fr\n12;M. DUPONT;\n",
        "12;DUPONT Jean;a@example.fr\n12;DUPONT Jean;b@example.fr\n",
    ],
)
def test_one_file_of_one_name_is_one_person(rows):
    report = _check("dossier;patient;email\n" + rows)
    assert (report["accepted"], report["merged"]) == (1, 1)


@pytest.mark.parametrize("filler", ["0", "-", "N/A", "/", "?", "néant", "000", "NC", "0.0"])
def test_a_filler_is_no_patient_id(filler):
    report = _check(f"dossier;patient;email\n{filler};DUPONT;a@example.fr\n{filler};DUPONT;b@example.fr\n")
    assert (report["accepted"], report["merged"]) == (2, 0)
    assert [patient["patient_id"] for patient in report["patients"]] == [None, None]
    assert report["problems"] == []


def test_excluded_people_are_not_counted_as_reached():
    report = _check("nom;email;decede\nM;a@example.fr;oui\nN;b@example.fr;\n")
    assert (report["accepted"], report["excluded"], sum(report["reach"].values())) == (2, 1, 1)


def test_one_id_with_two_birth_dates_is_two_people():
    report = _check("id;nom;ne le;email\n7;M;1/2/1960;a@example.fr\n7;N;3/4/1990;b@example.fr\n7;M;1/2/1960;\n")
    assert (report["accepted"], report["merged"]) == (2, 1)
    assert [problem["reason"] for problem in report["problems"]] == ["same_id_other_person"]


@pytest.mark.parametrize(
    "text",
    [
        "id;nom;prenom;email\n5;M;Luc;a@example.fr\n5;M;LUC;b@example.fr\n",
        "id;nom;nom de naissance;prenom;email\n5;M;N;Léa;a@example.fr\n5;N;;Léa;b@example.fr\n",
        "id;nom;email\n5;M;a@example.fr\n5;;a@example.fr\n",
        "id;email;portable\n5;a@example.fr;\n5;;0639980001\n",
    ],
)
def test_one_person_in_two_rows_of_one_id_stays_one(text):
    report = _check(text)
    assert (report["accepted"], report["merged"]) == (1, 1)
    assert "same_id_other_person" not in [problem["reason"] for problem in report["problems"]]


@pytest.mark.parametrize("footer", ["Fin de liste", "1 patient(s)", "Nombre: 1", "2 patients", "Nb patients : 1"])
def test_a_footer_is_no_person(footer):
    report = _check(f"nom;prenom;email\nM;L;a@example.fr\n{footer};;\n")
    assert (report["accepted"], report["refused"]) == (1, 1)
    assert report["problems"] == [{"row": 3, "column": "row", "reason": "totals_line"}]


def test_a_header_repeated_is_reported_once_and_as_that():
    report = _check("nom;email\nM;a@example.fr\nnom;email\n")
    assert report["problems"] == [{"row": 3, "column": "row", "reason": "header_again"}]


def test_an_error_in_the_last_of_many_rows_is_found_and_numbered():
    rows = [f"p{number}@example.fr\n" for number in range(499)]
    report = _check("email\n" + "".join(rows) + "p499@example..fr\n")
    assert (report["rows"], report["accepted"], report["refused"]) == (500, 499, 1)
    assert {problem["row"] for problem in report["problems"]} == {501}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "1", "2", "Total"]),
            st.sampled_from(["", "Martin", "Durand", '"', "é"]),
            st.sampled_from(["", "a@example.fr", "b@example.fr;", "x"]),
            st.sampled_from(["", "0639980001", "0199001234", "12", '"0']),
        ),
        max_size=12,
    )
)
def test_the_sums_always_hold(rows):
    report = _check("id,nom,email,portable\n9,Petit,,\n" + "".join(",".join(row) + "\n" for row in rows))
    assert report["rows"] == report["accepted"] + report["merged"] + report["refused"] == len(report["patients"])
    assert report["columns"] == {"id": "patient_id", "nom": "last_name", "email": "email", "portable": "phone"}
    assert sum(report["reach"].values()) == report["accepted"] - report["excluded"]
    assert report["refused"] <= len(report["problems"])


def test_what_was_probably_meant_is_offered_and_not_used():
    report = _check("nom;email\nM;jean@gmial.com\nN;contact@garage.example.org\n")
    assert report["reach"] == {"email": 0, "sms": 0, "letter": 0, "none": 2}
    assert report["suggestions"] == [
        {"row": 2, "column": "email", "reason": "domain_probably_mistyped", "suggestion": "jean@gmail.com"},
        {
            "row": 3,
            "column": "email",
            "reason": "role_address",
            "suggestion": "contact@garage.example.org (perso)",
        },
    ]


def test_minors_who_are_to_be_told_are_counted():
    report = _check(
        "nom;prenom;ne le;email;decede\nM;A;25/11/2008;a@example.fr;\nM;B;26/11/2008;b@example.fr;\n"
        "M;C;1/1/2015;c@example.fr;oui\nM;D;;d@example.fr;\n"
    )
    assert report["minors"] == 1


def test_domains_that_take_no_mail_are_left_out():
    report = _check("nom;email\nM;a@dead.example.org / b@example.org\n", dead_domains={"dead.example.org"})
    assert [(one["column"], one["reason"]) for one in report["problems"]] == [("email", "domain_takes_no_mail")]
    assert report["patients"][0]["email"] == "b@example.org"


def test_a_contact_counts_as_shared_by_people_and_not_by_rows():
    rows = [f"{n};N{n};home@example.fr\n" for n in range(6)]
    report = _check("id;nom;email\n" + "".join(rows) + rows[0] + rows[5])
    assert (report["merged"], report["problems"]) == (2, [])
    report = _check("id;nom;email\n" + rows[0] + "".join(rows) + "7;N7;home@example.fr\n")
    assert {problem["reason"] for problem in report["problems"]} == {"shared_by_many"}
    assert len(report["problems"]) == 8
