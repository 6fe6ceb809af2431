from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import explained, scale


def test_of_each_statement_the_slowest_plan_is_shown():
    def line(role: str, asked: str, ms: float) -> str:
        return json.dumps({"role": role, "text": asked, "plan": ["Seq Scan", f"Execution Time: {ms} ms"]})

    asked = [("worker", "A", 1), ("worker", "A", 3), ("feeder", "A", 2), ("worker", "B", 9)]
    found = explained.busiest(line(*one) for one in asked)
    assert [(one["role"], one["text"], one["ms"]) for one in found] == [
        ("worker", "B", 9.0),
        ("worker", "A", 3.0),
        ("feeder", "A", 2.0),
    ]


def test_a_disk_that_is_too_small_is_said_before_it_is_full(tmp_path: Path):
    with pytest.raises(ValueError, match=r"patients need about .* would fit"):
        scale.check_disk(tmp_path, 10**12)
