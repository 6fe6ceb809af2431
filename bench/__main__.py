"""`make bench`: what a recipient costs, beside what others take for the same work; see docs/performance.md.

Results are kept by section in `bench/results.json`, and `bench/results.md` is written from all of them. A quick
run writes into `var/bench/` instead: its figures are for a first look.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import backlog, generate, importing, lists, machine, peers, product, report, scale, sinks
from bench import deployment as deployments
from bench.deployment import deployed, temporary
from bench.machine import ROOT, Usage
from bench.modes import MODES, Mode, Series

OTHERS = ("import", "fan-out", "lists")
QUICK_RECIPIENTS, STATEMENT_RECIPIENTS = 5_000, 5_000
IMPORT_ROWS, FAN_OUT_ROWS = 1_000_000, 200_000
#: rows of each list whose truth is known; a further run is another list
LIST_ROWS = 50_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench", description="Measure what one recipient costs.")
    made.add_argument("--recipients", type=int, default=20_000, help="recipients of each run")
    made.add_argument("--runs", type=int, default=3, help="runs of each, in turns")
    made.add_argument(
        "--quick", action="store_true", help="one small run of each, without rivals, under 3 minutes"
    )
    made.add_argument(
        "--only", choices=[*MODES, *OTHERS], action="append", metavar="MODE", help="one of %(choices)s"
    )
    made.add_argument("--no-peers", action="store_true", help="leave rivals out")
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of results.md and results.json; bench/ by default"
    )
    made.add_argument("--scale", type=int, metavar="PATIENTS", help="so many patients in one database")
    made.add_argument("--backlog", type=int, metavar="DELIVERIES", help="pause and stall with so many due")
    made.add_argument("--campaigns", type=int, help="campaigns of --scale; 1,500 where there are enough patients")
    made.add_argument("--sample", type=int, default=50_000, help="recipients of each sample of --scale")
    made.add_argument("--step", choices=scale.STEPS, action="append", help="only these steps of --scale")
    made.add_argument("--stall", type=float, default=60, metavar="SECONDS", help="of --backlog")
    made.add_argument("--mode", choices=[name for name, mode in MODES.items() if mode.has_token], default="email")
    made.add_argument("--data", type=Path, help="folder of --scale or --backlog, kept and used again")
    return made


def main(arguments: list[str] | None = None) -> int:
    options = quickly(parser().parse_args(arguments))
    # As Ctrl-C: servers and processes started here must not outlive us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = options.out or (ROOT / "var" / "bench" if options.quick else ROOT / "bench")
    results = _load(folder / "results.json")
    try:
        if options.scale or options.backlog:
            _large(options, results)
        else:
            _usual(options, results)
    except (ValueError, product.IncompleteError) as error:
        print(error, file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(report.page(results), encoding="utf-8")
    print(json.dumps(results) if options.json else report.page(results))
    say(f"written to {folder / 'results.md'}")
    return 0


def quickly(options: argparse.Namespace) -> argparse.Namespace:
    """What `--quick` means for the other options."""
    if options.quick:
        options.recipients, options.runs = min(options.recipients, QUICK_RECIPIENTS), 1
        options.no_peers = True
    return options


def say(line: str) -> None:
    """Progress, away from what a program reads."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _usual(options: argparse.Namespace, results: dict[str, Any]) -> None:
    wanted = options.only or [*MODES, *OTHERS]
    modes = [MODES[name] for name in wanted if name in MODES]
    notes: list[str] = []
    with_peers = not options.no_peers
    if with_peers and any(mode.rivals for mode in modes) and (why := peers.set_up()):
        notes, with_peers = [f"Rivals were not measured: {why}."], False
    elif not with_peers:
        notes = ["Rivals were left out of this run."]
    stamp = _stamp()
    measured = measure(modes, options.recipients, options.runs, with_peers, notes)
    for mode in modes:
        own, rivals, said = measured[mode.name]
        words = f"{mode.words}: {options.runs} runs of {options.recipients:,} recipients, {mode.workers} worker"
        words += " processes" if mode.workers > 1 else " process"
        section: dict[str, Any] = {
            "name": mode.name,
            "words": words,
            "stamp": stamp,
            "figures": own.runs,
            "rivals": {name: series.runs for name, series in rivals.items()},
            "notes": said,
        }
        if not options.quick:
            say(f"{mode.name}: counting statements")
            each, most = product.statements(mode, min(STATEMENT_RECIPIENTS, options.recipients))
            own.add({"statements": each})
            section["statements"] = most
        results.setdefault("modes", {})[mode.name] = section
    for name, run, rows in (
        ("import", importing.run, options.recipients * 10 if options.quick else IMPORT_ROWS),
        ("fan-out", fan_out, options.recipients * 10 if options.quick else FAN_OUT_ROWS),
    ):
        if name in wanted:
            results[name] = _repeated(name, run, rows, options.runs, stamp)
    if "lists" in wanted:
        results["lists"] = _lists(
            min(options.recipients, LIST_ROWS) if options.quick else LIST_ROWS, options.runs, stamp
        )


def measure(
    modes: list[Mode], recipients: int, runs: int, with_peers: bool, notes: list[str]
) -> dict[str, tuple[Series, dict[str, Series], list[str]]]:
    """Runs everything in turns, so that what the machine does meanwhile falls on all alike."""
    found: dict[str, tuple[Series, dict[str, Series], list[str]]] = {
        mode.name: (Series(), {}, list(notes if mode.rivals else [])) for mode in modes
    }
    for number in range(1, runs + 1):
        for mode in modes:
            own, rivals, said = found[mode.name]
            own.add(product.run(mode, recipients))
            say(f"{mode.name} {number}/{runs}: {own.runs['recipients_per_s'][-1]:,.0f}/s")
            for peer, its_mode in mode.rivals if with_peers else ():
                try:
                    figures = peers.run(peer, recipients, its_mode)
                except peers.PeerError as error:
                    said.append(f"A run was not used. {error}.")
                    say(str(error))
                    continue
                rivals.setdefault(peer, Series()).add(figures)
                say(f"  {peer}: {figures['recipients_per_s']:,.0f}/s")
    return found


def _repeated(
    name: str, run: Callable[[int], dict[str, float]], rows: int, runs: int, stamp: dict[str, str]
) -> dict[str, Any]:
    series = Series()
    for number in range(1, runs + 1):
        series.add(run(rows))
        say(f"{name} {number}/{runs}: {next(iter(series.runs.values()))[-1]:,.0f}/s")
    return {"name": name, "words": f"{runs} runs of {rows:,}", "stamp": stamp, "figures": series.runs}


def _lists(rows: int, runs: int, stamp: dict[str, str]) -> dict[str, Any]:
    series = Series()
    kinds: dict[str, int] = {}
    for seed in range(1, runs + 1):
        measured = lists.run(rows, seed)
        series.add({name: measured[name] for name in lists.FIGURES})
        for kind, times in (measured["wrong_by_kind"] | measured["missed_by_kind"]).items():
            kinds[kind] = kinds.get(kind, 0) + times
        say(f"lists {seed}/{runs}: precision {measured['precision']:.4%}, recall {measured['recall']:.4%}")
    words = f"{runs} made-up lists of {rows:,} rows, as messy as real ones, whose truth is known"
    return {"name": "lists", "words": words, "stamp": stamp, "figures": series.runs, "kinds": kinds}


def fan_out(patients: int) -> dict[str, float]:
    """One approved campaign becomes deliveries, with no worker about."""
    with ExitStack() as stack:
        deployment = stack.enter_context(deployed(stack.enter_context(temporary()), MODES["email"], None))
        (campaign_id,) = generate.fill(deployment, patients, 1, lambda _: None)
        deployment.tidy()
        usage = Usage(deployment.pids)
        wal, _ = deployment.progress()
        begun = time.perf_counter()
        made = deployments.start(deployment, campaign_id)
        seconds = time.perf_counter() - begun
        used, others = usage.read()
        if made != patients:
            raise product.IncompleteError(f"{made} deliveries were made for {patients} patients")
        return {
            "deliveries_per_s": made / seconds,
            "postgres_us_cpu": used["postgres"] / made * 1e6,
            "wal_bytes": (deployment.progress()[0] - wal) / made,
            "others_share": others / seconds / (os.cpu_count() or 1),
        }


def _large(options: argparse.Namespace, results: dict[str, Any]) -> None:
    mode = MODES[options.mode]
    stamp = _stamp()
    with ExitStack() as stack:
        if options.scale:
            folder = options.data or stack.enter_context(temporary())
            campaigns = options.campaigns or max(1, min(1_500, options.scale // 200))
            steps = options.step or scale.STEPS
            figures = scale.run(mode, folder, options.scale, campaigns, options.sample, steps, say)
            words = f"{options.scale:,} patients in {campaigns:,} campaigns, sent by {mode.words}"
            results["scale"] = {"name": "scale", "words": words, "stamp": stamp, "figures": figures}
        if options.backlog:
            folder = (options.data if not options.scale else None) or stack.enter_context(temporary())
            rounds = 1 if options.quick else options.runs
            figures = backlog.run(mode, folder, options.backlog, rounds, options.stall, say)
            words = (
                f"one campaign with {options.backlog:,} due deliveries, sent by {mode.words}; slowest of {rounds}"
            )
            results["backlog"] = {"name": "backlog", "words": words, "stamp": stamp, "figures": figures}


def _stamp() -> dict[str, str]:
    """What was measured, on what, and when."""
    return (
        machine.facts() | deployments.versions() | {"sink": "the rivals' sink" if sinks.c_sink() else "bench.sink"}
    )


if __name__ == "__main__":
    sys.exit(main())
