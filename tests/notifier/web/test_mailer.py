"""Links go out through a real mail server, survive its absence, and stand nowhere in clear."""

from __future__ import annotations

import asyncio
import email
import email.policy
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from sqlalchemy import text

from notifier import accounts
from notifier.accounts import Role, Source
from notifier.rehearsal.faults import Faults
from notifier.rehearsal.inbox import Inbox
from notifier.rehearsal.ledger import Ledger
from notifier.settings import Settings
from notifier.store import Database
from notifier.web.mailer import Mailer
from tests.factories import make_settings
from tests.notifier.web.conftest import NewPerson, Person, heading


def taken(ledger: Ledger) -> list[EmailMessage]:
    """What the mail server took, oldest first."""
    return [
        email.message_from_bytes(one.content.encode("latin-1"), policy=email.policy.default)
        for one in ledger.since(0, 100)
    ]


def link_in(message: EmailMessage, current: Settings) -> str:
    body = message.get_body(("plain",)).get_content()
    found = re.search(rf"{re.escape(current.public_url)}(/link/[\w-]+)", body)
    assert found, body
    assert found[1] in message.get_body(("html",)).get_content()
    return found[1]


def send_all(database: Database, current: Settings, ledger: Ledger) -> int:
    """Sends what waits now through an inbox on loopback; how many looks there were."""

    async def run() -> int:
        server = await Inbox(ledger, Faults(), 1).start()
        port = server.sockets[0].getsockname()[1]
        mailer = Mailer(
            make_settings(current.database_url or "", smtp={"port": port, "security": "none"}), database
        )
        looks = 0
        while await mailer.send_next():
            looks += 1
        await mailer.provider.close()
        server.close()
        return looks

    return asyncio.run(run())


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    yield made
    made.close()


def test_an_invitation_and_a_link_arrive_and_open_the_door(
    new_person: NewPerson, database: Database, current: Settings, ledger: Ledger
):
    doctor = new_person()
    with database.staff() as session:
        accounts.invite(session, doctor.account_id, actor="cli:test", now=datetime.now(UTC))
    assert send_all(database, current, ledger) == 1
    first = taken(ledger)[0]
    assert first["To"] == doctor.email
    assert first["Subject"] == "Votre accès à Patient Notifier"
    assert heading(doctor.post(link_in(first, current))) == "Protégez votre accès"


def test_a_link_is_sent_to_who_has_an_account_and_nothing_to_who_has_not(
    signed_in: NewPerson, stranger, database: Database, current: Settings, ledger: Ledger
):
    doctor = signed_in(language="en")
    for address in (doctor.email, "nobody@example.org"):
        stranger().post("/sign-in", {"email": address})
    assert send_all(database, current, ledger) == 2
    (only,) = taken(ledger)
    assert only["Subject"] == "Your link to sign in to Patient Notifier"
    doctor.forget()
    assert heading(doctor.post(link_in(only, current))) == "Your code"


@pytest.mark.parametrize("who", ["staff", "not enrolled"])
def test_who_cannot_use_a_link_is_told_what_to_do(
    signed_in: NewPerson, new_person: NewPerson, stranger, database: Database, current, ledger: Ledger, who: str
):
    person: Person = signed_in(Role.OPERATOR) if who == "staff" else new_person()
    stranger().post("/sign-in", {"email": person.email})
    send_all(database, current, ledger)
    (only,) = taken(ledger)
    assert "/link/" not in only.get_body(("plain",)).get_content()


def test_what_the_server_does_not_take_waits_and_comes_again(
    signed_in: NewPerson, database: Database, current: Settings, ledger: Ledger
):
    doctor = signed_in()
    now, web = datetime.now(UTC), current.web
    with database.staff() as session:
        accounts.ask_link(session, current.master, doctor.email, Source(), now=now, web=web)

    async def try_in_vain() -> None:
        mailer = Mailer(make_settings(current.database_url or "", smtp={"port": 1, "security": "none"}), database)
        assert await mailer.send_next()
        assert not await mailer.send_next()

    asyncio.run(try_in_vain())
    with database.staff() as session:
        session.execute(text("UPDATE account_mail SET due_at = now()"))
    assert send_all(database, current, ledger) == 1
    assert len(taken(ledger)) == 1


def test_a_copy_of_the_tables_opens_nothing(
    signed_in: NewPerson, new_person: NewPerson, database: Database, current: Settings
):
    """No secret of a link, session, device, password or second factor stands in the database, nor an address."""
    person = signed_in(Role.OPERATOR)
    invited = new_person()
    link = invited.invite().removeprefix("/link/")
    secrets = [
        link,
        invited.email,
        person.client.cookies["pn_session"],
        person.client.cookies["pn_device"],
        person.email,
    ]
    secrets += [code.replace("-", "") for code in person.codes]
    tables = ("account", "account_link", "account_mail", "recovery_code", "web_session", "known_device", "journal")
    with database.staff() as session:
        kept = "".join(str(session.execute(text(f"SELECT {name}::text FROM {name}")).all()) for name in tables)
        raw = "".join(bytes.fromhex(part).decode("latin-1") for part in re.findall(r"\\x((?:[0-9a-f]{2})+)", kept))
    assert kept
    assert raw
    for secret in secrets:
        assert secret not in kept
        assert secret not in raw
    assert person.secret.decode("latin-1") not in raw
