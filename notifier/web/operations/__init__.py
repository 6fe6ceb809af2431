"""The operators' pages: one that says how all stands, the way down to one delivery, and what an operator can do.

All staff look; only operators act. `docs/operators.md` says what each page is for.
"""

from __future__ import annotations

from notifier.web.operations import acting, down, look
from notifier.web.pages import Pages

pages = Pages()
for _area in (look, acting, down):
    pages.all.extend(_area.pages.all)
