"""Settings are documented, checked and never silently ignored."""

from __future__ import annotations

import re
import tomllib

import pytest
from pydantic import BaseModel

from notifier import settings
from notifier.errors import SettingsError
from notifier.settings import ROOT, Settings

SAMPLE = ROOT / "config" / "settings.toml"


def test_every_setting_is_documented_with_its_default_and_a_sentence():
    text = SAMPLE.read_text(encoding="utf-8")
    shown = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))

    def compare(model: type[BaseModel], values: dict[str, object]) -> None:
        assert set(values) == set(model.model_fields)
        for name, field in model.model_fields.items():
            if isinstance(field.default, BaseModel):
                compare(type(field.default), values[name])
            elif field.default is not None and not name.endswith("_dir"):
                assert values[name] == field.default, name

    compare(Settings, shown)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"# \w+ = ", line):
            assert lines[number - 1].startswith("# "), f"line {number + 1} has no sentence above it"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NOTIFIER_SMPT__HOST", "x", "NOTIFIER_SMPT__HOST: there is no such setting"),
        ("NOTIFIER_SMTP__HOTS", "x", "NOTIFIER_SMTP__HOTS"),
        ("NOTIFIER_SMTP__PORT", "many", "NOTIFIER_SMTP__PORT"),
        ("NOTIFIER_SMTP__SECURITY", "maybe", "'none', 'starttls' or 'tls'"),
        ("NOTIFIER_ENGINE__CONTROL_MS", "900", "less than or equal to 500"),
        ("NOTIFIER_BREVO_SMS__SENDER", "Dr Martin", "NOTIFIER_BREVO_SMS__SENDER"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_names_the_key(monkeypatch, name: str, value: str, said: str):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        settings.load()


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('[smtp]\nhost = "relay.example.org"\nport = 587\n')
    monkeypatch.setenv("NOTIFIER_SETTINGS", str(path))
    monkeypatch.setenv("NOTIFIER_SMTP__PORT", "2525")
    current = settings.load()
    assert (current.smtp.host, current.smtp.port) == ("relay.example.org", 2525)


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite:///x", "nonsense"])
def test_only_postgresql_is_taken(url: str):
    with pytest.raises(SettingsError, match="postgresql://"):
        _ = settings.load(database_url=url).sqlalchemy_url


@pytest.mark.parametrize("url", ["postgresql://x:port/y", "postgres://u:p@[x/y"])
def test_a_malformed_address_is_refused_without_repeating_it(url: str):
    with pytest.raises(SettingsError, match="DATABASE_URL is not an address"):
        _ = settings.load(database_url=url).sqlalchemy_url


@pytest.mark.parametrize(
    ("key", "said"), [(None, "No master key"), ("zz", "hexadecimal"), ("00" * 16, "32 bytes")]
)
def test_a_missing_or_wrong_master_key_is_refused_without_showing_it(key: str | None, said: str):
    with pytest.raises(SettingsError, match=said) as caught:
        _ = settings.load(master_key=key).master
    assert key is None or key not in str(caught.value)


def test_secrets_are_not_shown():
    current = settings.load(master_key="ab" * 32, smtp={"password": "hunter2"})
    assert "ab" * 32 not in repr(current)
    assert "hunter2" not in repr(current)
    assert "ab" * 32 not in repr(current.master)
