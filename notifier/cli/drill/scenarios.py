"""F1–F18: every way we know in which sending can go wrong, each done for real. See `docs/drill.md`."""

from __future__ import annotations

from notifier.cli.drill import scenarios_outside, scenarios_processes, scenarios_queue
from notifier.cli.drill.run import Scenario

#: in the order of their numbers
ALL: dict[str, Scenario] = {
    scenario.mode: scenario
    for scenario in sorted(
        (*scenarios_processes.ALL, *scenarios_queue.ALL, *scenarios_outside.ALL),
        key=lambda scenario: int(scenario.mode[1:]),
    )
}
