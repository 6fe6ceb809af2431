"""Step 2: an incident's facts, a doctor and a legal profile become notices; what the profile wants is checked.

A template marks what it writes for each element with `{% call part("effects.likely") %}…{% endcall %}`. The marks
travel through rendering as private-use characters and are read from the finished message, text and HTML apart:
an element counts only by what really stands there for a reader.

All inputs are cleaned and are values, never templates. Nothing here knows a patient: see `notices.Frozen`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound, UndefinedError
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from notifier import notices, sms
from notifier.errors import InputError, SettingsError
from notifier.notices import DraftNotice, Frozen, Gap, Problem, clean_line, clean_text
from notifier.profiles import Profile
from notifier.states import Channel, Variant

MAX_LINE = 300
MAX_FACT = 4000


# ---- Facts -----------------------------------------------------------------------------------------------------


def _paragraphs(value: object) -> object:
    """{"fr": "a\\nb"} or {"fr": ["a", "b"]} → {"fr": ("a", "b")}, cleaned; what is empty is left out."""
    if not isinstance(value, Mapping):
        return value
    cleaned = {language: _lines(words) for language, words in value.items()}
    return {language: lines for language, lines in cleaned.items() if lines != ()}


def _lines(words: object) -> object:
    pieces = [words] if isinstance(words, str) else words
    if not isinstance(pieces, list | tuple) or not all(isinstance(piece, str) for piece in pieces):
        return words
    return tuple(line for piece in pieces for line in clean_text(piece).split("\n") if line)


def _same_everywhere(value: object) -> object:
    return _paragraphs({"*": value} if isinstance(value, str) else value)


_Line = Annotated[str, AfterValidator(clean_line), Field(max_length=MAX_LINE)]
_Paragraphs = tuple[Annotated[str, Field(max_length=MAX_FACT)], ...]
#: paragraphs by language; what is written in one language is never used for another
Local = Annotated[
    dict[Annotated[str, Field(pattern=r"^[a-z]{2}$")], _Paragraphs],
    BeforeValidator(_paragraphs),
]
#: as `Local`, or one plain string that serves every language (a name, a postal address)
LocalOrSame = Annotated[
    dict[Annotated[str, Field(pattern=r"^([a-z]{2}|\*)$")], _Paragraphs],
    BeforeValidator(_same_everywhere),
]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Contact(_Group):
    """Whom a patient can ask: GDPR art. 33(3)(b)."""

    name: LocalOrSame = {}
    phone: _Line = ""
    #: one of the two is needed
    email: _Line = ""
    post: LocalOrSame = {}
    hours: Local = {}


class Authority(_Group):
    """What was told to the authority and to the police."""

    told_on: date | None = None
    complaint_on: date | None = None


class Short(_Group):
    """The same facts in few words for an SMS; where one is not given, the long one is used."""

    what_happened: Local = {}
    categories: tuple[Local, ...] = ()
    not_concerned: Local = {}
    consequences: Local = {}
    measures_taken: Local = {}
    advice: Local = {}
    contact_name: LocalOrSame = {}
    hours: Local = {}


class Facts(_Group):
    """What is known of an incident: the JSON in `incident.facts`. All is optional until approval.

    A date may be "unknown", which is then said; left out, nothing is said and the doctor is warned.
    """

    what_happened: Local = {}
    breach_on: date | Literal["unknown"] | None = None
    discovered_on: date | Literal["unknown"] | None = None
    processor: _Line = ""
    categories: tuple[Local, ...] = ()
    not_concerned: Local = {}
    consequences: Local = {}
    measures_taken: Local = {}
    advice: Local = {}
    contact: Contact = Contact()
    dpo: Contact | None = None
    authority: Authority = Authority()
    short: Short = Short()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Raises InputError naming every key that is unknown or holds something else than it should."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)
            ]
            raise InputError("The facts of the incident are wrong:\n  " + "\n  ".join(lines)) from error


@dataclass(frozen=True, slots=True)
class Doctor:
    """Who signs. `name` carries the title ("Dr Claire Martin"); without one it is added."""

    name: str
    practice: str
    address: str
    phone: str

    def cleaned(self) -> Doctor:
        name = notices.titled(clean_line(self.name))
        return Doctor(name, clean_line(self.practice), clean_line(self.address), clean_line(self.phone))

    @property
    def signature(self) -> str:
        """Doctor and practice in one line: see `notices.signature`."""
        return notices.signature(self.name, self.practice)


# ---- Composing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Composed:
    """The notices of one campaign and what is wrong with them; `missing` forbids approval, `warnings` do not."""

    notices: tuple[DraftNotice, ...]
    missing: tuple[Gap, ...]
    warnings: tuple[Gap, ...]

    @property
    def hash(self) -> bytes:
        """What an approver approves: the same inputs give the same hash."""
        return notices.hash_of(self.notices)

    def check(self) -> None:
        """Raises IncompleteNotice if anything is missing."""
        notices.check_complete(self.missing)


def compose(
    facts: Facts,
    doctor: Doctor,
    profile: Profile,
    templates_dir: Path,
    languages: Iterable[str],
    variants: Iterable[Variant],
    channels: Iterable[Channel] | None = None,
) -> Composed:
    """Writes and judges one notice for each channel (by default of the profile's plan), language and variant.

    Raises InputError for a language the profile does not have, SettingsError for a template that is absent or
    broken. What is missing from the facts is not an error here: see `Composed.missing`.
    """
    languages = sorted(set(languages))
    if unknown := [language for language in languages if language not in profile.languages]:
        raise InputError(
            f"Profile {profile.id} has no notices in {', '.join(unknown)}; it has {', '.join(profile.languages)}."
        )
    drafts: list[DraftNotice] = []
    missing: list[Gap] = []
    warnings: list[Gap] = []
    for channel, language, variant in product(channels or profile.plan, languages, sorted(set(variants))):
        clean = doctor.cleaned()
        page = _Page(facts, clean, clean.signature, profile, templates_dir, channel, language, variant)
        draft, required, recommended = _best(page)
        drafts.append(draft)
        missing += required
        warnings += recommended
    return Composed(tuple(drafts), tuple(missing), tuple(warnings))


@dataclass(frozen=True, slots=True)
class _Body:
    """What a reader sees of one body, and what each part of it says."""

    visible: str
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Page:
    """One channel × language × variant on its way from template to draft."""

    facts: Facts
    doctor: Doctor
    #: what the doctor is called where one line must do
    signature: str
    profile: Profile
    templates_dir: Path
    channel: Channel
    language: str
    variant: Variant

    def write(self) -> tuple[DraftNotice, tuple[_Body, ...]]:
        if self.channel is Channel.SMS:
            marked = _tidy(self._render("sms.txt.j2"), blank_lines=0)
            measured = sms.measure(_unmarked(marked))
            draft = DraftNotice(
                self.channel,
                self.language,
                self.variant,
                subject="",
                text=measured.text,
                html="",
                parts=measured.parts,
                encoding=str(measured.encoding),
                replaced=tuple(measured.replaced),
            )
            return draft, (_body(marked),)
        text = _tidy(self._render("email.txt.j2"), blank_lines=1)
        html = self._render("email.html.j2").strip() + "\n"
        subject = (
            clean_line(_unmarked(self._render("email.subject.j2"))).replace("\u00a0", " ").replace("\u202f", " ")
        )
        draft = DraftNotice(self.channel, self.language, self.variant, subject, _unmarked(text), _unmarked(html))
        return draft, (_body(text), _body(_visible(html)))

    def _render(self, name: str) -> str:
        path = f"{self.language}/{name}"
        try:
            template = _environment(self.templates_dir).get_template(path)
            rendered = template.render(self._context())
            return _french_spaces(rendered) if (self.channel, self.language) == (Channel.EMAIL, "fr") else rendered
        except TemplateNotFound as error:
            raise SettingsError(f"There is no notice template {self.templates_dir / 'notices' / path}.") from error
        except UndefinedError as error:
            raise SettingsError(f"Notice template {path} uses something that does not exist: {error}.") from error
        except TemplateError as error:
            raise SettingsError(f"Notice template {path} is broken: {error}.") from error

    def _context(self) -> dict[str, object]:
        words = functools.partial(_in_language, language=self.language)
        facts = self.facts
        short = facts.short if self.channel is Channel.SMS else Short()
        return {
            "channel": self.channel,
            "language": self.language,
            "variant": self.variant,
            "doctor": self.doctor,
            "signature": self.signature,
            "authority": facts.authority,
            "processor": facts.processor,
            "breach_on": facts.breach_on,
            "discovered_on": facts.discovered_on,
            "categories": self._categories(short.categories) or self._categories(facts.categories),
            **{
                name: words(getattr(short, name)) or words(getattr(facts, name))
                for name in ("what_happened", "not_concerned", "consequences", "measures_taken", "advice")
            },
            "contact": self._contact(facts.contact, short),
            "dpo": self._contact(facts.dpo or Contact(), Short()),
            "cnil": {
                "name": self.profile.authority.name[self.language],
                "address": self.profile.authority.address[self.language],
                "phone": self.profile.authority.phone,
            },
        }

    def _categories(self, categories: Iterable[Mapping[str, tuple[str, ...]]]) -> list[str]:
        # One category without words in this language would be kept from the reader in silence: then none counts.
        said = [_in_language(category, self.language) for category in categories]
        return [line for lines in said for line in lines] if all(said) else []

    def _contact(self, contact: Contact, short: Short) -> dict[str, str]:
        words = functools.partial(_in_language, language=self.language)
        return {
            "name": " ".join(words(short.contact_name) or words(contact.name)),
            "phone": contact.phone,
            "email": contact.email,
            "post": ", ".join(words(contact.post)),
            "hours": ", ".join(words(short.hours) or words(contact.hours)),
        }


def _in_language(local: Mapping[str, tuple[str, ...]], language: str) -> tuple[str, ...]:
    return local.get(language) or local.get("*", ())


# ---- Templates -------------------------------------------------------------------------------------------------

_OPEN, _SEPARATOR, _CLOSE = "\ue010", "\ue011", "\ue012"
_MARK = re.compile(f"{_OPEN}([a-z_.]+){_SEPARATOR}|{_CLOSE}")


def _part(name: str, caller: Callable[[], str]) -> str:
    body = caller()
    marked = f"{_OPEN}{name}{_SEPARATOR}{body}{_CLOSE}"
    return Markup(marked) if isinstance(body, Markup) else marked  # noqa: S704 - `body` is escaped already


def _day(value: date, language: str) -> str:
    """1er novembre 2025, 1 November 2025: unmistakable in any country, unlike 01/11/2025."""
    name = _MONTHS[language][value.month - 1]
    return f"{'1er' if language == 'fr' and value.day == 1 else value.day} {name} {value.year}"


def _short_day(value: date, language: str) -> str:
    """14/09/2026 for French readers, 14 Sep 2026 for others, who might read the month first."""
    if language == "fr":
        return f"{value:%d/%m/%Y}"
    return f"{value.day} {_MONTHS[language][value.month - 1][:3]} {value.year}"


_MONTHS = {
    "fr": (
        "janvier", "février", "mars", "avril", "mai", "juin",
        "juillet", "août", "septembre", "octobre", "novembre", "décembre",
    ),
    "en": (
        "January", "February", "March", "April", "May", "June",
        "July", "August", "September", "October", "November", "December",
    ),
}  # fmt: skip


@functools.lru_cache(maxsize=8)
def _environment(templates_dir: Path) -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(templates_dir / "notices"),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"part": _part, "recipient": notices.span}
    environment.filters |= {"day": _day, "short_day": _short_day}
    return environment


def _tidy(text: str, blank_lines: int) -> str:
    """Single spaces, no space at line ends, at most so many blank lines in a row."""
    lines = [re.sub(r" {2,}", " ", line).strip(" ") for line in text.strip().split("\n")]
    return re.sub(f"\n{{{blank_lines + 2},}}", "\n" * (blank_lines + 1), "\n".join(lines))


def _french_spaces(text: str) -> str:
    """No line of a phone's screen may begin with a colon: a no-break space before : ; ? ! » and after «."""
    return re.sub(r" (?=[:;?!»])|(?<=«) ", "\u00a0", text)


# ---- Judging ---------------------------------------------------------------------------------------------------


def _unmarked(text: str) -> str:
    return _MARK.sub("", text)


def _body(marked: str) -> _Body:
    """Reads the marks of a finished text. A part written in several places counts as one; parts may nest."""
    parts: dict[str, str] = {}
    open_parts: list[tuple[str, int]] = []
    for mark in _MARK.finditer(marked):
        if mark[1] is not None:
            open_parts.append((mark[1], mark.end()))
            continue
        if not open_parts:
            raise SettingsError("A notice template ends a part where a reader does not see it begin.")
        name, start = open_parts.pop()
        said = notices.readable(_unmarked(marked[start : mark.start()]))
        parts[name] = " ".join(f"{parts.get(name, '')} {said}".split())
    return _Body(" ".join(notices.readable(_unmarked(marked)).split()), parts)


class _Reader(HTMLParser):
    """Collects what a reader of the HTML sees. Only plain markup passes: nothing that loads, links or hides."""

    TAGS = frozenset(
        {"html", "head", "meta", "title", "body", "main", "h1", "h2", "p", "ul", "li", "strong", "br"}
    )
    ATTRIBUTES = frozenset({"lang", "dir", "style", "charset", "name", "content"})
    STYLE = re.compile(
        r"url\s*\(|display\s*:\s*none|visibility|opacity|font-size\s*:\s*0|expression", re.IGNORECASE
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.TAGS:
            raise SettingsError(
                f"A notice's HTML may not hold <{tag}>; allowed are {', '.join(sorted(self.TAGS))}."
            )
        for name, value in attrs:
            if name not in self.ATTRIBUTES or (name == "style" and self.STYLE.search(value or "")):
                raise SettingsError(f"A notice's HTML may not hold the attribute {name} of <{tag}> as it is.")
        self._in_title = tag == "title"
        self.pieces.append("" if tag == "strong" else "\n")

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        self.pieces.append("" if tag == "strong" else "\n")

    def handle_data(self, data: str) -> None:
        if not self._in_title:
            self.pieces.append(data)


def _visible(html: str) -> str:
    """Raises SettingsError for any markup beyond plain text: that is a template's fault, never a fact's."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.pieces)


_Judged = tuple[DraftNotice, list[Gap], list[Gap]]


def _best(page: _Page) -> _Judged:
    """The draft with what is missing and what is warned of; in an SMS that is too long the doctor's name does.

    Name and telephone identify a doctor; what the profile requires must hold without the practice too.
    """
    draft, missing, warnings = _judge(page)
    if page.signature == page.doctor.name or not any(gap.problem is Problem.TOO_LONG for gap in missing):
        return draft, missing, warnings
    short = _judge(replace(page, signature=page.doctor.name))
    return short if {gap.part for gap in short[1]} <= {gap.part for gap in missing} else (draft, missing, warnings)


def _judge(page: _Page) -> _Judged:
    """Every body of the message (text and HTML of an email) must hold every element by itself."""
    draft, bodies = page.write()
    profile = page.profile
    required: list[Gap] = []
    recommended: list[Gap] = []
    for element in profile.element:
        if draft.variant not in element.variants:
            continue
        wanted = required if draft.channel in element.required_in else recommended
        if draft.channel not in element.required_in | element.recommended_in:
            continue
        problems = (
            _problem_of(
                body.parts.get(element.id, ""),
                element.min_chars.get(draft.channel, 1),
                element.must_not_match.get(draft.language, ()),
            )
            for body in bodies
        )
        if problem := next((found for found in problems if found), None):
            wanted.append(_gap(draft, element.id, problem, element.words))
    for rule in profile.forbidden:
        whole = "\n".join((draft.subject, *(body.visible for body in bodies)))
        if draft.channel in rule.channels and re.search(rule.pattern, whole, re.IGNORECASE):
            required.append(_gap(draft, rule.id, Problem.FORBIDDEN, rule.words))
    if draft.channel is Channel.SMS:
        strange = _outside_alphabet(page, draft)
        if draft.parts > profile.sms.max_parts:
            required.append(_gap(draft, "sms.length", Problem.TOO_LONG, _SMS, _too_long(page, draft, strange)))
        if draft.encoding != "GSM-7":
            recommended.append(_gap(draft, "sms.alphabet", Problem.ALPHABET, _SMS, _too_dear(strange)))
    return draft, required, recommended


def _problem_of(said: str, min_chars: int, must_not_match: Iterable[str]) -> Problem | None:
    if not said:
        return Problem.ABSENT
    if any(re.search(pattern, said, re.IGNORECASE) for pattern in must_not_match):
        return Problem.EMPTY_WORDS
    return Problem.TOO_SHORT if len(said) < min_chars else None


_SMS = {"fr": "le SMS", "en": "the SMS"}
_PROBLEMS: dict[str, dict[Problem, str]] = {
    "fr": {
        Problem.ABSENT: "élément absent du message",
        Problem.TOO_SHORT: "texte trop bref pour informer la personne",
        Problem.EMPTY_WORDS: "formule vague, dites précisément ce qu'il en est",
        Problem.FORBIDDEN: "interdit dans ce message",
    },
    "en": {
        Problem.ABSENT: "not in the message",
        Problem.TOO_SHORT: "too short to inform the person",
        Problem.EMPTY_WORDS: "an empty formula, say precisely what is the case",
        Problem.FORBIDDEN: "must not stand in this message",
    },
}
_PLACES: dict[str, dict[str, str]] = {
    "fr": {"email": "email", "sms": "SMS", "fr": "en français", "en": "en anglais"},
    "en": {"email": "email", "sms": "SMS", "fr": "in French", "en": "in English"},
}


def _gap(
    draft: DraftNotice,
    part: str,
    problem: Problem,
    words: Mapping[str, str],
    details: Mapping[str, str] | None = None,
) -> Gap:
    """`details` says, in each language, more than the problem's own words do."""

    def sentence(language: str) -> str:
        where = f"{_PLACES[language][draft.channel]} {_PLACES[language].get(draft.language, draft.language)}"
        what = details[language] if details else _PROBLEMS[language][problem]
        return f"{where} – {words[language]} – {what}."

    said = {language: sentence(language) for language in _PROBLEMS if language in words}
    return Gap(part, draft.channel, draft.language, draft.variant, problem, said)


# ---- An SMS that is too long -----------------------------------------------------------------------------------

#: units in one part of a long SMS: 3GPP TS 23.040 §9.2.3.24.1
_PART_UNITS = {"GSM-7": 153, "UCS-2": 67}
#: what must be left of a doctor's name and telephone for them to be the thing to shorten
_LEAST_OWN = 26
_Strange = tuple[tuple[str, tuple[str, ...]], ...]
_STANDS: dict[str, dict[str, str]] = {
    "fr": {
        "name": "le nom du médecin",
        "practice": "le nom du cabinet",
        "phone": "le téléphone du cabinet",
        "incident": "les textes de l'incident",
    },
    "en": {
        "name": "the doctor's name",
        "practice": "the name of the practice",
        "phone": "the telephone number of the practice",
        "incident": "the texts of the incident",
    },
}


def _outside_alphabet(page: _Page, draft: DraftNotice) -> _Strange:
    """The letters that make the whole SMS UCS-2, each with where it stands (keys of `_STANDS`)."""
    if draft.encoding == "GSM-7":
        return ()
    own = {"name": page.doctor.name, "practice": page.doctor.practice, "phone": page.doctor.phone}
    said = {where: value for where, value in own.items() if value and value in draft.text}
    rest = draft.text.replace(page.signature, "", 1).replace(page.doctor.phone, "", 1)
    said["incident"] = re.sub("[nN]°", "", rest)
    letters = [one for one in dict.fromkeys("".join(said.values())) if sms.measure(one).encoding == "UCS-2"]
    return tuple((one, tuple(where for where, value in said.items() if one in value)) for one in letters)


def _letters(strange: _Strange, language: str) -> str:
    """« Đ » (le nom du médecin), or “Đ” (the doctor's name); the first three."""
    quoted = "« {} » ({})" if language == "fr" else "“{}” ({})"
    and_ = " et " if language == "fr" else " and "
    named = [
        quoted.format(one, and_.join(_STANDS[language][where] for where in places)) for one, places in strange[:3]
    ]
    return ", ".join(named) + (", …" if len(strange) > 3 else "")


def _too_dear(strange: _Strange) -> dict[str, str]:
    return {
        "fr": f"hors de l'alphabet SMS : {_letters(strange, 'fr')} ; le coût fait plus que doubler, "
        "écrivez autrement si c'est possible",
        "en": f"outside the SMS alphabet: {_letters(strange, 'en')}; the cost more than doubles, "
        "write it otherwise if possible",
    }


def _too_long(page: _Page, draft: DraftNotice, strange: _Strange) -> dict[str, str]:
    """By how much, why, and what can be done: first with what is the doctor's own."""
    parts = page.profile.sms.max_parts
    over = _excess(draft.text, parts)
    if not strange:
        advice = _shorten(page, over)
        return {"fr": f"trop long de {over} caractères : {advice['fr']}",
                "en": f"{over} characters too long: {advice['en']}"}  # fmt: skip
    room = {encoding: units * parts for encoding, units in _PART_UNITS.items()}
    plain = draft.text.translate({ord(letter): "x" for letter, _ in strange})
    said = {
        "fr": f"trop long de {over} caractères, car un seul caractère hors de l'alphabet SMS ne laisse que "
        f"{room['UCS-2']} caractères au lieu de {room['GSM-7']} : {_letters(strange, 'fr')}. "
        "Écrivez-le avec une lettre de l'alphabet SMS",
        "en": f"{over} characters too long, because one character outside the SMS alphabet leaves room for "
        f"{room['UCS-2']} characters instead of {room['GSM-7']}: {_letters(strange, 'en')}. "
        "Write it with a letter of the SMS alphabet",
    }
    if any("incident" in places for _, places in strange):
        said = {language: f"{words} ({_SHARED[language]})" for language, words in said.items()}
    if still := _excess(plain, parts):
        advice = _shorten(page, still)
        said = {"fr": f"{said['fr']} ; il restera {still} caractères de trop : {advice['fr']}",
                "en": f"{said['en']}; {still} characters will still be too many: {advice['en']}"}  # fmt: skip
    return said


def _excess(text: str, max_parts: int) -> int:
    """How many characters (GSM-7 septets, UCS-2 units) must go; 0 if it fits."""
    measured = sms.measure(text)
    if measured.parts <= max_parts:
        return 0
    return max(1, measured.units - _PART_UNITS[measured.encoding] * max_parts)


_SHARED = {
    "fr": "ces textes sont communs à tous les médecins : leurs accords seront à redonner",
    "en": "these texts belong to all doctors: their approvals will have to be given again",
}


def _shorten(page: _Page, over: int) -> dict[str, str]:
    own = len(page.signature) + len(page.doctor.phone)
    if own - over >= _LEAST_OWN:
        practice = page.signature != page.doctor.name
        return {
            "fr": f"raccourcissez d'autant le nom{', le cabinet' if practice else ''} ou le téléphone du médecin "
            f"({own} caractères en tout)",
            "en": f"shorten the doctor's name{', practice' if practice else ''} or telephone by so many "
            f"({own} characters in all)",
        }
    return {
        "fr": f"raccourcissez les textes courts de l'incident ({_SHARED['fr']})",
        "en": f"shorten the short texts of the incident ({_SHARED['en']})",
    }


# ---- Preview ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Preview:
    """What one person would get over one channel; `dataclasses.asdict` makes it plain data."""

    channel: Channel
    language: str
    variant: Variant
    subject: str
    text: str
    html: str
    #: SMS parts, which is what it costs; 0 for an email
    parts: int
    encoding: str
    replaced: tuple[str, ...]


def preview(composed: Composed, *, name: str, language: str, variant: Variant) -> list[Preview]:
    """What a person of this name, language and variant would get, in the order of the plan."""
    return [
        Preview(
            draft.channel, draft.language, draft.variant, draft.subject, *_filled(draft, name),
            draft.parts, draft.encoding, draft.replaced,
        )
        for draft in composed.notices
        if (draft.language, draft.variant) == (language, variant)
    ]  # fmt: skip


def _filled(draft: DraftNotice, name: str) -> tuple[str, str]:
    return Frozen(draft.subject, draft.text, draft.html).fill(name)
