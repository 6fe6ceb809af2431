"""What every list format yields: raw rows, what a reader had to guess, and what is true for the whole file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import BinaryIO

from notifier.importers.columns import NAMES, Column, Header, Question
from notifier.importers.refusals import Refusal, refused

MAX_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What a list may be at most; with more it is refused before it is read, or at the place where it is seen."""

    #: of the file as handed in
    max_bytes: int = MAX_BYTES
    #: characters of one line of a CSV file
    max_line: int = 200_000
    max_columns: int = 500
    #: bytes of all parts of a spreadsheet, unpacked
    max_unpacked_bytes: int = 2 * 1024**3
    #: bytes of all texts that the cells of a spreadsheet share: they are held in memory
    max_shared_bytes: int = 192 * 1024 * 1024
    #: bytes of one FHIR resource
    max_resource_bytes: int = 16 * 1024 * 1024


class Format(StrEnum):
    """What a list was written as."""

    CSV = "csv"
    XLSX = "xlsx"
    ODS = "ods"
    FHIR_NDJSON = "fhir_ndjson"
    FHIR_BUNDLE = "fhir_bundle"


class Doubt(StrEnum):
    """What a reader had to guess about a row, or could not read in it."""

    #: a quote is never closed: it was taken as a character
    UNBALANCED_QUOTE = "unbalanced_quote"
    #: cells beyond the header: a delimiter inside a cell may have shifted the others
    MORE_CELLS = "more_cells_than_headers"
    #: the header stands in the table once more, as at a page break
    HEADER_AGAIN = "header_again"
    #: hidden in the spreadsheet, by a filter or by hand: taken, for whoever is not told is harmed
    HIDDEN_ROW = "hidden_row"
    #: a cell holds an error of the spreadsheet (#N/A): nothing is read from it
    CELL_ERROR = "cell_error"
    #: a cell holds a formula that was never computed: nothing is read from it
    NO_RESULT = "formula_without_result"
    #: a number that is no telephone number has more digits than a spreadsheet keeps
    DIGITS_LOST = "number_digits_lost"
    #: a line of a FHIR file is not JSON
    NOT_JSON = "not_json"
    #: a line of a FHIR file is JSON, but no resource
    NOT_A_RESOURCE = "not_a_resource"
    #: one FHIR resource is larger than allowed
    TOO_LARGE = "resource_too_large"
    #: a part of a FHIR resource has another shape than the standard says: that part is not read
    SHAPE = "unexpected_shape"
    #: FHIR use "old", or a period that has ended
    OLD_CONTACT = "contact_no_longer_used"
    #: FHIR system "fax" or "pager"
    FAX = "contact_is_a_fax"
    #: FHIR contact of somebody who is neither parent nor guardian
    ANOTHERS_CONTACT = "contact_of_a_third_person"


#: what people read: (French, English)
WORDS: dict[Doubt, tuple[str, str]] = {
    Doubt.UNBALANCED_QUOTE: ("Un guillemet n'est jamais fermé.", "A quote is never closed."),
    Doubt.MORE_CELLS: (
        "Plus de cases que d'en-têtes : un séparateur dans une case ?",
        "More cells than headers: a delimiter inside a cell?",
    ),
    Doubt.HEADER_AGAIN: ("L'en-tête est répété.", "The header again."),
    Doubt.HIDDEN_ROW: (
        "Ligne masquée dans le tableur : elle est prise.",
        "A hidden row of the spreadsheet: taken.",
    ),
    Doubt.CELL_ERROR: ("Une case contient une erreur du tableur.", "A cell holds an error of the spreadsheet."),
    Doubt.NO_RESULT: (
        "Une formule n'a pas de résultat : ouvrez le fichier dans le tableur et enregistrez-le.",
        "A formula has no result: open the file in the spreadsheet program and save it.",
    ),
    Doubt.DIGITS_LOST: (
        "Le tableur a arrondi un nombre : des chiffres sont perdus.",
        "The spreadsheet rounded a number: digits are lost.",
    ),
    Doubt.NOT_JSON: ("La ligne n'est pas du JSON.", "The line is not JSON."),
    Doubt.NOT_A_RESOURCE: ("Ce n'est pas une ressource FHIR.", "This is no FHIR resource."),
    Doubt.TOO_LARGE: ("La ressource est trop grande.", "The resource is too large."),
    Doubt.SHAPE: (
        "Une partie de la ressource FHIR n'a pas la forme prévue : elle n'est pas lue.",
        "A part of the FHIR resource has an unexpected shape: it is not read.",
    ),
    Doubt.OLD_CONTACT: ("Un contact n'est plus utilisé.", "A contact is no longer in use."),
    Doubt.FAX: ("Un contact est un télécopieur.", "A contact is a fax."),
    Doubt.ANOTHERS_CONTACT: (
        "Le contact d'une autre personne n'est pas utilisé.",
        "The contact of another person is not used.",
    ),
}
#: with these a row holds nothing that could be read
REFUSING = frozenset({Doubt.HEADER_AGAIN, Doubt.NOT_JSON, Doubt.NOT_A_RESOURCE, Doubt.TOO_LARGE})


@dataclass(slots=True)
class RawRow:
    """One data row as text. `number` counts as a spreadsheet does: the first record of the file is 1.

    In FHIR it is the line of an NDJSON file, or the place of the entry in a Bundle.
    """

    number: int
    #: only cells that hold something
    cells: dict[Column, list[str]]
    #: what the reader had to guess about this row
    doubts: Sequence[Doubt] = ()
    #: of a table: every cell in the order of the headers, read or not, as it stands in the file
    fields: Sequence[str] = field(default=(), repr=False, compare=False)

    @property
    def is_refused(self) -> bool:
        """Whether the reader could make nothing of it: it holds no cells, and its doubts say why."""
        return not REFUSING.isdisjoint(self.doubts)


class Code(StrEnum):
    """What was changed or left out in a whole file."""

    #: accents that an earlier program damaged were restored, without a loss
    MOJIBAKE_REPAIRED = "damaged_accents_repaired"
    #: some accents are damaged, others are not: left as they are
    MOJIBAKE_LEFT = "damaged_accents_left"
    #: the file is in an encoding of old programs, known by its letters
    OLD_ENCODING = "old_encoding"
    #: rows above the header were skipped
    TITLE_LINES = "title_lines_skipped"
    #: the name says another format than the content
    WRONG_EXTENSION = "name_says_another_format"
    #: the mapping names columns that the file does not have
    MAPPING_WITHOUT_COLUMN = "mapping_names_missing_columns"
    #: another sheet that has patients, hidden or not chosen, was not read
    SHEET_WITH_PATIENTS = "sheet_with_patients_not_read"
    #: a sheet without a column of contacts was not read
    OTHER_SHEET = "sheet_not_read"
    HIDDEN_ROWS = "hidden_rows_read"
    HIDDEN_COLUMNS = "hidden_columns_read"
    #: a value stands in the first cell only, the others are read as empty
    MERGED_CELLS = "merged_cells"
    #: FHIR resources that are no patients
    OTHER_RESOURCES = "other_resources"
    #: the Bundle says that further pages follow
    MORE_PAGES = "bundle_has_more_pages"


_NOTES: dict[Code, tuple[str, str]] = {
    Code.MOJIBAKE_REPAIRED: (
        "Les accents, abîmés par un autre logiciel (« Ã© »), ont été rétablis.",
        "Accents that another program had damaged ('Ã©') were restored.",
    ),
    Code.MOJIBAKE_LEFT: (
        "Des accents sont abîmés (« Ã© ») à {count} endroits : ils restent ainsi.",
        "Accents are damaged ('Ã©') in {count} places: left as they are.",
    ),
    Code.OLD_ENCODING: (
        "Encodage ancien, reconnu à ses lettres : {names}. Vérifiez quelques noms.",
        "An old encoding, known by its letters: {names}. Check some names.",
    ),
    Code.TITLE_LINES: (
        "{count} lignes au-dessus de l'en-tête n'ont pas été lues.",
        "{count} lines above the header were not read.",
    ),
    Code.WRONG_EXTENSION: (
        "Le nom du fichier annonce un autre format ; il a été lu comme {names}.",
        "The file's name says another format; it was read as {names}.",
    ),
    Code.MAPPING_WITHOUT_COLUMN: (
        "Colonnes de la correspondance absentes du fichier : {names}.",
        "Columns of the mapping that the file does not have: {names}.",
    ),
    Code.SHEET_WITH_PATIENTS: (
        "D'autres feuilles, masquées ou non choisies, ont des patients et n'ont pas été lues : {names}.",
        "Other sheets, hidden or not chosen, have patients and were not read: {names}.",
    ),
    Code.OTHER_SHEET: (
        "Feuilles sans contacts, non lues : {names}.",
        "Sheets without contacts, not read: {names}.",
    ),
    Code.HIDDEN_ROWS: ("{count} lignes masquées ont été lues.", "{count} hidden rows were read."),
    Code.HIDDEN_COLUMNS: ("Colonnes masquées, lues : {names}.", "Hidden columns that were read: {names}."),
    Code.MERGED_CELLS: (
        "{count} cases fusionnées : seule la première de chacune porte la valeur.",
        "{count} merged cells: only the first of each holds the value.",
    ),
    Code.OTHER_RESOURCES: (
        "{count} ressources ne sont pas des patients : {names}.",
        "{count} resources are no patients: {names}.",
    ),
    Code.MORE_PAGES: (
        "Le Bundle annonce d'autres pages : leurs patients manquent ici. Remettez-les aussi.",
        "The Bundle says that more pages follow: their patients are missing here. Hand them in too.",
    ),
}


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that is true for a whole file and that whoever handed it in should know."""

    code: Code
    count: int = 0
    #: of sheets, columns, formats; never a value of a cell
    names: tuple[str, ...] = ()

    def words(self) -> tuple[str, str]:
        """(French, English)"""
        names = ", ".join(name[:60] for name in self.names[:20])
        french, english = _NOTES[self.code]
        return french.format(count=self.count, names=names), english.format(count=self.count, names=names)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sheet of a spreadsheet."""

    name: str
    is_hidden: bool = False
    #: it has a header with a column of contacts, and something below it
    has_patients: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What whoever hands a list in says about it."""

    #: header → `Column` or "ignore"
    mapping: Mapping[str, str] | None = None
    sheet: str | None = None
    #: bounds the periods of FHIR contacts
    today: date | None = None
    limits: Limits = Limits()


@dataclass(slots=True)
class RawList:
    """An open list: what was recognised, what must be asked, and its rows."""

    format: Format
    #: of the whole file, byte for byte, and of the mapping and the sheet where they were given
    sha256: bytes
    headers: tuple[Header, ...]
    #: row number of the header; 0 where a format has none
    header_number: int
    #: makes the rows from the start
    _rows: Callable[[], Iterator[RawRow]]
    #: what is read from a format without headers
    _meanings: frozenset[Column] = frozenset()
    encoding: str = ""
    delimiter: str = ""
    sheets: tuple[Sheet, ...] = ()
    #: the one that is read
    sheet: str | None = None
    questions: tuple[Question, ...] = ()
    _notes: tuple[Note, ...] = ()
    _late_notes: Callable[[], list[Note]] = list
    _unread: Callable[[], list[str]] = list
    #: of the whole file
    size_bytes: int = 0
    #: which rows are read; None: all
    wanted: Callable[[RawRow], bool] | None = None

    @property
    def columns(self) -> dict[str, Column | None]:
        """Header as a mapping names it → meaning; None where it is not read. Columns without a name are left out
        unless a mapping gave them a meaning."""
        return {header.key: header.column for header in self.headers if header.name or header.column}

    @property
    def meanings(self) -> frozenset[Column]:
        """What the list has columns for."""
        return self._meanings or frozenset(header.column for header in self.headers if header.column is not None)

    @property
    def likely_keys(self) -> int:
        """How many keys of people its rows may have: few rows are shorter than 50 bytes, packed or not."""
        return self.size_bytes // 16

    @property
    def names_people(self) -> bool:
        """Whether the list has a column for a name or an id at all."""
        return not NAMES.isdisjoint(self.meanings)

    @property
    def notes(self) -> list[Note]:
        """What is true for the whole file. Complete once all rows were read."""
        return [*self._notes, *self._late_notes()]

    def add_note(self, note: Note) -> None:
        """Says one thing more about the whole file."""
        self._notes = (*self._notes, note)

    @property
    def unread_contact_columns(self) -> list[str]:
        """Headers of columns that are not read although at least half of their first cells look like contacts.
        Complete once all rows were read."""
        return self._unread()

    def __iter__(self) -> Iterator[RawRow]:
        """The rows, from the start each time. Raises ListError while a question is open."""
        if self.questions:
            asked = self.questions[:10]
            french, english = " ".join(one.french for one in asked), " ".join(one.english for one in asked)
            raise refused(Refusal.QUESTIONS, asked=(french, english))
        return self._rows() if self.wanted is None else filter(self.wanted, self._rows())


def refuse_size(stream: BinaryIO, limits: Limits) -> int:
    """The size of a file in bytes. Raises ListError for one that is too big, before anything is read."""
    size = stream.seek(0, io.SEEK_END)
    if size > limits.max_bytes:
        raise refused(Refusal.TOO_LARGE, size=size, most=limits.max_bytes)
    stream.seek(0)
    return size
