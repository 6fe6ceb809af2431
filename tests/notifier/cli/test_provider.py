"""Who carries email and SMS, as operations see it, and what they are told about a refusal."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from notifier.providers import PROVIDERS
from notifier.providers.brevo_email import BrevoEmailProvider
from notifier.providers.brevo_sms import BrevoSmsProvider
from notifier.providers.smtp import SmtpProvider
from notifier.store import Database
from notifier.watching import OUR_FAULT, advice
from tests.notifier.cli.conftest import Cli

COLUMNS = {
    "name",
    "channel",
    "in_use",
    "at",
    "sender",
    "rate_per_s",
    "ready",
    "receipts",
    "holds",
    "reasons",
}


def test_the_table_of_providers_is_true() -> None:
    assert {one.name: one.channel for one in (SmtpProvider, BrevoEmailProvider, BrevoSmsProvider)} == PROVIDERS


def test_providers_are_listed_with_their_holds_and_without_secrets(cli: Cli) -> None:
    cli.environment |= {
        "NOTIFIER_BREVO_SMS__API_KEY": "a-secret-key",
        "NOTIFIER_BREVO_EMAIL__WEBHOOK_TOKEN": "a-secret-token-of-the-account",
        "NOTIFIER_SMTP__PASSWORD": "a-secret-word",
    }
    cli.run("queue", "stop", "--scope", "provider:smtp", "--reason", "a doubt")
    smtp, email, sms = cli.json("provider", "list")["providers"]
    assert set(smtp) == set(email) == set(sms) == COLUMNS
    assert (smtp["name"], smtp["holds"], smtp["reasons"]) == ("smtp", ["provider:smtp"], ["a doubt"])
    assert (email["name"], email["ready"], email["receipts"], email["holds"]) == ("brevo-email", False, True, [])
    assert (sms["name"], sms["ready"], sms["holds"]) == ("brevo-sms", True, [])
    assert "provider:smtp" in cli.run("provider", "list")
    assert "a-secret" not in "".join(cli.said)


@pytest.mark.parametrize("chosen", ["smtp", "brevo-email"])
def test_one_provider_of_email_is_in_use(cli: Cli, chosen: str) -> None:
    cli.environment |= {"NOTIFIER_EMAIL_PROVIDER": chosen, "NOTIFIER_BREVO_EMAIL__API_KEY": "a-secret-key"}
    rows = cli.json("provider", "list")["providers"]
    assert {row["name"] for row in rows if row["in_use"]} == {chosen, "brevo-sms"}


def test_the_rate_of_batches_is_told_in_emails(cli: Cli) -> None:
    cli.environment |= {"NOTIFIER_BREVO_EMAIL__BATCH": "1000", "NOTIFIER_BREVO_EMAIL__RATE_PER_S": "1.5"}
    [row] = [row for row in cli.json("provider", "list")["providers"] if row["name"] == "brevo-email"]
    assert (row["rate_per_s"], row["at"]) == (1500, "https://api.brevo.com/v3 (1,000 a request)")


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_can_be_stopped(cli: Cli, name: str) -> None:
    cli.run("queue", "stop", "--scope", f"provider:{name}", "--reason", "a doubt")
    held = {row["name"]: row["holds"] for row in cli.json("provider", "list")["providers"]}
    assert held == {other: [f"provider:{name}"] if other == name else [] for other in PROVIDERS}
    cli.run("queue", "go", "--scope", f"provider:{name}")


@pytest.mark.parametrize(
    ("code", "words", "ours"),
    [
        ("http_401_unauthorized", "check the key", True),
        ("http_403_permission_denied", "check the key", True),
        ("http_400_unauthorized", "check the key", True),
        ("smtp_535_5.7.8", "check the key", True),
        ("http_402_not_enough_credits", "no credit left", True),
        ("http_400_not_enough_credits", "no credit left", True),
        ("http_400_account_under_validation", "not released the account", True),
        ("http_400_bad_request", "refuses what we ask for", True),
        ("http_413_bad_request", "refuses what we ask for", True),
        ("http_302", "refuses what we ask for", True),
        ("smtp_550_5.7.1", "our sender is refused", True),
        ("unfit_header", "a doctor's name", True),
        ("unfit_text", "which the provider would act on", True),
        ("connect_failed", "does not answer", True),
        ("http_429", "slow down", False),
        ("smtp_421_4.7.0", "slow down", False),
        ("http_408", "check the key and", False),
        ("http_503", "check the key and", False),
        ("unfit_address", "check the key and", False),
        ("smtp_550_5.1.1", "check the key and", False),
    ],
)
def test_what_to_look_at_and_whose_fault_a_refusal_is(
    database: Database, code: str, words: str, ours: bool
) -> None:
    assert words in advice(code)
    assert bool(re.match(OUR_FAULT, code)) == ours
    with database.staff() as session:
        assert (
            session.scalar(text("SELECT CAST(:code AS text) ~ :ours"), {"code": code, "ours": OUR_FAULT}) == ours
        )
