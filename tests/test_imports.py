"""The rule of imports: edges may import steps, steps never one another, plug-ins only pure facts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: what everything may import: no step, no edge
FACTS = {"errors", "states", "addresses", "sms", "schedule", "notices", "logs"}
#: how one list is understood, without a database
LISTS = {"judging", "matching", "checking", "postal", "countries", "domains"}
#: what is said of one list: its report, its rows to be corrected
LISTS |= {"changes", "sentences", "reporting", "writing", "corrections"}
GROUND = (
    FACTS
    | LISTS
    | {"settings", "profiles", "sealing", "models", "store", "receivers", "breakers", "standing", "providers.base"}
)
GROUND |= {"copying", "reaching", "tracing"}
STEPS = {
    "importing",
    "composing",
    "approving",
    "fanout",
    "sending",
    "receipts",
    "fallback",
    "controlling",
    "testsends",
    "deciding",
    "accounts",
    "telling",
    "evidence",
    "feed",
    "following",
}
#: the one place above the steps, and beside it the acts on lists
ACTS = {"acts", "lists", "keys"}
#: what edges and workers ask before they start, and what edges show of how all stands
START = {"startup", "watching"}


def modules() -> dict[str, set[str]]:
    """Each module of `notifier`, by its dotted name below it, and what of `notifier` and `workers` it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "notifier").rglob("*.py")):
        parts = list(path.relative_to(ROOT / "notifier").with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        imports: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imports |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imports |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        found[name] = {name for name in imports if name.split(".")[0] in ("notifier", "workers")}
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The modules of `notifier` that `name` imports, without names inside them."""
    below = {one.removeprefix("notifier.") for one in MODULES[name] if one.startswith("notifier.")}
    return {known for known in MODULES if known and known in below}


def test_nothing_in_notifier_imports_workers():
    assert [
        name for name, imports in MODULES.items() if any(one.split(".")[0] == "workers" for one in imports)
    ] == []


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_step_imports_no_other_step_and_no_edge(step: str):
    allowed = GROUND | {"importers"} | {"providers"}
    assert imported(step) - allowed == set()


@pytest.mark.parametrize("name", sorted(LISTS))
def test_a_list_is_understood_without_a_database(name: str):
    readers = {other for other in MODULES if other.startswith("importers")}
    assert imported(name) - FACTS - LISTS - readers == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith(("importers", "providers"))))
def test_importers_and_providers_import_only_pure_facts(name: str):
    own = {other for other in MODULES if other.startswith(name.split(".")[0])}
    # A provider also reads its own group of settings.
    assert imported(name) - FACTS - own - {"settings"} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("rehearsal")))
def test_the_rehearsal_stands_beside_the_product(name: str):
    own = {other for other in MODULES if other.startswith("rehearsal")}
    assert imported(name) - own - {"errors", "states", "addresses", "sms", "settings"} == set()


def test_every_module_has_its_place():
    edges = ("api", "web", "cli", "rehearsal", "importers", "providers", "migrations")
    placed = GROUND | STEPS | START | ACTS | {""}
    assert [name for name in MODULES if name not in placed and name.split(".")[0] not in edges] == []
