"""The doctor's pages: their campaigns. A doctor's transaction holds that doctor's rows only.

A page a module, in the order of use; `docs/doctor.md` says what each is for. Whoever prepares (a secretary) sees
them all; what is the doctor's alone to do says `DECIDES`.
"""

from __future__ import annotations

from notifier.web.doctor import declare, notice, overview, patient_list, people, progress, proof, unreached
from notifier.web.pages import Pages

pages = Pages()
for _area in (overview, patient_list, notice, progress, people, unreached, declare, proof):
    pages.all.extend(_area.pages.all)
