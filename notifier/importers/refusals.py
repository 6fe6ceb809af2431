"""Why a whole list is refused: a code, what it is about, and what to do, in French and in English."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from notifier.addresses import visible
from notifier.errors import InputError, ListError

#: of a name or a value in a sentence
_LONGEST = 40
_MOST_NAMES = 20


class Refusal(StrEnum):
    """Why nothing of a list is taken, or nothing done with it."""

    # -- the file
    UNREADABLE = "list_cannot_be_opened"
    TOO_LARGE = "list_too_large"
    TOO_LARGE_FOR_A_PAGE = "list_too_large_for_a_page"
    EMPTY = "list_empty"
    NO_ROW = "list_without_rows"
    NO_PATIENT = "list_without_patients"
    OTHER_FORMAT = "list_of_another_format"
    WEB_PAGE = "list_is_a_web_page"
    PASSWORD = "list_protected_by_a_password"  # noqa: S105 - a code, not a secret
    OLD_EXCEL = "list_is_old_excel"
    BINARY_EXCEL = "list_is_binary_excel"
    ZIP_ARCHIVE = "list_is_an_archive"
    DAMAGED_ARCHIVE = "list_is_a_damaged_archive"
    DOCUMENT = "list_is_a_document"
    # -- text
    ZERO_BYTES = "text_with_zero_bytes"
    BROKEN_ENCODING = "text_encoding_broken"
    MIXED_ENCODING = "text_encoding_mixed"
    UNKNOWN_ENCODING = "text_encoding_unknown"
    LONG_LINE = "text_line_too_long"
    MANY_CELLS = "row_with_too_many_cells"
    # -- JSON
    NOT_FHIR = "json_is_not_fhir"
    JSON_DEPTH = "json_nested_too_deeply"
    JSON_BRACKET = "json_bracket_not_opened"
    JSON_CUT_OFF = "json_cut_off"
    JSON_LONG_TEXT = "json_text_too_long"
    # -- spreadsheets
    DAMAGED = "spreadsheet_damaged"
    MANY_PARTS = "spreadsheet_with_too_many_parts"
    UNPACKS_TOO_LARGE = "spreadsheet_unpacks_too_large"
    XML_DEPTH = "spreadsheet_nested_too_deeply"
    XML_ENTITIES = "spreadsheet_declares_entities"
    XML_LONG_TAG = "spreadsheet_tag_too_long"
    NO_SHEET = "spreadsheet_without_cells"
    MANY_SHEETS = "spreadsheet_with_too_many_sheets"
    UNKNOWN_SHEET = "spreadsheet_has_no_such_sheet"
    MUCH_SHARED_TEXT = "spreadsheet_shares_too_much_text"
    MISSING_TEXT = "spreadsheet_text_missing"
    LONG_CELL = "cell_too_long"
    LONG_SHARED_TEXT = "cell_text_too_long"
    MANY_ROWS = "spreadsheet_with_too_many_rows"
    CELL_NOWHERE = "cell_without_a_place"
    LONG_ROW = "spreadsheet_row_too_long"
    FAR_COLUMN = "cell_too_far_right"
    # -- columns
    NO_HEADER = "header_not_found"
    NO_CONTACTS = "no_column_with_contacts"
    QUESTIONS = "questions_to_answer"
    UNKNOWN_MEANING = "mapping_not_known"
    MEANING_TWICE = "mapping_gives_one_meaning_twice"
    # -- people
    ANOTHER_DOCTOR = "row_of_another_doctor"
    NO_DOCTOR = "row_of_no_doctor"
    # -- suggestions
    NO_SUCH_ROW = "suggestion_row_not_found"
    NO_SUGGESTION = "suggestion_not_found"
    NOTHING_SUGGESTED = "no_suggestion_to_accept"
    NOT_KNOWN_AGAIN = "suggestion_person_not_known_again"
    NOT_IN_PLACE = "suggestion_not_put_in_place"


_AS_CSV = (
    "Enregistrez-le en CSV (dans Excel : Enregistrer sous, CSV UTF-8) et remettez ce fichier.",
    "Save it as CSV (in Excel: Save as, CSV UTF-8) and hand that in.",
)
_AS_LIST = (
    "Enregistrez-le en XLSX ou en CSV (dans Excel : Enregistrer sous, CSV UTF-8) et remettez ce fichier.",
    "Save it as XLSX or CSV (in Excel: Save as, CSV UTF-8) and hand that in.",
)
_SAVE_AS_CSV = ("Enregistrez-le en CSV et remettez ce fichier.", "Save it as CSV and hand that in.")
_EXPORT = ("Exportez la liste de nouveau.", "Export it again.")
_EXPORT_UTF8 = ("Exportez la liste de nouveau, en UTF-8.", "Export it again, as UTF-8.")
_SAVE_AGAIN = (
    "Ouvrez-le, enregistrez-le de nouveau en XLSX, ODS ou CSV, et remettez ce fichier.",
    "Open it, save it again as XLSX, ODS or CSV, and hand that in.",
)
_SHORTEN = (
    "Ce n'est pas le contenu d'une liste de patients : corrigez-la et remettez-la.",
    "That belongs in no list of patients: correct it and hand it in again.",
)

#: what it is and what to do: (French, English)
_WORDS: dict[Refusal, tuple[tuple[str, str], tuple[str, str]]] = {
    Refusal.UNREADABLE: (
        ("La liste n'a pas pu être ouverte ({cause}).", "The list cannot be read: {cause}."),
        ("Vérifiez le fichier et remettez-le.", "Check the file and hand it in again."),
    ),
    Refusal.TOO_LARGE: (
        (
            "La liste fait {size} octets, plus que les {most} permis.",
            "The list has {size} bytes, more than the {most} allowed.",
        ),
        (
            "Partagez-la en plusieurs fichiers, ou faites augmenter max_list_bytes.",
            "Split it, or raise max_list_bytes.",
        ),
    ),
    Refusal.TOO_LARGE_FOR_A_PAGE: (
        (
            "La liste dépasse les {most} octets qu'une page accepte.",
            "The list is larger than the {most} bytes that a page takes.",
        ),
        (
            "Partagez-la en plusieurs fichiers, ou demandez à l'exploitant de l'importer.",
            "Split it, or ask operations to import it.",
        ),
    ),
    Refusal.EMPTY: (("La liste est vide.", "The list is empty."), _EXPORT),
    Refusal.NO_ROW: (
        (
            "Aucune ligne : la liste a un en-tête et rien en dessous.",
            "No row: the list has a header and nothing below it.",
        ),
        _EXPORT,
    ),
    Refusal.NO_PATIENT: (
        (
            "Aucune ligne de la liste n'est un patient ({rows} lignes lues, toutes refusées).",
            "No row of the list is a patient ({rows} rows read, all refused).",
        ),
        (
            "Vérifiez que c'est bien la liste des patients et ce que contient chaque colonne.",
            "Check that it is the list of patients, and what each column holds.",
        ),
    ),
    Refusal.OTHER_FORMAT: (("Le fichier n'est pas une liste : {kind}.", "This is no list: {kind}."), _AS_LIST),
    Refusal.WEB_PAGE: (
        (
            "C'est une page web ou un document XML, pas une liste. Ouvrez-le dans Excel.",
            "This is a web page or an XML document, not a list. Open it in Excel.",
        ),
        _AS_LIST,
    ),
    Refusal.PASSWORD: (
        ("Ce document est protégé par un mot de passe.", "This document is protected by a password."),
        (
            "Ouvrez-le dans Excel, retirez le mot de passe (Fichier, Informations, Protéger le classeur), "
            "enregistrez-le en XLSX et remettez ce fichier.",
            "Open it in Excel, take the password off (File, Info, Protect Workbook), save it as XLSX and hand "
            "that in.",
        ),
    ),
    Refusal.OLD_EXCEL: (
        ("C'est un ancien document Excel (.xls).", "This is an old Excel document (.xls)."),
        (
            "Ouvrez-le dans Excel ou LibreOffice, choisissez Enregistrer sous, XLSX (Classeur Excel), et remettez "
            "ce fichier.",
            "Open it in Excel or LibreOffice, choose Save as, XLSX (Classeur Excel), and hand that in.",
        ),
    ),
    Refusal.BINARY_EXCEL: (
        (
            "C'est un document Excel de forme binaire (.xlsb).",
            "This is an Excel document in binary form (.xlsb).",
        ),
        (
            "Ouvrez-le dans Excel, choisissez Enregistrer sous, XLSX (Classeur Excel), et remettez ce fichier.",
            "Open it in Excel, choose Save as, XLSX (Classeur Excel), and hand that in.",
        ),
    ),
    Refusal.ZIP_ARCHIVE: (
        ("C'est une archive ZIP.", "This is a ZIP archive."),
        (
            "Décompressez-la et remettez la liste qu'elle contient.",
            "Unpack it and hand in the list inside.",
        ),
    ),
    Refusal.DAMAGED_ARCHIVE: (
        (
            "Le fichier est un tableur ou une archive ZIP endommagés.",
            "The file is a damaged spreadsheet or ZIP archive.",
        ),
        _AS_LIST,
    ),
    Refusal.DOCUMENT: (
        ("C'est un document, pas un tableur.", "This is a document, not a spreadsheet."),
        _AS_LIST,
    ),
    Refusal.ZERO_BYTES: (
        (
            "Ce n'est pas un fichier de texte : il y a des octets nuls vers l'octet {byte}.",
            "This is not a text file: there are zero bytes near byte {byte}.",
        ),
        _AS_CSV,
    ),
    Refusal.BROKEN_ENCODING: (
        (
            "La liste commence en {encoding} mais elle est endommagée plus bas.",
            "The list begins as {encoding} but is damaged further down.",
        ),
        _EXPORT,
    ),
    Refusal.MIXED_ENCODING: (
        (
            "L'encodage de la liste est abîmé : elle est en partie en UTF-8.",
            "The list's encoding is damaged: it is partly UTF-8.",
        ),
        _EXPORT_UTF8,
    ),
    Refusal.UNKNOWN_ENCODING: (
        (
            "L'encodage de la liste est inconnu : ni UTF-8, ni UTF-16, ni Windows-1252, ni ISO-8859-15.",
            "The list's encoding is not known: neither UTF-8, UTF-16, Windows-1252 nor ISO-8859-15.",
        ),
        _EXPORT_UTF8,
    ),
    Refusal.LONG_LINE: (
        (
            "La ligne {line} dépasse {most} caractères. Est-ce bien un fichier CSV ?",
            "Line {line} is longer than {most} characters. Is this a CSV file?",
        ),
        _EXPORT,
    ),
    Refusal.MANY_CELLS: (
        (
            "La ligne {row} a {cells} cases ; {most} sont permises. Est-ce bien un fichier CSV ?",
            "Row {row} has {cells} cells; {most} are allowed. Is this a CSV file?",
        ),
        _EXPORT,
    ),
    Refusal.NOT_FHIR: (
        (
            "C'est du JSON, mais pas du FHIR : le premier objet n'a pas de resourceType.",
            "This is JSON, but no FHIR: the first object has no resourceType.",
        ),
        (
            "Remettez des patients FHIR R4 en NDJSON ou en Bundle, ou un tableau en XLSX ou en CSV.",
            "Hand in FHIR R4 patients as NDJSON or as a Bundle, or a table as XLSX or CSV.",
        ),
    ),
    Refusal.JSON_DEPTH: (
        (
            "Le JSON est trop profondément imbriqué pour être du FHIR.",
            "The JSON is nested too deeply to be FHIR.",
        ),
        _EXPORT,
    ),
    Refusal.JSON_BRACKET: (
        (
            "Le JSON est endommagé : une accolade ferme ce qui n'était pas ouvert.",
            "The JSON is broken: a bracket closes what was not opened.",
        ),
        _EXPORT,
    ),
    Refusal.JSON_CUT_OFF: (
        (
            "Le fichier s'arrête au milieu d'un patient : il a été coupé.",
            "The file ends in the middle of a record: it was cut off.",
        ),
        _EXPORT,
    ),
    Refusal.JSON_LONG_TEXT: (
        (
            "Le JSON est endommagé : un texte dépasse {most} octets.",
            "The JSON is broken: a text of more than {most} bytes.",
        ),
        ("Exportez les patients sans pièces jointes.", "Export the patients without attachments."),
    ),
    Refusal.DAMAGED: (
        (
            "Le tableur est endommagé ou protégé par un mot de passe.",
            "The spreadsheet is damaged or protected by a password.",
        ),
        _SAVE_AGAIN,
    ),
    Refusal.MANY_PARTS: (
        (
            "Le tableur a {parts} parties ; {most} sont permises.",
            "The spreadsheet has {parts} parts; {most} are allowed.",
        ),
        _SAVE_AS_CSV,
    ),
    Refusal.UNPACKS_TOO_LARGE: (
        (
            "Décompressé, le tableur dépasse la taille permise ({most} octets), ou il est comprimé plus "
            "qu'aucune liste.",
            "The spreadsheet unpacks to more than is allowed ({most} bytes), or is packed more tightly than any "
            "list.",
        ),
        _SAVE_AS_CSV,
    ),
    Refusal.XML_DEPTH: (
        ("Le XML du tableur est trop profondément imbriqué.", "The spreadsheet's XML is nested too deeply."),
        _SAVE_AS_CSV,
    ),
    Refusal.XML_ENTITIES: (
        (
            "Le XML du tableur déclare des entités (DOCTYPE), dont aucune liste n'a besoin : il n'est pas lu.",
            "The spreadsheet's XML declares entities (DOCTYPE), which no list needs. It is not read.",
        ),
        _SAVE_AS_CSV,
    ),
    Refusal.XML_LONG_TAG: (
        ("Le XML du tableur a une balise trop longue.", "The spreadsheet's XML has a tag that is too long."),
        _SAVE_AS_CSV,
    ),
    Refusal.NO_SHEET: (
        ("Le tableur n'a aucune feuille avec des cases.", "The spreadsheet has no sheet with cells."),
        _SAVE_AGAIN,
    ),
    Refusal.MANY_SHEETS: (
        (
            "Le tableur a plus de {most} feuilles.",
            "The spreadsheet has more than {most} sheets.",
        ),
        (
            "Enregistrez la feuille des patients seule et remettez ce fichier.",
            "Save the patients' sheet alone and hand that in.",
        ),
    ),
    Refusal.UNKNOWN_SHEET: (
        (
            "Il n'y a pas de feuille « {wanted} ».",
            "There is no sheet '{wanted}'.",
        ),
        ("Choisissez parmi : {names}.", "There are: {names}."),
    ),
    Refusal.MUCH_SHARED_TEXT: (
        (
            "Les cases de ce tableur ont en commun plus de {most} octets de texte.",
            "The cells of this spreadsheet share more than {most} bytes of text.",
        ),
        _SAVE_AS_CSV,
    ),
    Refusal.MISSING_TEXT: (
        (
            "La ligne {row} renvoie à un texte que le tableur ne contient pas : il est endommagé.",
            "Row {row} has a text that the spreadsheet does not hold. It is damaged.",
        ),
        _SAVE_AGAIN,
    ),
    Refusal.LONG_CELL: (
        (
            "La ligne {row} a une case de plus de {most} caractères.",
            "Row {row} has a cell with more than {most} characters.",
        ),
        _SHORTEN,
    ),
    Refusal.LONG_SHARED_TEXT: (
        (
            "Le tableur a une case de plus de {most} caractères.",
            "The spreadsheet has a cell with more than {most} characters.",
        ),
        _SHORTEN,
    ),
    Refusal.MANY_ROWS: (
        (
            "Le tableur a une ligne {row} ; {most} sont possibles : il est endommagé.",
            "The spreadsheet has a row {row}; {most} are possible. It is damaged.",
        ),
        _SAVE_AGAIN,
    ),
    Refusal.CELL_NOWHERE: (
        (
            "La ligne {row} a une case sans emplacement : le tableur est endommagé.",
            "Row {row} has a cell without a place. The spreadsheet is damaged.",
        ),
        _SAVE_AGAIN,
    ),
    Refusal.LONG_ROW: (
        ("Le tableur a une ligne trop longue.", "The spreadsheet has a row that is too long."),
        _SAVE_AS_CSV,
    ),
    Refusal.FAR_COLUMN: (
        (
            "La ligne {row} a une case en colonne {column} ; {most} colonnes sont permises. Est-ce bien une "
            "liste ?",
            "Row {row} has a cell in column {column}; {most} are allowed. Is this a list?",
        ),
        (
            "Supprimez les colonnes vides ou de trop, et remettez la liste.",
            "Delete columns that are empty or too many, and hand it in again.",
        ),
    ),
    Refusal.NO_HEADER: (
        (
            "La liste n'a pas d'en-tête reconnu.",
            "The list has no header row that is understood.",
        ),
        (
            "Une ligne en haut doit nommer les colonnes, par exemple « nom », « prenom », « date de naissance », "
            "« email », « portable ».",
            "A row near the top must name the columns, for instance 'nom', 'prenom', 'date de naissance', "
            "'email', 'portable'.",
        ),
    ),
    Refusal.NO_CONTACTS: (
        (
            "Aucune colonne de contacts. Colonnes de la liste : {names}.",
            "No column with contacts. Columns of the list: {names}.",
        ),
        (
            "Dites laquelle contient des adresses e-mail ou des téléphones, ou nommez-la par exemple « email », "
            "« courriel », « telephone » ou « portable ».",
            "Say which one holds email addresses or telephone numbers, or name it for instance 'email', "
            "'courriel', 'adresse e-mail', 'telephone', 'portable', 'mobile' or 'phone'.",
        ),
    ),
    Refusal.QUESTIONS: (
        ("Avant de pouvoir lire cette liste :", "Before this list can be read:"),
        ("{asked}", "{asked}"),
    ),
    Refusal.UNKNOWN_MEANING: (
        (
            "La correspondance de « {name} » est inconnue : « {meaning} ».",
            "The mapping of '{name}' is not known: '{meaning}'.",
        ),
        ("Valeurs permises : {allowed}.", "Allowed: {allowed}."),
    ),
    Refusal.MEANING_TWICE: (
        (
            "La correspondance donne le même sens ({meaning}) à deux colonnes : « {first} » et « {second} ».",
            "The mapping gives two columns the same meaning ({meaning}): '{first}' and '{second}'.",
        ),
        ("Dites « {ignore} » pour l'une d'elles.", "Map one of them to '{ignore}'."),
    ),
    Refusal.ANOTHER_DOCTOR: (
        (
            "La ligne {row} est celle d'un autre médecin que « {doctor} », pour qui cette liste a été remise. "
            "Rien n'a été enregistré.",
            "Row {row} belongs to another doctor than '{doctor}', for whom this list was handed in. Nothing was "
            "saved.",
        ),
        (
            "Remettez une liste par médecin, ou la liste de plusieurs médecins pour leur incident.",
            "Hand in one list per doctor, or the list of several doctors for their incident.",
        ),
    ),
    Refusal.NO_DOCTOR: (
        (
            "La ligne {row} d'une liste de plusieurs médecins n'en nomme aucun. Rien n'a été enregistré.",
            "Row {row} of a list of several doctors names none. Nothing was saved.",
        ),
        (
            "Indiquez son médecin (RPPS ou référence), ou supprimez la ligne si elle ne porte pas de patient.",
            "Name its doctor (RPPS number or reference), or delete the row if it holds no patient.",
        ),
    ),
    Refusal.NO_SUCH_ROW: (
        ("Il n'y a pas de ligne {row} dans cette liste.", "There is no row {row} in this list."),
        (
            "Prenez le numéro de ligne qui figure à côté de la proposition.",
            "Take the row's number that stands beside the suggestion.",
        ),
    ),
    Refusal.NO_SUGGESTION: (
        ("La ligne {row} n'a pas de proposition.", "Row {row} has no suggestion."),
        ("Corrigez la ligne elle-même.", "Correct the row itself."),
    ),
    Refusal.NOTHING_SUGGESTED: (
        (
            "Cette liste n'a aucune proposition à accepter.",
            "This list has no suggestion that could be accepted.",
        ),
        ("Corrigez les lignes elles-mêmes.", "Correct the rows themselves."),
    ),
    Refusal.NOT_KNOWN_AGAIN: (
        (
            "La ligne {row} n'a ni identifiant ni noms avec une date de naissance : la personne ne serait pas "
            "reconnue.",
            "Row {row} has neither a patient id nor names with a birth date, so its person would not be known "
            "again.",
        ),
        (
            "Corrigez-la dans le logiciel du cabinet et remettez toute la liste.",
            "Correct it in the practice software and hand the whole list in.",
        ),
    ),
    Refusal.NOT_IN_PLACE: (
        (
            "La proposition de la ligne {row} ne peut pas être mise à sa place.",
            "The suggestion in row {row} cannot be put in its place.",
        ),
        ("Corrigez la ligne elle-même.", "Correct the row itself."),
    ),
}

#: kinds of files that are no lists
KINDS: dict[str, tuple[str, str]] = {
    "pdf": ("un document PDF", "a PDF document"),
    "gzip": ("un fichier compressé (gzip)", "a compressed file (gzip)"),
    "7z": ("un fichier compressé (7z)", "a compressed file (7z)"),
    "rar": ("un fichier compressé (RAR)", "a compressed file (RAR)"),
    "picture": ("une image", "a picture"),
    "rtf": ("un document de texte (RTF)", "a text document (RTF)"),
    "sqlite": ("une base de données (SQLite)", "a database (SQLite)"),
}
#: these are counted as a spreadsheet shows them, without separators
_PLACES = frozenset({"row", "line", "column"})

#: a list is one of names, a pair what is said in (French, English)
Value = int | str | list[str] | tuple[str, str]
_Error = TypeVar("_Error", bound=InputError)


def refused(why: Refusal, /, **values: Value) -> ListError:
    """The error of a whole list that cannot be read, in both languages."""
    return as_error(ListError, why, **values)


def as_error(kind: type[_Error], why: Refusal, /, **values: Value) -> _Error:
    """An error of that kind, in both languages."""
    french, english = (
        " ".join(part[language] for part in _WORDS[why]).format(
            **{name: _said(name, value, language) for name, value in values.items()}
        )
        for language in (_FRENCH, _ENGLISH)
    )
    plain = {name: value for name, value in values.items() if not isinstance(value, tuple)}
    return kind(english, french=french, code=str(why), values=plain)


_FRENCH, _ENGLISH = 0, 1
_QUOTES = (("« ", " »"), ("'", "'"))


def _said(name: str, value: Value, language: int) -> str:
    match value:
        case int():
            grouped = str(value) if name in _PLACES else f"{value:,}"
            return grouped.replace(",", "\u202f") if language == _FRENCH else grouped
        case str():
            return visible(value)[:_LONGEST]
        case tuple():
            return value[language]
        case list():
            before, after = _QUOTES[language]
            return ", ".join(f"{before}{visible(one)[:_LONGEST]}{after}" for one in value[:_MOST_NAMES])


def words_of(why: Refusal) -> tuple[str, str]:
    """(French, English), with the names of the values in braces."""
    (what_fr, what_en), (advice_fr, advice_en) = _WORDS[why]
    return f"{what_fr} {advice_fr}", f"{what_en} {advice_en}"
