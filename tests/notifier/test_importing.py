"""Every row of a list ends as accepted, merged or refused with a reason, and as such in the database."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from notifier import models
from notifier.checking import check_list
from notifier.errors import ConflictError, ListError
from notifier.importing import (
    CONTACT_PURPOSE,
    IDENTITY_PURPOSE,
    Difference,
    _Saving,
    compare_list,
    contact_blind,
    import_list,
)
from notifier.judging import Identity
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


def test_a_list_without_rows_says_so(save):
    for act in (_check, save):
        with pytest.raises(ListError, match="nothing below"):
            act("nom;email\n")


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


def test_a_cancelled_campaign_takes_no_list(save, database: Database, campaign: models.Campaign):
    with database.staff() as session:
        session.get_one(models.Campaign, campaign.id).state = "cancelled"
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
    rows = [f"{1 + number % 6000};M;P{number % 6000};p{number}@example.fr\n" for number in range(12_001)]
    reported: list[int] = []
    list_file = save("id;nom;prenom;email\n" + "".join(rows), progress=reported.append)
    assert (list_file.rows, list_file.accepted, list_file.merged) == (12_001, 6000, 6001)
    assert reported == [5000, 10_000]
    assert _count(database, models.PatientContact) == 12_001
    with database.staff() as session:
        assert session.scalar(select(func.max(models.PatientContact.rank))) == 2


def test_an_error_far_down_leaves_nothing(save, database: Database):
    rows = "".join(f"{n};M{n};p{n}@example.fr;10000000001\n" for n in range(12_000))
    with pytest.raises(ListError, match="Row 12002 "):
        save("id;nom;email;rpps\n" + rows + "x;N;n@example.fr;10000000002\n", expected_doctor="10000000001")
    for table in (models.ListFile, models.Patient, models.Contact, models.PatientContact):
        assert _count(database, table) == 0


def test_people_named_again_far_down_are_found_across_chunks(save, people):
    rows = [f"{n};M;P{n};1/1/1960;p{n}@example.fr\n" for n in range(1, 6001)]
    again = [f"{n};M;P{n};1/1/1960;q{n}@example.fr\n" for n in range(1, 6001)]
    twice = [f"{n};M;P{n};;r{n}@example.fr\n" for n in range(1000, 6001, 1000)]
    listed = save("id;nom;prenom;ne le;email\n" + "".join(rows + again + twice))
    assert (listed.rows, listed.accepted, listed.merged) == (12_006, 6000, 6006)
    found = {identity.patient_id: emails for _, identity, emails, _ in people()}
    assert found["1000"] == ["p1000@example.fr", "q1000@example.fr", "r1000@example.fr"]
    assert found["1001"] == ["p1001@example.fr", "q1001@example.fr"]


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


# --- a further list, shown before it is taken and taken after sending began ----------------------------


@pytest.fixture
def compare(database: Database, campaign: models.Campaign, data_key: DataKey):
    """What a list would change, asked as its doctor."""

    def run(text: str, **options) -> Difference:
        with database.doctor(campaign.doctor_id) as session:
            here = session.get_one(models.Campaign, campaign.id)
            return compare_list(session, here, data_key, _stream(text), region="FR", now=NOW, **options)

    return run


@pytest.fixture
def begin(database: Database, campaign: models.Campaign):
    """Sending has begun: these patients (by id) stand there, with deliveries to their first contacts."""

    def run(**outcomes: str) -> None:
        with database.staff() as session:
            here = session.get_one(models.Campaign, campaign.id)
            here.state, here.started_at = "sending", NOW
            for patient in session.scalars(select(models.Patient).order_by(models.Patient.id)):
                if f"row{patient.row}" in outcomes:
                    outcome, _, reason = outcomes[f"row{patient.row}"].partition(":")
                    patient.outcome, patient.outcome_reason = outcome, reason or None
                contact = (
                    session.execute(
                        select(models.Contact)
                        .join(models.PatientContact, models.PatientContact.contact_id == models.Contact.id)
                        .where(models.PatientContact.patient_id == patient.id)
                        .order_by(models.Contact.channel, models.PatientContact.rank)
                    )
                    .scalars()
                    .first()
                )
                if contact is None or patient.outcome == "excluded":
                    continue
                delivery = models.Delivery(
                    campaign_id=campaign.id, doctor_id=campaign.doctor_id, contact_id=contact.id,
                    addressee_id=patient.id if contact.channel == "email" else None, channel=contact.channel,
                    language="fr", variant="standard", state="accepted",
                )  # fmt: skip
                session.add(delivery)
                session.flush()
                session.add(
                    models.DeliveryPatient(
                        delivery_id=delivery.id, patient_id=patient.id, doctor_id=campaign.doctor_id
                    )
                )

    return run


def _outcomes(found) -> list[tuple[str | None, str, str | None]]:
    return [(identity.patient_id, patient.outcome, patient.outcome_reason) for patient, identity, *_ in found]


PEOPLE = "id;nom;prenom;ne le;email;portable;decede\n"
FIRST = (
    PEOPLE
    + "1;M;A;1/1/1960;a@example.fr;;\n"
    + "2;M;B;1/1/1961;b@example.fr;;\n"
    + "3;M;C;1/1/1962;c@example.fr;;\n"
    + "4;M;D;1/1/1963;;;\n"
    + "5;M;E;1/1/1964;e@example.fr;;oui\n"
)


def test_the_difference_is_shown_and_nothing_is_changed(save, compare, people, database: Database):
    save(FIRST)
    before = [(patient.id, patient.merged, patient.outcome, emails) for patient, _, emails, _ in people()]
    text = (
        PEOPLE
        + "1;M;A;1/1/1960;a@example.fr;;\n"
        + "2;M;B;1/1/1961;new@example.fr;;\n"
        + "4;M;D;1/1/1963;;0639980004;\n"
        + "4;M;D;1/1/1963;d@example.fr;;\n"
        + "6;M;F;1/1/1965;f@example.fr;;\n"
        + "7;M;G;1/1/1966;;;\n"
        + "Total : 6;;;;;;\n"
    )
    difference = compare(text)
    assert (difference.rows, difference.refused, difference.new, difference.repeated) == (7, 1, 2, 1)
    assert (difference.changed, difference.unchanged, difference.gone, difference.informed) == (2, 1, 2, 0)
    assert difference.due == 2  # the new one with an address, and the one who can be reached now
    assert difference.new_rows == [6, 7]
    ids = {patient.row: patient.id for patient, *_ in people()}
    assert [(one.row, one.patient_id, one.what) for one in difference.changed_rows] == [
        (3, ids[3], ("contacts",)),
        (4, ids[5], ("contacts",)),
    ]
    assert difference.gone_ids == [ids[4], ids[6]]
    assert [(patient.id, patient.merged, patient.outcome, emails) for patient, _, emails, _ in people()] == before
    assert _count(database, models.ListFile) == 1
    taken = save(text)
    assert (taken.rows, taken.accepted, taken.merged, taken.refused) == (7, 2, 4, 1)


def test_the_rows_shown_of_a_difference_are_bounded_and_the_counts_are_not(save, compare):
    save(FIRST)
    difference = compare(PEOPLE + "".join(f"{n};N{n};X;;n{n}@example.fr;;\n" for n in range(20, 60)), most=7)
    assert (difference.new, len(difference.new_rows), difference.gone, len(difference.gone_ids)) == (40, 7, 5, 5)


def test_a_file_imported_before_differs_in_nothing(save, compare):
    save(FIRST)
    assert compare(FIRST) == Difference(most=1000)


def test_a_first_list_is_all_new(compare, people):
    difference = compare(FIRST)
    assert (difference.new, difference.due, difference.gone) == (5, 3, 0)
    assert people() == []


def test_a_list_taken_after_the_start_reaches_the_new_and_nobody_again(save, begin, people):
    save(FIRST)
    begin(row2="informed", row3="on_the_way", row4="unreached:all_failed", row5="unreached:no_contact")
    text = FIRST + "".join(f"{n};N;P{n};1/1/1970;n{n}@example.fr;;\n" for n in range(10, 22))
    taken = save(text)
    assert (taken.accepted, taken.merged) == (12, 5)
    assert _outcomes(people()) == [
        ("1", "informed", None),
        ("2", "on_the_way", None),
        ("3", "unreached", "all_failed"),
        ("4", "unreached", "no_contact"),
        ("5", "excluded", "deceased"),
        *((str(n), "on_the_way", None) for n in range(10, 22)),
    ]


def test_who_was_told_stays_told_whatever_a_list_says(save, begin, people, compare):
    save(FIRST)
    begin(row2="informed", row3="informed")
    text = PEOPLE + "1;M;A;1/1/1960;other@example.fr;0639980001;\n2;M;B;1/1/1961;b@example.fr;;oui\n"
    difference = compare(text)
    assert (difference.informed, difference.due) == (2, 0)
    save(text)
    assert _outcomes(people())[:2] == [("1", "informed", None), ("2", "informed", None)]


def test_only_a_contact_that_was_not_tried_makes_a_patient_due_again(save, begin, people):
    save(FIRST)
    begin(row2="unreached:all_failed", row3="unreached:all_failed", row4="unreached:all_failed")
    save(
        PEOPLE
        + "1;M;A;1/1/1960;a@example.fr;0639980001;\n"
        + "2;M;B;1/1/1961;b@example.fr;;\n"
        + "3;M;C;1/1/1962;;;\n"
        + "4;M;D;1/1/1963;d@example.fr;;\n"
        + "5;M;E;1/1/1964;e@example.fr;;non\n"
    )
    assert _outcomes(people()) == [
        ("1", "on_the_way", None),
        ("2", "unreached", "all_failed"),
        ("3", "unreached", "no_contact"),
        ("4", "on_the_way", None),
        ("5", "on_the_way", None),
    ]


def test_a_death_reported_after_the_start_excludes_who_was_not_told(save, begin, people):
    save(FIRST)
    begin(row2="on_the_way")
    save(PEOPLE + "1;M;A;1/1/1960;a@example.fr;;oui\n4;M;D;1/1/1963;;;oui\n")
    found = _outcomes(people())
    assert (found[0], found[3]) == (("1", "excluded", "deceased"), ("4", "excluded", "deceased"))


def test_after_the_start_a_pause_does_not_wait_for_an_import(save, begin, database: Database, campaign):
    save(FIRST)
    begin()

    class Paused(io.BytesIO):
        """While the list is read, somebody pauses the campaign."""

        done = False

        def read(self, size: int | None = -1) -> bytes:
            if not self.done:
                self.done = True
                with database.staff() as session:
                    session.execute(text("SET LOCAL lock_timeout = '5s'"))
                    session.get_one(models.Campaign, campaign.id).state = "paused"
            return super().read(size)

    assert save(Paused((PEOPLE + "9;N;X;1/1/1970;n@example.fr;;\n").encode())).accepted == 1


def test_a_campaign_cancelled_meanwhile_takes_nothing(save, begin, database: Database, campaign):
    save(FIRST)
    begin()

    class Cancelled(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            with database.staff() as session:
                session.get_one(models.Campaign, campaign.id).state = "cancelled"
            return super().read(size)

    with pytest.raises(ConflictError):
        save(Cancelled((PEOPLE + "9;N;X;1/1/1970;n@example.fr;;\n").encode()))
    assert _count(database, models.Patient) == 5


def test_a_person_with_another_number_is_known_again_by_name_and_contact(save, people):
    save("id;nom;prenom;ne le;email\n1;M;A;1/1/1960;a@example.fr\n2;M;B;1/1/1961;b@example.fr\n")
    further = save("id;nom;prenom;ne le;email\n71;M;A;1/1/1960;a@example.fr\n72;M;B;1/1/1961;new@example.fr\n")
    assert (further.accepted, further.merged) == (1, 1)
    assert [emails for _, _, emails, _ in people()] == [["a@example.fr"], ["b@example.fr"], ["new@example.fr"]]


def test_a_list_without_numbers_knows_people_by_name(save, people):
    save(FIRST)
    further = save("nom;prenom;ne le;portable\nM;A;01/01/1960;0639980001\nM;Z;01/01/1960;0639980002\n")
    assert (further.accepted, further.merged) == (1, 1)
    assert people()[0][2:] == (["a@example.fr"], ["+33639980001"])


def test_a_national_identifier_makes_one_of_two_numbers_and_is_stored_nowhere(save, people, database_url: str):
    nir = "275049900000117"
    head = "id;nom;prenom;ne le;numero de securite sociale;email\n"
    first = save(head + f"1;M;A;03/04/1975;{nir};a@example.fr\n8;M;A;03/04/1975;{nir};b@example.fr\n")
    assert (first.accepted, first.merged) == (1, 1)
    assert save(head + f"9;M;A;03/04/1975;{nir};c@example.fr\n").merged == 1
    assert [emails for _, _, emails, _ in people()] == [["c@example.fr"]]
    with psycopg.connect(database_url) as connection:
        (row,) = connection.execute("SELECT patient::text FROM patient").fetchone() or ("",)
    assert nir not in row


def test_a_contact_found_shared_before_is_no_change(save, compare, people):
    rows = "".join(f"{n};N{n};home@example.fr;n{n}@example.fr\n" for n in range(1, 9))
    save("id;nom;email;email 2\n" + rows)
    difference = compare("id;nom;email;email 2\n" + rows + "9;N9;home@example.fr;n9@example.fr\n")
    assert (difference.new, difference.changed, difference.unchanged) == (1, 0, 8)
    save("id;nom;email;email 2\n" + rows + "9;N9;home@example.fr;n9@example.fr\n")
    assert [emails for _, _, emails, _ in people()] == [[f"n{n}@example.fr"] for n in range(1, 10)]


_people = st.lists(
    st.tuples(
        st.sampled_from(["", "1", "2", "3"]),
        st.sampled_from(["", "M", "N", "Total"]),
        st.sampled_from(["", "A", "B"]),
        st.sampled_from(["", "1/1/1960", "1/1/2015", "x"]),
        st.sampled_from(["", "a@example.fr", "b@example.fr", "jean@gmial.com", "neant"]),
        st.sampled_from(["", "0639980001", "0199001234", "12"]),
        st.sampled_from(["", "oui", "non"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.lists(_people, min_size=1, max_size=3))
def test_the_sum_holds_after_any_lists_and_a_check_foretells_the_first(lists, database, campaign, data_key):
    with database.staff() as session:
        savepoint = session.begin_nested()
        for number, rows in enumerate(lists):
            source = PEOPLE + "".join(";".join(row) + "\n" for row in rows) + "9;Sure;X;1/1/1950;s@example.fr;;\n"
            here = session.get_one(models.Campaign, campaign.id)
            listed = import_list(session, here, data_key, _stream(source), region="FR", actor="cli", now=NOW)
            if number == 0:
                checked = check_list(_stream(source), today=NOW.date())
                assert [checked[name] for name in ("rows", "accepted", "merged", "refused")] == [
                    listed.rows, listed.accepted, listed.merged, listed.refused
                ]  # fmt: skip
        lines, places = _sums(session)
        assert lines == places
        savepoint.rollback()


def _sums(session) -> tuple[int, int]:
    """Rows of all lists that are people, and the people and merged rows there are of them."""
    files = session.execute(select(models.ListFile.rows, models.ListFile.refused, models.ListFile.accepted)).all()
    people = session.execute(select(models.Patient.merged, models.Patient.outcome)).all()
    assert sum(one.accepted for one in files) == len(people)
    assert {one.outcome for one in people} <= {"excluded", "on_the_way", "unreached"}
    return sum(one.rows - one.refused for one in files), sum(1 + one.merged for one in people)


def test_the_data_key_of_a_campaign_opens_what_was_saved(master: MasterKey):
    key = master.open_data_key(master.new_data_key(1), 1)
    sealed = key.seal(Identity(last_name="M").to_json(), IDENTITY_PURPOSE)
    assert Identity.from_json(key.open(sealed, IDENTITY_PURPOSE)).last_name == "M"


# --- a list that mostly says what is known already -----------------------------------------------------


def _everything_of(session) -> list[tuple]:
    """All that lists have saved, but for what is random by design."""
    tables = {
        "patient": "id, row, merged, person_blind, id_blind, national_blind, name_blind, language, variant, "
        "comment_sensitive, affected, outcome, outcome_reason, listed_in - min(listed_in) OVER (), "
        "changed_in - min(listed_in) OVER ()",
        "contact": "id, channel, value_blind",
        "patient_contact": "patient_id, contact_id, rank",
        "list_problem": 'list_file_id - min(list_file_id) OVER (), row, "column", reason',
        "list_file": "id, rows, accepted, merged, refused",
    }
    return [
        tuple(row)
        for table, columns in tables.items()
        for row in session.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3"))
    ]


@pytest.mark.parametrize(
    ("head", "first", "further", "expected"),
    [
        # said again as it was
        ("id;nom;email", ["1;M;a@example.fr"], ["1;M;a@example.fr"], (0, 0, 1, 0)),
        # a contact in another order, and one that is gone
        ("id;nom;email", ["1;M;a@example.fr / b@example.fr"], ["1;M;b@example.fr / a@example.fr"], (0, 1, 0, 0)),
        ("id;nom;email", ["1;M;a@example.fr / b@example.fr"], ["1;M;a@example.fr"], (0, 1, 0, 0)),
        # twice in the further list
        ("id;nom;email", ["1;M;a@example.fr"], ["1;M;a@example.fr", "1;M;a@example.fr"], (0, 0, 1, 1)),
        # named once by the number and once by name and birth date
        (
            "id;nom;prenom;ne le;email",
            [";M;A;1/1/1960;a@example.fr"],
            [";M;A;1/1/1960;a@example.fr", "7;M;A;1/1/1960;a@example.fr"],
            (0, 1, 0, 1),
        ),
        # two people of one number, and both again in the other order
        ("id;nom;email", ["1;M;a@example.fr", "1;N;b@example.fr"], ["1;N;b@example.fr", "1;M;a@example.fr"], (0, 0, 2, 0)),
        # a death, and one that is over
        ("id;nom;email;decede", ["1;M;a@example.fr;"], ["1;M;a@example.fr;oui"], (0, 1, 0, 0)),
        ("id;nom;email;decede", ["1;M;a@example.fr;oui"], ["1;M;a@example.fr;"], (0, 1, 0, 0)),
        # a sensitive comment that is none
        (
            "id;nom;email;remarque;commentaire sensible",
            ["1;M;a@example.fr;x;oui"],
            ["1;M;a@example.fr;x;oui"],
            (0, 0, 1, 0),
        ),
        ("id;nom;email;concerne", ["1;M;a@example.fr;non"], ["1;M;a@example.fr;oui"], (0, 1, 0, 0)),
        ("id;nom;email;langue", ["1;M;a@example.fr;en"], ["1;M;a@example.fr;fr"], (0, 1, 0, 0)),
    ],
)  # fmt: skip
def test_what_a_further_list_changes_is_told_from_what_it_only_repeats(
    save, compare, database: Database, head, first, further, expected
):
    save("\n".join([head, *first, "99;Z;z@example.fr", ""]))
    text_ = "\n".join([head, *further, ""])
    difference = compare(text_)
    new, changed, unchanged, repeated = expected
    assert (difference.new, difference.changed, difference.unchanged, difference.repeated) == (
        new, changed, unchanged, repeated
    )  # fmt: skip
    assert (difference.gone, difference.rows) == (1, len(further))


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.lists(_people, min_size=2, max_size=3), repeats=st.booleans())
def test_the_quick_way_for_what_did_not_change_saves_what_the_long_way_does(
    lists, repeats, database, campaign, data_key
):
    """The rows of the first list stand in the further ones too."""

    def outcome(quick: bool) -> tuple[list, list]:
        # as the owner, who alone can let numbers begin anew
        with Session(database.engine) as session, pytest.MonkeyPatch.context() as patch:
            if not quick:
                patch.setattr(_Saving, "_same", lambda *_: {})
            savepoint = session.begin_nested()
            for table in ("patient", "contact", "list_file"):
                session.execute(text(f"ALTER SEQUENCE {table}_id_seq RESTART"))
            here = session.get_one(models.Campaign, campaign.id)
            differences = []
            for number, rows in enumerate(lists):
                rows = [
                    *(lists[0] if repeats and number else []),
                    *rows,
                    ("9", "Sure", str(number), "", "s@example.fr", "", ""),
                ]
                source = _stream(PEOPLE + "".join(";".join(row) + "\n" for row in rows))
                options = {"region": "FR", "now": NOW}
                differences.append(compare_list(session, here, data_key, source, **options))
                source.seek(0)
                import_list(session, here, data_key, source, actor="cli", **options)
            session.flush()
            saved = _everything_of(session)
            savepoint.rollback()
        return differences, saved

    assert outcome(True) == outcome(False)


def test_the_difference_says_who_of_whom_is_told_or_on_the_way(save, begin, compare, people):
    save(FIRST)
    begin(row2="informed", row3="on_the_way", row4="informed")
    difference = compare(FIRST.replace("a@example.fr", "new@example.fr") + "9;N;X;1/1/1970;n@example.fr;;\n")
    assert (difference.new, difference.changed, difference.unchanged, difference.due) == (1, 1, 4, 1)
    assert (difference.informed, difference.on_the_way) == (2, 1)
    difference = compare(PEOPLE + "9;N;X;1/1/1970;n@example.fr;;\n")
    assert (difference.gone, difference.gone_on_the_way, difference.due) == (5, 1, 1)
    assert len(people()) == 5
