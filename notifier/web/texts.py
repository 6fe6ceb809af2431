"""All words of the pages: a folder a language, a TOML file an area; `sign_in.title` is `title` in sign_in.toml.

An area that others add is a file of the same name in each language's folder; a test compares their keys and
the values that go in (`{name}`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from notifier.accounts import LANGUAGES
from notifier.errors import SettingsError

#: what a browser gets that asks for none of ours
FIRST = LANGUAGES[0]
_BEFORE = re.compile(r" (?=[?!;:»])")


class Texts:
    """The words of every language."""

    def __init__(self, folder: Path) -> None:
        """Reads all files. Raises SettingsError for one that cannot be read."""
        self.all: dict[str, dict[str, str]] = {language: _read(folder / language) for language in LANGUAGES}

    def say(self, language: str, key: str, **values: object) -> str:
        """The words of a key with its values put in. Raises KeyError for a key there is not: a bug of the page."""
        words = self.all[language][key]
        return words.format_map(values) if values else words


def _read(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {error}") from error
        found |= _flat(path.stem, table)
    if folder.name == "fr":
        # A French mark of two parts never begins a line.
        found = {key: _BEFORE.sub("\u00a0", words).replace("« ", "«\u00a0") for key, words in found.items()}
    if not found:
        raise SettingsError(f"There are no words of pages in {folder}: is `templates_dir` right?")
    return found


def _flat(prefix: str, table: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}.{key}"
        found |= _flat(name, value) if isinstance(value, dict) else {name: str(value)}
    return found


def best_language(accepted: str) -> str:
    """The language of ours that `Accept-Language` likes best (RFC 9110 §12.5.4)."""
    best, best_weight = FIRST, 0.0
    for part in accepted.split(",")[:20]:
        tag, _, parameter = part.partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=")) if parameter else 1.0
        except ValueError:
            continue
        language = tag.strip().lower().split("-")[0]
        if language in LANGUAGES and weight > best_weight:
            best, best_weight = language, weight
    return best
