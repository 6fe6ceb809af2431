"""Every row of a list ends as accepted, merged or refused with a reason, and as such in the database."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from notifier import models
from notifier.errors import ConflictError, ListError
from notifier.importers import Column, Doubt, RawRow
from notifier.importing import (
    CONTACT_PURPOSE,
    IDENTITY_PURPOSE,
    WORDS,
    Identity,
    RowReason,
    check_list,
    contact_blind,
    import_list,
    judge,
    parse_birth_date,
)
from notifier.sealing import DataKey, MasterKey
from notifier.states import Channel
from notifier.store import Database

TODAY = date(2026, 11, 25)
NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
HEADER = "id;nom;prenom;date de naissance;email;portable;fixe;adresse;code postal;ville\n"


def _stream(text: str) -> io.BytesIO:
    return io.BytesIO(text.encode())


def _check(text: str, **options):
    return check_list(_stream(text), show=True, today=TODAY, **options)


def _judge(region: str = "FR", **cells: str):
    return judge(RawRow(2, {Column(name): [value] for name, value in cells.items()}), region, TODAY)


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
    judged = judge(raw, "FR", TODAY)
    assert judged.emails == ["b@example.fr", "a@example.fr"]
    assert judged.numbers == ["+33639980002", "+33639980001"]
    assert judged.identity.phones == ("+33199001234",)
    assert judged.problems == [("phone", "contact_of_another_person")]


def test_a_named_person_without_any_contact_is_accepted():
    judged = _judge(last_name="Martin", email="neant@neant.fr", phone="0000000000")
    assert judged.key is not None
    assert judged.emails == judged.numbers == []
    assert judged.problems == [("email", "filler"), ("phone", "filler")]


def test_a_contact_without_a_name_is_accepted_with_a_doubt():
    judged = _judge(email="a@example.fr")
    assert judged.key == "contact:a@example.fr"
    assert ("row", "no_name") in judged.problems


def test_a_row_with_neither_is_refused_with_a_reason():
    judged = _judge(town="Ville")
    assert judged.key is None
    assert judged.problems == [("row", "no_identity")]


@pytest.mark.parametrize(
    "cells", [{"last_name": "TOTAL"}, {"patient_id": "Total : 3"}, {"last_name": "Total", "phone": "2"}]
)
def test_a_totals_line_is_no_person(cells):
    judged = _judge(**cells)
    assert judged.key is None
    assert judged.problems == [("row", "totals_line")]


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
    assert judged.problems == [("email", "contact_of_another_adult"), ("phone", "contact_of_another_adult")]


def test_namesakes_without_a_birth_date_stay_two_people():
    one = _judge(last_name="Martin", first_name="Luc", email="a@example.fr")
    other = _judge(last_name="Martin", first_name="Luc", email="b@example.fr")
    assert one.key != other.key


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
    assert (judged.excluded, judged.problems) == (excluded, problems)


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


def test_a_service_number_is_nobodys():
    judged = _judge(last_name="M", phone="0 891 12 34 56")
    assert judged.numbers == []
    assert judged.problems == [("phone", "service_number")]


def test_accents_damaged_by_an_earlier_program_are_mended_with_a_doubt():
    judged = _judge(last_name="Martin", first_name="RenÃ©")
    assert judged.identity.first_name == "René"
    assert judged.problems == [("last_name", "damaged_accents")]
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


@given(st.text(max_size=30))
def test_no_birth_date_crashes(written):
    born, reason = parse_birth_date(written, TODAY)
    assert (born is None) == (reason is not None)


_cell = st.text(alphabet=st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["a@example.fr", "0639980001", "Martin", "TOTAL", "oui", "non", "12/03/1950", "Ã©", "x@x;y", "/", "97400"]
)


@given(
    st.dictionaries(st.sampled_from(list(Column)), st.lists(_cell, min_size=1, max_size=3)),
    st.sampled_from(["FR", "GP", "BE", "US"]),
)
def test_no_row_crashes_and_a_refused_row_says_why(cells, region):
    judged = judge(RawRow(2, cells), region, TODAY)
    assert judged.key is not None or judged.problems
    assert all(column and reason for column, reason in judged.problems)
    assert Identity.from_json(judged.identity.to_json()) == judged.identity


def test_every_reason_has_words_in_both_languages():
    assert set(WORDS) == {str(code) for code in (*RowReason, *Doubt)}
    assert all(french and english for french, english in WORDS.values())


# --- a whole list -----------------------------------------------------------------------------------


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
        "dossier;nom prenom;email\n5;MARTIN Jean;j@example.fr\n5;DUPONT Marie;m@example.fr\n",
        "id;nom;prenom;ne le;email\n5;M;Luc;1/2/2015;a@example.fr\n5;M;Léa;1/2/2015;b@example.fr\n",
        "id;nom;prenom;ne le;email\n5;M;Luc;1/2/1960;a@example.fr\n5;M;Luc;1/2/1990;b@example.fr\n",
        "id;nom;email\n5;M;a@example.fr\n5;;b@example.fr\n",
        "id;email\n5;a@example.fr\n5;b@example.fr\n",
        "id;portable\n5;0639980001\n5;0639980002\n",
    ],
)
def test_two_people_with_one_id_never_become_one(text, save, people):
    report = _check(text)
    assert (report["accepted"], report["merged"]) == (2, 0)
    assert {"row": 3, "column": "patient_id", "reason": "same_id_other_person"} in report["problems"]
    assert save(text).accepted == 2
    assert [len(emails + numbers) for _, _, emails, numbers in people()] == [1, 1]


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


def test_an_id_column_that_holds_the_same_for_everybody_loses_nobody(save):
    rows = [f"1;Nom{number % 3000};p{number % 3000}@example.fr\n" for number in range(6000)]
    report = _check("dossier;nom;email\n" + "".join(rows))
    assert (report["accepted"], report["merged"]) == (3000, 3000)
    listed = save("dossier;nom;email\n" + "".join(rows))
    assert (listed.accepted, listed.merged) == (3000, 3000)


def test_a_contact_of_more_people_than_a_family_is_nobodys(save, people, database: Database):
    rows = [f"{n};N{n};home@example.fr;06 39 98 00 0{n};family@example.fr\n" for n in range(1, 7)]
    rows += ["7;N7;home@example.fr;;\n", "8;N8;own@example.fr / home@example.fr;;\n"]
    text = "id;nom;email;portable;email 2\n" + "".join(rows)
    report = _check(text)
    assert report["reach"] == {"email": 7, "sms": 0, "letter": 0, "none": 1}
    assert [(one["row"], one["reason"]) for one in report["problems"]] == [
        (n, "shared_by_many") for n in range(2, 10)
    ]
    save(text)
    assert [emails for _, _, emails, _ in people()] == [["family@example.fr"]] * 6 + [[], ["own@example.fr"]]
    assert [patient.outcome for patient, *_ in people()] == ["on_the_way"] * 6 + ["unreached", "on_the_way"]
    with database.staff() as session:
        problems = session.execute(
            select(models.ListProblem.row, models.ListProblem.column, models.ListProblem.reason)
        )
        assert [tuple(one) for one in problems] == [(n, "email", "shared_by_many") for n in range(2, 10)]


def test_the_doctors_own_contacts_are_no_patients(save, people):
    own = ("Cabinet@example.org", "01 99 00 12 34", "06 39 98 00 99")
    text = "nom;email;portable;fixe\nM;cabinet@example.org;0639980099;0199001234\nN;n@example.fr;;\n;cabinet@example.org;;\n"
    report = _check(text, own_contacts=own)
    assert report["reach"] == {"email": 1, "sms": 0, "letter": 0, "none": 1}
    assert [(one["row"], one["reason"]) for one in report["problems"]] == [
        *[(2, "practice_contact")] * 3,
        (4, "practice_contact"),
        (4, "no_identity"),
    ]
    save(text, own_contacts=own)
    assert [(emails, numbers, identity.phones) for _, identity, emails, numbers in people()] == [
        ([], [], ()),
        (["n@example.fr"], [], ()),
    ]


def test_yes_and_no_about_one_person_is_yes_and_a_dash_is_neither(save, people):
    text = (
        "id;nom;email;concerne\n1;M;a@example.fr;oui\n1;M;a@example.fr;non\n2;N;b@example.fr;non\n"
        "2;N;b@example.fr;\n3;P;c@example.fr;-\n4;Q;d@example.fr;non\n4;Q;d@example.fr;oui\n"
    )
    report = _check(text)
    assert (report["accepted"], report["excluded"]) == (4, 1)
    assert [(one["row"], one["column"], one["reason"]) for one in report["problems"]] == [
        (3, "affected", "yes_and_no"),
        (8, "affected", "yes_and_no"),
    ]
    save(text)
    assert [(patient.outcome, patient.outcome_reason) for patient, *_ in people()] == [
        ("on_the_way", None),
        ("excluded", "not_affected"),
        ("on_the_way", None),
        ("on_the_way", None),
    ]


@pytest.mark.parametrize("footer", ["Fin de liste", "1 patient(s)", "Nombre: 1", "2 patients", "Nb patients : 1"])
def test_a_footer_is_no_person(footer):
    report = _check(f"nom;prenom;email\nM;L;a@example.fr\n{footer};;\n")
    assert (report["accepted"], report["refused"]) == (1, 1)
    assert report["problems"] == [{"row": 3, "column": "row", "reason": "totals_line"}]


def test_a_header_repeated_is_reported_once_and_as_that():
    report = _check("nom;email\nM;a@example.fr\nnom;email\n")
    assert report["problems"] == [{"row": 3, "column": "row", "reason": "header_again"}]


def test_a_list_without_rows_says_so(save):
    for act in (_check, save):
        with pytest.raises(ListError, match="nothing below"):
            act("nom;email\n")


def test_an_error_in_the_last_of_many_rows_is_found_and_numbered():
    rows = [f"p{number}@example.fr\n" for number in range(499)]
    report = _check("email\n" + "".join(rows) + "p499@example..fr\n")
    assert (report["rows"], report["accepted"], report["refused"]) == (500, 499, 1)
    assert {problem["row"] for problem in report["problems"]} == {501}


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


# --- in the database --------------------------------------------------------------------------------


@pytest.fixture
def data_key() -> DataKey:
    return DataKey(bytes(range(32)))


@pytest.fixture
def campaign(database: Database) -> models.Campaign:
    with database.staff() as session:
        doctor = models.Doctor(
            reference="10000000001",
            name="Dr Exemple",
            practice="Cabinet",
            address="1 rue de l'Exemple, 00000 Ville",
            phone="+33199001234",
            email="doctor@example.org",
        )
        incident = models.Incident(reference="incident", profile="eu-gdpr-fr", facts={})
        session.add_all([doctor, incident])
        session.flush()
        campaign = models.Campaign(incident_id=incident.id, doctor_id=doctor.id)
        session.add(campaign)
    return campaign


@pytest.fixture
def save(database: Database, campaign: models.Campaign, data_key: DataKey):
    """Imports a list as its doctor, whose rows alone row-level security shows."""

    def run(text: str | io.BytesIO, **options) -> models.ListFile:
        source = _stream(text) if isinstance(text, str) else text
        with database.doctor(campaign.doctor_id) as session:
            here = session.get_one(models.Campaign, campaign.id)
            return import_list(session, here, data_key, source, region="FR", actor="cli:test", now=NOW, **options)

    return run


@pytest.fixture
def people(database: Database, data_key: DataKey):
    """Everybody saved, with their contacts opened: [(patient, identity, emails, numbers)]."""

    def read():
        with database.staff() as session:
            found = []
            for patient in session.scalars(select(models.Patient).order_by(models.Patient.row, models.Patient.id)):
                contacts = session.execute(
                    select(models.Contact.channel, models.Contact.value_sealed)
                    .join(models.PatientContact, models.PatientContact.contact_id == models.Contact.id)
                    .where(models.PatientContact.patient_id == patient.id)
                    .order_by(models.PatientContact.rank)
                ).all()
                opened = [
                    (channel, data_key.open(sealed, CONTACT_PURPOSE).decode()) for channel, sealed in contacts
                ]
                found.append(
                    (
                        patient,
                        Identity.from_json(data_key.open(patient.identity_sealed, IDENTITY_PURPOSE)),
                        [value for channel, value in opened if channel == "email"],
                        [value for channel, value in opened if channel == "sms"],
                    )
                )
            return found

    return read


def _count(database: Database, table) -> int:
    with database.staff() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


LIST = (
    HEADER
    + "1;Martin;Zoé;03/04/1975;z@example.fr;;;;;\n"
    + "2;Durand;Luc;;Z@EXAMPLE.FR;06 39 98 00 02;;;;\n"
    + "1;MARTIN;Zoe;03/04/1975;zoe@example.fr;0639980001;01 99 00 12 34;1 rue A;75001;Paris\n"
    + "3;Petit;Anne;;neant@neant.fr;;;;;\n"
    + ";;;;;;;;75001;\n"
)


def test_a_list_becomes_patients_contacts_and_problems(save, people, database: Database, data_key: DataKey):
    list_file = save(LIST)
    assert (list_file.rows, list_file.accepted, list_file.merged, list_file.refused) == (5, 3, 1, 1)
    (zoe, identity, emails, numbers), (luc, _, luc_emails, _), (anne, _, anne_emails, _) = people()
    assert (zoe.row, zoe.merged, zoe.outcome, zoe.has_postal) == (2, 1, "on_the_way", True)
    assert identity == Identity(
        patient_id="1",
        last_name="Martin",
        first_name="Zoé",
        birth_date="1975-04-03",
        address=("1 rue A",),
        postal_code="75001",
        town="Paris",
        phones=("+33199001234",),
    )
    assert emails == ["z@example.fr", "zoe@example.fr"]
    assert numbers == ["+33639980001"]
    assert luc_emails == ["z@example.fr"]  # a household's mailbox is one contact of two patients
    assert _count(database, models.Contact) == 4
    assert (anne.outcome, anne.outcome_reason, anne.outcome_at, anne_emails) == (
        "unreached",
        "no_contact",
        NOW,
        [],
    )
    assert luc.outcome_at is None
    with database.staff() as session:
        problems = session.execute(
            select(models.ListProblem.row, models.ListProblem.column, models.ListProblem.reason)
        )
        assert [tuple(problem) for problem in problems] == [(5, "email", "filler"), (6, "row", "no_identity")]
        blind = contact_blind(data_key, Channel.EMAIL, "Z@example.fr")
        assert session.scalar(select(func.count()).where(models.Contact.value_blind == blind)) == 1


def test_the_same_file_again_changes_nothing(save, people, database: Database):
    first = save(LIST)
    before = [(patient.id, patient.merged, emails) for patient, _, emails, _ in people()]
    assert save(LIST).id == first.id
    assert [(patient.id, patient.merged, emails) for patient, _, emails, _ in people()] == before
    assert _count(database, models.ListFile) == 1


def _by_id(found) -> dict:
    return {
        identity.patient_id: rest
        for patient, identity, *contacts in found
        for rest in [(patient, identity, *contacts)]
    }


def test_a_further_list_adds_people_and_corrects_those_known(save, people, database: Database):
    save(LIST)
    further = save(
        HEADER
        + "1;Martin;Zoé;03/04/1975;new@example.fr / z@example.fr;;;;;\n"
        + "3;Petit;Anne;;;0639980003;;2 rue B;75002;Paris\n"
        + "9;Roux;Max;;max@example.fr;;;;;\n"
    )
    assert (further.rows, further.accepted, further.merged, further.refused) == (3, 1, 2, 0)
    found = _by_id(people())
    assert len(found) == _count(database, models.Patient) == 4
    zoe, identity, emails, numbers = found["1"]
    assert (emails, numbers, identity.phones) == (["new@example.fr", "z@example.fr"], [], ())
    assert (zoe.merged, identity.town) == (2, "Paris")
    anne, identity, _, numbers = found["3"]
    assert (anne.outcome, anne.outcome_reason, anne.outcome_at) == ("on_the_way", None, None)
    assert numbers == ["+33639980003"]
    assert anne.has_postal
    assert identity.address == ("2 rue B",)
    assert found["2"][2:] == (["z@example.fr"], ["+33639980002"])  # not in the further list


def test_a_further_list_leaves_alone_what_it_has_no_column_for(save, people):
    save(
        "id;nom;email;portable;fixe;langue;remarque;concerne\n"
        "1;M;a@example.fr;0639980001;0199001234;en;x;oui\n2;N;b@example.fr;;;;;non\n"
    )
    save("id;nom;email;decede\n1;M;b@example.fr;\n2;N;;\n")
    (one, identity, emails, numbers), (other, *_) = people()
    assert (emails, numbers, identity.phones) == (["b@example.fr"], ["+33639980001"], ("+33199001234",))
    assert (one.language, one.variant) == ("en", "comment")
    assert (other.outcome, other.outcome_reason) == ("excluded", "not_affected")


def test_a_further_list_takes_the_last_contact_away(save, people):
    save("id;nom;email\n1;M;a@example.fr\n")
    save("id;nom;email\n1;M;\n2;N;b@example.fr\n")
    (one, _, emails, _), _ = people()
    assert (one.outcome, one.outcome_reason, one.outcome_at, emails) == ("unreached", "no_contact", NOW, [])


def test_a_further_list_may_report_a_death_and_undo_one(save, people):
    save("id;nom;email;decede\n1;M;a@example.fr;\n2;N;b@example.fr;oui\n3;P;;oui\n")
    save("id;nom;email;decede\n1;M;a@example.fr;oui\n2;N;b@example.fr;\n3;P;;non\n")
    assert [(patient.outcome, patient.outcome_reason) for patient, *_ in people()] == [
        ("excluded", "deceased"),
        ("on_the_way", None),
        ("unreached", "no_contact"),
    ]


def test_a_comment_stays_one_unless_a_further_list_says_no(save, people):
    head = "id;nom;email;remarque;commentaire sensible\n"
    save(head + "1;M;a@example.fr;x;oui\n2;N;b@example.fr;x;oui\n3;P;c@example.fr;;\n")
    save(head + "1;M;a@example.fr;;\n2;N;b@example.fr;non;\n3;P;c@example.fr;oui;non\n")
    assert [(patient.variant, patient.comment_sensitive) for patient, *_ in people()] == [
        ("comment", True),
        ("standard", False),
        ("comment", False),
    ]


def test_a_further_list_with_its_own_numbering_loses_nobody(save, people, database: Database):
    save("id;nom;prenom;ne le;email\n1;M;Luc;1/2/1960;a@example.fr\n")
    further = save("id;nom;prenom;ne le;email\n1;N;Zoé;3/4/1990;b@example.fr\n2;P;Max;3/4/1991;c@example.fr\n")
    assert (further.accepted, further.merged, further.refused) == (2, 0, 0)
    assert [emails for _, _, emails, _ in people()] == [["a@example.fr"], ["b@example.fr"], ["c@example.fr"]]
    with database.staff() as session:
        assert session.scalars(select(models.ListProblem.reason)).all() == ["same_id_other_person"]


def test_people_who_share_an_id_are_known_again_in_any_order(save, people):
    head = "id;nom;prenom;ne le;email\n"
    save(head + "1;M;Luc;1/2/1960;luc@example.fr\n1;N;Zoé;3/4/1990;zoe@example.fr\n")
    further = save(
        head + "1;N;Zoé;3/4/1990;zoe2@example.fr\n1;M;Luc;1/2/1960;luc2@example.fr\n1;R;Max;;max@example.fr\n"
    )
    assert (further.accepted, further.merged) == (1, 2)
    again = save(
        head + "1;R;Max;;max3@example.fr\n1;M;Luc;1/2/1960;luc3@example.fr\n1;N;Zoé;3/4/1990;zoe3@example.fr\n"
    )
    assert (again.accepted, again.merged) == (0, 3)
    assert [(identity.first_name, emails) for _, identity, emails, _ in people()] == [
        ("Luc", ["luc3@example.fr"]),
        ("Zoé", ["zoe3@example.fr"]),
        ("Max", ["max3@example.fr"]),
    ]


def test_a_comment_decides_the_variant_and_its_text_is_nowhere(save, people, database: Database):
    save("nom;email;remarque;commentaire sensible\nM;a@example.fr;Traitement secret;oui\nN;b@example.fr;;\n")
    assert [(patient.variant, patient.comment_sensitive) for patient, *_ in people()] == [
        ("comment", True),
        ("standard", False),
    ]
    assert all("secret" not in identity.to_json().decode() for _, identity, *_ in people())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("nom;prenom\nM;L\n", "No column with contacts"),
        ("nom;email\n", "No row"),
        ("nom;email\nTotal;\n", "No row"),
        (
            "nom;email;rpps\nM;a@example.fr;10000000001\nN;b@example.fr;10000000002\n",
            "Row 3 belongs to another doctor",
        ),
    ],
)
def test_an_unusable_list_leaves_nothing(save, database: Database, text: str, words: str):
    with pytest.raises(ListError, match=words):
        save(text, expected_doctor="10000000001")
    for table in (models.ListFile, models.Patient, models.Contact, models.PatientContact, models.ListProblem):
        assert _count(database, table) == 0


def test_a_list_of_the_expected_doctor_is_taken(save):
    assert save("nom;email;rpps\nM;a@example.fr;1000000 0001\n", expected_doctor="10000000001").accepted == 1


@pytest.mark.parametrize("written", ["Dr Camille EXEMPLE", "Exemple Camille", "10000000001", "1000000 0001"])
def test_the_doctors_name_or_reference_may_stand_in_the_doctor_column(save, written):
    accepted = ("10000000001", "Dr Camille Exemple")
    assert save(f"nom;email;médecin\nM;a@example.fr;{written}\n", expected_doctor=accepted).accepted == 1


def test_another_doctors_list_is_refused_with_the_reference_that_was_expected(save):
    with pytest.raises(ListError, match="Row 2 belongs to another doctor than '10000000001'") as caught:
        save("nom;email;médecin\nM;a@example.fr;Dr Autre\n", expected_doctor=["10000000001", "Dr Camille Exemple"])
    assert "Autre" not in caught.value.message


def test_a_familys_own_doctor_says_nothing_about_the_list(save):
    assert save("nom;email;médecin traitant\nM;a@example.fr;Dr Autre\n", expected_doctor="1").accepted == 1


def test_a_column_of_contacts_that_is_not_read_is_reported_once(save, database: Database):
    save("Liste\nnom;email;Tél. du voisin\nM;a@example.fr;0639980001\nN;b@example.fr;0639980002\n")
    with database.staff() as session:
        problems = session.execute(
            select(models.ListProblem.row, models.ListProblem.column, models.ListProblem.reason)
        )
        assert [tuple(one) for one in problems] == [(2, "Tél. du voisin", "contact_column_not_read")]


def test_a_started_campaign_takes_no_list(save, database: Database, campaign: models.Campaign):
    with database.staff() as session:
        session.get_one(models.Campaign, campaign.id).state = "sending"
    with pytest.raises(ConflictError):
        save(LIST)
    assert _count(database, models.Patient) == 0


def test_a_file_over_the_limit_is_refused_before_it_is_read(save):
    class Big(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("read")

    with pytest.raises(ListError, match="allowed"):
        save(Big(b"nom;email\n" * 100), max_bytes=99)


def test_many_rows_cross_the_borders_of_chunks(save, people, database: Database):
    rows = [f"{number % 6000};M{number % 6000};p{number}@example.fr\n" for number in range(12_001)]
    reported: list[int] = []
    list_file = save("id;nom;email\n" + "".join(rows), progress=reported.append)
    assert (list_file.rows, list_file.accepted, list_file.merged) == (12_001, 6000, 6001)
    assert reported == [5000, 10_000]
    assert _count(database, models.PatientContact) == 12_001
    with database.staff() as session:
        assert session.scalar(select(func.max(models.PatientContact.rank))) == 2


def test_nothing_of_a_person_is_readable_in_the_tables(save, database_url: str):
    save(
        HEADER
        + "Canari-id;Canari-nom;Canari-prenom;03/04/1975;canari@example.fr;0639981234;;Canari rue;75001;Canariville\n"
    )
    with psycopg.connect(database_url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in tables.fetchall():
            with connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT BINARY)") as copy:
                dump = b"".join(bytes(block) for block in copy)
            assert b"canari" not in dump.lower()
            assert b"39981234" not in dump


def test_the_data_key_of_a_campaign_opens_what_was_saved(master: MasterKey):
    key = master.open_data_key(master.new_data_key(1), 1)
    sealed = key.seal(Identity(last_name="M").to_json(), IDENTITY_PURPOSE)
    assert Identity.from_json(key.open(sealed, IDENTITY_PURPOSE)).last_name == "M"
