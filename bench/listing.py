"""What `paragone list` and `paragone show` print: tasks, methods, datasets, suites and single results."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench import registry, suite

if TYPE_CHECKING:
    from bench.results import Result
    from bench.trial import Places
    from tasks.base import Method


def describe(what: str, places: Places) -> list[dict[str, Any]]:
    """All tasks, methods, datasets or suites as plain values."""
    if what == "suites":
        return [_suite(name) for name in suite.names()]
    kind: registry.Kind = {"tasks": "task", "methods": "method", "datasets": "dataset"}[what]  # type: ignore[assignment]
    entries = registry.entries(kind).values()
    if kind == "task":
        return [_task(entry) for entry in entries]
    if kind == "method":
        return [_method(entry) for entry in entries]
    return [_dataset(entry, places) for entry in entries]


def _task(entry: registry.Entry) -> dict[str, Any]:
    cls = entry.load()
    return {
        "name": cls.name,
        "family": cls.family,
        "primary": cls.primary().name,
        "measures": [asdict(measure) for measure in cls.measures],
    }


def _method(entry: registry.Entry) -> dict[str, Any]:
    cls: type[Method] = entry.load()
    options = registry.method_options(cls)
    return {
        "name": cls.name,
        "task": cls.task.name,
        "family": entry.family,
        "paper": asdict(cls.paper),
        "baselines": list(cls.baselines),
        "presets": registry.plain(cls.presets),
        "profiles": ["paper", *cls.profiles],
        "options": {
            name: {"type": option.type_name, "default": option.default} for name, option in options.items()
        },
        "claims": [asdict(claim) for claim in cls.claims],
    }


def _dataset(entry: registry.Entry, places: Places) -> dict[str, Any]:
    cls = entry.load()
    found = places.data_root is not None and not cls(places.data_root, "real").missing()
    return {
        "name": cls.name,
        "title": cls.title,
        "tasks": list(cls.tasks),
        "variants": list(cls.variants),
        "url": cls.url,
        "licence": cls.licence,
        "real_files_found": found,
        "expected": list(cls.required),
    }


def _suite(name: str) -> dict[str, Any]:
    loaded = suite.load(name)
    return {
        "name": name,
        "description": loaded.description,
        "entries": [
            {"methods": list(entry.methods), "datasets": list(entry.datasets), "seeds": list(entry.seeds)}
            for entry in loaded.entries
        ],
    }


COLUMNS = {
    "tasks": ("name", "family", "primary", "measures"),
    "methods": ("name", "task", "paper", "baselines", "profiles", "presets"),
    "datasets": ("name", "tasks", "variants", "licence", "real_files_found"),
    "suites": ("name", "description", "methods", "datasets"),
}


def show(what: str, document: list[dict[str, Any]]) -> None:
    """A table for people; options and their defaults are in the JSON and, for one method, below it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS[what])
    for row in document:
        table.add_row(*(_cell(row, column) for column in COLUMNS[what]))
    Console().print(table)


def _cell(row: dict[str, Any], column: str) -> str:
    if column in ("methods", "datasets"):
        return ", ".join(dict.fromkeys(name for entry in row["entries"] for name in entry[column]))
    value = row[column]
    if column == "paper":
        return f"{value['title']} ({value['venue']})"
    if column == "measures":
        return ", ".join(f"{m['name']} {'↑' if m['higher_is_better'] else '↓'}" for m in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)


def show_result(result: Result, stale: bool) -> None:
    """One result, whole, for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    trial = result.trial
    data = f"{result.row.dataset} {result.row.problem}".rstrip()
    console.print(f"[bold]{trial['label']}[/bold] on {data} ({trial['variant']}, {trial['profile']})")
    console.print(f"key {result.key}   seed {trial['seed']}   {result.status}{'   STALE' if stale else ''}")
    if not result.ok:
        console.print(f"[red]{result.reason}[/red]: {result.message}", markup=True)
        console.print(result.traceback, markup=False)
    table = Table("", "")
    for name, value in [*result.metrics.items(), *result.diagnostics.items()]:
        table.add_row(name, f"{value:.6g}")
    for name, cost in result.cost.items():
        table.add_row(name, "" if cost is None else f"{cost:,.6g}")
    table.add_row("tested weights", result.selection)
    table.add_row("options", json.dumps(trial["options"]))
    table.add_row("environment", json.dumps(dict(result.environment)))
    for path in result.pictures:
        table.add_row("picture", path)
    console.print(table)
    for point in result.curve:
        console.print("  ".join(f"{name} {value:.4g}" for name, value in point.items()), highlight=False)
