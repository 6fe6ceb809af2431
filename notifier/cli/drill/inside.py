"""A worker process with something wrong inside: `python -m notifier.cli.drill.inside [FAULTS] -- worker …`.

What cannot be done to a process from outside is done here, before the real program starts in it: a clock that is
wrong, a row that kills whoever works on it, a call that blocks the loop. The product has no hooks for any of it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: the program that runs here, by name: nothing below `notifier` imports it
PROGRAM = "workers.main"


def skew_clocks(seconds: float) -> None:
    """Every wall clock of this process is wrong by so much. Comes before anything imports names of `datetime`."""
    now, now_ns, real = time.time, time.time_ns, datetime.datetime

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

    class Skewed(real, metaclass=Kind):  # type: ignore[misc, valid-type]  # only the class is another one:
        __slots__ = ()

        def __new__(cls, *arguments: Any, **named: Any) -> Any:  # what it makes is real
            return real(*arguments, **named)

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)
    datetime.datetime = Skewed  # type: ignore[misc]  # as above


def poison(deliveries: frozenset[int], act: Callable[[], None]) -> None:
    """Whoever makes the message of one of these deliveries first does `act`."""
    from notifier.sending import Sender

    render = Sender._render

    def poisoned(self: Sender, texts: Any, row: Any) -> Any:
        if row.id in deliveries:
            act()
        return render(self, texts, row)

    Sender._render = poisoned  # type: ignore[method-assign]  # the point of this module


def die() -> None:
    """As a segmentation fault or the kernel's out-of-memory killer ends a process: no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def block_once(mark: Path, seconds: float) -> Callable[[], None]:
    """A call that does not come back for so long, and only the first time: `mark` remembers it."""

    def act() -> None:
        if not mark.exists():
            mark.touch()
            time.sleep(seconds)

    return act


def main(arguments: list[str]) -> None:
    """Puts the faults in place and becomes the program."""
    cut = arguments.index("--")
    parser = argparse.ArgumentParser(prog="python -m notifier.cli.drill.inside")
    parser.add_argument("--skew", type=float, default=0.0, help="seconds by which the clocks are wrong")
    parser.add_argument("--kills", type=int, action="append", default=[], help="a delivery that kills its worker")
    parser.add_argument("--blocks", type=int, action="append", default=[], help="a delivery that blocks the loop")
    parser.add_argument("--block-s", type=float, default=60.0)
    parser.add_argument("--mark", type=Path, help="where a block is remembered")
    given = parser.parse_args(arguments[:cut])
    if given.skew:
        skew_clocks(given.skew)
    if given.kills:
        poison(frozenset(given.kills), die)
    if given.blocks:
        poison(frozenset(given.blocks), block_once(given.mark, given.block_s))
    sys.argv = [PROGRAM, *arguments[cut + 1 :]]
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
