"""Whatever program wrote the list, its patients are read, each under its row number; or the file is refused."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.errors import ListError
from notifier.importers import Code, Column, Limits, RawList, RawRow, open_list


def _read(data: str | bytes, **options) -> tuple[RawList, list[RawRow]]:
    content = data if isinstance(data, bytes) else data.encode()
    with open_list(io.BytesIO(content), **options) as reader:
        return reader, list(reader)


def _cells(data: str | bytes) -> list[tuple[int, dict[str, list[str]]]]:
    return [(row.number, {str(column): values for column, values in row.cells.items()}) for row in _read(data)[1]]


@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
def test_the_delimiter_is_found(delimiter):
    reader, rows = _read(f"nom{delimiter}email\nMartin{delimiter}a@example.fr\n")
    assert reader.delimiter == delimiter
    assert rows[0].cells == {Column.LAST_NAME: ["Martin"], Column.EMAIL: ["a@example.fr"]}


@pytest.mark.parametrize(
    ("text", "delimiter", "rows"),
    [
        # apostrophes and commas in free text, a decimal comma, a comma in quotes, one column only
        ("nom;email;remarque\nM;a@example.fr;l'avis, 'urgent', ici\nN;b@example.fr;c'est 'ok', vu\n", ";", 2),
        ("nom;email;solde\nM;a@example.fr;733480,00\nN;b@example.fr;-73348,16\n", ";", 2),
        ('email,date\na@example.fr,"Nov 28, 2016"\n', ",", 1),
        ("email\na@example.org\nb@example.org\n", ";", 2),
        ("email;prenom;nom\na@example.org;Luc;Martin\n", ";", 1),
    ],
)
def test_signs_in_the_text_are_not_taken_for_delimiters(text, delimiter, rows):
    reader, found = _read(text)
    assert (reader.delimiter, len(found)) == (delimiter, rows)
    assert all(Column.EMAIL in row.cells for row in found)


@pytest.mark.parametrize(
    ("encoding", "bom", "name"),
    [
        ("utf-8", b"", "Zoé €"),
        ("utf-8", b"\xef\xbb\xbf", "Zoé œ"),
        ("cp1252", b"", "Zoé"),
        ("cp1252", b"", "Cœur €"),
        ("cp1252", b"", "D’Été"),
        ("iso-8859-15", b"", "Cœur €"),
        ("iso-8859-15", b"", "Zoé Œ"),
        ("utf-16-le", b"\xff\xfe", "Zoé œ"),
        ("utf-16-be", b"\xfe\xff", "Zoé œ"),
        ("utf-16-le", b"", "Zoé œ"),
        ("utf-16-be", b"", "Zoé œ"),
    ],
)
def test_the_encoding_is_found(encoding, bom, name):
    assert _cells(bom + f"prénom\temail\r\n{name}\ta@example.fr\r\n".encode(encoding)) == [
        (2, {"first_name": [name], "email": ["a@example.fr"]})
    ]


def test_the_first_accent_may_stand_far_down():
    plain = "M;a@example.fr\n" * 200_000
    content = ("nom;email\n" + plain + "Lefèvre;b@example.fr\n").encode("cp1252")
    with open_list(io.BytesIO(content)) as reader:
        *_, last = reader
    assert last.cells[Column.LAST_NAME] == ["Lefèvre"]
    assert last.number == 200_002


@pytest.mark.parametrize(
    "header",
    [
        "E-mail",
        "EMAIL",
        "e_mail",
        "  Adresse   e-mail ",
        "Courriel",
        "EMAILADDRESS",
        "email_address",
        "Mèl",
        "email-1",
    ],
)
def test_email_columns_are_known_in_any_spelling(header):
    assert _cells(f"nom;{header}\nM;a@example.fr\n") == [(2, {"last_name": ["M"], "email": ["a@example.fr"]})]


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("N° Patient", Column.PATIENT_ID),
        ("IDENTIFIANT_PATIENT", Column.PATIENT_ID),
        ("Nom de famille", Column.LAST_NAME),
        ("Nom de naissance", Column.BIRTH_NAME),
        ("Nom d'usage", Column.USED_NAME),
        ("Prénom(s)", Column.FIRST_NAME),
        ("Né(e) le", Column.BIRTH_DATE),
        ("Date de naissance (jj/mm/aaaa)", Column.BIRTH_DATE),
        ("Date of birth", Column.BIRTH_DATE),
        ("Tél. portable", Column.PHONE),
        ("   PHONENUMBER", Column.PHONE),
        ("phone_number", Column.PHONE),
        ("Adresse 2", Column.ADDRESS),
        ("Code Postal", Column.POSTAL_CODE),
        ("Ville", Column.TOWN),
        ("Pays", Column.COUNTRY),
        ("Langue", Column.LANGUAGE),
        ("Décédé(e)", Column.DECEASED),
        ("Remarques", Column.COMMENT),
        ("Commentaire sensible", Column.COMMENT_SENSITIVE),
        ("RPPS", Column.DOCTOR),
        ("Concerné", Column.AFFECTED),
        ("Tél. perso", Column.PHONE),
        ("Portable perso", Column.PHONE),
        ("Mobile patient", Column.PHONE),
        ("Tél principal", Column.PHONE),
        ("Tel mère", Column.PHONE),
        ("E-mail du patient", Column.EMAIL),
        ("Adresse de messagerie", Column.EMAIL),
        ("Médecin traitant", None),
    ],
)
def test_columns_are_known_by_their_usual_names(header, column):
    reader, _ = _read(f"{header};email\nx;a@example.fr\n")
    assert reader.columns[header.strip()] == column


def test_several_phones_and_emails_are_kept_in_order():
    rows = _cells("Mobile;Tél. 1;Tél. 2;Email;Email 2\n1;2;3;a;b\n")
    assert rows == [(2, {"phone": ["1", "2", "3"], "email": ["a", "b"]})]


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("EMAILADDRESS, email_address, foo", ("EMAILADDRESS", "email_address")),
        ("email;email", ("'email'", "'email (column 2)'")),
        ("nom;Nom de famille;email", ("nom", "Nom de famille")),
        ("phone-number;Phone Number", ("phone-number", "Phone Number")),
    ],
)
def test_two_columns_of_one_meaning_are_refused_by_name(header, named):
    with pytest.raises(ListError) as caught:
        _read(header + "\na;b;c\n")
    assert all(name in caught.value.message for name in named)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("nom;email\nM;a@example.fr\n", [2]),
        ("Patients du cabinet\n\nnom;email\nM;a@example.fr\n;\nN;b@example.fr", [4, 6]),
        ("\u200b\u2060\ufeff\n\r\t email;nom\na@example.fr;M\n", [4]),
        ("nom;email\r\rM;a@example.fr\r", [3]),
        ('nom;adresse;email\nM;"1 rue A\n75001 Paris";a@example.fr\nN;;b@example.fr\n', [2, 3]),
    ],
)
def test_rows_are_numbered_as_a_spreadsheet_does(text, numbers):
    assert [row.number for row in _read(text)[1]] == numbers


def test_numbering_is_advised_only_where_it_works():
    with pytest.raises(ListError) as caught:
        _read("nom;Nom de famille;email\na;b;c\n")
    assert "number them" not in caught.value.message
    with pytest.raises(ListError, match="number them"):
        _read("email;Courriel;nom\na;b;c\n")


def test_empty_columns_to_the_edge_of_a_spreadsheet_are_nothing():
    assert _cells("nom;email" + ";" * 16_382 + "\nM;a@example.fr" + ";" * 16_382 + "\n") == [
        (2, {"last_name": ["M"], "email": ["a@example.fr"]})
    ]


@pytest.mark.parametrize("header", ["observations;notes", "commentaire 1;commentaire 2"])
def test_several_comment_columns_are_read(header):
    assert _cells(f"email;{header}\na@example.fr;;x\nb@example.fr;non;\n") == [
        (2, {"email": ["a@example.fr"], "comment": ["present"]}),
        (3, {"email": ["b@example.fr"], "comment": ["none"]}),
    ]


def test_the_contacts_of_a_parents_column_say_so():
    assert _cells("nom;Tel mère\nM;0639980001\n")[0][1]["phone"] == ["0639980001 (parent)"]


def test_a_column_of_contacts_that_is_not_read_is_known_by_its_cells():
    text = (
        "nom;email;Messages;Divers\nM;a@example.fr;c@example.fr;12\nN;b@example.fr;0639980001;\nP;;x;0639980001\n"
    )
    reader, _ = _read(text + "Q;;;7\n")
    assert reader.unread_contact_columns == ["Messages"]


def test_a_zero_byte_is_named_by_its_place():
    with pytest.raises(ListError, match="near byte 12"):
        _read(b"nom;email\nM\0;a@example.fr\n")
    with pytest.raises(ListError, match="near byte 2,000,012"):
        _read(b"nom;email\n" + b"M" * 2_000_001 + b"\0")


def test_unicode_line_separators_are_data():
    assert _cells("nom;email\nMar\u0085tin\u2028X;a@example.fr\n")[0][1]["last_name"] == ["Mar\u0085tin\u2028X"]


def test_ragged_rows_lose_nothing():
    text = "nom;email;portable;\nM;a@example.fr;0639980001;;;\nN;b@example.fr\nP;c@example.fr;;x;y\n"
    rows = _read(text)[1]
    assert [list(row.doubts) for row in rows] == [[], [], ["more_cells_than_headers"]]
    assert [row.cells[Column.EMAIL] for row in rows] == [["a@example.fr"], ["b@example.fr"], ["c@example.fr"]]


def test_cells_beyond_the_header_do_not_hide_the_first():
    assert _cells("email\na@example.fr,test1,red\n") == [(2, {"email": ["a@example.fr"]})]


@pytest.mark.parametrize(
    "text",
    [
        'nom;email;tel\nM;"a@example.fr;1\nN;b@example.fr;2\nP;c@example.fr;3\n',
        'nom;email;tel\nM;"a@example.fr;1\n"N";"b@example.fr";"2"\nP;c@example.fr;3\n',
        'nom;email;tel\nM;a@example.fr;"1\nN;b@example.fr;2"\nP;c@example.fr;3\n',
        'nom;email;tel\n"M;a@example.fr;1\nN;b@example.fr;2\nP;"c@example.fr";3\n',
        'nom;email;tel\n"M" x;a@example.fr;1\nN;b@example.fr;2\nP;c@example.fr;3\n',
    ],
)
def test_an_unclosed_quote_swallows_nobody(text):
    rows = _read(text)[1]
    assert [row.number for row in rows] == [2, 3, 4]
    assert [row.cells[Column.EMAIL] for row in rows] == [["a@example.fr"], ["b@example.fr"], ["c@example.fr"]]
    assert "unbalanced_quote" in rows[0].doubts


@pytest.mark.parametrize(
    "text",
    [
        'id;nom;email;note;tel\n1;M;a@example.fr;"à voir;1\n2;N;b@example.fr;vu";2\n3;P;c@example.fr;;3\n',
        'id;nom;email;note;tel\n1;M;a@example.fr;"à voir;1\n2;N;b@example.fr;;2\n3;P;c@example.fr;vu";3\n',
        'id;email;note;nom;tel\n1;a@example.fr;"à voir;M;1\n2;b@example.fr;vu;"N";2\n3;c@example.fr;vu";P;3\n',
    ],
)
def test_a_stray_quote_further_down_does_not_close_one_over_whole_rows(text):
    rows = _read(text)[1]
    assert [row.number for row in rows] == [2, 3, 4]
    assert [row.cells[Column.EMAIL] for row in rows] == [["a@example.fr"], ["b@example.fr"], ["c@example.fr"]]
    assert [row.cells[Column.PHONE] for row in rows] == [["1"], ["2"], ["3"]]
    assert "unbalanced_quote" in rows[0].doubts


def test_a_note_over_several_lines_is_one_cell_even_with_delimiters_in_it():
    text = 'id;nom;email;note;tel\n1;M;a@example.fr;"à voir;\nvu; revu\nfin";1\n2;N;b@example.fr;"x;y";2\n'
    rows = _read(text)[1]
    assert [(row.number, row.cells[Column.PHONE], list(row.doubts)) for row in rows] == [
        (2, ["1"], []),
        (3, ["2"], []),
    ]


def test_a_short_row_with_a_line_break_in_quotes_is_one_row():
    text = 'nom;adresse;email;ville\nM;"1 rue A\n75001 Paris";a@example.fr\nN;;b@example.fr;Lyon\n'
    assert [number for number, _ in _cells(text)] == [2, 3]


def test_a_header_repeated_at_a_page_break_is_no_patient():
    rows = _read("nom;email\nM;a@example.fr\nnom;email\nN;b@example.fr\n")[1]
    assert [(row.number, list(row.doubts)) for row in rows] == [(2, []), (3, ["header_again"]), (4, [])]
    assert [row.is_refused for row in rows] == [False, True, False]


def test_quoted_cells_may_hold_delimiters_quotes_and_line_breaks():
    text = 'remarque;adresse;email\n"a;b\n""c""";"1, rue ""A""\n75001 Paris";a@example.fr\n'
    assert _cells(text) == [
        (2, {"comment": ["present"], "address": ['1, rue "A"\n75001 Paris'], "email": ["a@example.fr"]})
    ]


def test_the_text_of_a_comment_does_not_leave_the_reader():
    rows = _cells("email;remarque\na@example.fr;Secret\nb@example.fr;non\nc@example.fr;\n")
    assert [cells.get("comment") for _, cells in rows] == [["present"], ["none"], None]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n\n ;;;\n\xef\xbb\xbf", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"PK\x03\x04....", "XLSX"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "Excel"),
        (b"nom;email\nM;\0\0\0\n", "zero bytes"),
        ("nom;email\nZoé;rené\n".encode() + b"M\xe9;x\n", "partly UTF-8"),
        (b"nom;email\nM\x81\x8d;a@example.fr\n", "encoding is not known"),
        (b"\xff\xfen\0o\0m\0;\0e", "No column|damaged|no header"),
        ("\ufeffnom;email\nM;a@example.fr".encode("utf-16-le") + b"\x00", "damaged"),
        (b"nom;prenom\nM;L\n", "'nom', 'prenom'.*'email'"),
        (b"Martin;Luc;0639980001\n", "no header row"),
        (b"lorem ipsum\ndolor\n", "no header row"),
        (b"nom;email\n" + b"x" * 200_001, "Line 2 is longer"),
        (b"nom;email\n" + b";" * 1000 + b"x", "1,001 cells"),
    ],
)
def test_what_is_no_list_is_refused_in_plain_words(content, words):
    with pytest.raises(ListError, match=words):
        _read(content)


def test_an_error_shows_no_value_of_a_list_without_header():
    with pytest.raises(ListError) as caught:
        _read("Canari;Zoe;Paris\nDurand;Luc;Lyon\n")
    assert "Canari" not in caught.value.message


def test_a_file_over_the_limit_or_away_is_refused(tmp_path: Path):
    file = tmp_path / "list.csv"
    file.write_text("nom;email\nM;a@example.fr\n")
    with open_list(file) as reader:
        assert len(list(reader)) == 1
        assert len(list(reader)) == 1  # from the start again
    with pytest.raises(ListError, match="more than the 10 allowed"), open_list(file, limits=Limits(max_bytes=10)):
        pass
    with pytest.raises(ListError, match="cannot be read"), open_list(tmp_path / "none.csv"):
        pass
    with pytest.raises(ListError, match="cannot be read"), open_list(tmp_path):
        pass


def test_memory_does_not_grow_with_the_file():
    """A generated stream of 40 MB that is never held: only seek, read and the rows in hand exist."""

    class Endless(io.RawIOBase):
        line = b"M;" + b"x" * 185 + b";a@example.fr\n"
        size = len(line) * 200_000

        def __init__(self) -> None:
            self.at = 0
            self.largest = 0

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = self.size if whence == io.SEEK_END else offset
            return self.at

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size > 0
            self.largest = max(self.largest, size)
            header = b"nom;remarque;email\n"
            start, self.at = self.at, min(self.at + size, self.size)
            if start == 0:
                body = header + self.line * (size // len(self.line) + 1)
            else:
                shift = (start - len(header)) % len(self.line)
                body = (self.line * (size // len(self.line) + 2))[shift:]
            return body[: self.at - start]

    stream = Endless()
    with open_list(stream) as reader:  # type: ignore[arg-type]
        count = sum(1 for _ in reader)
    assert count in (199_999, 200_000)
    assert stream.largest <= 1024 * 1024


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(content):
    for start in (b"", b"nom;email\n"):
        with contextlib.suppress(ListError):
            assert all(row.number > 0 for row in _read(start + content)[1])


@given(
    st.lists(
        st.lists(st.text(alphabet=st.sampled_from("ab;,\"\n é'|\t"), max_size=8), min_size=2, max_size=2),
        min_size=1,
        max_size=6,
    )
)
def test_what_a_csv_writer_wrote_is_read_again(rows):
    import csv

    out = io.StringIO()
    writer = csv.writer(out, delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(["nom", "email"])
    writer.writerows([[f"x{name}", f"y{value}"] for name, value in rows])
    read = _cells(out.getvalue())
    # a cell with a whole row's delimiters after a line break looks like a swallowed row: then all is kept apart
    if not any(";" in line for row in rows for value in row for line in value.split("\n")[1:]):
        assert [(cells["last_name"], cells["email"]) for _, cells in read] == [
            ([f"x{name}".strip()], [f"y{value}".strip()]) for name, value in rows
        ]
    assert len(read) >= len(rows)


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ('"=""0639980001"""', "0639980001"),
        ('="0639980001"', "0639980001"),
        ("'+33639980001", "+33639980001"),
        ("'0639980001", "0639980001"),
        ("''0639980001", "'0639980001"),
        ("'=1+1", "=1+1"),
        ("''t Hooft", "'t Hooft"),
        ("'t Hooft", "'t Hooft"),
        ("'", "'"),
        ("=A1", "=A1"),
    ],
)
def test_what_keeps_a_spreadsheet_from_computing_a_cell_is_taken_off(cell, read):
    assert _cells(f"nom;email\n{cell};a@example.fr\n")[0][1]["last_name"] == [read]


DAMAGES = {
    "é": "Ã©",
    "à": "Ã\u00a0",
    "É": "Ã‰",
    "œ": "Å“",
    "’": "â€™",
    "€": "â‚¬",
    "°": "Â°",
}


@pytest.mark.parametrize(("character", "damaged"), DAMAGES.items())
def test_accents_damaged_throughout_are_restored_and_noted(character, damaged):
    for times in (1, 2):
        text = f"nom;email\nA{character}B;a@example.fr\n"
        for _ in range(times):
            text = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())
        assert times > 1 or damaged in text
        listing, rows = _read(text)
        assert rows[0].cells[Column.LAST_NAME] == [f"A{character}B"]
        assert [note.code for note in listing.notes] == [Code.MOJIBAKE_REPAIRED]


def test_accents_damaged_in_places_are_left_and_noted():
    listing, rows = _read("nom;email\nRenÃ©;a@example.fr\nZoé;b@example.fr\n")
    assert [row.cells[Column.LAST_NAME] for row in rows] == [["RenÃ©"], ["Zoé"]]
    assert [(note.code, note.count) for note in listing.notes] == [(Code.MOJIBAKE_LEFT, 1)]


@pytest.mark.parametrize(
    "name", ["JOÃO", "GRÂCE", "Ångström", "ÄRZTE", "Â", "É…", "voilà…", "Ñuñez", "Łukasz", "Été d’Août"]
)
def test_capitals_with_accents_are_not_taken_for_damage(name):
    listing, rows = _read(f"nom;email\n{name};a@example.fr\n")
    assert rows[0].cells[Column.LAST_NAME] == [name]
    assert listing.notes == []


def test_damage_is_seen_across_pieces_of_the_file():
    padding = "x" * 1000
    row = f"{padding}RenÃ©;a@example.fr\n"
    listing, rows = _read("nom;email\n" + row * 2200)
    assert {row.cells[Column.LAST_NAME][0] for row in rows} == {f"{padding}René"}
    assert [note.code for note in listing.notes] == [Code.MOJIBAKE_REPAIRED]


@pytest.mark.parametrize("encoding", ["cp850", "mac_roman"])
def test_encodings_of_old_programs_are_known_by_their_letters_and_noted(encoding):
    names = ["René", "Zoé Lefèvre", "Anaïs", "François", "Éloïse", "Benoît"]
    listing, rows = _read("".join(["nom;email\n", *[f"{name};a@example.fr\n" for name in names]]).encode(encoding))
    assert [row.cells[Column.LAST_NAME][0] for row in rows] == names
    assert [(note.code, note.names) for note in listing.notes] == [(Code.OLD_ENCODING, (encoding,))]


def test_dashes_quotes_and_dots_alone_are_no_old_encoding():
    text = "nom;adresse;email\nA;12–14 rue “B”…;a@example.fr\n"
    listing, rows = _read(text.encode("cp1252"))
    assert (listing.encoding, rows[0].cells[Column.ADDRESS], listing.notes) == ("cp1252", ["12–14 rue “B”…"], [])


def test_a_line_that_names_the_delimiter_is_a_title():
    listing, rows = _read("sep=;\nnom;email\nM;a@example.fr\n")
    assert (listing.header_number, [row.number for row in rows]) == (2, [3])
    assert [(note.code, note.count) for note in listing.notes] == [(Code.TITLE_LINES, 1)]


def test_a_line_that_never_ends_is_refused_without_being_held():
    class Recorded(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size > 0
            self.largest = max(self.largest, size)
            return super().read(size)

    stream = Recorded(b"nom;email\n" + b"x" * 5_000_000)
    with pytest.raises(ListError, match="Line 2 is longer than 200,000"), open_list(stream) as listing:
        list(listing)
    assert stream.largest <= 1024 * 1024


def test_reading_twice_at_once_mixes_nothing():
    text = "nom;email\n" + "".join(f"N{n};n{n}@example.fr\n" for n in range(20_000))
    with open_list(io.BytesIO(text.encode())) as listing:
        for one, other in zip(listing, listing, strict=True):
            assert one == other
