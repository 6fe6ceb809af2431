"""The deployment files name what there is: commands, settings, addresses, and limits that fit one another."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from notifier.cli import app
from notifier.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "config" / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
#: what a deployment runs, whatever starts it
PROCESSES = {
    "api", "feeder", "sweeper", "worker --control", "worker --channel email", "worker --channel sms",
}  # fmt: skip


def documents() -> Iterator[dict[str, Any]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from (one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in documents():
        if one["kind"] in ("Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def unit(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not key.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_each_way_runs_every_process():
    by_systemd = {unit(path)["ExecStart"][0].partition(".venv/bin/notifier ")[2] for path in UNITS}
    by_kubernetes = {" ".join(pod["containers"][0]["args"]) for _, pod in pods()}
    ours = [one for one in compose()["services"].values() if one["image"] == "patient-notifier"]
    by_compose = {" ".join(one["command"]) for one in ours}
    assert by_systemd == PROCESSES
    assert by_kubernetes == by_compose == PROCESSES | {"migrate"}


@pytest.mark.parametrize("command", sorted(PROCESSES | {"migrate"}))
def test_every_command_is_one_of_ours(command: str):
    name, *options = command.split()
    said = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    assert all(option in said for option in options if option.startswith("--"))


def test_every_setting_is_one_of_ours():
    written = "".join(path.read_text(encoding="utf-8") for path in DEPLOY.rglob("*") if path.is_file())
    known = Settings.model_fields
    for name in sorted(set(re.findall(r"\bNOTIFIER_([A-Z0-9_]+)\b", written))):
        group, _, inner = name.lower().partition("__")
        assert group in known, name
        if inner:
            annotation = known[group].annotation
            assert annotation is not None
            assert inner in annotation.model_fields, name


def test_former_master_keys_reach_every_process_from_where_the_documentation_puts_them():
    """As variables, beside the master key that is a file of its own."""
    for path in UNITS:
        found = unit(path)
        assert found["EnvironmentFile"] == ["/etc/patient-notifier/environment"], path.name
        assert found["LoadCredential"] == ["master-key:/etc/patient-notifier/master-key"], path.name
    for name, service in compose()["services"].items():
        if service["image"] == "patient-notifier":
            assert (service["env_file"], service["secrets"]) == ("environment", ["master-key"]), name
    for name, pod in pods():
        [container] = pod["containers"]
        assert {"secretRef": {"name": "patient-notifier-environment"}} in container["envFrom"], name
        secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert secrets == ["patient-notifier-master-key"], name


def test_a_process_has_longer_to_stop_than_it_takes():
    longest = Settings.model_fields["engine"].get_default(call_default_factory=True).shutdown_s
    for path in UNITS:
        assert float(unit(path)["TimeoutStopSec"][0]) > longest, path.name
    for name, pod in pods():
        assert name == "migrate" or pod["terminationGracePeriodSeconds"] > longest, name
    assert float(compose()["x-process"]["stop_grace_period"].removesuffix("s")) > longest


def test_nothing_runs_with_more_rights_than_it_needs():
    for path in UNITS:
        found = unit(path)
        assert found["NoNewPrivileges"] == ["yes"]
        assert found["ProtectSystem"] == ["strict"]
        assert found["CapabilityBoundingSet"] == [""]
    for name, pod in pods():
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert container["resources"]["limits"]["memory"], name


def test_no_registry_is_named():
    images = [one["image"] for one in compose()["services"].values()]
    images += [pod["containers"][0]["image"] for _, pod in pods()]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert not [image for image in images if "." in image.split("/")[0].split(":")[0]]


def test_systemd_understands_the_units(tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    # What they start is not installed on the machine that tests them.
    for path in [*UNITS, DEPLOY / "systemd" / "patient-notifier.target"]:
        text = re.sub(
            r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        (tmp_path / path.name.replace("@", "@1")).write_text(text, encoding="utf-8")
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    answer = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not [line for line in answer.stderr.splitlines() if str(tmp_path) in line or "notifier-" in line]


def test_kubernetes_files_fit_together():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    answer = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert {one["kind"] for one in yaml.safe_load_all(answer.stdout)} >= {"Deployment", "Job", "ScaledObject"}
