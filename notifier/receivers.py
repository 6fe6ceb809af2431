"""Groups of mailbox operators (`config/receivers.toml`): what shares limits, breakers and counts by receiver.

A group's name may stand in logs, metrics and pages. A domain may not: a rare one names a person.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from notifier.errors import SettingsError

#: every domain that is in no group
OTHER = "other"

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
_Domain = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    domains: Annotated[tuple[_Domain, ...], Field(min_length=1)]
    #: messages a second over all workers
    rate_per_s: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True, slots=True)
class Receivers:
    """Which group a domain belongs to, and how fast each group may be sent to."""

    #: group by domain, lower case
    groups: dict[str, str]
    #: messages a second by group; a group that is not here has no limit
    rates: dict[str, float]
    #: the day the operators' rules were read
    checked_on: date

    def group_of(self, address_domain: str) -> str:
        """The group's name, "other" for everything unknown; never the domain itself."""
        return self.groups.get(address_domain.lower(), OTHER)

    def of_address(self, address: str) -> str:
        """The group of an email address."""
        return self.groups.get(address.rpartition("@")[2].lower(), OTHER)


def load(config_dir: Path) -> Receivers:
    """Reads and checks `receivers.toml`. Raises SettingsError naming the group and what is allowed."""
    path = config_dir / "receivers.toml"
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
        checked_on = TypeAdapter(date).validate_python(data.pop("checked_on", None), strict=True)
        named = TypeAdapter(dict[_Name, _Group]).validate_python(data)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'checked_on'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError(f"{path} is wrong:\n  " + "\n  ".join(lines)) from error
    if OTHER in named:
        raise SettingsError(f"{path}: `{OTHER}` is what is in no group, and cannot be one.")
    groups: dict[str, str] = {}
    for name, group in named.items():
        for domain in group.domains:
            if domain in groups:
                raise SettingsError(
                    f"{path}: {domain} is in {groups[domain]} and again in {name}: it can be in one."
                )
            groups[domain] = name
    rates = {name: group.rate_per_s for name, group in named.items() if group.rate_per_s is not None}
    return Receivers(groups, rates, checked_on)
