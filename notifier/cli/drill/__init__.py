"""`notifier drill`: every way in which sending can go wrong, done for real on this machine, and judged."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifier.errors import InputError, NotifierError, ServiceError

if TYPE_CHECKING:
    from notifier.cli.drill.run import Ended, Scenario

#: stages at the same time: a drill mostly waits for leases and quiet times
LANES = 3


def drill(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
    only: Annotated[str, typer.Option(help="Some modes alone, such as F5,F12.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often each mode is done.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed makes the same people and choices.")] = 1,
    lanes: Annotated[
        int, typer.Option(min=1, max=18, help="Modes at the same time, each on its own servers.")
    ] = LANES,
    show: Annotated[bool, typer.Option("--list", help="Say what there is and do nothing.")] = False,
) -> None:
    """Break everything that can break, for real, and judge by the servers' own count. Nothing leaves this machine.

    Servers, workers and simulated providers of its own are killed, stalled, emptied and misled, mode by mode
    (F1 to F18). Ends with 0 only if no mode lost, doubled or misdirected anything and each recovered in time.
    """
    from notifier.cli.drill.scenarios import ALL

    try:
        chosen = _chosen(only, ALL)
        if show:
            _list(chosen, as_json)
            return
        report = _drill(chosen, rounds=rounds, seed=seed, lanes=lanes)
    except NotifierError as error:
        print(error.message, file=sys.stderr)
        if as_json:
            print(json.dumps({"error": error.message}))
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(report), flush=True)
    if set(report["modes"].values()) != {"pass"}:
        raise typer.Exit(1)


def _chosen(only: str, known: dict[str, Scenario]) -> list[Scenario]:
    """Raises InputError naming the modes there are."""
    names = only.replace(",", " ").upper().split() if only else list(known)
    if not names:
        raise InputError(f"--only names no mode; there are: {', '.join(known)}.")
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"There is no mode {', '.join(unknown)}; there are: {', '.join(known)}.")
    return [known[name] for name in known if name in names]


def _list(chosen: Sequence[Scenario], as_json: bool) -> None:
    if as_json:
        print(json.dumps({one.mode: {"sentence": one.sentence, "bound_s": one.bound_s} for one in chosen}))
        return
    for one in chosen:
        print(f"{one.mode:<4}{one.sentence} Bound: {one.bound_s:.0f} s.")


def _drill(chosen: Sequence[Scenario], *, rounds: int, seed: int, lanes: int) -> dict[str, Any]:
    """All rounds of all modes over the lanes; returns the report."""
    from notifier.cli.drill.stage import forget_environment
    from notifier.cli.up import alone

    folder = Path(os.environ.get("NOTIFIER_DATA_DIR", "var")).resolve() / "drill"
    forget_environment()
    started = time.monotonic()
    # The slowest first, so that no lane ends long after the others.
    jobs = [(n, one) for n in range(1, rounds + 1) for one in sorted(chosen, key=lambda one: -one.bound_s)]
    with alone(folder), _until_told() as stop:
        ended = _on_lanes(jobs, folder, seed=seed, lanes=min(lanes, len(jobs)), stop=stop)
    if stop.is_set():
        raise ServiceError("The drill was ended by a signal: nothing can be said of the modes.")
    report = _report(chosen, ended)
    return report | {"seconds": round(time.monotonic() - started, 1), "rounds": rounds, "seed": seed}


def _on_lanes(
    jobs: list[tuple[int, Scenario]], folder: Path, *, seed: int, lanes: int, stop: threading.Event
) -> list[Ended]:
    """Each lane has its own servers and takes the next job when it is done with one."""
    from notifier.cli.drill.run import Run
    from notifier.cli.drill.stage import Stage

    lock, ended = threading.Lock(), []
    left = iter(jobs)

    def lane(number: int) -> None:
        with Stage(folder / f"lane-{number}", seed, stop) as stage:
            while True:
                with lock:
                    job = next(left, None)
                if job is None:
                    return
                n, scenario = job
                dice = random.Random(f"{seed} {scenario.mode} {n}")  # noqa: S311 - a choice to be repeated, no secret
                one = Run(stage, scenario, dice, f"{scenario.mode}-{n}").play()
                if stop.is_set():
                    return
                with lock:
                    ended.append(one)
                    _say(one, n)
                stage.restore()

    with ThreadPoolExecutor(lanes) as pool:
        for future in [pool.submit(lane, number) for number in range(lanes)]:
            try:
                future.result()
            except BaseException:
                stop.set()
                raise
    return ended


def _report(chosen: Sequence[Scenario], ended: Sequence[Ended]) -> dict[str, Any]:
    """All rounds together: a mode passes if it passed in each."""
    by_mode = {one.mode: [end for end in ended if end.mode == one.mode] for one in chosen}
    judged = [end.judged for end in ended]
    return {
        "modes": {
            mode: "pass" if ends and not any(end.problems for end in ends) else "fail"
            for mode, ends in by_mode.items()
        },
        "lost": sum(one.lost for one in judged),
        "wrong_person": sum(one.wrong_person for one in judged),
        "undeclared_duplicates": sum(one.undeclared_duplicates for one in judged),
        "declared_unknown": sum(one.declared_unknown for one in judged),
        "details": {one.mode: _detail(one, by_mode[one.mode]) for one in chosen},
    }


def _detail(scenario: Scenario, ends: Sequence[Ended]) -> dict[str, Any]:
    """The slowest of all rounds."""
    measured: dict[str, float] = {}
    for end in ends:
        measured |= {name: max(value, measured.get(name, value)) for name, value in end.measured.items()}
    return {
        "seconds": round(max((end.seconds for end in ends), default=0.0), 1),
        "recovered_s": round(max((end.recovered_s for end in ends), default=0.0), 1),
        "bound_s": scenario.bound_s,
        **({"measured": measured} if measured else {}),
        **({"problems": problems} if (problems := [said for end in ends for said in end.problems]) else {}),
    }


def _say(one: Ended, n: int) -> None:
    state = "pass" if not one.problems else "FAIL: " + "; ".join(one.problems)
    print(
        f"{one.mode:<4}round {n}  {one.seconds:5.1f} s  recovered {one.recovered_s:4.1f} s  {state}",
        file=sys.stderr,
    )


@contextmanager
def _until_told() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: everything is then taken down in order."""
    stop = threading.Event()
    before = {number: signal.signal(number, _setting(stop)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _setting(stop: threading.Event) -> Callable[[int, Any], None]:
    return lambda *_: stop.set()
