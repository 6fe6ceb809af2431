"""What stands around every page: forms from elsewhere, headers, cookies, languages, errors, static files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response

from notifier import accounts
from notifier.accounts import Role
from notifier.api import create_app
from notifier.models import Campaign
from notifier.settings import ROOT
from notifier.web import AREAS, doctor
from notifier.web.pages import Pages, Visit, browser_of, own_path
from notifier.web.texts import Texts, best_language
from tests.factories import HEADER, make_settings
from tests.notifier.web.conftest import NewPerson, Person, heading

Stranger = Callable[[], Person]
TEMPLATES = ROOT / "templates" / "web"
TEXTS = Texts(TEMPLATES / "texts")


@pytest.mark.parametrize(
    ("headers", "form", "status"),
    [
        ({}, {}, 303),
        ({"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}, {}, 303),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, {}, 303),
        ({"Origin": "https://evil.example"}, {}, 403),
        ({"Origin": "http://testserver.evil.example"}, {}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, {}, 403),
        ({"Sec-Fetch-Site": "same-site"}, {}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, {}, 403),
        ({}, {"csrf": ""}, 403),
        ({}, {"csrf": "é" * 32}, 403),
        ({}, {"csrf": "0" * 32}, 403),
    ],
)
def test_a_form_from_elsewhere_changes_nothing(signed_in: NewPerson, headers, form, status: int):
    doctor = signed_in()
    answer = doctor.post("/account/language", {"language": "en"} | form, headers=headers, follow_redirects=False)
    assert answer.status_code == status
    expected = "My account" if status == 303 else "Mon compte"
    assert heading(doctor.get("/account")) == expected


def test_the_token_of_another_session_does_not_serve(signed_in: NewPerson):
    mine, other = signed_in(), signed_in()
    token = accounts.csrf_token(other.current.master, other.client.cookies["pn_session"])
    assert mine.post("/account/language", {"csrf": token, "language": "en"}).status_code == 403


def test_every_page_has_its_security_headers(signed_in: NewPerson):
    doctor = signed_in()
    for path in ("/sign-in", "/doctor", "/account", "/nowhere", "/operations"):
        headers = doctor.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in headers


def test_with_https_cookies_are_bound_to_this_host_and_browsers_keep_to_it(database_url: str):
    app = create_app(make_settings(database_url, public_url="https://notifier.example.org"))
    answer = TestClient(app, base_url="https://notifier.example.org").get("/sign-in")
    app.state.context.database.dispose()
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-pn_session=")
    for part in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert part in cookie
    assert "Domain" not in cookie
    assert answer.headers["strict-transport-security"].startswith("max-age=31536000")


def test_no_page_has_a_style_or_script_of_its_own():
    for path in TEMPLATES.rglob("*.html"):
        if not path.name.startswith("rehearsal"):
            source = path.read_text(encoding="utf-8")
            found = re.findall(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*src=)|javascript:", source)
            assert found == [], path.name


def test_every_form_that_sends_carries_its_token():
    for path in TEMPLATES.rglob("*.html"):
        source = path.read_text(encoding="utf-8")
        if not path.name.startswith("rehearsal"):
            assert source.count('method="post"') == source.count("{{ csrf() }}"), path.name


def test_both_languages_have_the_same_words_with_the_same_values():
    french, english = TEXTS.all["fr"], TEXTS.all["en"]
    assert set(french) == set(english)
    for key in french:
        values = [sorted(re.findall(r"\{(\w+)\}", words[key])) for words in (french, english)]
        assert values[0] == values[1], key
        assert french[key].strip(), key


def test_every_word_that_a_page_asks_for_is_there():
    sources = [*TEMPLATES.rglob("*.html"), *(ROOT / "notifier" / "web").glob("*.py")]
    asked = set()
    for path in sources:
        asked |= set(
            re.findall(r"""\b(?:t|say)\(\s*["']([a-z0-9_.]+)["']\s*[,)]""", path.read_text(encoding="utf-8"))
        )
    assert asked
    assert asked - set(TEXTS.all["fr"]) == set()


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "fr"), ("en", "en"), ("en-GB,en;q=0.9,fr;q=0.8", "en"), ("de,fr;q=0.2,en;q=0.1", "fr"),
        ("de", "fr"), ("en;q=nonsense,fr", "fr"), ("en;q=0", "fr"), ("*", "fr"), ("," * 5000 + "en", "fr"),
    ],
)  # fmt: skip
def test_who_is_not_signed_in_reads_what_the_browser_asks_for(accepted: str, language: str):
    assert best_language(accepted) == language


@pytest.mark.parametrize(("language", "said"), [("fr", "Page introuvable"), ("en", "Page not found")])
def test_a_person_gets_a_page_for_what_is_not_there_and_a_program_a_problem(
    stranger: Stranger, language: str, said: str
):
    client = stranger().client
    page = client.get("/nowhere", headers={"Accept": "text/html,*/*", "Accept-Language": language})
    assert (page.status_code, heading(page)) == (404, said)
    problem = client.get("/nowhere", headers={"Accept": "application/json"})
    assert problem.headers["content-type"] == "application/problem+json"
    for path in ("/api/v1/nowhere", "/api/v1/campaigns"):
        answer = client.get(path, headers={"Accept": "text/html"})
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.post("/doctor", headers={"Accept": "text/html"}).status_code == 405


@pytest.fixture
def broken_page() -> Iterator[None]:
    """A page that fails in the ways a page can."""
    pages = Pages()

    @pages.get("/broken", allow={Role.DOCTOR})
    def broken(visit: Visit) -> Response:
        raise ValueError("patient@example.org cannot be used")

    kept = list(doctor.pages.all)
    doctor.pages.all += pages.all
    yield
    doctor.pages.all[:] = kept


def test_a_bug_shows_a_number_that_the_log_holds_and_nothing_else(broken_page: None, signed_in: NewPerson, capsys):
    answer = signed_in().get("/broken")
    assert answer.status_code == 500
    reference = re.search(r'class="code">([0-9a-f]{8})<', answer.text)
    assert reference
    logged = capsys.readouterr().out
    assert reference[1] in logged
    assert "patient@example.org" not in answer.text + logged


def test_an_auditors_transaction_changes_nothing(signed_in: NewPerson, app, doctors):
    auditor = signed_in(Role.AUDITOR)
    seen = []

    def write(visit: Visit) -> Response:
        with visit.transaction() as session:
            seen.append(session.query(Campaign).count())
            session.query(Campaign).update({"reason": "x"})
            session.flush()
        return visit.redirect("/")

    from notifier.web.pages import Page, endpoint

    site = next(m for m in app.user_middleware if "pages" in m.kwargs).kwargs["pages"].state.site
    from starlette.applications import Starlette
    from starlette.routing import Route

    page = Page("GET", "/write", frozenset({Role.AUDITOR}), write)
    own = TestClient(Starlette(routes=[Route("/write", endpoint(site, page))]), cookies=auditor.client.cookies)
    assert own.get("/write").status_code == 500
    assert seen == [1]
    with site.database.staff() as session:
        assert session.query(Campaign).filter_by(reason="x").count() == 0


@pytest.mark.parametrize(("megabytes", "status"), [(2, 303), (37, 413)])
def test_a_list_may_be_larger_than_any_other_form(signed_in: NewPerson, database, megabytes: int, status: int):
    doctor = signed_in()
    with database.staff() as session:
        campaign = session.query(Campaign).one()
    line = b"P00001;Nom;Prenom;12/03/1975;patient1@example.org;;;;;fr;\n"
    body = HEADER.encode() + b"\n" + line * (megabytes * 2**20 // len(line))
    answer = doctor.post(
        f"/doctor/campaigns/{campaign.id}/list", files={"file": ("list.csv", body)}, follow_redirects=False
    )
    assert answer.status_code == status
    assert doctor.post("/account/language", {"language": "e" * 2 * 2**20}).status_code == 413


def test_static_files_are_named_by_their_hash_and_kept(stranger: Stranger):
    client = stranger().client
    path = re.search(r'href="(/static/app\.[0-9a-f]{16}\.css)"', client.get("/sign-in").text)[1]
    first = client.get(path)
    assert first.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in first.headers["cache-control"]
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for missing in ("/static/app.css", "/static/app.0000000000000000.css", "/static/..%2f..%2fpyproject.toml"):
        assert client.get(missing).status_code == 404


def test_the_words_on_top_are_ours_whatever_the_cookie_says(signed_in: NewPerson):
    doctor = signed_in()
    for planted in ("<script>", "account.title.x", "no.such_key", "x" * 5000):
        doctor.client.cookies.set("pn_said", planted, domain="testserver.local", path="/")
        assert 'role="status"' not in doctor.get("/doctor").text


@pytest.mark.parametrize("path", ["/", "/doctor", "/operations?state=sending", "/doctor/campaigns/1"])
def test_an_own_path_stays(path: str):
    assert own_path(path) == path


def test_a_browser_is_named_by_known_words_only():
    assert (
        browser_of("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36")
        == "Chrome, Linux"
    )
    assert browser_of("<script>alert(1)</script>") == ""


def test_every_area_is_known():
    assert len(AREAS) == len({id(area) for area in AREAS})
