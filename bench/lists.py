"""How well contacts are read: precision and recall over made-up lists whose truth is known.

    python -m bench.lists [--rows 20000] [--seed 1] [--json]

Precision: of the contacts taken for a person, how many are that person's own. Recall: of those that a careful
reader could use without asking anybody, how many were taken. The truth comes from how each cell was made, never
from reading it back, and shares no code with the product. Numbers are of blocks kept for fiction, but for those
overseas, which has none; nothing is ever sent.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from notifier.checking import Crowds, drop_crowded, rows_of
from notifier.importers import open_list
from notifier.judging import Judged, Setting, own_keys

TODAY = date(2026, 11, 25)
#: what is kept of a run as a figure
FIGURES = (
    "precision", "recall", "wrong_per_1000", "missed_per_1000", "contacts_taken", "contacts_usable",
    "judge_us_cpu",
)  # fmt: skip
PRACTICE = ("01 99 00 00 01", "06 39 98 99 99", "cabinet.exemple@example.org")
SURNAMES = "Dupont Durand Lefèvre Moreau Garnier d'Artois De-La-Tour O'Brien Núñez Étournaud Le-Goff Silva".split()  # noqa: SIM905 - read as a row
FIRST_NAMES = "Marie Jean Hélène Pierre-Yves Françoise Éric Zoë Aïcha Loïc Anne-Marie José Ana".split()  # noqa: SIM905 - read as a row
DOMAINS = "example.org example.com example.net example.fr orange.example.fr mail.example.com".split()  # noqa: SIM905 - read as a row
ADULTS = ("voisine", "ex-mari", "fille", "conjoint", "mari", "grand-mère", "soeur", "ami")
PARENTS = ("mère", "père", "maman", "tuteur", "parents")
PLACES = ("", "", "", " (portable)", " travail", " perso", " - domicile")
#: (national beginning, how it is written abroad, postal code)
OVERSEAS = (
    ("069000", "+59069000", "97110"), ("069620", "+59669620", "97200"), ("069420", "+59469420", "97300"),
    ("069212", "+26269212", "97400"), ("063901", "+26263901", "97600"),
)  # fmt: skip


@dataclass
class Line:
    """One row to write, and what is true about it."""

    cells: dict[str, str]
    #: usable, and this person's own
    usable: set[str] = field(default_factory=set)
    #: this person's own too, but only a person could say so: neither taking nor leaving it is wrong
    arguable: set[str] = field(default_factory=set)
    #: which kinds of cells it has, to say where something went wrong
    kinds: list[str] = field(default_factory=list)


class _Maker:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(f"lists {seed}")
        self._mobiles = self.dice.sample(range(9999), 9999)
        self._number = 0

    def mobile(self) -> str:
        """The digits of a fictitious mobile number that only a family's further members may get too."""
        if not self._mobiles:
            self._mobiles = self.dice.sample(range(9999), 9999)
        return f"063998{self._mobiles.pop():04d}"

    def email(self) -> str:
        self._number += 1
        joined = self.dice.choice((".", "-", "_", ""))
        return f"p{self._number}{joined}exemple@{self.dice.choice(DOMAINS)}"

    # -- telephone cells

    def good_phone(self) -> tuple[str, set[str], str]:
        number = self.mobile()
        written = self._written(number)
        return written + self.dice.choice(PLACES), {f"+33{number[1:]}"}, "phone"

    def _written(self, number: str) -> str:
        pairs = [number[start : start + 2] for start in range(0, 10, 2)]
        rest = " ".join(pairs[1:])
        return self.dice.choice(
            (
                number, number, " ".join(pairs), " ".join(pairs), ".".join(pairs), "-".join(pairs),
                "/".join(pairs), "\u00a0".join(pairs), "\u202f".join(pairs), f"+33{number[1:]}",
                f"+33 {number[1]} {rest}",
                f"+33 (0){number[1]} {rest}", f"0033{number[1:]}", f"+33 {pairs[0]} {rest}", number[1:],
                f"33{number[1:]}", f"{number[1:]}.0", f"33{number[1:]}.0", f'="{number}"', f"'{number}",
                f"({pairs[0]}) {rest}", f"Port. {'.'.join(pairs)}", f"tél : {number}", f"\u200b{number}",
                f" {number} ", f"0+33{number[1:]}",
            )
        )  # fmt: skip

    def overseas_phone(self) -> tuple[str, set[str], str, str]:
        start, abroad, code = self.dice.choice(OVERSEAS)
        digits = f"{self.dice.randrange(10_000):04d}"
        return f"{start[:4]} {start[4:]} {digits[:2]} {digits[2:]}", {abroad + digits}, "overseas", code

    def several_phones(self) -> tuple[str, set[str], str]:
        one, other = self.mobile(), self.mobile()
        joined = self.dice.choice((" / ", ";", " ou ", "\n", ", ", " - ", " et "))
        spaced = " ".join(other[start : start + 2] for start in range(0, 10, 2))
        return f"{one}{joined}{spaced}", {f"+33{one[1:]}", f"+33{other[1:]}"}, "several phones"

    def half_phone(self) -> tuple[str, set[str], str]:
        """Two numbers, one of which must not be used."""
        own, other = self.mobile(), self.mobile()
        stop = self.dice.choice(("ne pas appeler", "faux numéro", "ancien", f"({self.dice.choice(ADULTS)})"))
        return f"{own} / {other} {stop}", {f"+33{own[1:]}"}, "half phone"

    def parents_phone(self) -> tuple[str, set[str], str]:
        number = self.mobile()
        return f"{number} ({self.dice.choice(PARENTS)})", {f"+33{number[1:]}"}, "parent's phone"

    def landline(self) -> tuple[str, set[str], str]:
        block = self.dice.choice(("019900", "026191", "035301", "046571", "053649"))
        return f"{block}{self.dice.randrange(2, 10_000):04d}", set(), "landline"

    def bad_phone(self) -> tuple[str, set[str], str]:
        number = self.mobile()
        place = self.dice.randrange(4, 10)
        pairs = [number[start : start + 2] for start in range(0, 10, 2)]
        written = self.dice.choice(
            (
                lambda: " ".join([*pairs[:3], "XX", "XX"]), lambda: f"{number[:6]}****",
                lambda: number[:place] + "O" + number[place + 1 :], lambda: number[:-1], lambda: number + "7",
                lambda: "3,36E+10", lambda: "6.39E+08", lambda: "0000000000", lambda: "06 06 06 06 06",
                lambda: "0600000000", lambda: "néant", lambda: "?", lambda: "0 891 12 34 56", lambda: "3631",
                lambda: "07 00 01 23 45", lambda: f"{number} ne pas appeler", lambda: f"NE PAS UTILISER {number}",
                lambda: f"{number} ({self.dice.choice(ADULTS)})", lambda: f"{self.dice.choice(ADULTS)} : {number}",
                lambda: f"{number} Mme Untel", lambda: f"fax {number}", lambda: f"{number} erreur",
                lambda: f"{number} ext 12", lambda: self.dice.choice(PRACTICE[:2]), lambda: "0710000000",
                lambda: f"{number[:5]}?{number[6:]}", lambda: f"{number} décédé", lambda: number[:4],
            )
        )()  # fmt: skip
        return written, set(), "bad phone"

    # -- email cells

    def good_email(self) -> tuple[str, set[str], str]:
        address = self.email()
        local, _, domain = address.partition("@")
        written = self.dice.choice(
            (
                address, address, address, address, f"{local}@{domain.upper()}", f" {address} ", f"{address};",
                f"{address}.", f"{address},", f"<{address}>", f"Jean Exemple <{address}>", f'"{address}"',
                f"mailto:{address}", f"\u200b{address}", f"{address}\u00a0", f"{address} (perso)",
                f"{address} travail", f"'{address}'",
            )
        )  # fmt: skip
        return written, {address}, "email"

    def several_emails(self) -> tuple[str, set[str], str]:
        one, other = self.email(), self.email()
        joined = self.dice.choice((";", "; ", ", ", " / ", " ou ", "\n", " "))
        return f"{one}{joined}{other}", {one, other}, "several emails"

    def bad_email(self) -> tuple[str, set[str], str]:
        local, domain = self.email().split("@")
        name, _, ending = domain.rpartition(".")
        written = self.dice.choice(
            (
                lambda: f"{local}@{name},{ending}", lambda: f"{local}@gmial.com", lambda: f"{local}@orange.fe",
                lambda: f"{local}@hotmial.fr", lambda: f"{local}@gmail.con", lambda: f"{local}@gmail.fr",
                lambda: f"{local}@@{domain}", lambda: f"{local}@{name}..{ending}", lambda: f"{local}@",
                lambda: f"{local} exemple@{domain}", lambda: f"{local}.{domain}", lambda: f"{local}é@{domain}",
                lambda: f"{local}@{name.partition('.')[0]}", lambda: f"{local}@{name}.frr",
                lambda: "neant@neant.fr", lambda: "aucun", lambda: "pas de mail",
                lambda: f"nospam@{domain}", lambda: "test@test.fr", lambda: "xxx@xxx.fr", lambda: "NC",
                lambda: "-", lambda: PRACTICE[2], lambda: f"noreply@{domain}", lambda: f"secretariat@{domain}",
                lambda: f"{local}@{domain} ne pas utiliser",
                lambda: f"{local}@{domain} ({self.dice.choice(ADULTS)})",
                lambda: f"{local}@{domain} Mme Untel", lambda: f"{local}@laposte.ne", lambda: f"{local}＠{domain}",
                lambda: f"{local}..x@{domain}",
            )
        )()  # fmt: skip
        return written, set(), "bad email"

    # -- lines

    def lines(self, rows: int) -> list[Line]:
        made: list[Line] = []
        crowd = self.mobile(), self.email()
        while len(made) < rows:
            line = self._line(len(made))
            made.append(line)
            if self.dice.random() < 0.08 and len(made) < rows:
                made.append(self._relative(line, len(made)))
            if self.dice.random() < 0.01:
                # a home's number and address on many rows: nobody's own
                line.cells["portable"], line.cells["email"] = crowd
                line.usable, line.kinds = set(), ["crowd"]
        return made

    def _line(self, number: int) -> Line:
        born = date(1930, 1, 1).toordinal() + self.dice.randrange(35_000)
        line = Line(
            {
                "n° patient": f"P{number}",
                "nom": self.dice.choice(SURNAMES),
                "prénom": self.dice.choice(FIRST_NAMES),
                "né(e) le": f"{date.fromordinal(born):%d/%m/%Y}",
                "code postal": self.dice.choice(("75011", "1000", "01000", "20167", "")),
            }
        )
        if self.dice.random() < 0.85:
            phone: Callable[[], tuple[str, set[str], str]] = self.dice.choices(
                (
                    self.good_phone,
                    self.several_phones,
                    self.half_phone,
                    self.parents_phone,
                    self.landline,
                    self.bad_phone,
                ),
                (60, 5, 3, 3, 8, 20),
            )[0]
            if self.dice.random() < 0.04:
                text, usable, kind, line.cells["code postal"] = self.overseas_phone()
            else:
                text, usable, kind = phone()
            self._put(line, "portable", text, usable, kind)
        if self.dice.random() < 0.75:
            email = self.dice.choices((self.good_email, self.several_emails, self.bad_email), (70, 6, 24))[0]
            self._put(line, "email", *email())
        return line

    @staticmethod
    def _put(line: Line, column: str, text: str, usable: set[str], kind: str) -> None:
        line.cells[column] = text
        line.usable |= usable
        line.kinds.append(kind)

    def _relative(self, line: Line, number: int) -> Line:
        """Somebody of the same household: the same contacts, written the same way."""
        cells = line.cells | {"n° patient": f"P{number}", "prénom": f"{line.cells['prénom']}-Lou"}
        return Line(cells, set(line.usable), set(line.arguable), list(line.kinds))


COLUMNS = ("n° patient", "nom", "prénom", "né(e) le", "portable", "email", "code postal")


def written(lines: list[Line], delimiter: str = ";", encoding: str = "utf-8-sig") -> bytes:
    """The list as practice software would export it."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([line.cells.get(column, "") for column in COLUMNS] for line in lines)
    return text.getvalue().encode(encoding)


def run(rows: int = 20_000, seed: int = 1) -> dict[str, Any]:
    """Precision, recall, and the kinds of cells that cost either; CPU per row for reading and judging twice."""
    lines = _Maker(seed).lines(rows)
    source = io.BytesIO(written(lines))
    setting = Setting("FR", TODAY, practice=own_keys(PRACTICE, "FR"))
    cpu = time.process_time()
    with open_list(source, today=datetime.now(UTC).date()) as reader:
        crowds = Crowds(reader)
        for judged in rows_of(reader, setting):
            crowds.add(judged)
        taken: list[set[str]] = []
        for judged in rows_of(reader, setting):
            drop_crowded(judged, crowds)
            taken.append(_taken(judged))
    cpu = time.process_time() - cpu
    assert len(taken) == len(lines), "every line is a row"
    wrong, missed = Counter[str](), Counter[str]()
    right = usable = accepted = 0
    for line, found in zip(lines, taken, strict=True):
        accepted += len(found - line.arguable)
        usable += len(line.usable)
        right += len(found & line.usable)
        wrong.update(line.kinds * bool(found - line.usable - line.arguable))
        missed.update(line.kinds * bool(line.usable - found))
    return {
        "rows": rows,
        "contacts_taken": accepted,
        "contacts_usable": usable,
        "precision": right / accepted,
        "recall": right / usable,
        "wrong_per_1000": (accepted - right) / accepted * 1000,
        "missed_per_1000": (usable - right) / usable * 1000,
        "wrong_by_kind": dict(wrong),
        "missed_by_kind": dict(missed),
        "judge_us_cpu": cpu / rows / 2 * 1e6,
    }


def _taken(judged: Judged) -> set[str]:
    return {address for _, _, address in judged.contacts()}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.lists", description="Measure how well contacts are read."
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    answer = run(options.rows, options.seed)
    if options.json:
        print(json.dumps(answer))
    else:
        print("\n".join(f"{name.replace('_', ' '):18} {value}" for name, value in answer.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
