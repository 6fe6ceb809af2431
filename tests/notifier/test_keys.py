"""The master key is changed while everything goes on: what is out comes home, who is known stays known."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import structlog
from fastapi.testclient import TestClient
from sqlalchemy import text

from notifier import accounts, feed, keys, receipts, startup, store, testsends
from notifier.accounts import Role
from notifier.api import create_app
from notifier.errors import ConflictError, MissingKeyError, NotFoundError
from notifier.keys import Kind
from notifier.models import Account, Base, Callback, Campaign
from notifier.providers.base import Kind as Ended
from notifier.providers.base import Outcome
from notifier.providers.brevo_sms import BrevoSmsReceipts
from notifier.sealing import MasterKey
from notifier.settings import Settings
from notifier.states import Channel
from notifier.store import AsyncDatabase, Database
from tests.conftest import MASTER_KEY as OLD
from tests.factories import ask_test, make_campaign, make_settings, person, start_campaign
from tests.notifier.test_accounts import HOME, NOW, WEB, code, half_way, make
from tests.notifier.test_receipts import REPORTS, about, body, send_email, send_sms
from tests.notifier.test_sending import Engine, FakeProvider, run, settle, states

NEW = "fedcba9876543210" * 4
PARSER = BrevoSmsReceipts()


@pytest.fixture
def before(database_url: str) -> Settings:
    """As all processes run at first."""
    return make_settings(database_url)


@pytest.fixture
def told(database_url: str) -> Settings:
    """Step 1: the old key seals, the new one opens."""
    return make_settings(database_url, master_keys_former=[NEW])


@pytest.fixture
def swapped(database_url: str) -> Settings:
    """Step 2: the new key seals, the old one opens."""
    return make_settings(database_url, master_key=NEW, master_keys_former=[OLD])


@pytest.fixture
def after(database_url: str) -> Settings:
    """Step 4: the old key is gone."""
    return make_settings(database_url, master_key=NEW)


def rotate(database: Database, current: Settings) -> dict[Kind, int]:
    done = dict.fromkeys(Kind, 0)
    for kind in Kind:
        n = 1
        while n:
            with database.staff() as session:
                n = keys.rotate(session, current.master, kind, actor="cli:test", reason="a drill")
            done[kind] += n
    return done


def status(database: Database, current: Settings) -> keys.Status:
    with database.staff() as session:
        return keys.status(session, current.master)


def accept(database: Database, current: Settings, reference: str) -> int:
    with database.staff() as session:
        return receipts.accept(
            session, current.master, PARSER, reference, body("delivered"), now=datetime.now(UTC)
        )


def test_every_column_that_a_master_key_seals_is_sealed_anew():
    by_campaign = {"campaign_id", "delivery_id", "patient_id"}
    sealed = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        if not by_campaign & set(table.columns.keys())
        for column in table.columns
        if column.name.endswith("_sealed") or column.name == "data_key"
    }
    assert sealed == {(table.__tablename__, name) for table, names in store.SEALED.values() for name in names}


def test_the_people_of_a_campaign_open_by_the_new_key_and_their_blind_indexes_stay(
    database: Database, before: Settings, swapped: Settings, after: Settings
):
    campaign_id = make_campaign(database, before, [person(1)])
    with database.staff() as session:
        sealed_before = session.get_one(Campaign, campaign_id).data_key
    assert rotate(database, swapped)[Kind.CAMPAIGNS] == 1
    with database.staff() as session:
        sealed = session.get_one(Campaign, campaign_id).data_key
        row = session.execute(text("SELECT value_blind, value_sealed FROM contact WHERE channel = 'email'")).one()
    assert sealed != sealed_before
    with pytest.raises(MissingKeyError, match=r"master key [0-9a-f]{8}, which is not given"):
        before.master.open_data_key(sealed, campaign_id)
    key, old = (
        after.master.open_data_key(sealed, campaign_id),
        before.master.open_data_key(sealed_before, campaign_id),
    )
    assert key.open(row.value_sealed, b"contact.value") == b"patient1@example.org"
    assert key.blind(b"a value") == old.blind(b"a value")


def test_an_erased_campaign_stays_erased(database: Database, before: Settings, swapped: Settings):
    erased = make_campaign(database, before, [person(1)])
    make_campaign(database, before, [person(1)], number=2)
    with database.staff() as session:
        session.execute(text("UPDATE campaign SET data_key = NULL WHERE id = :id"), {"id": erased})
    assert rotate(database, swapped)[Kind.CAMPAIGNS] == 1
    with database.staff() as session:
        assert session.get_one(Campaign, erased).data_key is None


def test_each_step_is_in_the_journal_and_a_second_run_finds_nothing(
    database: Database, before: Settings, swapped: Settings
):
    make_campaign(database, before, [person(1)])
    make(database, before.master)
    assert status(database, swapped).left == {"campaigns": 1, "accounts": 1, "sessions": 0, "callbacks": 0}
    done = rotate(database, swapped)
    assert done == {Kind.CAMPAIGNS: 1, Kind.ACCOUNTS: 1, Kind.SESSIONS: 0, Kind.CALLBACKS: 0}
    assert sum(status(database, swapped).left.values()) == 0
    assert sum(rotate(database, swapped).values()) == 0
    with database.staff() as session:
        acts = session.execute(
            text("SELECT actor, subject, detail FROM journal WHERE action = 'keys.rotate' ORDER BY id")
        ).all()
        assert store.broken_journal_entries(session) == []
    key = swapped.master.fingerprint
    assert [tuple(act) for act in acts] == [
        ("cli:test", "master_key", {"kind": kind, "rows": 1, "key": key, "reason": "a drill"})
        for kind in ("campaigns", "accounts")
    ]


def test_a_hand_over_begun_by_one_key_is_asked_again_under_the_same_name_by_the_other(
    database: Database, before: Settings, swapped: Settings, after: Settings
):
    """A provider knows a request again by it: another name would tell a person twice, unseen."""
    campaign = start_campaign(database, before, [person(1, phone=None)])
    provider = FakeProvider(Channel.EMAIL, lambda _: Outcome(Ended.UNKNOWN, "no_answer"))
    run(before, provider, campaign.id, campaign.epoch)
    rotate(database, swapped)
    settle(database, after, after=timedelta(hours=1))
    with database.staff() as session:
        session.execute(text("UPDATE delivery SET due_at = now()"))
    run(after, again := FakeProvider(Channel.EMAIL), campaign.id, campaign.epoch)
    assert [one.reference for one in provider.sent] == [one.reference for one in again.sent]
    assert len(again.sent) == 1


def test_a_receipt_for_a_message_of_the_former_key_counts_until_it_is_dropped(
    database: Database, before: Settings, told: Settings, swapped: Settings, after: Settings
):
    delivery = send_sms(database, before)
    out = receipts.webhook_reference(before.master, PARSER.name, delivery)
    assert receipts.webhook_reference(told.master, PARSER.name, delivery) == out, "a former key never signs"
    assert receipts.webhook_reference(swapped.master, PARSER.name, delivery) != out
    rotate(database, swapped)
    with pytest.raises(NotFoundError):
        accept(database, after, out)
    assert accept(database, swapped, out) == 1
    # … and one of a process that is ahead, at one that is behind
    assert accept(database, told, receipts.webhook_reference(swapped.master, PARSER.name, delivery)) == 0


def test_a_report_about_an_email_counts_whichever_key_it_left_by(
    database: Database, before: Settings, swapped: Settings, after: Settings
):
    [delivery] = send_email(database, before)
    event = about(before, delivery)
    rotate(database, swapped)
    with database.staff() as session:
        taken = receipts.accept_report(
            session, after.master, REPORTS, orjson.dumps([event]), now=datetime.now(UTC)
        )
    assert taken.new == 1


def test_a_process_without_the_key_leaves_the_campaign_to_others(
    database: Database, before: Settings, swapped: Settings
):
    campaign = start_campaign(database, before, [person(1)])
    rotate(database, swapped)
    provider = FakeProvider()
    run(before, provider, campaign.id, campaign.epoch)
    assert provider.sent == []
    assert states(database) == {"pending": 1}
    with database.staff() as session:
        assert session.get_one(Campaign, campaign.id).state == "sending", "nothing is wrong with it"
    run(swapped, provider, campaign.id, campaign.epoch)
    assert len(provider.sent) == 1


def test_both_keys_may_be_named_as_former_ones_so_that_the_swap_is_in_one_place(
    database: Database, database_url: str, before: Settings, after: Settings
):
    campaign_id = make_campaign(database, before, [person(1)])
    old_first, new_first = (
        make_settings(database_url, master_key=key, master_keys_former=[OLD, NEW]) for key in (OLD, NEW)
    )
    for current, former in ((old_first, after), (new_first, before)):
        assert status(database, current).former == (former.master.fingerprint,)
        startup.check_master_key(database, current.master)
    assert rotate(database, new_first)[Kind.CAMPAIGNS] == 1
    with database.staff() as session:
        sealed = session.get_one(Campaign, campaign_id).data_key
    for current in (old_first, new_first, after):
        current.master.open_data_key(sealed, campaign_id)


def test_a_worker_without_the_key_lets_the_campaign_be_for_a_while_and_says_so_once_a_minute(
    database: Database, before: Settings, told: Settings, swapped: Settings
):
    lacking = start_campaign(database, before, [person(1)])
    rotate(database, swapped)
    other = start_campaign(database, before, [person(2)], number=2)
    start = datetime.now(UTC)

    async def work() -> list[tuple[int, int]]:
        """Rows sent and lines logged so far, after each ticket."""
        seen: list[tuple[int, int]] = []
        sent = 0
        async with Engine(before, FakeProvider()) as sender:

            async def ticket(campaign: Campaign, at_s: float) -> None:
                nonlocal sent
                sender.clock = lambda: start + timedelta(seconds=at_s)
                sent += await sender.work(campaign.id, campaign.epoch)
                seen.append((sent, sum(line["event"] == "master_key_missing" for line in lines)))

            with structlog.testing.capture_logs() as lines:
                await ticket(lacking, 0)
                await ticket(lacking, 30)
                await ticket(lacking, 61)
                await ticket(other, 61)
                rotate(database, told)
                await ticket(lacking, 63)
                await ticket(lacking, 70)
        return seen

    assert asyncio.run(work()) == [(0, 1), (0, 1), (0, 2), (1, 2), (1, 2), (2, 2)]


def test_a_test_send_waits_for_a_process_that_was_given_the_key(
    database: Database, before: Settings, swapped: Settings
):
    campaign_id = make_campaign(database, before, [person(1)])
    number = ask_test(database, before, campaign_id)
    rotate(database, swapped)
    provider = FakeProvider()

    async def send(current: Settings) -> testsends.State | None:
        pool = AsyncDatabase(current.sqlalchemy_url, pool_size=2)
        try:
            return await testsends.TestSender(pool, current.master, provider, asyncio.Semaphore(1)).send(number)
        finally:
            await pool.dispose()

    assert asyncio.run(send(before)) == testsends.State.QUEUED
    assert provider.sent == []
    with database.staff() as session:
        assert testsends.waiting(session.connection()) == {number: Channel.EMAIL}, "the feeder names it again"
        left = session.execute(text("SELECT provider, code, started_at, ended_at FROM test_send")).one()
    assert tuple(left) == (None, None, None, None)
    assert asyncio.run(send(swapped)) == testsends.State.ACCEPTED
    assert len(provider.sent) == 1


def test_a_receipt_that_this_process_cannot_seal_is_asked_for_again(
    database: Database, database_url: str, before: Settings, swapped: Settings
):
    delivery = send_sms(database, before)
    rotate(database, swapped)
    behind = TestClient(create_app(before), raise_server_exceptions=False)
    out = receipts.webhook_reference(before.master, PARSER.name, delivery)
    answer = behind.post(f"/webhooks/brevo-sms/{out}", content=body("delivered"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert behind.get("/readyz").status_code == 503


def test_the_start_is_refused_without_a_former_key_that_is_needed(
    database: Database, before: Settings, swapped: Settings, after: Settings
):
    startup.check_master_key(database, after.master)  # nothing is sealed yet
    make(database, before.master)
    make_campaign(database, before, [person(1)])
    for current in (before, swapped):
        startup.check_master_key(database, current.master)
    with pytest.raises(MissingKeyError) as raised:
        startup.check_master_key(database, after.master)
    assert f"({before.master.fingerprint}: campaigns 1, accounts 1)" in raised.value.message
    assert "NOTIFIER_MASTER_KEYS_FORMER" in raised.value.message
    rotate(database, swapped)
    startup.check_master_key(database, after.master)
    with pytest.raises(MissingKeyError):
        startup.check_master_key(database, before.master)


def test_nothing_is_rotated_by_a_key_that_is_not_the_one(database: Database, before: Settings, after: Settings):
    make_campaign(database, before, [person(1)])
    with pytest.raises(MissingKeyError):
        rotate(database, after)
    assert status(database, before).sealed["campaigns"] == {before.master.fingerprint: 1}
    assert status(database, after).missing == [before.master.fingerprint]


# --- accounts and callbacks


def enrol(database: Database, master: MasterKey) -> tuple[int, bytes, list[str]]:
    """A doctor's account with a second factor and recovery codes."""
    account_id, then = make(database, master, Role.DOCTOR), NOW - timedelta(hours=1)
    with database.staff() as session:
        link = accounts.invitation_link(session, account_id, actor="cli:test", now=then, web=WEB)
        signed = accounts.look_up(
            session, accounts.use_link(session, link, HOME, now=then) or "", now=then, web=WEB
        )
        assert signed is not None
        secret = accounts.secret_to_enrol(session, master, signed)
        enrolled = accounts.enrol(session, master, signed, code(secret, then), HOME, now=then)
        assert enrolled is not None
        return account_id, secret, enrolled[1]


def test_second_factor_and_recovery_codes_stay_good(
    database: Database, before: Settings, swapped: Settings, after: Settings
):
    account_id, secret, codes = enrol(database, before.master)
    rotate(database, swapped)
    signed = half_way(database, account_id)
    with database.staff() as session:
        right = accounts.second_factor(session, after.master, signed, code(secret, NOW), HOME, now=NOW)
    assert isinstance(right, str)
    signed = half_way(database, account_id)
    with database.staff() as session:
        assert isinstance(accounts.recover(session, after.master, signed, codes[0], HOME, now=NOW), str)
        assert accounts.email_of(after.master, accounts.find(session, account_id)) == "a@example.org"


def test_a_second_factor_that_is_being_set_up_is_set_up_to_its_end(
    database: Database, before: Settings, swapped: Settings, after: Settings
):
    account_id = make(database, before.master, Role.DOCTOR)
    with database.staff() as session:
        link = accounts.invitation_link(session, account_id, actor="cli:test", now=NOW, web=WEB)
        signed = accounts.look_up(session, accounts.use_link(session, link, HOME, now=NOW) or "", now=NOW, web=WEB)
        secret = accounts.secret_to_enrol(session, before.master, signed)
    assert rotate(database, swapped)[Kind.SESSIONS] == 1
    with database.staff() as session:
        assert accounts.secret_to_enrol(session, after.master, signed) == secret


@pytest.mark.parametrize("is_rotated", [False, True])
@pytest.mark.parametrize(("asks", "sends"), [("told", "swapped"), ("swapped", "told")])
def test_a_link_is_sent_whichever_process_asks_and_sends(
    database: Database, before: Settings, request: pytest.FixtureRequest, is_rotated: bool, asks: str, sends: str
):
    """Also if the accounts are sealed anew between the two."""
    account_id = make(database, before.master, Role.DOCTOR)
    with database.staff() as session:
        master = request.getfixturevalue(asks).master
        assert accounts.ask_link(session, master, "A@example.org", HOME, now=NOW, web=WEB) is None
    if is_rotated:
        rotate(database, request.getfixturevalue("swapped"))
    with database.staff() as session:
        mail = accounts.next_mail(session, request.getfixturevalue(sends).master, now=NOW, web=WEB)
    assert isinstance(mail, accounts.Mail)
    assert (mail.account_id, mail.recipient) == (account_id, "a@example.org")


def test_an_address_has_one_account_while_two_keys_are_in_use(
    database: Database, before: Settings, told: Settings, swapped: Settings
):
    make(database, before.master)
    for current in (told, swapped):
        with pytest.raises(ConflictError, match="has an account already"):
            make(database, current.master)
    rotate(database, swapped)
    with pytest.raises(ConflictError, match="has an account already"):
        make(database, told.master)


def test_a_page_made_by_one_process_may_be_sent_to_another(before: Settings, told: Settings, swapped: Settings):
    shown = accounts.csrf_token(before.master, "a-session")
    assert accounts.is_csrf_token(swapped.master, "a-session", shown)
    assert accounts.is_csrf_token(told.master, "a-session", accounts.csrf_token(swapped.master, "a-session"))
    assert not accounts.is_csrf_token(before.master, "a-session", accounts.csrf_token(swapped.master, "a-session"))
    assert not accounts.is_csrf_token(swapped.master, "another", shown)


def test_a_callback_keeps_its_secret(database: Database, before: Settings, swapped: Settings, after: Settings):
    with database.staff() as session:
        made = feed.create(
            session, before.master, "https://example.org/hook", None, actor="cli:test", allow_private=False
        )
        number, secret = made.callback.id, made.secret
    assert rotate(database, swapped)[Kind.CALLBACKS] == 1
    with database.staff() as session:
        call = feed.ping(session, after.master, number, now=NOW)
        assert session.get_one(Callback, number).secret_sealed[:4].hex() == after.master.fingerprint
    assert secret.endswith(base64.b64encode(call.secret).decode())


# --- who holds a row


def test_a_row_that_somebody_holds_is_passed_over_and_waited_for(
    database: Database, before: Settings, swapped: Settings, monkeypatch: pytest.MonkeyPatch
):
    held = make_campaign(database, before, [person(1)])
    make_campaign(database, before, [person(1)], number=2)
    monkeypatch.setattr(keys, "PATIENCE_S", 0.05)
    with database.staff() as holding:
        holding.execute(text("SELECT FROM campaign WHERE id = :id FOR UPDATE"), {"id": held})
        assert rotate(database, swapped)[Kind.CAMPAIGNS] == 1
        with database.staff() as session, pytest.raises(ConflictError, match="Some campaigns are held"):
            keys.wait(session, swapped.master, Kind.CAMPAIGNS)
    with database.staff() as session:
        assert keys.wait(session, swapped.master, Kind.CAMPAIGNS)
    assert rotate(database, swapped)[Kind.CAMPAIGNS] == 1
    with database.staff() as session:
        assert not keys.wait(session, swapped.master, Kind.CAMPAIGNS)


def test_a_campaign_erased_while_it_is_waited_for_is_not_brought_back(
    database: Database, before: Settings, swapped: Settings
):
    campaign_id = make_campaign(database, before, [person(1)])
    with database.staff() as holding:
        holding.execute(text("UPDATE campaign SET data_key = NULL WHERE id = :id"), {"id": campaign_id})
        assert rotate(database, swapped)[Kind.CAMPAIGNS] == 0
    assert rotate(database, swapped)[Kind.CAMPAIGNS] == 0
    with database.staff() as session:
        assert session.get_one(Campaign, campaign_id).data_key is None
        assert session.query(Account).count() == 0
