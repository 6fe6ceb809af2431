from __future__ import annotations

from typing import Any

import pytest

from bench import report
from bench.modes import MODES, TARGETS

STAMP = {
    "cpu": "some CPU",
    "cores": "2",
    "memory": "8 GiB",
    "system": "Linux 6",
    "python": "3.11.7",
    "packages": "dramatiq 2.2",
    "commit": "abc1234",
    "on": "2026-11-25",
    "postgres": "18.0",
    "valkey": "9.1",
    "sink": "bench.sink",
}


def make_section(name: str = "email", **changes: Any) -> dict[str, Any]:
    section: dict[str, Any] = {
        "name": name,
        "words": f"{name}: 3 runs",
        "stamp": STAMP,
        "figures": {"recipients_per_s": [9_000.0, 12_000.0, 10_000.0], "ours_cpu_s": [0.2, 0.1, 0.3]},
        "rivals": {},
        "notes": [],
    }
    return section | changes


def make_results(**sections: dict[str, Any]) -> dict[str, Any]:
    return {"modes": sections}


def test_ratios_are_of_medians_and_come_before_all_else():
    rivals = {"bullmq": {"recipients_per_s": [1_000.0, 5_000.0, 2_000.0], "ours_cpu_s": [0.8, 0.8, 0.8]}}
    page = report.page(make_results(email=make_section(rivals=rivals)))
    assert "| **5.00** | 0.25 | 10,000 [9,000, 12,000, 10,000] | 2,000 [1,000, 5,000, 2,000] |" in page
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings[:2] == ["## Against others, in the same run", "## What must be reached"]


def test_a_target_is_met_or_missed_by_the_median_and_never_unmeasured():
    page = report.page(make_results(email=make_section()))
    row = "email, SMTP over kept connections"
    assert f"| {row} | ≥ 10,000 recipients/s | 10,000 | met |" in page
    assert f"| {row}: CPU of our processes | ≤ 0.15 CPU-s per 1,000 | 0.2 | **missed** |" in page
    assert page.count("not measured") == len(TARGETS) - 2


def test_a_machine_that_others_used_is_said():
    figures = make_section()["figures"] | {"others_share": [0.01, 0.2, 0.02]}
    assert "**not quiet**" in report.page(make_results(email=make_section(figures=figures)))
    assert "**not quiet**" not in report.page(make_results(email=make_section()))


def test_rivals_that_were_not_measured_are_said_with_the_reason():
    page = report.page(make_results(email=make_section(notes=["Rivals were not measured: no harness."])))
    assert "- Rivals were not measured: no harness." in page


def test_a_figure_of_scale_stands_where_its_target_looks():
    results = {"scale": make_section("scale", figures={"patients": 100, "cost_ratio": 1.2})}
    assert report.lookup(results, "scale.cost_ratio") == 1.2
    assert "| ≤ 1.1 times | 1.2 | **missed** |" in report.page(results)


def test_one_wrong_contact_among_many_is_not_rounded_away():
    figures = {"precision": [0.99998], "recall": [0.9972], "wrong_per_1000": [0.02], "missed_per_1000": [2.8],
               "contacts_taken": [50_000], "contacts_usable": [50_100], "judge_us_cpu": [40.0]}  # fmt: skip
    page = report.page({"lists": make_section("lists", figures=figures, kinds={"bad phone": 1})})
    assert "| 99.9980% | 99.9980% |" in page
    assert "| ≤ 0 per 1,000 | 0.02 | **missed** |" in page
    assert "| ≤ 5 per 1,000 | 2.8 | met |" in page
    assert "bad phone (1)" in page


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.12345, "0.123"), (9.87, "9.87"), (99.96, "100"), (1234.5, "1,234")]
)
def test_numbers_have_as_many_digits_as_are_worth_reading(value, shown):
    assert report.number(value) == shown


def test_every_target_names_a_figure_of_its_own():
    figures = [target.figure for target in TARGETS]
    assert len(set(figures)) == len(figures)
    sections = {figure.partition(".")[0] for figure in figures}
    assert sections <= {*MODES, "import", "fan-out", "lists", "scale", "backlog"}
