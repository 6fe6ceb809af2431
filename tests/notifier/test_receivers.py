"""Groups of mailbox operators: known ones have a name, all others are one, and a wrong file stops the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import receivers
from notifier.errors import SettingsError
from notifier.settings import ROOT

SHIPPED = receivers.load(ROOT / "config")


@pytest.mark.parametrize(
    ("domain", "group"),
    [
        ("orange.fr", "orange"),
        ("wanadoo.fr", "orange"),
        ("Wanadoo.FR", "orange"),
        ("neuf.fr", "sfr"),
        ("club-internet.fr", "sfr"),
        ("laposte.net", "laposte"),
        ("free.fr", "free"),
        ("aliceadsl.fr", "free"),
        ("googlemail.com", "gmail"),
        ("hotmail.fr", "outlook"),
        ("aol.com", "yahoo"),
        ("mail.orange.fr", "other"),
        ("example.org", "other"),
        ("", "other"),
    ],
)
def test_domains_of_one_operator_are_one_group(domain: str, group: str):
    assert SHIPPED.group_of(domain) == group


@given(st.text(max_size=80))
def test_a_domain_is_never_its_own_group(domain: str):
    assert SHIPPED.group_of(domain) in {*SHIPPED.groups.values(), receivers.OTHER}


def test_what_is_shipped_limits_nobody_and_says_when_it_was_checked():
    assert SHIPPED.rates == {}
    assert SHIPPED.checked_on.year >= 2026
    assert {"orange", "sfr", "free", "laposte", "gmail", "outlook", "yahoo"} <= set(SHIPPED.groups.values())


def load(tmp_path: Path, text: str) -> receivers.Receivers:
    (tmp_path / "receivers.toml").write_text(text, encoding="utf-8")
    return receivers.load(tmp_path)


def test_a_rate_is_read(tmp_path: Path):
    found = load(tmp_path, 'checked_on = 2026-11-25\n[orange]\ndomains = ["orange.fr"]\nrate_per_s = 1.5\n')
    assert found.rates == {"orange": 1.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("checked_on = 2026-11-25\n[x]\ndomains = [", "is not TOML"),
        ('[x]\ndomains = ["a.fr"]', "checked_on"),
        ('checked_on = "yesterday"\n[x]\ndomains = ["a.fr"]', "checked_on"),
        ("checked_on = 2026-11-25\n[x]\ndomains = []", "x.domains"),
        ('checked_on = 2026-11-25\n[x]\ndomains = ["A.fr"]', "x.domains"),
        ('checked_on = 2026-11-25\n[x]\ndomains = ["a.fr"]\nrate_per_s = 0', "x.rate_per_s"),
        ('checked_on = 2026-11-25\n[x]\ndomains = ["a.fr"]\nrate = 3', "x.rate"),
        ('checked_on = 2026-11-25\n[other]\ndomains = ["a.fr"]', "`other` is what is in no group"),
        (
            'checked_on = 2026-11-25\n[x]\ndomains = ["a.fr"]\n[y]\ndomains = ["a.fr"]',
            "a.fr is in x and again in y",
        ),
    ],
)
def test_a_wrong_file_stops_the_start_and_names_the_place(tmp_path: Path, text: str, said: str):
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, text)


def test_a_missing_file_stops_the_start(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"receivers\.toml cannot be read"):
        receivers.load(tmp_path)
