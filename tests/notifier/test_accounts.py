"""Who signs in: published vectors, allowances, and the races that a clever person would try."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from notifier import accounts
from notifier.accounts import LIMITS, Role, Source, Stage, Wait
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Account
from notifier.sealing import MasterKey
from notifier.settings import Web
from notifier.store import Database
from tests.factories import make_doctor

NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
WEB = Web()
HOME = Source("192.0.2.7")


def make(database: Database, master: MasterKey, role: Role = Role.OPERATOR, email: str = "a@example.org") -> int:
    with database.staff() as session:
        doctor_id = make_doctor(session).id if role in accounts.DOCTORS else None
        account = accounts.create(session, master, role=role, email=email, doctor_id=doctor_id, actor="cli:test")
        return account.id


def half_way(database: Database, account_id: int, now: datetime = NOW) -> accounts.Signed:
    """A browser that waits for the second factor."""
    with database.staff() as session:
        account = accounts.find(session, account_id)
        token = accounts.open_session(session, account, Stage.SECOND_FACTOR, HOME, now=now)
        signed = accounts.look_up(session, token, now=now, web=WEB)
        assert signed is not None
        return signed


def enrolled(database: Database, master: MasterKey) -> tuple[int, bytes]:
    """An account with a second factor whose first code was used an hour ago."""
    account_id, before = make(database, master, Role.DOCTOR), NOW - timedelta(hours=1)
    with database.staff() as session:
        link = accounts.invitation_link(session, account_id, actor="cli:test", now=before, web=WEB)
        token = accounts.use_link(session, link, HOME, now=before)
        assert token is not None
        signed = accounts.look_up(session, token, now=before, web=WEB)
        assert signed is not None
        secret = accounts.secret_to_enrol(session, master, signed)
        assert accounts.enrol(session, master, signed, code(secret, before), HOME, now=before) is not None
    return account_id, secret


def code(secret: bytes, now: datetime, steps: int = 0) -> str:
    return accounts.totp(secret, int(now.timestamp()) // accounts.TOTP_STEP_S + steps)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"),
        (2000000000, "279037"), (20000000000, "353130"),
    ],
)  # fmt: skip
def test_codes_are_those_of_rfc_6238_appendix_b(seconds: int, expected: str):
    assert accounts.totp(b"12345678901234567890", seconds // accounts.TOTP_STEP_S) == expected


@pytest.mark.parametrize(("steps", "is_taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_clocks_may_differ_by_one_step(database: Database, master: MasterKey, steps: int, is_taken: bool):
    account_id, secret = enrolled(database, master)
    signed = half_way(database, account_id)
    with database.staff() as session:
        came = accounts.second_factor(session, master, signed, code(secret, NOW, steps), HOME, now=NOW)
    assert isinstance(came, str) is is_taken


@pytest.mark.parametrize("typed", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "-12345"])
def test_what_is_no_code_is_wrong(database: Database, master: MasterKey, typed: str):
    account_id, _ = enrolled(database, master)
    with database.staff() as session:
        assert (
            accounts.second_factor(session, master, half_way(database, account_id), typed, HOME, now=NOW) is None
        )


def test_of_two_who_send_one_code_at_once_one_comes_in(database: Database, master: MasterKey):
    account_id, secret = enrolled(database, master)
    both = [half_way(database, account_id) for _ in range(2)]
    came: list[object] = []
    start = threading.Barrier(2)

    def try_it(signed: accounts.Signed) -> None:
        start.wait(10)
        with database.staff() as session:
            came.append(accounts.second_factor(session, master, signed, code(secret, NOW), HOME, now=NOW))

    threads = [threading.Thread(target=try_it, args=(signed,)) for signed in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(isinstance(one, str) for one in came) == [False, True]


def test_of_two_who_open_one_link_at_once_one_comes_in(database: Database, master: MasterKey):
    account_id = make(database, master)
    with database.staff() as session:
        link = accounts.invitation_link(session, account_id, actor="cli:test", now=NOW, web=WEB)
    came: list[str | None] = []
    start = threading.Barrier(2)

    def try_it() -> None:
        start.wait(10)
        with database.staff() as session:
            came.append(accounts.use_link(session, link, HOME, now=NOW))

    threads = [threading.Thread(target=try_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(one is not None for one in came) == [False, True]


def test_links_and_sessions_end_in_time(database: Database, master: MasterKey):
    account_id = make(database, master)
    with database.staff() as session:
        link = accounts.invitation_link(session, account_id, actor="cli:test", now=NOW, web=WEB)
        last = NOW + timedelta(days=WEB.invitation_days) - timedelta(seconds=1)
        assert accounts.look_at_link(session, link, now=last) is accounts.Purpose.INVITATION
        assert accounts.look_at_link(session, link, now=last + timedelta(seconds=1)) is None
        assert accounts.use_link(session, link, HOME, now=last + timedelta(seconds=1)) is None
        account = accounts.find(session, account_id)
        token = accounts.open_session(session, account, Stage.FULL, HOME, now=NOW)
        idle, step = timedelta(minutes=WEB.idle_min), timedelta(minutes=WEB.idle_min - 1)
        assert accounts.look_up(session, token, now=NOW + idle, web=WEB) is None
        at = NOW
        while at + step < NOW + timedelta(hours=WEB.session_hours):
            at += step
            assert accounts.look_up(session, token, now=at, web=WEB) is not None
        assert accounts.look_up(session, token, now=NOW + timedelta(hours=WEB.session_hours), web=WEB) is None


def test_an_allowance_fills_again_and_is_counted_for_each_network(database: Database, master: MasterKey):
    limit = LIMITS["password"].source

    def guess(source: Source, now: datetime) -> object:
        with database.staff() as session:
            return accounts.sign_in_by_password(session, master, "nobody@example.org", "x", source, now=now)

    assert [guess(HOME, NOW) for _ in range(limit.most)] == [None] * limit.most
    refused = guess(Source("192.0.2.200"), NOW)  # the same network
    assert isinstance(refused, Wait)
    assert 0 < refused.seconds <= limit.refill.total_seconds() + 1
    assert guess(Source("198.51.100.1"), NOW) is None
    assert guess(HOME, NOW + timedelta(seconds=refused.seconds)) is None
    assert isinstance(guess(HOME, NOW + timedelta(seconds=refused.seconds)), Wait)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"), ("2001:db8:1:ff22::9", "2001:db8:1:ff00::/56"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"), ("", ""), ("testclient", ""),
    ],
)  # fmt: skip
def test_a_network_is_what_one_subscriber_may_hold(address: str, network: str):
    assert Source(address).network == network


def test_an_account_is_made_as_the_roles_allow(database: Database, master: MasterKey):
    account_id = make(database, master, Role.DOCTOR)
    with database.staff() as session:
        doctor_id = accounts.find(session, account_id).doctor_id

        def create(**changes: object) -> Account:
            values = {
                "role": Role.SECRETARY,
                "email": "b@example.org",
                "doctor_id": doctor_id,
                "actor": "cli:test",
            }
            return accounts.create(session, master, **(values | changes))

        with pytest.raises(InputError, match="belongs to a doctor"):
            create(doctor_id=None)
        with pytest.raises(InputError, match="belongs to a doctor"):
            create(role=Role.OPERATOR)
        with pytest.raises(InputError, match="address"):
            create(email="not an address")
        with pytest.raises(InputError, match="written in"):
            create(language="de")
        with pytest.raises(ConflictError, match="one address, one account"):
            create(email="A@Example.org")
        with pytest.raises(NotFoundError):
            create(doctor_id=999)
        with pytest.raises(InputError, match="make another"):
            accounts.set_role(session, account_id, Role.OPERATOR, actor="cli:test", now=NOW)


def test_a_change_of_rights_ends_the_sessions(database: Database, master: MasterKey):
    account_id = make(database, master)
    with database.staff() as session:
        account = accounts.find(session, account_id)
        token = accounts.open_session(session, account, Stage.FULL, HOME, now=NOW)
        accounts.set_role(session, account_id, Role.OPERATOR, actor="cli:test", now=NOW)
        assert accounts.look_up(session, token, now=NOW, web=WEB) is not None
        accounts.set_role(session, account_id, Role.AUDITOR, actor="cli:test", now=NOW)
        assert accounts.look_up(session, token, now=NOW, web=WEB) is None


def test_a_doctors_transaction_sees_no_account(database: Database, master: MasterKey):
    account_id = make(database, master, Role.DOCTOR)
    with database.staff() as session:
        doctor_id = accounts.find(session, account_id).doctor_id
    assert doctor_id is not None
    from sqlalchemy import text
    from sqlalchemy.exc import ProgrammingError

    for table in ("account", "account_link", "account_mail", "recovery_code", "web_session", "known_device"):
        with pytest.raises(ProgrammingError, match="permission denied"), database.doctor(doctor_id) as session:
            session.execute(text(f"SELECT 1 FROM {table}"))


def test_only_who_lost_the_second_factor_is_invited_again(database: Database, master: MasterKey):
    account_id, _ = enrolled(database, master)
    with database.staff() as session, pytest.raises(ConflictError, match="reset it first"):
        accounts.invite(session, account_id, actor="cli:test", now=NOW)
    with database.staff() as session:
        accounts.reset_second_factor(session, account_id, actor="cli:test", now=NOW)
        accounts.invite(session, account_id, actor="cli:test", now=NOW)
        assert accounts.recovery_codes_left(session, account_id) == 0


def test_what_has_no_use_any_more_is_forgotten(database: Database, master: MasterKey):
    account_id = make(database, master)
    with database.staff() as session:
        accounts.invitation_link(session, account_id, actor="cli:test", now=NOW, web=WEB)
        accounts.ask_link(session, master, "x@example.org", HOME, now=NOW, web=WEB)
        accounts.open_session(session, accounts.find(session, account_id), Stage.FULL, HOME, now=NOW)
        accounts.remember_device(session, account_id, None, now=NOW)
        accounts.tidy(session, now=NOW + timedelta(days=400))
        for table in (accounts.AccountLink, accounts.AccountMail, accounts.WebSession, accounts.KnownDevice):
            assert session.query(table).count() == 0
        assert session.query(Account).count() == 1


def test_a_wrong_password_does_the_same_work_for_a_known_and_an_unknown_address(
    database: Database, master: MasterKey
):
    """Not only the same hashing: a journal entry takes milliseconds too, which would tell who has an account."""
    known = make(database, master, email="known@example.org")
    with database.staff() as session:
        accounts.find(session, known).password_hash = accounts._password_hash("another password")
    asked: dict[str, list[str]] = {}
    for address in ("known@example.org", "unknown@example.org"):
        said = asked[address] = []

        def note(
            connection: object, cursor: object, statement: str, *rest: object, said: list[str] = said
        ) -> None:
            said.append(statement)

        event.listen(database.engine, "before_cursor_execute", note)
        with database.staff() as session:
            assert accounts.sign_in_by_password(session, master, address, "wrong", HOME, now=NOW) is None
        event.remove(database.engine, "before_cursor_execute", note)
    assert asked["known@example.org"] == asked["unknown@example.org"]
