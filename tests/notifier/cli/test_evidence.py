from __future__ import annotations

import re
from pathlib import Path

from tests.notifier.cli.conftest import Cli


def test_a_proof_file_is_written_and_holds(cli: Cli, sending: int, tmp_path: Path) -> None:
    out = tmp_path / "proof.zip"
    written = cli.json("evidence", "export", sending, "--out", out)
    assert written["counts"]["imported"] == sum(n for name, n in written["counts"].items() if name != "imported")
    held = cli.json("evidence", "verify", out, "--journal", "--manifest", written["manifest"])
    assert held["manifest"] == written["manifest"]
    assert "holds" in cli.run("evidence", "verify", out)


def test_one_that_was_changed_is_said_with_exit_code_1(cli: Cli, sending: int, tmp_path: Path) -> None:
    out = tmp_path / "proof.zip"
    cli.run("evidence", "export", sending, "--out", out)
    assert "hash is" in cli.error("evidence", "verify", out, "--manifest", "00")
    out.write_bytes(out.read_bytes()[:-200])
    assert "not a whole proof file" in cli.error("evidence", "verify", out)
    assert "cannot be read" in cli.error("evidence", "verify", tmp_path / "none.zip")
    assert "cannot be written" in cli.error("evidence", "export", sending, "--out", tmp_path / "no" / "x.zip")
    assert "no campaign 999" in cli.error("evidence", "export", 999, "--out", out)


def test_letters_and_calls_are_files_for_the_doctor_and_nothing_of_them_is_said(
    cli: Cli, sending: int, tmp_path: Path
) -> None:
    for kind in ("letters", "calls"):
        out = tmp_path / f"{kind}.csv"
        assert cli.json("evidence", kind, sending, "--out", out)["people"] == out.read_bytes().count(b"\r\n") - 1
        assert out.stat().st_mode & 0o077 == 0
    assert not re.search(r"Nom\d|example\.org|\+33", "".join(cli.said))
