"""What was changed in a cell is told from what stood there and what became of it."""

from __future__ import annotations

import pytest

from notifier import changes
from notifier.addresses import check_email, check_phone, split_emails, split_phones
from notifier.changes import Change


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("+33639980001", set()),
        ("0639980001", {Change.COUNTRY}),
        ("06 39 98 00 01", {Change.COUNTRY, Change.SEPARATORS}),
        ("639980001", {Change.ZERO}),
        ("639980001.0", {Change.ZERO, Change.DECIMALS}),
        ("33639980001", {Change.PLUS}),
        ("33639980001.0", {Change.PLUS, Change.DECIMALS}),
        ("+33 (0)6 39 98 00 01", {Change.SEPARATORS}),
        ("0033639980001", set()),
        ("06 39 98 00 01 (mère)", {Change.COUNTRY, Change.SEPARATORS, Change.NOTE}),
        ("\u200b0639980001", {Change.COUNTRY, Change.INVISIBLE}),
        ("0692123456", {Change.OVERSEAS}),
    ],
)
def test_what_was_changed_in_a_number(cell, expected):
    (piece,) = split_phones(cell)
    e164 = check_phone(piece.text).e164
    assert set(changes.of_phone(cell, piece.text, piece.note, e164)) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a@example.fr", set()),
        ("a@EXAMPLE.fr", {Change.DOMAIN_CASE}),
        ("a@exämple.org", {Change.DOMAIN_ASCII}),
        ("a@example.fr;", {Change.PUNCTUATION}),
        ("<a@example.fr>", {Change.PUNCTUATION}),
        ("mailto:a@example.fr", {Change.PUNCTUATION}),
        ("Jean Exemple <a@example.fr>", {Change.DISPLAY_NAME}),
        ("a@example.fr (perso)", {Change.NOTE}),
        ("a@example\u200b.fr", {Change.INVISIBLE}),
    ],
)
def test_what_was_changed_in_an_address(cell, expected):
    (piece,) = split_emails(cell)
    address = check_email(piece.text).address
    assert set(changes.of_email(cell, piece.text, piece.note, address)) == expected


@pytest.mark.parametrize(
    ("read", "iso", "expected"),
    [
        ("1975-03-12", "1975-03-12", []),
        ("12/03/1975", "1975-03-12", [Change.DATE_FORM]),
        ("12/03/75", "1975-03-12", [Change.CENTURY]),
        ("27465", "1975-03-12", [Change.DATE_SERIAL]),
    ],
)
def test_what_was_changed_in_a_date(read, iso, expected):
    assert list(changes.of_date(read, iso)) == expected


@pytest.mark.parametrize(
    ("read", "code", "expected"),
    [
        ("75001", "75001", []),
        ("1000", "01000", [Change.POSTAL_ZERO]),
        ("1000.0", "01000", [Change.POSTAL_ZERO]),
        ("75001.0", "75001", [Change.DECIMALS]),
        ("75001 Paris", "75001", [Change.PLACE]),
        ("F-75001", "75001", [Change.POSTAL_FORM]),
        ("?", None, []),
    ],
)
def test_what_was_changed_in_a_postal_code(read, code, expected):
    assert list(changes.of_postal_code(read, code)) == expected


@pytest.mark.parametrize(
    ("read", "became", "expected"),
    [
        ("Dupont", "Dupont", []),
        ("M. Dupont", "Dupont", [Change.TITLE]),
        ("12.0", "12", [Change.DECIMALS]),
        ("RenÃ©", "René", [Change.ACCENTS]),
        ("Du\u00a0Pont", "Du Pont", [Change.FORM]),
    ],
)
def test_what_was_changed_in_a_text(read, became, expected):
    assert list(changes.of_text(read, became)) == expected
