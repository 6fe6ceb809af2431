"""A column is read by its name only if that means one thing; else it is asked about, and a mapping answers."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.errors import ListError
from notifier.importers import Column, RawList, RawRow, open_list
from notifier.importers.columns import layout, recognise

EMAILS = ["a@example.fr", "b@example.fr", "c@example.fr"]
PHONES = ["06 39 98 00 01", "06 39 98 00 02", "06 39 98 00 03"]


def _read(text: str, **options) -> tuple[RawList, list[RawRow]]:
    with open_list(io.BytesIO(text.encode()), **options) as listing:
        return listing, list(listing)


def _asked(text: str, **options) -> dict[str, tuple[str, ...]]:
    with open_list(io.BytesIO(text.encode()), **options) as listing:
        if listing.questions:
            with pytest.raises(ListError, match="Before this list can be read"):
                list(listing)
        assert all(question.french and question.english for question in listing.questions)
        return {question.subject: question.options for question in listing.questions}


@pytest.mark.parametrize(
    ("spellings", "column"),
    [
        (["   PHONENUMBER", "phone_number", "phone-number", "Phone  Number"], Column.PHONE),
        (["Last    Name", "last_name", "LASTNAME", "Nom du patient", "NOM"], Column.LAST_NAME),
        (["Prénom de la patiente", "Prénom(s)", "PRENOM"], Column.FIRST_NAME),
        (["Date de naissance du patient", "D.D.N.", "Né(e) le", "date_naissance"], Column.BIRTH_DATE),
        (["Matricule INS", "N° de sécurité sociale", "NIR", "NSS"], Column.NATIONAL_ID),
        (["Adresse e-mail du patient", "Mèl", "COURRIEL (patient)"], Column.EMAIL),
        (["Tél. portable du patient", "Tel_Portable", "GSM"], Column.PHONE),
        (["N° dossier", "IPP", "Numéro de dossier"], Column.PATIENT_ID),
        (["N° RPPS", "Médecin responsable", "Code praticien"], Column.DOCTOR),
        (["Statut vital", "Décédé(e)"], Column.DECEASED),
        (["Code postal", "CP", "zip_code"], Column.POSTAL_CODE),
        (["Nom de jeune fille", "nom_naissance"], Column.BIRTH_NAME),
        # somebody else's, or nothing we read
        (
            [
                "Médecin traitant",
                "Tél. personne à prévenir",
                "Mail du médecin",
                "Nom de l'assuré",
                "",
                "電話",
                "12",
            ],
            None,
        ),
    ],
)
def test_names_in_any_case_accent_and_punctuation(spellings, column):
    for name in spellings:
        meaning = recognise(name)
        assert (None if meaning is None else meaning.column) == column, name


@pytest.mark.parametrize(
    ("name", "could_be"),
    [
        ("Contact", ("phone", "email", "ignore")),
        ("Coordonnées", ("phone", "email", "ignore")),
        ("Numéro", ("patient_id", "phone", "ignore")),
        ("Code", ("patient_id", "postal_code", "ignore")),
        ("Référence", ("patient_id", "doctor", "ignore")),
    ],
)
def test_a_name_that_means_two_things_is_asked_about(name, could_be):
    text = f"{name};Nom;Email\n12;A;a@example.fr\n"
    assert _asked(text) == {name: could_be}
    for answer in could_be:
        listing, rows = _read(text, mapping={name: answer})
        assert listing.columns[name] == (None if answer == "ignore" else answer)
        assert len(rows) == 1


def _table(name: str, cells: list[str]) -> str:
    return f"{name};Nom;Portable\n" + "".join(
        f"{cell};A;{phone}\n" for cell, phone in zip(cells, PHONES, strict=True)
    )


def test_a_name_that_the_cells_contradict_is_asked_about():
    assert _asked(_table("Adresse", EMAILS)) == {"Adresse": ("email", "address", "ignore")}
    assert _asked(_table("Téléphone", EMAILS)) == {"Téléphone": ("email", "phone", "ignore")}
    assert _asked(_table("Courriel", PHONES)) == {"Courriel": ("phone", "email", "ignore")}
    assert _asked(_table("Adresse", ["1 rue A", "2 rue B", "c@example.fr"])) == {}
    assert _asked(_table("Courriel", EMAILS)) == {}


def test_a_status_that_knows_of_the_dead_is_asked_about():
    assert _asked(_table("Statut", ["actif", "actif", "Décédé"])) == {"Statut": ("deceased", "affected", "ignore")}
    assert _asked(_table("Statut", ["actif", "marié", ""])) == {}


def test_two_columns_of_one_meaning_are_both_asked_about_and_a_mapping_tells():
    text = "Nom;Nom de famille;Email;Courriel\nA;B;a@example.fr;b@example.fr\n"
    assert _asked(text) == {
        "Nom": ("last_name", "ignore"),
        "Nom de famille": ("last_name", "ignore"),
        "Email": ("email", "ignore"),
        "Courriel": ("email", "ignore"),
    }
    _, rows = _read(text, mapping={"nom": "ignore", "Email": "email", "Courriel": "email"})
    assert rows[0].cells == {Column.LAST_NAME: ["B"], Column.EMAIL: ["a@example.fr", "b@example.fr"]}


def test_the_names_of_an_identity_that_was_checked_are_all_read():
    header = "Nom de naissance;Nom utilisé;Premier prénom de naissance;Prénom utilisé;Matricule INS;Date de naissance;Mail"
    listing, rows = _read(f"{header}\nA;B;C;D;1;01/01/1975;a@example.fr\n")
    assert None not in listing.columns.values()
    assert rows[0].cells[Column.FIRST_NAME] == ["C", "D"]


def test_equal_and_missing_names_are_told_apart_by_their_place():
    text = "Nom;Email;Email;;\nA;a@example.fr;b@example.fr;06 39 98 00 01;x\n"
    mapping = {"Email": "email", "Email (column 3)": "email", "(column 4)": "phone"}
    listing, rows = _read(text, mapping=mapping)
    assert rows[0].cells[Column.EMAIL] == ["a@example.fr", "b@example.fr"]
    assert list(listing.columns) == ["Nom", "Email", "Email (column 3)"]


def test_a_mapping_finds_a_header_that_no_name_would():
    text = "Liste\nX1;X2;X3\nA;06 39 98 00 01;z\n"
    mapping = {"x1": "last_name", "X2": "phone", "X9": "email"}
    listing, rows = _read(text, mapping=mapping)
    assert (listing.header_number, rows[0].cells) == (
        2,
        {Column.LAST_NAME: ["A"], Column.PHONE: ["06 39 98 00 01"]},
    )
    assert [(note.code, note.names) for note in listing.notes][-1] == ("mapping_names_missing_columns", ("X9",))


def test_a_mapping_takes_the_place_of_a_name_only_when_asked():
    text = "Nom;Nom affiché;Email\nA;B;a@example.fr\n"
    assert _asked(text, mapping={"Nom affiché": "last_name"}) == {"Nom": ("last_name", "ignore")}
    _, rows = _read(text, mapping={"Nom affiché": "last_name", "Nom": ""})
    assert rows[0].cells[Column.LAST_NAME] == ["B"]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [({"Nom": "surname"}, "not known: 'surname'.*last_name"), ({"Nom": "town", "Email": "town"}, "same meaning")],
)
def test_a_mapping_that_cannot_be_meant_is_refused(mapping, words):
    with pytest.raises(ListError, match=words):
        _read("Nom;Email\nA;a@example.fr\n", mapping=mapping)


def test_a_mapping_cannot_leave_a_list_without_contacts():
    with pytest.raises(ListError, match="No column with contacts"):
        _read("Nom;Email\nA;a@example.fr\n", mapping={"Email": "ignore"})


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        # those with contacts in their cells, else all that are not read and hold anything
        ("id;nom;Joindre;Sexe\n1;A;06 39 98 00 01;F\n", ["Joindre"]),
        ("id;nom;Joindre;Adhésion\n1;A;a@example.fr;b@example.fr\n", ["Joindre", "Adhésion"]),
        ("id;nom;Joindre;Sexe;Rang\n1;A;à voir;F;\n", ["Joindre", "Sexe"]),
        ("id;nom;;Sexe\n1;A;06 39 98 00 01;F\n", ["(column 3)"]),
    ],
)
def test_a_list_without_a_known_column_of_contacts_is_asked_where_they_are(text, asked):
    with open_list(io.BytesIO(text.encode())) as reader:
        assert [question.subject for question in reader.questions] == asked
        assert {question.options for question in reader.questions} == {("email", "phone", "ignore")}
        assert "email" in reader.questions[0].french
        assert "phone" in reader.questions[0].english
    with open_list(io.BytesIO(text.encode()), mapping={asked[0]: "phone"}) as reader:
        assert not reader.questions, "one column of contacts is enough"
        assert Column.PHONE in reader.meanings


def test_a_list_whose_every_column_is_known_as_another_is_refused_naming_them():
    for mapping, text in ((None, "id;nom\n1;A\n"), ({"Joindre": "ignore"}, "nom;Joindre\nA;x\n")):
        with pytest.raises(ListError) as raised:
            _read(text, mapping=mapping)
        assert raised.value.code == "no_column_with_contacts"
        assert "« nom »" in raised.value.in_language("fr")


def test_a_file_read_in_another_way_is_told_apart_from_itself():
    text = "Nom;Email;Joindre\nA;a@example.fr;0639980001\n"
    plain, mapped, other = (_read(text, mapping=mapping)[0].sha256 for mapping in (
        None, {"Joindre": "phone"}, {"Joindre": "ignore"}))  # fmt: skip
    assert len({plain, mapped, other}) == 3
    assert plain == _read(text, mapping={})[0].sha256 == hashlib.sha256(text.encode()).digest()
    assert mapped == _read(text, mapping={"Joindre": "phone"})[0].sha256


def test_a_row_keeps_every_cell_as_it_stands_in_the_file():
    _, rows = _read("Nom;X;Email;Note\n A ; x;a@example.fr ;texte\n")
    assert rows[0].fields == [" A ", " x", "a@example.fr ", "texte"]
    assert "texte" not in repr(rows[0]), "a text of a row must not get into an error"


@given(st.lists(st.text(max_size=12), max_size=8), st.lists(st.lists(st.text(max_size=8), max_size=8), max_size=4))
def test_every_header_is_read_asked_about_or_left(names, samples):
    decided = layout(names, None, samples)
    assert len(decided.headers) == len(names) == len({header.key for header in decided.headers})
    assert {question.subject for question in decided.questions} == {h.key for h in decided.headers if h.could_be}
    assert all(header.column is None for header in decided.headers if header.could_be)
