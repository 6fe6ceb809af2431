"""Signing in with a real, small OpenID Connect provider on loopback: what it proves, and all it may lie about."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import RSAKey

from notifier.accounts import Role
from notifier.api import create_app
from notifier.store import Database
from tests.factories import make_settings
from tests.notifier.web.conftest import NewPerson, Person, heading

CLIENT, SECRET = "notifier client", "s/e:c r&et"


@dataclass
class Idp:
    """Codes are given by the test in the place of a person who signs in there."""

    url: str = ""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1"}))
    #: what the next tokens say otherwise; None takes a claim away
    changes: dict[str, Any] = field(default_factory=dict)
    user_info: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    alg: str = "RS256"
    given: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def authorise(self, location: str, code: str = "code-1") -> tuple[str, str]:
        """What happens at the authorisation endpoint: a code for a request that is as it must be."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        assert location.startswith(self.url + "/authorise?")
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256"
        self.given[code] = query
        return code, query["state"]

    def answer(self, path: str, form: dict[str, str], headers: Any) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url,
                "authorization_endpoint": self.url + "/authorise",
                "token_endpoint": self.url + "/token",
                "jwks_uri": self.url + "/keys",
                "userinfo_endpoint": self.url + "/me",
            } | self.metadata
        if path == "/keys":
            return 200, {"keys": [self.key.as_dict(private=False)]}
        if path == "/me":
            assert headers["authorization"] == "Bearer access-1"
            return 200, {"sub": "subject-1"} | self.user_info
        return self._token(form, headers)

    def _token(self, form: dict[str, str], headers: Any) -> tuple[int, dict[str, Any]]:
        asked = self.given.pop(form.get("code", ""), None)
        basic = base64.b64encode(b"notifier%20client:s%2Fe%3Ac%20r%26et").decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if asked is None or headers["authorization"] != f"Basic {basic}":
            return 400, {"error": "invalid_grant"}
        if asked["code_challenge"] != challenge.decode() or asked["redirect_uri"] != form["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.url, "sub": "subject-1", "aud": CLIENT, "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], "email_verified": True,
        } | self.changes  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        token = jwt.encode({"alg": self.alg, "kid": self.key.kid}, claims, self.key, algorithms=[self.alg])
        return 200, {"access_token": "access-1", "token_type": "Bearer", "id_token": token}


@pytest.fixture
def idp() -> Iterator[Idp]:
    served = Idp()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self.reply({name: values[0] for name, values in parse_qs(body).items()})

        def reply(self, form: dict[str, str]) -> None:
            status, document = served.answer(urlsplit(self.path).path, form, self.headers)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def oidc(idp: Idp) -> dict[str, Any]:
    """Settings of the provider; a test may change them before it asks for `app`."""
    return {"issuer": idp.url, "client_id": CLIENT, "client_secret": SECRET}


@pytest.fixture
def use(database_url: str) -> Iterator[Callable[..., FastAPI]]:
    made: list[FastAPI] = []

    def make(**oidc: Any) -> FastAPI:
        made.append(create_app(make_settings(database_url, oidc=oidc)))
        return made[-1]

    yield make
    for app in made:
        app.state.context.database.dispose()


def at(app: FastAPI, who: Person) -> Person:
    """The same person with a new browser, in front of this application."""
    return Person(
        TestClient(app, raise_server_exceptions=False),
        who.database,
        who.current,
        who.account_id,
        who.email,
        who.secret,
    )


def go(browser: Person, idp: Idp, *, next: str = "/") -> Any:
    """There and back; the answer to coming back."""
    away = browser.get(f"/sign-in/oidc?next={next}", follow_redirects=False)
    code, state = idp.authorise(away.headers["location"])
    return browser.get("/sign-in/oidc/back", params={"code": code, "state": state})


def test_staff_come_in_by_the_provider_and_their_second_factor(signed_in: NewPerson, idp, oidc, use):
    who = signed_in(Role.OPERATOR)
    idp.changes["email"] = who.email
    browser = at(use(**oidc), who)
    assert "OpenID Connect" in browser.get("/sign-in/staff").text
    assert heading(go(browser, idp, next="/account")) == "Votre code"
    answer = browser.post("/second-factor", {"code": browser.code(), "next": "/account"})
    assert answer.url.path == "/account"


def test_from_then_on_the_subject_says_who_it_is_and_the_address_nothing(signed_in: NewPerson, idp, oidc, use):
    who, other = signed_in(Role.OPERATOR), signed_in(Role.APPROVER)
    app = use(**oidc, second_factor=True)
    idp.changes["email"] = who.email
    assert heading(go(at(app, who), idp)) == "Exploitation"
    idp.changes["email"] = other.email
    browser = at(app, who)
    go(browser, idp)
    assert who.email in browser.get("/account").text
    # Somebody else whom the provider gives the same address is not this person.
    idp.changes |= {"sub": "subject-2", "email": who.email}
    assert go(at(app, who), idp).status_code == 403


def test_the_second_factor_of_the_provider_counts_only_where_it_is_trusted(signed_in: NewPerson, idp, oidc, use):
    who = signed_in(Role.OPERATOR)
    idp.changes["email"] = who.email
    browser = at(use(**oidc), who)
    go(browser, idp)
    assert browser.get("/operations").url.path == "/second-factor"


LIES = {
    "another issuer": {"iss": "https://evil.example"},
    "another audience": {"aud": "somebody else"},
    "two audiences without azp": {"aud": [CLIENT, "somebody else"]},
    "another azp": {"azp": "somebody else"},
    "another nonce": {"nonce": "old"},
    "no nonce": {"nonce": None},
    "expired": {"exp": 1},
    "no expiry": {"exp": None},
    "no subject": {"sub": None},
    "address not verified": {"email_verified": False},
    "address verified in a word": {"email_verified": "true"},
    "a wrong access token hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_does_not_hold_opens_nothing(signed_in: NewPerson, idp, oidc, use, lie: str):
    who = signed_in(Role.OPERATOR)
    idp.changes |= {"email": who.email} | LIES[lie]
    browser = at(use(**oidc, second_factor=True), who)
    assert go(browser, idp).status_code == 403
    assert browser.get("/operations").url.path == "/sign-in"


def test_a_token_signed_by_another_key_opens_nothing_and_a_new_key_is_learnt(signed_in: NewPerson, idp, oidc, use):
    who = signed_in(Role.OPERATOR)
    idp.changes["email"] = who.email
    app = use(**oidc, second_factor=True)
    assert heading(go(at(app, who), idp)) == "Exploitation"
    idp.key = RSAKey.generate_key(2048, {"kid": "2"})
    assert heading(go(at(app, who), idp)) == "Exploitation"
    own, idp.key = idp.key, RSAKey.generate_key(2048, {"kid": "2"})
    served = idp.answer
    idp.answer = lambda path, form, headers: (  # type: ignore[method-assign]
        (200, {"keys": [own.as_dict(private=False)]}) if path == "/keys" else served(path, form, headers)
    )
    assert go(at(app, who), idp).status_code == 403


def test_an_answer_that_this_browser_did_not_ask_for_is_refused(signed_in: NewPerson, idp, oidc, use):
    who = signed_in(Role.OPERATOR)
    idp.changes["email"] = who.email
    app = use(**oidc, second_factor=True)
    asker, other = at(app, who), at(app, who)
    away = asker.get("/sign-in/oidc", follow_redirects=False)
    code, state = idp.authorise(away.headers["location"])
    assert other.get("/sign-in/oidc/back", params={"code": code, "state": state}).status_code == 403
    assert asker.get("/sign-in/oidc/back", params={"code": code, "state": "another"}).status_code == 403
    # The passing cookie is gone with the first answer, whatever it was.
    assert asker.get("/sign-in/oidc/back", params={"code": code, "state": state}).status_code == 403
    assert asker.get("/sign-in/oidc/back", params={"error": "access_denied", "state": state}).status_code == 403
    assert "/token" not in idp.asked


@pytest.mark.parametrize("change", ["disabled", "role"])
def test_who_may_not_come_in_this_way_does_not(
    signed_in: NewPerson, idp, oidc, use, database: Database, change: str
):
    who = signed_in(Role.DOCTOR if change == "role" else Role.OPERATOR)
    idp.changes["email"] = who.email
    if change == "disabled":
        from datetime import UTC, datetime

        from notifier import accounts

        with database.staff() as session:
            accounts.disable(session, who.account_id, actor="cli:test", now=datetime.now(UTC))
    assert go(at(use(**oidc, second_factor=True), who), idp).status_code == 403


def test_a_doctor_comes_in_by_their_national_number_and_the_required_strength(
    signed_in: NewPerson, idp, oidc, use
):
    who = signed_in(Role.DOCTOR)
    app = use(**oidc, second_factor=True, roles=["doctor"], reference_claim="SubjectNameID", acr="eidas1")
    idp.user_info = {"SubjectNameID": "10000000001"}
    assert go(at(app, who), idp).status_code == 403
    idp.changes["acr"] = "eidas1"
    assert heading(go(at(app, who), idp)) == "Vos patients à informer"
    idp.user_info |= {"sub": "subject-9"}
    assert go(at(app, who), idp).status_code == 403


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "ftp://x/token"},
        {"jwks_uri": None},
        {"jwks_uri": "/keys"},
    ],
)
def test_a_provider_that_cannot_be_believed_is_not_asked_further(signed_in: NewPerson, idp, oidc, use, metadata):
    idp.metadata = metadata
    browser = at(use(**oidc), signed_in(Role.OPERATOR))
    assert browser.get("/sign-in/oidc").status_code == 503
    assert idp.asked == ["/.well-known/openid-configuration"]


def test_a_provider_that_is_away_is_said_so(signed_in: NewPerson, use):
    browser = at(use(issuer="http://127.0.0.1:1", client_id="x"), signed_in(Role.OPERATOR))
    assert browser.get("/sign-in/oidc").status_code == 503


def test_without_a_provider_there_is_no_such_page(signed_in: NewPerson):
    who = signed_in(Role.OPERATOR)
    assert who.get("/sign-in/oidc").status_code == 404
    assert who.get("/sign-in/oidc/back").status_code == 404
