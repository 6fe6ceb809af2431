"""Legal profiles: one regime's rules as data (`config/profiles/<id>.toml`), read and checked once, then frozen.

A profile says what a notice must contain, which channels are tried in which order, when silence counts as
informed, how long to try and how long to keep. Code reads these values; a deployer's counsel signs them off.
Durations are ISO 8601 ("PT15M", "P3D"). A key nobody knows is an error.
"""

from __future__ import annotations

import re
import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from notifier.errors import SettingsError
from notifier.states import Channel, Variant

_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


def _check_positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than zero")
    return value


Pattern = Annotated[str, AfterValidator(_check_pattern)]
Duration = Annotated[timedelta, AfterValidator(_check_positive)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]
Text = Annotated[str, Field(min_length=1)]
#: the same thing said in each language of the profile
Words = dict[Language, Text]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Element(_Group):
    """One part a notice must or should contain, judged on the text that stands in the finished message."""

    id: Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_]+$")]
    #: what it is, to a doctor
    words: Words
    #: without it nothing can be approved
    required_in: frozenset[Channel] = frozenset()
    #: without it the doctor is warned
    recommended_in: frozenset[Channel] = frozenset()
    #: variants that need it; all by default
    variants: frozenset[Variant] = frozenset(Variant)
    #: visible characters below which it says too little; 1 where not given
    min_chars: dict[Channel, Annotated[int, Field(gt=0)]] = {}
    #: wording that says nothing, by language; case is ignored
    must_not_match: dict[Language, tuple[Pattern, ...]] = {}


class Forbidden(_Group):
    """Something that may stand nowhere in a message. `pattern` is searched without regard to case."""

    id: Annotated[str, Field(pattern=r"^must_not\.[a-z_]+$")]
    words: Words
    pattern: Pattern
    channels: frozenset[Channel] = frozenset(Channel)


class Authority(_Group):
    """Where a person can complain."""

    name: Words
    address: Words
    phone: Text


class Deadlines(_Group):
    """Times that alarm; none of them blocks a notice, because a late one is better than none."""

    #: from the doctor's awareness to the authority's first notification
    authority: Duration
    #: from the decision to inform until patients should have been told
    persons_alarm: Duration


class Retry(_Group):
    """How long one contact is tried: waits double from `first_wait` to `longest_wait`."""

    first_wait: Duration
    longest_wait: Duration
    #: hand-overs that count
    tries: Annotated[int, Field(gt=0)]
    #: from the first hand-over; what comes first ends the tries
    give_up_after: Duration


class Silence(_Group):
    """What no news means once a hand-over was accepted."""

    after: Duration
    #: `informed`: no failure came back in time; `failed`: the next channel takes over
    means: Literal["informed", "failed"]


class Sms(_Group):
    """What an SMS may be."""

    max_parts: Annotated[int, Field(gt=0, le=10)]


class Retention(_Group):
    """How long what is kept."""

    #: names, contacts, addresses and letters, from the end of the campaign
    contacts: Duration
    #: who was told how and when, under pseudonyms, from the end of the campaign
    ledger: Duration


class Profile(_Group):
    """One legal regime."""

    id: str
    name: Words
    legal_basis: tuple[Text, ...]
    #: the day a person last held the values against their sources
    checked_on: date
    #: languages a notice can be written in; the first is used for patients who speak none of them
    languages: Annotated[tuple[Language, ...], Field(min_length=1)]
    #: channels in the order they are tried
    plan: Annotated[tuple[Channel, ...], Field(min_length=1)]
    deceased: Literal["exclude"]
    #: a part counts only in the message itself, never by a link or a hotline
    strict_in_message: Literal[True]
    #: hosts a message may name; none means that no link passes
    allowed_links: tuple[Text, ...]
    #: how long an uncertain hand-over waits for a receipt before it is sent once more
    unknown_quiet: Duration
    authority: Authority
    deadlines: Deadlines
    silence: dict[Channel, Silence]
    retry: dict[Channel, Retry]
    sms: Sms
    retention: Retention
    element: tuple[Element, ...]
    forbidden: tuple[Forbidden, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.plan)) != len(self.plan) or len(set(self.languages)) != len(self.languages):
            raise ValueError("plan and languages must not name anything twice")
        ids = [element.id for element in self.element] + [rule.id for rule in self.forbidden]
        if twice := {name for name in ids if ids.count(name) > 1}:
            raise ValueError(f"these ids are used twice: {', '.join(sorted(twice))}")
        for channel in self.plan:
            if channel not in self.silence or channel not in self.retry:
                raise ValueError(f"plan names {channel}, so [silence.{channel}] and [retry.{channel}] are needed")
        described = {element.id: element.words for element in self.element}
        described |= {rule.id: rule.words for rule in self.forbidden} | {"name": self.name}
        described |= {"authority.name": self.authority.name, "authority.address": self.authority.address}
        for what, words in described.items():
            if lacking := set(self.languages) - set(words):
                raise ValueError(f"{what}: words are missing in {', '.join(sorted(lacking))}")
        return self

    def language_for(self, language: str) -> str:
        """The language to write to a patient in: theirs where the profile has it, else the profile's first."""
        return language if language in self.languages else self.languages[0]


def known(config_dir: Path) -> list[str]:
    """The ids of the profiles there are."""
    return sorted(file.stem for file in (config_dir / "profiles").glob("*.toml"))


def load(profile_id: str, config_dir: Path) -> Profile:
    """Reads `profiles/<profile_id>.toml` in `config_dir`.

    Raises SettingsError if there is no such profile (naming those there are), or if the file is not TOML,
    holds an unknown key, lacks one or holds a value that is not allowed (naming each).
    """
    folder = config_dir / "profiles"
    path = folder / f"{profile_id}.toml"
    if not _ID.fullmatch(profile_id) or not path.is_file():
        there = ", ".join(known(config_dir)) or "none"
        raise SettingsError(f"There is no legal profile {profile_id!r} in {folder}; there are: {there}.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        profile = Profile.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'profile'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError(f"{path} is wrong:\n  " + "\n  ".join(lines)) from error
    if profile.id != profile_id:
        raise SettingsError(f"{path}: id is {profile.id!r}, but the file's name says {profile_id!r}.")
    return profile
