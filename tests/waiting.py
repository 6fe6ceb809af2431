"""Waiting for what other threads and processes do."""

from __future__ import annotations

import threading
from collections.abc import Callable


def until(condition: Callable[[], object], within_s: float = 30) -> None:
    """Returns once it is so; half a minute is for ever."""
    wait = threading.Event()
    for _ in range(int(within_s / 0.02)):
        if condition():
            return
        wait.wait(0.02)
    raise AssertionError("it never came to this")
