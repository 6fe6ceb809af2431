"""The real application on a database of its own, and people with browsers in front of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import unescape

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from notifier import accounts
from notifier.accounts import DOCTORS, STAFF, Role, Source
from notifier.api import create_app
from notifier.models import Account
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_campaign, make_doctor, make_settings, person

PASSWORD = "correct horse battery staple"


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url)


@pytest.fixture
def app(current: Settings) -> Iterator[FastAPI]:
    app = create_app(current)
    yield app
    app.state.context.database.dispose()


@dataclass
class Person:
    """Somebody with a browser. Time steps of codes are counted up, so that no code is used twice."""

    client: TestClient
    database: Database
    current: Settings
    account_id: int = 0
    email: str = ""
    secret: bytes = b""
    codes: list[str] = field(default_factory=list)

    def get(self, path: str, **more: object) -> Response:
        return self.client.get(path, headers={"Accept": "text/html"} | more.pop("headers", {}), **more)

    def post(self, path: str, values: dict[str, str] | None = None, **more: object) -> Response:
        """Sends a form as a page of ours would, with the token that this browser's pages hold."""
        if "pn_session" not in self.client.cookies:
            self.get("/sign-in")
        token = accounts.csrf_token(self.current.master, self.client.cookies["pn_session"])
        return self.client.post(path, data={"csrf": token} | (values or {}), **more)

    def code(self) -> str:
        """The code that the app shows once the last one used is over."""
        with self.database.staff() as session:
            used = session.get_one(Account, self.account_id).totp_step
        return accounts.totp(self.secret, max(used + 1, int(time.time()) // accounts.TOTP_STEP_S))

    def invite(self) -> str:
        """The path of an invitation handed over."""
        with self.database.staff() as session:
            token = accounts.invitation_link(
                session, self.account_id, actor="cli:test", now=datetime.now(UTC), web=self.current.web
            )
        return f"/link/{token}"

    def sign_in_link(self) -> str:
        """The path of the link that the mailer would send now."""
        with self.database.staff() as session:
            web, now = self.current.web, datetime.now(UTC)
            accounts.ask_link(session, self.current.master, self.email, Source(), now=now, web=web)
            mail = accounts.next_mail(session, self.current.master, now=now, web=web)
            assert isinstance(mail, accounts.Mail)
            accounts.mail_sent(session, mail.id)
        return f"/link/{mail.token}"

    def enrol(self) -> Response:
        """From the invitation to the recovery codes."""
        self.post(self.invite())
        self.post("/enrol/password", {"password": PASSWORD, "again": PASSWORD})
        self.secret = secret_on(self.get("/enrol").text)
        answer = self.post("/enrol", {"code": self.code()})
        self.codes = codes_on(answer.text)
        return answer

    def come_in(self) -> None:
        """The same without pages: at once."""
        now, master, web = datetime.now(UTC), self.current.master, self.current.web
        source = Source("192.0.2.1")
        with self.database.staff() as session:
            link = accounts.invitation_link(session, self.account_id, actor="cli:test", now=now, web=web)
            token = accounts.use_link(session, link, source, now=now)
            signed = accounts.look_up(session, token, now=now, web=web)
            if signed.role in STAFF:
                accounts.set_password(session, signed, PASSWORD)
                signed = accounts.look_up(session, token, now=now, web=web)
            self.secret = accounts.secret_to_enrol(session, master, signed)
            code = accounts.totp(self.secret, int(now.timestamp()) // accounts.TOTP_STEP_S)
            token, self.codes = accounts.enrol(session, master, signed, code, source, now=now)
            device = accounts.remember_device(session, self.account_id, None, now=now)
        for name, value in (("pn_session", token), ("pn_device", device)):
            self.client.cookies.set(name, value, domain="testserver.local", path="/")

    def forget(self) -> None:
        """Another browser."""
        self.client.cookies.clear()


NewPerson = Callable[..., Person]


def secret_on(page: str) -> bytes:
    import base64

    shown = re.search(r'class="secret code">([A-Z2-7 ]+)<', page)
    assert shown, page
    plain = shown[1].replace(" ", "")
    return base64.b32decode(plain + "=" * (-len(plain) % 8))


def codes_on(page: str) -> list[str]:
    return re.findall(r"<li>([a-z2-7]{4}(?:-[a-z2-7]{4}){3})</li>", page)


def heading(answer: Response) -> str:
    """What a page is called."""
    found = re.search(r"<h1>(.*?)</h1>", answer.text, re.DOTALL)
    assert found, answer.text
    return unescape(found[1]).strip()


@pytest.fixture
def stranger(app: FastAPI, database: Database, current: Settings) -> Callable[[], Person]:
    """A browser nobody knows."""
    return lambda: Person(TestClient(app, raise_server_exceptions=False), database, current)


@pytest.fixture
def doctors(database: Database, current: Settings) -> tuple[int, int]:
    """Two doctors; the first has a campaign."""
    make_campaign(database, current, [person(1)], number=1)
    with database.staff() as session:
        other = make_doctor(session, 2)
        return other.id - 1, other.id


@pytest.fixture
def new_person(stranger: Callable[[], Person], doctors: tuple[int, int]) -> NewPerson:
    """Somebody with an account; doctors and secretaries work for the first doctor."""

    def make(
        role: Role = Role.DOCTOR, *, doctor_id: int | None = None, language: str = "fr", email: str = ""
    ) -> Person:
        made = stranger()
        made.email = email or f"{role}{secrets_free_number()}@example.org"
        with made.database.staff() as session:
            account = accounts.create(
                session,
                made.current.master,
                role=role,
                email=made.email,
                language=language,
                doctor_id=(doctor_id or doctors[0]) if role in DOCTORS else None,
                actor="cli:test",
            )
            made.account_id = account.id
        assert role in DOCTORS | STAFF
        return made

    return make


_made = iter(range(1, 1_000_000))


def secrets_free_number() -> int:
    """Another number each time, for addresses that must differ."""
    return next(_made)


@pytest.fixture
def signed_in(new_person: NewPerson) -> NewPerson:
    """Somebody who came all the way in."""

    def make(role: Role = Role.DOCTOR, **more: object) -> Person:
        made = new_person(role, **more)
        made.come_in()
        return made

    return make
