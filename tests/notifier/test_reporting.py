"""The report of a list says of each cell what became of it, and its counts add up."""

from __future__ import annotations

import csv
import io
import json
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from notifier import reporting, sentences
from notifier.importers import open_list
from notifier.judging import Setting, own_keys
from tests.notifier.importers.books import ndjson, patient

TODAY = date(2026, 11, 25)
LIST = (
    "N° patient;Nom;Prénom;né(e) le;Portable;Fixe;Tel mère;Email;CP;Ville;Observations;INS;Décédé\n"
    "1;M. Dupont;Zoé;12/3/75;639980001;01 99 00 12 34;0639980009;Jean <a@EXAMPLE.fr>;1000;Bourg;diabète;1800199123456;\n"
    "2;Durand;Luc;27395;06 39 98 00 02 / 06 12 34 XX XX;;;jean@gmial.com, b@example.fr (perso);75001 Paris;;;;peut-être\n"
    "3;Durand;Luc;1/1/1975;+33639980005;;;;;;;;\n"
    "1;Petit;Ana;30/2/1975;06 39 98 00 03;0639980003;;x;;;RAS;;oui\n"
    "Total;4;;;;;;;;;;;\n"
)


def report(text: str | bytes = LIST, every: bool = True, mapping=None, **options):
    data = text.encode() if isinstance(text, str) else text
    with open_list(io.BytesIO(data), today=TODAY, mapping=mapping) as reader:
        setting = Setting("FR", TODAY, reader.names_people, **options)
        return json.loads(b"".join(reporting.as_json(reporting.Report(reader, setting, every=every))))


def cell(document, row: int, header: str):
    (found,) = [c for r in document["rows"] if r["row"] == row for c in r["cells"] if c["header"] == header]
    return found


def codes(one) -> list[str]:
    return [finding["code"] for finding in one["findings"]]


def test_what_was_changed_is_said_by_row_and_column():
    document = report()
    assert codes(cell(document, 2, "Nom")) == ["title_removed"]
    assert codes(cell(document, 2, "né(e) le")) == ["century_added"]
    assert codes(cell(document, 2, "Portable")) == ["lost_zero_restored"]
    assert cell(document, 2, "Portable")["became"] == ["+33639980001"]
    assert "kept_for_calls" in codes(cell(document, 2, "Fixe"))
    assert codes(cell(document, 2, "Email")) == ["display_name_removed", "domain_in_lower_case"]
    assert codes(cell(document, 2, "CP")) == ["postal_code_zero_restored"]
    assert codes(cell(document, 3, "CP")) == ["postal_code_and_town_parted"]
    assert codes(cell(document, 3, "né(e) le")) == ["date_from_spreadsheet_number"]
    assert "same_contact_again" in codes(cell(document, 5, "Fixe"))
    assert cell(document, 3, "Nom") == {
        "header": "Nom", "column": "last_name", "read": "Durand", "became": ["Durand"], "verdict": "taken",
        "findings": [],
    }  # fmt: skip


def test_what_was_refused_says_why_and_what_was_probably_meant():
    document = report()
    email = cell(document, 3, "Email")
    assert email["verdict"] == "partly"
    assert email["became"] == ["b@example.fr"]
    (refused,) = [finding for finding in email["findings"] if finding["kind"] == "refused"]
    assert (refused["code"], refused["read"], refused["suggestion"]) == (
        "domain_probably_mistyped", "jean@gmial.com", "jean@gmail.com",
    )  # fmt: skip
    assert cell(document, 5, "né(e) le")["verdict"] == "refused"
    assert codes(cell(document, 5, "né(e) le")) == ["invalid_date"]
    assert codes(cell(document, 3, "Décédé")) == ["unclear_yes_or_no"]
    assert codes(cell(document, 2, "INS")) == ["national_id_not_theirs"]
    assert cell(document, 2, "Tel mère")["verdict"] == "doubtful"
    assert document["rows"][-1]["place"] == "refused"
    assert codes(document["rows"][-1]) == ["totals_line"]


def test_doubtful_pairs_name_both_rows():
    pairs = {row["row"]: row["pairs"] for row in report()["rows"] if row["pairs"]}
    assert pairs == {
        4: [{"row": 3, "reason": "possible_double"}],
        5: [{"row": 2, "reason": "same_id_other_person"}],
    }


def test_contacts_that_are_nobodys_own_are_said_where_they_stand():
    rows = "".join(f"P{n};N{n};0639980001;home@example.fr\n" for n in range(8))
    document = report("id;nom;portable;email\n" + rows + "Q;M;0639980044;c@example.fr\n",
                      practice=own_keys(["06 39 98 00 44"], "FR"))  # fmt: skip
    for number in range(2, 10):
        assert cell(document, number, "portable")["verdict"] == "refused"
        assert codes(cell(document, number, "email")) == ["shared_by_many"]
    assert codes(cell(document, 10, "portable")) == ["practice_contact"]
    assert document["summary"]["found"]["shared_by_many"] == {"times": 16, "rows": 8}


def test_neither_a_comment_nor_a_national_identifier_is_repeated():
    for every in (True, False):
        written = json.dumps(report(every=every), ensure_ascii=False)
        assert "diabète" not in written
        assert "1800199123456" not in written


def test_without_every_only_what_is_worth_saying_is_shown_and_counts_stay():
    short, whole = report(every=False), report()
    assert short["summary"] == whole["summary"]
    assert {row["row"] for row in short["rows"]} < {row["row"] for row in whole["rows"]} | {99}
    assert "Prénom" not in {c["header"] for row in short["rows"] for c in row["cells"]}
    assert report("nom;email\nM;a@example.fr\n", every=False)["rows"] == []


def test_every_code_of_a_report_is_explained_in_both_languages():
    summary = report()["summary"]
    assert set(summary["found"]) <= set(summary["codes"])
    for code, words in summary["codes"].items():
        assert (words["fr"], words["en"]) == sentences.sentence(code)


def test_the_table_has_a_line_for_each_finding_and_reads_back():
    document = report()
    with open_list(io.BytesIO(LIST.encode()), today=TODAY) as reader:
        setting = Setting("FR", TODAY, reader.names_people)
        written = b"".join(reporting.as_csv(reporting.Report(reader, setting, every=True), "fr"))
    table = list(csv.DictReader(io.StringIO(written.decode("utf-8-sig")), delimiter=";"))
    findings = [f for row in document["rows"] for one in [*row["cells"], row] for f in one["findings"]]
    assert sum(bool(line["explication"]) for line in table) == len(findings) + 2, "and one for each pair"
    assert {"ligne": "2", "colonne": "Portable", "code": "lost_zero_restored", "valeur lue": "639980001",
            "valeur retenue": "'+33639980001"}.items() <= table[4].items()  # fmt: skip
    totals = {line["code"]: line["valeur retenue"] for line in table if line["sort de la ligne"] == "total"}
    assert totals == {name: str(document["summary"][name]) for name in totals}
    assert set(totals) == {"rows", "accepted", "merged", "refused", "excluded", "minors"}


def test_fhir_patients_are_reported_by_meaning():
    document = report(ndjson(patient(id="7")))
    assert {one["header"] for one in document["rows"][0]["cells"]} >= {"patient_id", "last_name"}
    assert document["summary"]["columns"] == {}


CELL = st.sampled_from(
    ["", "1", "2", "M. Petit", "é", "a@example.fr", "a@gmial.com", "b@example.fr; a@example.fr", "x", "0639980001",
     "639980001 / 0199001234", "06 XX", "oui", "non", "?", "12/03/75", "30/02/1975", "1000", '"', "Total", "néant"]
)  # fmt: skip


#: so that no column is asked about, whatever stands in it
MAPPING = {"id": "patient_id", "nom": "last_name", "email": "email", "portable": "phone", "fixe": "phone",
           "né le": "birth_date", "code postal": "postal_code", "décédé": "deceased"}  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.lists(CELL, min_size=9, max_size=9), min_size=1, max_size=8))
def test_the_counts_of_any_list_add_up(rows):
    header = "id,nom,email,portable,fixe,né le,code postal,décédé,commentaire\n"
    document = report(header + "9,Petit,,,,,,,\n" + "".join(",".join(row) + "\n" for row in rows), mapping=MAPPING)
    summary = document["summary"]
    assert summary["rows"] == summary["accepted"] + summary["merged"] + summary["refused"] == len(document["rows"])
    assert sum(summary["reach"].values()) == summary["accepted"] - summary["excluded"]
    for counts in summary["cells"].values():
        assert counts["all"] == sum(n for verdict, n in counts.items() if verdict != "all")
    shown = [one for row in document["rows"] for one in row["cells"]]
    assert len(shown) == sum(counts["all"] for counts in summary["cells"].values())
    times = sum(len(one["findings"]) for row in document["rows"] for one in [*row["cells"], row])
    assert times == sum(found["times"] for found in summary["found"].values())


@settings(deadline=None)
@given(st.lists(st.lists(CELL, min_size=4, max_size=4), min_size=1, max_size=8))
def test_what_the_report_says_was_kept_is_what_an_import_keeps(rows):
    from notifier.checking import Totals, check_rows

    text = "id,nom,email,portable\n" + "".join(",".join(row) + "\n" for row in rows) + "9,Petit,c@example.fr,\n"
    with open_list(io.BytesIO(text.encode()), today=TODAY, mapping=MAPPING) as reader:
        setting = Setting("FR", TODAY, reader.names_people)
        for checked in check_rows(reader, setting, Totals()):
            row = reporting.describe(checked, reader.headers, setting)
            if row.place == "refused":
                continue
            kept = {one.casefold() for c in row.cells if c.column in ("email", "phone") for one in c.became}
            judged = checked.judged
            assert kept == {*map(str.casefold, judged.emails), *judged.numbers, *judged.identity.phones}
            told = {finding.code for c in row.cells for finding in c.findings} | {f.code for f in row.findings}
            assert {problem.reason for problem in judged.problems if problem.reason != "damaged_accents"} <= told
