"""Every error this product raises on purpose. What a caller can do next decides the class.

    NotifierError
    ├── SettingsError         a setting is wrong or missing        → mend the setting, start again
    ├── ServiceError          a server we run on is unfit or away  → mend the server, start again
    ├── InputError            what was handed in cannot be used    → mend the input, hand it in again
    │   └── ListError         a list file cannot be read at all
    ├── NotFoundError         there is no such thing (for this caller)
    ├── ConflictError         not allowed in the present state     → look at the state first
    │   ├── MoveError         a state may not change that way
    │   └── IncompleteNotice  a required part of the notice is missing
    ├── ForbiddenError        this caller may not do that
    └── SealingError          a sealed value cannot be opened with this key
        └── MissingKeyError   … because a master key was not given      → give it, start again

Expected results of sending (a refused address, a provider's "no") are values, not errors: see
`providers.base.Outcome`. No message of an error ever holds anything about a person.
"""

from __future__ import annotations

from collections.abc import Mapping

#: what an error is about, by name
Values = Mapping[str, int | str | list[str]]


class NotifierError(Exception):
    """Base of all errors; `message` is for people: what, where, how to mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(NotifierError):
    """A setting is unknown, missing or outside what is allowed; raised at start, names the key."""


class ServiceError(NotifierError):
    """PostgreSQL or Redis cannot be used: away, too old, or configured to lose data."""


class InputError(NotifierError):
    """What was handed in cannot be used as it is; nothing was saved.

    About a list, `french` says what `message` says in English, and `code` and `values` say it to programs.
    """

    def __init__(
        self, message: str, *, french: str | None = None, code: str | None = None, values: Values | None = None
    ) -> None:
        super().__init__(message)
        self.french = french
        self.code = code
        self.values = values or {}

    def in_language(self, language: str) -> str:
        """For people: in French where there are French words, else in English."""
        return self.french if language == "fr" and self.french is not None else self.message


class ListError(InputError):
    """A patient list cannot be read at all (no table, no contact column, unreadable encoding)."""


class NotFoundError(NotifierError):
    """There is no such thing, or this caller may not know of it."""


class ConflictError(NotifierError):
    """The act is valid but not in the present state."""


class MoveError(ConflictError):
    """A state may not change that way: see `states.MOVES`."""


class IncompleteNotice(ConflictError):
    """The notice lacks parts its profile requires; `missing` lists (part, channel, language)."""

    def __init__(self, message: str, missing: tuple[tuple[str, str, str], ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


class ForbiddenError(NotifierError):
    """The caller is known but lacks the scope."""


class SealingError(NotifierError):
    """A sealed value does not open: wrong key, altered bytes, or an erased data key."""


class MissingKeyError(SealingError):
    """A master key sealed it that this process was not given: nothing is wrong with the value itself."""
