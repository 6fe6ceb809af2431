"""All settings: read from `config/settings.toml` and the environment, checked once, then frozen.

The environment wins. `NOTIFIER_SMTP__HOST` sets `host` of `[smtp]`. `DATABASE_URL` and `REDIS_URL` carry
their usual names. A key nobody knows is an error, so that a typing error cannot be taken for a setting.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from notifier.errors import SettingsError
from notifier.sealing import MasterKey

PREFIX = "NOTIFIER_"
_PACKAGE = Path(__file__).resolve().parent
#: the folder that holds `templates/` and `config/`: the checkout, or what the wheel carries
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "templates").is_dir() else _PACKAGE / "_bundled"

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Smtp(_Group):
    """The relay that carries email."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(gt=0, lt=65536)] = 25
    username: str | None = None
    password: SecretStr | None = None
    #: `starttls` refuses to go on in clear; `none` is for a relay on this machine
    security: Literal["none", "starttls", "tls"] = "starttls"
    #: connections kept open by each worker process
    connections: Positive = 8
    #: messages over one connection before it is renewed (Orange and La Poste allow 100)
    messages_per_connection: Positive = 100
    #: for each reply of the server; RFC 5321 §4.5.3.2 would allow minutes, a lease does not
    timeout_s: PositiveFloat = 20
    #: the mailbox in From: it must exist and be read (La Poste refuses senders that cannot receive)
    sender: str = "notice@notifier.example.org"
    #: the envelope's return path; the sender where it is not given
    return_path: str | None = None
    #: messages per second over all workers
    rate_per_s: PositiveFloat = 200
    #: … and for this sender alone, if that is less; 0: no limit of its own
    sender_rate_per_s: Annotated[float, Field(ge=0)] = 0


class BrevoSms(_Group):
    """Brevo's transactional SMS API."""

    base_url: str = "https://api.brevo.com/v3"
    api_key: SecretStr | None = None
    #: 3 to 11 letters and digits, registered with the operators (AF2M)
    sender: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{3,11}$")] = "InfoSante"
    #: requests in flight per worker process
    concurrency: Positive = 50
    timeout_s: PositiveFloat = 10
    #: 150 a second is Brevo's general limit for one account (read 2026-11-25)
    rate_per_s: PositiveFloat = 150
    #: for this sender alone, if that is less; 0: no limit of its own
    sender_rate_per_s: Annotated[float, Field(ge=0)] = 0


class BrevoEmail(_Group):
    """Brevo's transactional email API."""

    base_url: str = "https://api.brevo.com/v3"
    api_key: SecretStr | None = None
    #: the mailbox in From: verified with Brevo, and read
    sender: str = "notice@notifier.example.org"
    #: requests in flight per worker process
    concurrency: Positive = 50
    #: for connecting, and again for the answer
    timeout_s: PositiveFloat = 15
    #: emails in one request: 1 is one request each, 1,000 the most Brevo takes (read 2026-11-25)
    batch: Annotated[int, Field(gt=0, le=1000)] = 1
    #: requests a second: 1,000 is Brevo's general limit, for batches 100 a minute (read 2026-11-25)
    rate_per_s: PositiveFloat = 1000
    #: for this sender alone, if that is less; 0: no limit of its own
    sender_rate_per_s: Annotated[float, Field(ge=0)] = 0
    #: what Brevo sends as bearer token with its reports; without it none is taken
    webhook_token: Annotated[SecretStr, Field(min_length=16)] | None = None


class Engine(_Group):
    """How the queue works. All times are real: `time_scale` changes only the waits of people and networks."""

    #: a claim is given back by the sweeper after this; must exceed three provider time-outs
    lease_s: PositiveFloat = 60
    #: rows claimed by one ticket
    claim_rows: Positive = 200
    #: rows marked `sending` in one commit; half as many again of each ticket may be uncertain after a crash
    intent_rows: Positive = 50
    #: results are written after so many rows or so many milliseconds
    result_rows: Positive = 50
    result_ms: Positive = 200
    #: how often a worker reads what is paused; a provider call starts at most 1 s after the commit
    control_ms: Annotated[int, Field(gt=0, le=500)] = 250
    feeder_ms: Positive = 250
    sweeper_ms: Positive = 5000
    #: a delivery that ended its worker so often waits for a person
    max_crashes: Positive = 3
    #: share of a campaign's emails that may fail because of the address before it is paused; 1 is never
    bounce_limit: Annotated[float, Field(gt=0, le=1)] = 0.15
    #: emails with a result before that share is judged
    bounce_least: Positive = 100
    #: calls per second for one campaign at each provider; 0: no limit
    campaign_rate_per_s: Annotated[float, Field(ge=0)] = 0
    #: a breaker judges the calls that ended in these seconds …
    breaker_window_s: PositiveFloat = 20
    #: … of which there must be so many in one process …
    breaker_calls: Positive = 10
    #: … and opens if this part of them ended through the provider's or receiver's fault
    breaker_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    #: open for so long, doubling each time it fails again, up to the longest
    breaker_first_s: PositiveFloat = 5
    breaker_longest_s: PositiveFloat = 300
    #: threads (tickets at a time) of each worker process
    threads: Positive = 4
    #: a worker stops within this of SIGTERM, whatever is down
    shutdown_s: PositiveFloat = 25
    #: a process whose event loop does not answer for this long is ended and started anew
    watchdog_s: PositiveFloat = 20


class Web(_Group):
    """Signing in to the pages. Times are real."""

    #: the service's name, as the pages, the emails and the authenticator app show it
    service: Annotated[str, Field(min_length=1, max_length=60)] = "Patient Notifier"
    #: how to reach operations when signing in does not work: a sentence, a number, an address
    help: str = ""
    #: a session ends after so many minutes without a request …
    idle_min: Positive = 30
    #: … and in any case after so many hours
    session_hours: Positive = 12
    invitation_days: Positive = 7
    #: how long a link to sign in holds
    link_min: Positive = 15
    #: for dates on pages
    time_zone: str = "Europe/Paris"


class Oidc(_Group):
    """An OpenID Connect provider to sign in with; none without `issuer`."""

    #: exactly as the provider's own metadata gives it; https, or a loopback address
    issuer: Annotated[str, Field(pattern=r"^https://|^http://(127\.0\.0\.1|localhost|\[::1\])[:/]")] | None = None
    client_id: str = ""
    client_secret: SecretStr | None = None
    #: what the button says
    label: str = "OpenID Connect"
    scopes: str = "openid email"
    #: who may sign in this way
    roles: list[Literal["doctor", "secretary", "operator", "approver", "auditor"]] = [
        "operator",
        "approver",
        "auditor",
    ]
    #: a claim that equals the doctor's `reference`; else the verified email address says who it is
    reference_claim: str = ""
    #: the strength asked for and required (`acr`): "eidas1" for Pro Santé Connect
    acr: str = ""
    #: the provider asks for a second factor itself: ours is not asked again
    second_factor: bool = False
    timeout_s: PositiveFloat = 10


class Callbacks(_Group):
    """Telling customers' software of changes."""

    #: also to private addresses and without TLS: for rehearsals, and software in the same network
    allow_private: bool = False
    #: how long an answer may take
    timeout_s: PositiveFloat = 15
    #: an address that took nothing for so long is stopped, until somebody starts it again
    give_up_after_h: PositiveFloat = 120


class Tracing(_Group):
    """OpenTelemetry traces; none without `endpoint`."""

    #: a collector that takes OTLP over HTTP: its address without `/v1/traces`
    endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    #: of so large a share of the campaigns, whole ones
    share: Annotated[float, Field(gt=0, le=1)] = 1


class Settings(BaseSettings):
    """Everything a deployer can set; each key has a sentence in `config/settings.toml`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    database_url: str | None = Field(None, validation_alias=AliasChoices("database_url", "DATABASE_URL"))
    redis_url: str | None = Field(None, validation_alias=AliasChoices("redis_url", "REDIS_URL"))
    #: where the embedded servers keep their data when no URL is given
    data_dir: Path = Path("var")
    master_key: SecretStr | None = None
    master_key_file: Path | None = None
    #: master keys of before, which still open and check, and never seal; in the environment parted by commas
    master_keys_former: Annotated[list[SecretStr], NoDecode] = []
    #: a file that holds such, one a line
    master_keys_former_file: Path | None = None
    #: where providers reach this deployment with their receipts
    public_url: str = "http://127.0.0.1:8700"
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, lt=65536)] = 8700
    #: divides every wait meant for people and networks (retries, quiet time, confirmation): rehearsals only
    time_scale: PositiveFloat = 1
    #: for phone numbers written without a country code
    default_region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "FR"
    #: the largest list file taken, in bytes
    max_list_bytes: Positive = 512 * 1024 * 1024
    #: ask the DNS whether the domains of a list take mail; each domain once, never a person's address
    check_mail_domains: bool = False
    templates_dir: Path = ROOT / "templates"
    config_dir: Path = ROOT / "config"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: who carries email: the relay of [smtp], or [brevo_email]
    email_provider: Literal["smtp", "brevo-email"] = "smtp"
    smtp: Smtp = Smtp()
    brevo_email: BrevoEmail = BrevoEmail()
    brevo_sms: BrevoSms = BrevoSms()
    engine: Engine = Engine()
    web: Web = Web()
    oidc: Oidc = Oidc()
    callbacks: Callbacks = Callbacks()
    tracing: Tracing = Tracing()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = Path(os.environ.get(PREFIX + "SETTINGS", ROOT / "config" / "settings.toml"))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    @field_validator("master_keys_former", mode="before")
    @classmethod
    def _parted(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @cached_property
    def master(self) -> MasterKey:
        """Raises SettingsError if no master key is set, or if one is not 32 bytes in hexadecimal."""
        if self.master_key is not None:
            text = self.master_key.get_secret_value()
        elif self.master_key_file is not None:
            text = _read("MASTER_KEY_FILE", self.master_key_file).strip()
        else:
            raise SettingsError(
                f"No master key: set {PREFIX}MASTER_KEY to 64 hexadecimal digits (openssl rand -hex 32) "
                f"or {PREFIX}MASTER_KEY_FILE to a file that holds them. It opens every sealed value: keep it safe."
            )
        former = [one.get_secret_value() for one in self.master_keys_former]
        if self.master_keys_former_file is not None:
            former += _read("MASTER_KEYS_FORMER_FILE", self.master_keys_former_file).split()
        return MasterKey(_key("MASTER_KEY", text), tuple(_key("MASTER_KEYS_FORMER", one) for one in former))

    @property
    def sqlalchemy_url(self) -> str:
        """`DATABASE_URL` with the driver named. Raises SettingsError if it is not set or not PostgreSQL."""
        if not self.database_url:
            raise SettingsError("DATABASE_URL is not set.")
        scheme, separator, rest = self.database_url.partition("://")
        if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
            raise SettingsError("DATABASE_URL must start with postgresql://; only PostgreSQL is supported.")
        try:
            _ = urlsplit(f"postgresql://{rest}").port
        except ValueError as error:
            raise SettingsError("DATABASE_URL is not an address: its host or port cannot be read.") from error
        return f"postgresql+psycopg://{rest}"


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise SettingsError(f"{PREFIX}{name}: {path} cannot be read ({error.strerror}).") from error


def _key(name: str, digits: str) -> bytes:
    try:
        return bytes.fromhex(digits)
    except ValueError as error:
        raise SettingsError(f"{PREFIX}{name} must be 64 hexadecimal digits.") from error


def load(**changes: object) -> Settings:
    """Reads and checks all settings. Raises SettingsError naming each wrong key and what is allowed."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    known |= {PREFIX + "SETTINGS"}
    for name in os.environ:
        if name.startswith(PREFIX) and name.split("__")[0] not in known:
            raise SettingsError(f"{name}: there is no such setting; see config/settings.toml for all of them.")
    try:
        return Settings(**changes)  # type: ignore[arg-type]  # checked by pydantic itself
    except ValidationError as error:
        lines = [
            f"{PREFIX}{'__'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError("Settings are wrong:\n  " + "\n  ".join(lines)) from error
