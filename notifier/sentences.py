"""What people read about each code of a list: what it is, and what to do about it, in French and in English.

Also why something stands still, where the product itself wrote the reason.
"""

from __future__ import annotations

import functools
import re

from notifier import addresses, judging
from notifier.addresses import Reason
from notifier.changes import Change
from notifier.importers import Doubt
from notifier.importers.refusals import Refusal, words_of
from notifier.judging import RowReason

#: the languages of every sentence
LANGUAGES = ("fr", "en")

_CHANGED: dict[Change, tuple[str, str]] = {
    Change.ZERO: (
        "Le zéro de tête, perdu par un tableur, a été rétabli.",
        "The leading zero, lost by a spreadsheet, was restored.",
    ),
    Change.PLUS: (
        "Le signe + devant l'indicatif du pays a été rétabli.",
        "The + before the country code was restored.",
    ),
    Change.COUNTRY: (
        "L'indicatif du pays du cabinet a été ajouté.",
        "The country code of the practice was added.",
    ),
    Change.OVERSEAS: (
        "Numéro d'outre-mer : son propre indicatif a été ajouté.",
        "An overseas number: its own country code was added.",
    ),
    Change.DECIMALS: ("Le « .0 » d'un tableur a été retiré.", "A spreadsheet's '.0' was taken off."),
    Change.SEPARATORS: (
        "Espaces, points ou tirets ont été retirés.",
        "Blanks, dots or dashes were taken out.",
    ),
    Change.SEVERAL: (
        "La case contient plusieurs contacts : ils ont été séparés.",
        "The cell holds several contacts: they were parted.",
    ),
    Change.NOTE: (
        "Les mots à côté du contact ont été compris et mis de côté.",
        "The words beside the contact were understood and set aside.",
    ),
    Change.FOR_CALLS: (
        "Numéro sans SMS : gardé pour être appelé.",
        "A number without text messages: kept for calls.",
    ),
    Change.AGAIN: (
        "Ce contact figure déjà sur la ligne : il compte une fois.",
        "This contact stands in the row already: it counts once.",
    ),
    Change.DISPLAY_NAME: (
        "Le nom devant l'adresse a été retiré.",
        "The name before the address was taken off.",
    ),
    Change.PUNCTUATION: (
        "La ponctuation autour de l'adresse a été retirée.",
        "Punctuation around the address was taken off.",
    ),
    Change.DOMAIN_CASE: (
        "La partie après @ a été mise en minuscules.",
        "The part after @ was put in lower case.",
    ),
    Change.DOMAIN_ASCII: (
        "La partie après @ a été mise dans la forme des serveurs de courriel.",
        "The part after @ was put in the form that mail servers use.",
    ),
    Change.INVISIBLE: (
        "Des caractères invisibles ont été retirés.",
        "Invisible characters were taken out.",
    ),
    Change.DATE_FORM: ("La date a été écrite autrement.", "The date was written in another form."),
    Change.DATE_SERIAL: (
        "La date a été lue dans un numéro de jour d'un tableur.",
        "The date was read from a spreadsheet's number of the day.",
    ),
    Change.CENTURY: (
        "L'année en deux chiffres a été complétée : un seul siècle est possible.",
        "The year of two digits was completed: one century alone is possible.",
    ),
    Change.POSTAL_ZERO: (
        "Le zéro du code postal, perdu par un tableur, a été rétabli.",
        "The postal code's zero, lost by a spreadsheet, was restored.",
    ),
    Change.PLACE: ("Le code postal et la ville ont été séparés.", "Postal code and town were parted."),
    Change.POSTAL_FORM: ("Le code postal a été écrit autrement.", "The postal code was written in another form."),
    Change.TITLE: ("La civilité devant le nom a été retirée.", "The title before the name was taken off."),
    Change.ACCENTS: (
        "Des accents abîmés par un autre logiciel ont été rétablis.",
        "Accents damaged by another program were restored.",
    ),
    Change.FORM: ("Écrit autrement, sans changer le sens.", "Written in another form of the same meaning."),
    Change.LANGUAGE: ("La langue a été notée par son code.", "The language was noted by its code."),
    Change.COMMENT: (
        "Seule la présence d'un commentaire est gardée, jamais son texte.",
        "Only whether there is a comment is kept, never its text.",
    ),
    Change.HASHED: (
        "L'identifiant national n'est gardé que sous forme d'empreinte.",
        "The national identifier is kept as a keyed hash only.",
    ),
}
_NOTHING_TO_DO = ("Rien à faire.", "Nothing to do.")
_CHECK = ("Vérifiez la ligne.", "Check the row.")
_FULL_NUMBER = (
    "Saisissez le numéro complet, avec tous ses chiffres.",
    "Write the whole number, with all of its digits.",
)
_OWN_CONTACT = (
    "Indiquez un contact propre au patient, ou laissez la case vide : une lettre sera proposée.",
    "Give a contact of the patient's own, or leave the cell empty: a letter will be proposed.",
)
_WHOLE_ADDRESS = ("Saisissez l'adresse complète.", "Write the whole address.")

#: what to do: (French, English)
_ADVICE: dict[str, tuple[str, str]] = {
    Reason.EMPTY: _NOTHING_TO_DO,
    Reason.SEVERAL: (
        "Séparez-les par un point-virgule.",
        "Part them by a semicolon.",
    ),
    Reason.DO_NOT_USE: _OWN_CONTACT,
    Reason.NOT_THEIRS: _OWN_CONTACT,
    Reason.UNKNOWN_NOTE: (
        "Si le contact est bon, effacez la note ; sinon, effacez le contact.",
        "If the contact is right, delete the note; if not, delete the contact.",
    ),
    Reason.FILLER: _OWN_CONTACT,
    Reason.LETTERS: _FULL_NUMBER,
    Reason.UNKNOWN_CHARACTER: _FULL_NUMBER,
    Reason.SCIENTIFIC: (
        "Reprenez le numéro dans le logiciel du cabinet ; mettez la colonne du tableur en format Texte.",
        "Take the number from the practice software again; format the spreadsheet's column as text.",
    ),
    Reason.TOO_SHORT: _FULL_NUMBER,
    Reason.TOO_LONG: (
        "Un chiffre ou une lettre de trop, ou deux contacts collés : corrigez ou séparez-les.",
        "A sign too many, or two contacts without a space: correct or part them.",
    ),
    Reason.AMBIGUOUS: (
        "Écrivez le numéro avec l'indicatif du pays, par exemple +33 ou +262.",
        "Write the number with its country code, for instance +33 or +262.",
    ),
    Reason.M2M: _OWN_CONTACT,
    Reason.SHORT_NUMBER: _OWN_CONTACT,
    Reason.NOT_ASSIGNED: (
        "Vérifiez le numéro ; s'il est étranger, écrivez-le avec + et l'indicatif du pays.",
        "Check the number; if it is foreign, write it with + and its country code.",
    ),
    Reason.NO_AT: _WHOLE_ADDRESS,
    Reason.SYNTAX: _WHOLE_ADDRESS,
    Reason.DOMAIN: ("Corrigez la partie après @.", "Correct the part after @."),
    Reason.COMMA_FOR_DOT: ("Remplacez la virgule par un point.", "Put a dot in the comma's place."),
    Reason.ACCENT: ("Récrivez l'adresse sans accent.", "Write the address without the accent."),
    Reason.MISTYPED: (
        "Acceptez l'adresse proposée si c'est la bonne, ou corrigez-la.",
        "Accept the proposed address if it is the right one, or correct it.",
    ),
    Reason.ROLE: _OWN_CONTACT,
    Reason.NO_MAIL: ("Corrigez la partie après @.", "Correct the part after @."),
    RowReason.NO_IDENTITY: (
        "Complétez la ligne, ou supprimez-la.",
        "Complete the row, or delete it.",
    ),
    RowReason.TOTALS_LINE: _NOTHING_TO_DO,
    RowReason.NO_NAME: ("Ajoutez le nom si vous le connaissez.", "Add the name if you know it."),
    RowReason.SAME_ID: (
        "Si c'est une seule personne, dites-le ; si ce sont deux personnes, rien à faire.",
        "If it is one person, say so; if they are two, there is nothing to do.",
    ),
    RowReason.POSSIBLE_DOUBLE: (
        "Si c'est une seule personne, dites-le ; si ce sont deux personnes, rien à faire.",
        "If it is one person, say so; if they are two, there is nothing to do.",
    ),
    RowReason.INVALID_DATE: ("Corrigez la date (JJ/MM/AAAA).", "Correct the date (DD/MM/YYYY)."),
    RowReason.AMBIGUOUS_YEAR: (
        "Écrivez l'année en quatre chiffres.",
        "Write the year with four digits.",
    ),
    RowReason.NATIONAL_ID: (
        "Rien à faire ; vérifiez la date de naissance si l'identifiant est bon.",
        "Nothing to do; check the birth date if the identifier is right.",
    ),
    RowReason.UNKNOWN_LANGUAGE: ("Écrivez « fr » ou « en ».", "Write 'fr' or 'en'."),
    RowReason.UNCLEAR: ("Écrivez « oui » ou « non ».", "Write 'oui' (yes) or 'non' (no)."),
    RowReason.ANOTHER_PERSON: (
        "Le contact est utilisé ; effacez-le s'il ne convient pas.",
        "The contact is used; delete it if it should not be.",
    ),
    RowReason.SERVICE_NUMBER: _OWN_CONTACT,
    RowReason.SHARED_BY_MANY: _OWN_CONTACT,
    RowReason.PRACTICE_CONTACT: _OWN_CONTACT,
    RowReason.PERHAPS_KNOWN: (
        "Si c'est la même, ajoutez sa ligne précédente avec « non » dans une colonne « concerné ».",
        "If it is the same, add the person's former row with 'no' in a column 'affected'.",
    ),
    RowReason.TOLD_ELSEWHERE: (
        "Si l'ancien contact n'était pas le sien, prévenez la personne par lettre ou par téléphone.",
        "If the former contact was not the person's, tell the person by letter or telephone.",
    ),
    RowReason.YES_AND_NO: ("Mettez la même réponse sur les deux lignes.", "Put the same answer in both rows."),
    RowReason.COLUMN_NOT_READ: (
        "Ou donnez son sens à la colonne en remettant la liste.",
        "Or give the column its meaning when you hand the list in.",
    ),
    RowReason.MOJIBAKE: ("Vérifiez le nom.", "Check the name."),
    Doubt.UNBALANCED_QUOTE: ("Vérifiez les cases de la ligne.", "Check the cells of the row."),
    Doubt.MORE_CELLS: ("Vérifiez les cases de la ligne.", "Check the cells of the row."),
    Doubt.HEADER_AGAIN: _NOTHING_TO_DO,
    Doubt.HIDDEN_ROW: ("Supprimez-la si la personne n'est pas à prévenir.", "Delete it if nobody is to be told."),
    Doubt.CELL_ERROR: ("Corrigez la case.", "Correct the cell."),
    Doubt.NO_RESULT: _CHECK,
    Doubt.DIGITS_LOST: (
        "Mettez la colonne en format Texte et exportez de nouveau.",
        "Format the column as text and export again.",
    ),
    Doubt.NOT_JSON: ("Exportez de nouveau le fichier.", "Export the file again."),
    Doubt.NOT_A_RESOURCE: ("Exportez de nouveau le fichier.", "Export the file again."),
    Doubt.TOO_LARGE: ("Exportez le patient sans pièces jointes.", "Export the patient without attachments."),
    Doubt.SHAPE: ("Vérifiez ce patient dans le logiciel.", "Check this patient in the software."),
    Doubt.OLD_CONTACT: _OWN_CONTACT,
    Doubt.FAX: _OWN_CONTACT,
    Doubt.ANOTHERS_CONTACT: _OWN_CONTACT,
    **dict.fromkeys(Change, _NOTHING_TO_DO),
}


@functools.cache
def _meanings() -> dict[str, tuple[str, str]]:
    known = dict(judging.WORDS)
    known |= {str(reason): words for reason, words in addresses.WORDS.items()}
    return known | {str(change): words for change, words in _CHANGED.items()}


@functools.cache
def sentence(code: str) -> tuple[str, str]:
    """(French, English): what a code means and what to do. A code that is not known is given as it is."""
    french, english = _meanings().get(code) or (code.replace("_", " "),) * 2
    what_fr, what_en = _ADVICE.get(code, _NOTHING_TO_DO)
    return f"{french} {what_fr}", f"{english} {what_en}"


def codes() -> dict[str, tuple[str, str]]:
    """Every code a report may hold, with its sentence."""
    return {str(code): sentence(str(code)) for kind in (Reason, RowReason, Doubt, Change) for code in kind}


def refusals() -> dict[str, tuple[str, str]]:
    """Why a whole list is refused, by code; the names of values stand in braces."""
    return {str(why): words_of(why) for why in Refusal}


def in_language(code: str, language: str) -> str:
    """The sentence in French, or in English for any other language."""
    return sentence(code)[0 if language == "fr" else 1]


# --- reasons ---------------------------------------------------------------------------------------------

_AUTHENTICATION = "vérifiez SPF, DKIM et DMARC du domaine de l'expéditeur"
_BEGINS = r"The provider "
_CODE = r"(?: \((?P<code>[^)]*)\))?"
#: Why something stands still, in the product's own words (English, in the database and the journal), in French.
#: Written by `controlling`, `sending`, `notices`, `sealing` and `workers.breaker`; a test holds them together.
_REASONS_FR: tuple[tuple[str, str], ...] = (
    (
        r"(?P<n>\d+) of (?P<all>\d+) email addresses do not work \((?P<share>\d+)%, the limit is (?P<limit>\d+)%\)"
        r": is it the right list\?",
        "{n} adresses électroniques sur {all} ne fonctionnent pas ({share} %, la limite est de {limit} %) : "
        "est-ce la bonne liste ?",
    ),
    (
        r"Campaign (?P<id>\d+): .* is not what was approved\. Nothing of it is sent; .*",
        "Campagne {id} : un texte n'est plus celui qui a été approuvé. Rien n'en est envoyé ; annulez la "
        "campagne et cherchez qui a modifié la base de données.",
    ),
    (r"Campaign (?P<id>\d+) has no approved text\.", "La campagne {id} n'a pas de texte approuvé."),
    (
        r"The doctor's name, practice or email cannot stand in an email's headers\.",
        "Le nom du médecin, son cabinet ou son adresse électronique ne peut pas figurer dans l'en-tête d'un "
        "email.",
    ),
    (
        r"The data key of campaign (?P<id>\d+) has been erased\.",
        "La clé de la campagne {id} a été effacée : ses données ne peuvent plus être lues.",
    ),
    (
        r"The data key of campaign (?P<id>\d+) does not open: it was altered, or is another campaign's\.",
        "La clé de la campagne {id} ne s'ouvre pas : elle a été modifiée, ou c'est celle d'une autre campagne.",
    ),
    (
        r"The data key of campaign (?P<id>\d+) was sealed by the master key (?P<mark>\w+), which is not given: .*",
        "La clé de la campagne {id} a été scellée par la clé maîtresse {mark}, qui n'est pas donnée : "
        "NOTIFIER_MASTER_KEY est-elle celle de cette base de données ? Une clé antérieure se met dans "
        "NOTIFIER_MASTER_KEYS_FORMER.",
    ),
    (
        rf"{_BEGINS}refused our credentials{_CODE}: check (?P<keys>.*)\.",
        "Le prestataire refuse notre accès ({code}) : vérifiez {keys}.",
    ),
    (
        rf"{_BEGINS}says that the account has no credit left{_CODE}: add some there\.",
        "Le prestataire n'a plus de crédit sur notre compte ({code}) : rechargez-le.",
    ),
    (
        rf"{_BEGINS}asked us to slow down{_CODE}; if it happens often, lower rate_per_s\.",
        "Le prestataire demande de ralentir ({code}) ; si cela se répète, baissez rate_per_s.",
    ),
    (
        rf"{_BEGINS}cannot be reached{_CODE}: check (?P<keys>.*) and the network\.",
        "Le prestataire est injoignable ({code}) : vérifiez {keys} et le réseau.",
    ),
    (
        rf"{_BEGINS}breaks off or does not answer{_CODE}: ask for its state\.",
        "Le prestataire ne répond pas ou interrompt la liaison ({code}) : demandez-lui son état.",
    ),
    (
        rf"{_BEGINS}reports a fault of its own{_CODE}: ask for its state\.",
        "Le prestataire signale une panne chez lui ({code}) : demandez-lui son état.",
    ),
    (
        rf"{_BEGINS}refuses our mail, or all receivers do{_CODE}: check SPF, .*",
        f"Le prestataire, ou tous les destinataires, refusent nos emails ({{code}}) : {_AUTHENTICATION}, et les "
        "listes noires.",
    ),
    (
        rf"{_BEGINS}refuses our requests{_CODE}: check our account and sender there\.",
        "Le prestataire refuse nos demandes ({code}) : vérifiez-y notre compte et l'expéditeur.",
    ),
    (
        rf"{_BEGINS}fails{_CODE}: ask for its state\.",
        "Le prestataire est en échec ({code}) : demandez-lui son état.",
    ),
    (
        rf"The receiver (?P<name>\S+) asked us to wait{_CODE}; if it happens often, set or lower its rate_per_s\.",
        "{name} demande d'attendre ({code}) ; si cela se répète, fixez ou baissez son rate_per_s.",
    ),
    (
        rf"The receiver (?P<name>\S+) refuses our mail{_CODE}: check SPF, .*",
        f"{{name}} refuse nos emails ({{code}}) : {_AUTHENTICATION}, et si ce destinataire bloque notre adresse.",
    ),
    (r"rate_limit", "Le prestataire a demandé d'attendre."),
)
_KEYS_FR = {" and ": " et ", "its account's settings": "les réglages du compte", "its address": "son adresse"}


def reason(written: str, language: str) -> str:
    """Why something stands still, in this language if the product wrote it; a person's own words as they are."""
    if language != "fr":
        return written
    for pattern, french in _REASONS_FR:
        if found := re.fullmatch(pattern, written, re.DOTALL):
            values = {name: value or "" for name, value in found.groupdict().items()}
            for english, word in _KEYS_FR.items():
                values["keys"] = values.get("keys", "").replace(english, word)
            return french.format_map(values)
    return written
