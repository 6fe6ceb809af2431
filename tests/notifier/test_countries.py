"""A country is known by its code and its usual names; France and what is not known are no other country."""

from __future__ import annotations

import phonenumbers
import pytest

from notifier.countries import _codes, abroad


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("CH", "CH"), ("suisse", "CH"), ("Switzerland", "CH"), ("ESPAGNE", "ES"), ("Pays Bas", "NL"),
        ("Royaume-Uni", "GB"), ("UK", "GB"), ("Côte d'Ivoire", "CI"), ("États-Unis", "US"), ("Suisse (CH)", "CH"),
        ("BE - Belgique", "BE"), ("Algérie", "DZ"),
        ("France", None), ("FR", None), ("Guadeloupe", None), ("RE", None), ("Nouvelle-Calédonie", None),
        ("Atlantide", None), ("?", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_country_abroad_is_known_by_its_code_or_name(written, code):
    assert abroad(written) == code


def test_each_country_has_a_numbering_plan():
    assert set(_codes().values()) <= phonenumbers.SUPPORTED_REGIONS
