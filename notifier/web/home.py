"""The front door: sends everybody where their work is."""

from __future__ import annotations

from starlette.responses import Response

from notifier.web.pages import SIGNED_IN, Pages, Visit, home_of

pages = Pages()


@pages.get("/", allow=SIGNED_IN)
def home(visit: Visit) -> Response:
    return visit.redirect(home_of(visit))
