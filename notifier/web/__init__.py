"""The pages: an edge beside the API, for people. How a page is made: `pages.py`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from notifier.settings import Settings
from notifier.store import Database
from notifier.web import account, doctor, home, operations, sign_in
from notifier.web.pages import Page, Pages, endpoint, make_site, plain_error, require_declared, secured
from notifier.web.static import PATH as STATIC

#: all areas; the pages of a new one are declared in its module
AREAS: tuple[Pages, ...] = (home.pages, sign_in.pages, account.pages, doctor.pages, operations.pages)
#: addresses of programs, which are never answered with a page
_PROGRAMS = ("/api/", "/webhooks/")


def all_pages() -> list[Page]:
    """Every page of every area."""
    return [page for area in AREAS for page in area.all]


def create_pages(settings: Settings, database: Database, wake_mailer: Callable[[], None]) -> Starlette:
    """The application of all pages. Raises SettingsError for what they lack, or a page not said whose it is."""
    site = make_site(settings, database, wake_mailer)
    routes: list[BaseRoute] = []
    for page in all_pages():
        require_declared(page)
        routes.append(Route(page.path, endpoint(site, page), methods=[page.method]))

    async def static(request: Request) -> Response:
        response = await site.files.serve(request)
        return secured(site, response) if response.status_code < 400 else plain_error(site, request, 404)

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = plain_error(site, request, error.status_code)
        response.headers.update(error.headers or {})
        return response

    routes.append(Route(STATIC + "{name}", static, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: on_error})
    app.router.redirect_slashes = False
    app.state.site = site
    return app


class Front:
    """Hands requests of people to the pages, those of programs on to the API."""

    def __init__(self, app: ASGIApp, pages: Starlette) -> None:
        self.app = app
        self.pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        to = self.pages if scope["type"] == "http" and self._is_for_people(scope) else self.app
        await to(scope, receive, send)

    def _is_for_people(self, scope: Scope) -> bool:
        path = scope["path"]
        if path.startswith(_PROGRAMS):
            return False
        if any(route.matches(scope)[0] is not Match.NONE for route in self.pages.routes):
            return True
        # What nobody knows is said as the asker reads it; the API's few other addresses are its own.
        wanted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        own = any(route.matches(scope)[0] is not Match.NONE for route in scope["app"].routes)
        return b"text/html" in wanted and not own
