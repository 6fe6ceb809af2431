"""Legal profiles: what the file says is what the program reads, and a slip in it stops the program."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from notifier import profiles
from notifier.errors import SettingsError
from notifier.settings import ROOT
from notifier.states import Channel, Variant

CONFIG = ROOT / "config"
SHIPPED = sorted(path.stem for path in (CONFIG / "profiles").glob("*.toml"))


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    shutil.copytree(CONFIG / "profiles", tmp_path / "profiles")
    return tmp_path


def change(config_dir: Path, old: str, new: str) -> None:
    path = config_dir / "profiles" / "eu-gdpr-fr.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_french_profile_tries_email_then_sms_and_excludes_the_deceased():
    profile = profiles.load("eu-gdpr-fr", CONFIG)
    assert profile.plan == (Channel.EMAIL, Channel.SMS)
    assert profile.deceased == "exclude"
    assert profile.allowed_links == ()
    assert profile.sms.max_parts == 6
    assert profile.retry[Channel.EMAIL].first_wait == timedelta(minutes=15)
    assert profile.retry[Channel.EMAIL].give_up_after == timedelta(days=3)
    assert profile.deadlines.authority == timedelta(hours=72)
    assert profile.retention.contacts == timedelta(days=90)


def test_silence_informs_by_email_but_not_by_sms():
    silence = profiles.load("eu-gdpr-fr", CONFIG).silence
    assert (silence[Channel.EMAIL].means, silence[Channel.EMAIL].after) == ("informed", timedelta(hours=72))
    assert (silence[Channel.SMS].means, silence[Channel.SMS].after) == ("failed", timedelta(hours=72))


def test_what_article_34_demands_is_required_in_every_channel_of_the_plan():
    profile = profiles.load("eu-gdpr-fr", CONFIG)
    required = {element.id: element.required_in for element in profile.element}
    for part in ("what.nature", "data.categories", "effects.likely", "measures.taken", "measures.person"):
        assert required[part] >= set(profile.plan), part
    for part in ("ctrl.identity", "contact.point", "contact.phone", "contact.written"):
        assert required[part] >= set(profile.plan), part


def test_the_comment_is_asked_for_only_where_there_was_one():
    elements = {element.id: element for element in profiles.load("eu-gdpr-fr", CONFIG).element}
    assert elements["data.comment"].variants == {Variant.COMMENT}


@pytest.mark.parametrize("profile_id", SHIPPED)
def test_every_value_of_a_shipped_profile_names_its_source_above_it(profile_id: str):
    lines = (CONFIG / "profiles" / f"{profile_id}.toml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\[\[(element|forbidden)\]\]", line):
            assert "#" in line, f"line {number + 1}: {line}"
        if re.match(r"\[(silence|retry|sms|deadlines|retention)\b", line):
            assert "#" in "".join(lines[number - 4 : number + 3]), f"line {number + 1}: {line}"


@pytest.mark.parametrize(("language", "expected"), [("fr", "fr"), ("en", "en"), ("de", "fr"), ("", "fr")])
def test_a_patient_of_another_language_is_written_to_in_the_first_one(language: str, expected: str):
    assert profiles.load("eu-gdpr-fr", CONFIG).language_for(language) == expected


@pytest.mark.parametrize("profile_id", ["us-nowhere", "../eu-gdpr-fr", "", "EU-GDPR-FR", "eu-gdpr-fr.toml"])
def test_an_unknown_profile_is_refused_and_the_known_ones_are_named(profile_id: str):
    with pytest.raises(SettingsError, match=r"there are: .*eu-gdpr-fr"):
        profiles.load(profile_id, CONFIG)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('deceased = "exclude"', 'deceased = "exclude"\ndeceasd = "x"', "deceasd"),
        ("strict_in_message = true", "strict_in_message = false", "strict_in_message"),
        ('plan = ["email", "sms"]', 'plan = ["email", "fax"]', "plan"),
        ('plan = ["email", "sms"]', 'plan = ["email", "email"]', "twice"),
        ("max_parts = 6", "max_parts = 0", "sms.max_parts"),
        ("max_parts = 6", "", "sms.max_parts"),
        ('first_wait = "PT15M"', 'first_wait = "PT0S"', "retry.email.first_wait"),
        ('first_wait = "PT15M"', 'first_wait = "soon"', "retry.email.first_wait"),
        ("[silence.sms]", "[silence.email2]", "silence"),
        ('languages = ["fr", "en"]', 'languages = ["fr", "en", "de"]', "words are missing in de"),
        ("must_not.stop", "must_not.link", "used twice"),
        ("(?-i:", "(?-i", "not a regular expression"),
        ('id = "eu-gdpr-fr"', 'id = "eu-gdpr-de"', "file's name"),
        ('id = "eu-gdpr-fr"', "id = eu-gdpr-fr", "TOML"),
    ],
)
def test_a_slip_in_a_profile_stops_the_program_and_is_named(config_dir: Path, old: str, new: str, named: str):
    change(config_dir, old, new)
    with pytest.raises(SettingsError, match=re.escape(named)):
        profiles.load("eu-gdpr-fr", config_dir)
