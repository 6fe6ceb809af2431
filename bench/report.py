"""Turns what was measured into a page: ratios first, then what must be reached, then each figure with its runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.modes import MODES, RIVALS, TARGETS

#: others took more of the machine than this: figures of the section are not to be quoted
NOISY = 0.05
#: plans shown, the slowest; all of them are in the data folder
PLANS = 12
#: (figure, words, unit) of our own runs
_FIGURES = (
    ("recipients_per_s", "recipients per second, end to end", ""),
    ("ours_cpu_s", "CPU-s per 1,000: all processes of ours", ""),
    ("worker_cpu_s", "… workers", ""),
    ("feeder_cpu_s", "… feeder", ""),
    ("sweeper_cpu_s", "… sweeper", ""),
    ("control_cpu_s", "… control", ""),
    ("postgres_cpu_s", "CPU-s per 1,000: PostgreSQL", ""),
    ("valkey_cpu_s", "CPU-s per 1,000: Valkey", ""),
    ("sink_cpu_s", "CPU-s per 1,000: the sink", ""),
    ("first_message_s", "start to first message", "s"),
    ("fan_out_per_s", "fan-out, deliveries per second", ""),
    ("import_rows_per_s", "import, rows per second", ""),
    ("statements", "statements per recipient", ""),
    ("transactions", "writing transactions per recipient", ""),
    ("wal_bytes", "write-ahead log per recipient, sending", "bytes"),
    ("fan_out_wal_bytes", "write-ahead log per recipient, fan-out", "bytes"),
    ("worker_mb", "peak memory: a worker", "MB"),
    ("feeder_mb", "peak memory: feeder", "MB"),
    ("sweeper_mb", "peak memory: sweeper", "MB"),
    ("postgres_mb", "memory: PostgreSQL, shared pages once", "MB"),
    ("valkey_mb", "peak memory: Valkey", "MB"),
    ("others_share", "share of the machine that others used", ""),
)

#: how rivals and we were measured, and how the two sides differ
_ABOUT = """\
The same number of recipients, the same counting sink, runs taken in turns, medians.
CPU is that of the clients: for us all processes of the engine, for rivals workers and enqueuer.
What the sink counted equals what each store says, without one message twice.
A run for which this does not hold is not used.
Rivals use the system's PostgreSQL 15 over TCP and a Redis that writes no file.
We use our embedded PostgreSQL 18 over a Unix socket and a Valkey with its append-only log.
Both have the same `shared_buffers` (1 GB) and `max_wal_size` (8 GB), and a commit waits for the disk.
Our message holds the whole approved notice; theirs is a fixed text of about 2 kB in HTML."""


def page(results: Mapping[str, Any]) -> str:
    """The whole of `results.md`."""
    parts = ["# What one recipient costs", _preface(results)]
    modes = results.get("modes", {})
    parts += [_ratios(results), _targets(results)]
    parts += [_mode(name, modes[name]) for name in MODES if name in modes]
    for name, title in (("import", "Import"), ("fan-out", "Fan-out")):
        if name in results:
            parts.append(f"## {title}\n\n{_stamp(results[name])}\n\n{_table(results[name]['figures'])}")
    if "lists" in results:
        parts.append(_lists(results["lists"]))
    if "scale" in results:
        parts.append(_scale(results["scale"]))
    if "backlog" in results:
        parts.append(_backlog(results["backlog"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _preface(results: Mapping[str, Any]) -> str:
    stamps = [section["stamp"] for section in _sections(results)]
    if not stamps:
        return "Nothing has been measured yet: `make bench`."
    lines = ["Made by `make bench`. Everything runs on one machine, over loopback and without TLS.", ""]
    lines += [
        f"- machine: {one}"
        for one in dict.fromkeys(
            f"{stamp['cpu']}, {stamp['cores']} cores, {stamp['memory']}, {stamp['system']}" for stamp in stamps
        )
    ]
    lines += [
        f"- versions: {one}"
        for one in dict.fromkeys(
            f"Python {stamp['python']}, PostgreSQL {stamp['postgres']}, Valkey {stamp['valkey']}, "
            f"{stamp['packages']}"
            for stamp in stamps
        )
    ]
    noisy = sorted({_name(section) for section in _sections(results) if _noise(section) > NOISY})
    if noisy:
        lines.append(
            f"- **not quiet**: others used more than {NOISY:.0%} of the machine during: {', '.join(noisy)}. "
            "These figures are lower than the program's own."
        )
    return "\n".join(lines)


def _sections(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    named = [results[name] for name in ("import", "fan-out", "lists", "scale", "backlog") if name in results]
    return [*results.get("modes", {}).values(), *named]


def _name(section: Mapping[str, Any]) -> str:
    return str(section["name"])


def _noise(section: Mapping[str, Any]) -> float:
    shares = section["figures"].get("others_share", 0.0)
    return max(shares) if isinstance(shares, list) else float(shares)


def _stamp(section: Mapping[str, Any]) -> str:
    stamp = section["stamp"]
    return f"{section['words']}; {stamp['on']}, commit {stamp['commit']}."


def _ratios(results: Mapping[str, Any]) -> str:
    rows = []
    for name, mode in MODES.items():
        section = results.get("modes", {}).get(name)
        if section is None or not section["rivals"]:
            continue
        ours = _median(section["figures"]["recipients_per_s"])
        own_cpu = _median(section["figures"]["ours_cpu_s"])
        for rival, figures in section["rivals"].items():
            theirs, cpu = _median(figures["recipients_per_s"]), _median(figures["ours_cpu_s"])
            rows.append(
                f"| {mode.words} | {RIVALS.get(rival, rival)} | **{ours / theirs:.2f}** | {own_cpu / cpu:.2f} "
                f"| {ours:,.0f} [{_runs(section['figures']['recipients_per_s'])}] "
                f"| {theirs:,.0f} [{_runs(figures['recipients_per_s'])}] | {own_cpu:.3f} | {cpu:.3f} |"
            )
    notes = [note for section in results.get("modes", {}).values() for note in section["notes"]]
    head = "## Against others, in the same run\n\n"
    if not rows:
        return head + ("\n".join(f"- {note}" for note in dict.fromkeys(notes)) or "Rivals were not asked for.")
    table = [
        "| work | rival | times as fast | CPU, ours : theirs | ours, recipients/s [runs] | theirs [runs] "
        "| ours, CPU-s per 1,000 | theirs |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    return head + "\n".join(table) + "\n\n" + _ABOUT + "".join(f"\n- {note}" for note in dict.fromkeys(notes))


def _targets(results: Mapping[str, Any]) -> str:
    lines = ["## What must be reached", "", "| what | target | measured | |", "| --- | ---: | ---: | --- |"]
    for target in TARGETS:
        value = lookup(results, target.figure)
        sign = "≥" if target.at_least else "≤"
        shown = "not measured" if value is None else number(value)
        verdict = "" if value is None else "met" if target.is_met(value) else "**missed**"
        lines.append(f"| {target.words} | {sign} {number(target.limit)} {target.unit} | {shown} | {verdict} |")
    return "\n".join(lines)


def lookup(results: Mapping[str, Any], figure: str) -> float | None:
    """A figure by its place, as targets name it: the median where there are runs; None if not measured."""
    name, _, rest = figure.partition(".")
    section = results.get("modes", {}).get(name) or results.get(name)
    value = section and section["figures"].get(rest)
    if value is None:
        return None
    return _median(value) if isinstance(value, list) else float(value)


def _mode(name: str, section: Mapping[str, Any]) -> str:
    lines = [f"## {name}", "", _stamp(section), "", _table(section["figures"])]
    if section.get("statements"):
        lines += ["", *_statements(section["statements"])]
    return "\n".join(lines)


def _table(figures: Mapping[str, Sequence[float]]) -> str:
    lines = ["| figure | median | runs |", "| --- | ---: | --- |"]
    known = {figure: (words, unit) for figure, words, unit in _FIGURES}
    order = [
        *(figure for figure in known if figure in figures),
        *(figure for figure in figures if figure not in known),
    ]
    for figure in order:
        words, unit = known.get(figure, (figure.replace("_", " "), ""))
        lines.append(
            f"| {words} | {f'{number(_median(figures[figure]))} {unit}'.strip()} | {_runs(figures[figure])} |"
        )
    return "\n".join(lines)


def _statements(found: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = [
        "Where PostgreSQL's time goes, by its own log of another run (parse, bind and execute, waits for the disk "
        "included):",
        "",
        "| ms per 1,000 recipients | calls | statement |",
        "| ---: | ---: | --- |",
    ]
    lines += [
        f"| {one['ms_per_1000']:.1f} | {one['calls']:,} | `{str(one['text'])[:110].replace('|', '¦')}` |"
        for one in found
    ]
    return lines


def _lists(section: Mapping[str, Any]) -> str:
    """Shares with as many digits as tell one wrong contact from none."""
    figures = section["figures"]
    lines = ["## Contacts of lists", "", _stamp(section), "", "| figure | median | runs |", "| --- | ---: | --- |"]
    for name, words in (
        ("precision", "precision: of the contacts taken, the person's own"),
        ("recall", "recall: of the contacts usable without asking, taken"),
    ):
        runs = ", ".join(f"{value:.4%}" for value in figures[name])
        lines.append(f"| {words} | {_median(figures[name]):.4%} | {runs} |")
    for name, words in (
        ("contacts_taken", "contacts taken"),
        ("contacts_usable", "contacts usable"),
        ("judge_us_cpu", "reading and judging a row, µs of CPU"),
    ):
        lines.append(f"| {words} | {number(_median(figures[name]))} | {_runs(figures[name])} |")
    if section["kinds"]:
        named = ", ".join(f"{kind} ({times})" for kind, times in sorted(section["kinds"].items()))
        lines += ["", f"Kinds of cells in rows where something was wrong or missed: {named}."]
    return "\n".join(lines)


def _scale(section: Mapping[str, Any]) -> str:
    figures = section["figures"]
    lines = ["## Scale", "", _stamp(section), "", "| figure | |", "| --- | ---: |"]
    lines += [
        f"| {name.replace('_', ' ')} | {number(value)} |"
        for name, value in figures.items()
        if isinstance(value, int | float)
    ]
    if relations := figures.get("relations"):
        lines += ["", "| table or index | MB | bytes per patient |", "| --- | ---: | ---: |"]
        lines += [
            f"| {one['name']} | {one['bytes'] / 2**20:,.0f} | {one['bytes'] / figures['patients']:.0f} |"
            for one in relations
        ]
    if shown := figures.get("pages"):
        lines += ["", "| page, one at a time | median, ms | slowest, ms |", "| --- | ---: | ---: |"]
        lines += [f"| {one['name']} | {number(one['ms'])} | {number(one['slowest_ms'])} |" for one in shown]
    for name in ("plans", "page_plans"):
        plans = [plan for plan in figures.get(name, []) if "pg_catalog" not in plan["text"]]
        for plan in plans[:PLANS]:
            lines += _plan(plan)
    return "\n".join(lines)


def _plan(plan: Mapping[str, Any]) -> list[str]:
    return [
        "",
        f"<details><summary>{plan['ms']:.2f} ms, {plan['role']}: <code>{plan['text'][:90]}</code></summary>",
        "",
        "```",
        *plan["plan"],
        "```",
        "",
        "</details>",
    ]


def _backlog(section: Mapping[str, Any]) -> str:
    lines = ["## Control under a backlog", "", _stamp(section), "", "| figure | |", "| --- | ---: |"]
    lines += [
        f"| {name.replace('_', ' ')} | {number(value)} |"
        for name, value in section["figures"].items()
        if isinstance(value, int | float)
    ]
    return "\n".join(lines)


def number(value: float) -> str:
    """As many digits as are worth reading."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _median(runs: Sequence[float]) -> float:
    return statistics.median(runs)


def _runs(runs: Sequence[float]) -> str:
    return ", ".join(number(value) for value in runs)
