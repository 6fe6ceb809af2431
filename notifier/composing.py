"""Step 2: an incident's facts, a doctor and a legal profile become notices; what the profile wants is checked.

A template marks what it writes for each element with `{% call part("effects.likely") %}…{% endcall %}`. The marks
travel through rendering as private-use characters and are read from the finished message, text and HTML apart:
an element counts only by what really stands there for a reader.

All inputs are cleaned and are values, never templates. Nothing here knows a patient: see `notices.Frozen`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
        name = clean_line(self.name)
        if name and not _TITLE.match(name):
            name = f"Dr {name}"
        return Doctor(name, clean_line(self.practice), clean_line(self.address), clean_line(self.phone))

    @property
    def signature(self) -> str:
        """Doctor and practice in one line; the practice alone where it names the doctor; empty without a name."""
        if not self.name or re.search(rf"{re.escape(self.name)}\b", self.practice):
            return self.practice if self.name else ""
        return f"{self.name}, {self.practice}" if self.practice else self.name


_TITLE = re.compile(r"(dr|docteure?|pr|professeure?|doctor|prof)\b", re.IGNORECASE)


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
        page = _Page(facts, doctor.cleaned(), profile, templates_dir, channel, language, variant)
        draft, bodies = page.write()
        drafts.append(draft)
        required, recommended = _judge(draft, bodies, profile)
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
            return template.render(self._context())
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
            "signature": self.doctor.signature,
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


def _judge(draft: DraftNotice, bodies: Sequence[_Body], profile: Profile) -> tuple[list[Gap], list[Gap]]:
    """Every body of the message (text and HTML of an email) must hold every element by itself."""
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
        if draft.parts > profile.sms.max_parts:
            required.append(_gap(draft, "sms.length", Problem.TOO_LONG, _SMS))
        if draft.encoding != "GSM-7":
            recommended.append(_gap(draft, "sms.alphabet", Problem.ALPHABET, _SMS))
    return required, recommended


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
        Problem.TOO_LONG: "trop long, raccourcissez les textes courts de l'incident",
        Problem.ALPHABET: "un caractère hors de l'alphabet SMS fait plus que doubler le coût",
    },
    "en": {
        Problem.ABSENT: "not in the message",
        Problem.TOO_SHORT: "too short to inform the person",
        Problem.EMPTY_WORDS: "an empty formula, say precisely what is the case",
        Problem.FORBIDDEN: "must not stand in this message",
        Problem.TOO_LONG: "too long, shorten the short texts of the incident",
        Problem.ALPHABET: "a character outside the SMS alphabet more than doubles the cost",
    },
}
_PLACES: dict[str, dict[str, str]] = {
    "fr": {"email": "email", "sms": "SMS", "fr": "en français", "en": "en anglais"},
    "en": {"email": "email", "sms": "SMS", "fr": "in French", "en": "in English"},
}


def _gap(draft: DraftNotice, part: str, problem: Problem, words: Mapping[str, str]) -> Gap:
    def sentence(language: str) -> str:
        where = f"{_PLACES[language][draft.channel]} {_PLACES[language].get(draft.language, draft.language)}"
        return f"{where} – {words[language]} – {_PROBLEMS[language][problem]}."

    said = {language: sentence(language) for language in _PROBLEMS if language in words}
    return Gap(part, draft.channel, draft.language, draft.variant, problem, said)


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
