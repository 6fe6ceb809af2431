"""Other people's queues on the same work, by a harness that lies beside the project; absent elsewhere.

It is read, never changed. It keeps what it installs in a folder of its own below the temporary one.
"""

from __future__ import annotations

import json
import os
import subprocess

from bench.sinks import PEERS, c_sink

#: a run that takes longer has failed
LIMIT_S = 600


class PeerError(Exception):
    """A rival did not run, or lost or doubled something: its figures are not used."""


def set_up() -> str | None:
    """Installs what the rivals need, once; returns why they cannot run, or None."""
    if not PEERS.is_dir():
        return "the rivals' harness (../shared/bench/peers) is not beside the project"
    if os.geteuid() != 0:
        return "the rivals' harness starts a PostgreSQL under a user of its own, which needs root"
    answer = subprocess.run(["bash", str(PEERS / "setup.sh")], capture_output=True, text=True, check=False)
    if answer.returncode:
        said = [line for line in (answer.stdout + answer.stderr).splitlines() if not line.startswith("WARNING")]
        return f"the rivals' set-up ended with status {answer.returncode}: {said[-1] if said else 'no word'}"
    return None


def run(peer: str, recipients: int, mode: str) -> dict[str, float]:
    """One run of a rival, in the words our own runs use. Raises PeerError."""
    try:
        answer = subprocess.run(
            ["bash", str(PEERS / "run.sh"), peer, str(recipients), mode],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            env=os.environ | ({"PEER_SINK": str(sink)} if (sink := c_sink()) else {}),
        )
        told = json.loads(answer.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, json.JSONDecodeError, IndexError) as error:
        raise PeerError(f"{peer} {mode}: no result ({type(error).__name__})") from error
    whole = told["complete"] and told["duplicates"] == 0 and told["delivered"] == told["rows_sent"] == recipients
    if not whole:
        raise PeerError(
            f"{peer} {mode}: {told['delivered']} delivered, {told['duplicates']} twice, "
            f"{told['rows_sent']} rows say so, of {recipients}"
        )
    others = max(told["machine_cpu_s"] - told["cpu_s"] - told["servers_cpu_s"], 0.0)
    return {
        "recipients_per_s": recipients / told["seconds"],
        "ours_cpu_s": told["cpu_s_per_1000"],
        "servers_cpu_s": told["servers_cpu_s"] / recipients * 1000,
        "memory_mb": told["rss_mb"],
        "others_share": others / told["seconds"] / (os.cpu_count() or 1),
    }
