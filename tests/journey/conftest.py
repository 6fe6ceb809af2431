"""A whole made-up incident on real servers and processes, with something going wrong in the middle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from notifier.cli import demo
from notifier.cli.demo import Stage

Look = Callable[[Any, Any, Stage], None]


@pytest.fixture
def journey(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs a demo in a folder of its own and returns its report; `look` may disturb it on the way."""
    folder = Path(tempfile.mkdtemp(prefix="pn-"))
    folder.chmod(0o755)
    monkeypatch.setenv("NOTIFIER_DATA_DIR", str(folder))
    monkeypatch.setenv("NOTIFIER_TIME_SCALE", "43200")  # 72 hours are 6 seconds
    monkeypatch.setenv("NOTIFIER_ENGINE__LEASE_S", "8")

    def run(*, look: Look | None = None, check: Callable[[Stage, Any], None] | None = None, **options: Any):
        values = {"doctors": 2, "patients": 300, "seed": 7, "faults": "usual"} | options
        with ExitStack() as stack:
            stage = stack.enter_context(demo._stage(values["seed"], values["faults"]))
            looking = (lambda database, supervisor: look(database, supervisor, stage)) if look else None
            report = demo.run(stage, stack=stack, look=looking, **values)
            if check:
                check(stage, report)
        return report

    yield run
    shutil.rmtree(folder, ignore_errors=True)


def assert_true_and_whole(report: dict[str, Any]) -> None:
    """The law of every journey: nobody lost, no stranger told, nothing doubled unseen, numbers that add up."""
    parts = ("excluded", "merged", "informed", "on_the_way", "unreached")
    assert report["patients"] == sum(report[part] for part in parts), report
    assert report["on_the_way"] == 0, report
    assert report["lost"] == 0, report
    assert report["wrong_person"] == 0, report
    assert report["duplicates"] <= report["possibly_twice"], report
