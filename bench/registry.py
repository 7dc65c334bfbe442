"""Finds tasks, methods and datasets by name.

The tree itself is the registry: a class in `tasks/<family>/*.py` or `datamodules/<family>/*.py` that states
`name = "..."` is found by reading the syntax tree, so that looking one up imports its own module only.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import UsageError, unknown

if TYPE_CHECKING:
    from datamodules.base import Dataset
    from tasks.base import Method, Task

Kind = Literal["task", "method", "dataset"]
PROJECT = Path(__file__).resolve().parent.parent
NOT_FAMILIES = {"metrics", "blocks", "miniature"}


@dataclass(frozen=True)
class Entry:
    """Where a name is defined: dotted module, class and line."""

    kind: Kind
    name: str
    module: str
    cls: str
    line: int

    @property
    def family(self) -> str:
        return self.module.split(".")[1]

    def load(self) -> type[Any]:
        loaded: type[Any] = getattr(importlib.import_module(self.module), self.cls)
        return loaded


@cache
def entries(kind: Kind) -> dict[str, Entry]:
    """All names of a kind, sorted; a `UsageError` names a name that is defined twice."""
    found: dict[str, Entry] = {}
    for path in sorted((PROJECT / ("datamodules" if kind == "dataset" else "tasks")).glob("*/*.py")):
        if path.parent.name in NOT_FAMILIES:
            continue
        for entry in _defined(path):
            if entry.kind != kind:
                continue
            if entry.name in found:
                raise UsageError(
                    f"{kind} {entry.name!r} is defined in {found[entry.name].module} and {entry.module}"
                )
            found[entry.name] = entry
    return dict(sorted(found.items()))


def _defined(path: Path) -> list[Entry]:
    module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    defined = []
    try:
        tree = ast.parse(path.read_text(), filename=str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {error.msg}") from None
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        assigned = dict(_assignments(node))
        name = assigned.get("name")
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            continue
        kind: Kind = "method"
        if module.startswith("datamodules."):
            kind = "dataset"
        elif "measures" in assigned:
            kind = "task"
        defined.append(Entry(kind, name.value, module, node.name, node.lineno))
    return defined


def _assignments(node: ast.ClassDef) -> typing.Iterator[tuple[str, ast.expr]]:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield statement.targets[0].id, statement.value
        elif (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value
        ):
            yield statement.target.id, statement.value


def find(kind: Kind, name: str, where: str = "") -> Entry:
    """The entry of a name, or an error with the nearest one."""
    known = entries(kind)
    if name not in known:
        raise unknown(kind, name, known, where)
    return known[name]


def method(label: str, where: str = "") -> tuple[type[Method], str | None]:
    """`name` or `name:preset` -> (method class, preset or None)."""
    name, _, preset = label.partition(":")
    cls = find("method", name, where).load()
    if preset and preset not in cls.presets:
        raise unknown(f"preset of {name}", preset, cls.presets, where)
    return cls, preset or None


def dataset(name: str, where: str = "") -> type[Dataset]:
    return find("dataset", name, where).load()


def task(name: str) -> type[Task]:
    return find("task", name).load()


@dataclass(frozen=True)
class Option:
    """A typed keyword of a method, its recipe or a dataset."""

    name: str
    type: Any
    default: Any

    def parse(self, value: Any, where: str = "") -> Any:
        """The value as the option's type has it; a `UsageError` names option, type and value."""
        from jsonargparse import ArgumentError, ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=self.type)
        try:
            return plain(parser.parse_object({"value": value}, defaults=False)["value"])
        except ArgumentError:
            raise UsageError(
                f"{where + ': ' if where else ''}option {self.name!r} takes {self.type_name}, not {value!r}"
            ) from None

    @property
    def type_name(self) -> str:
        if isinstance(self.type, type) and not typing.get_args(self.type):
            return self.type.__name__
        return str(self.type).replace("typing.", "")


@cache
def method_options(cls: type[Method]) -> Mapping[str, Option]:
    """The constructor's options and the recipe's fields with the paper's defaults, by name."""
    from tasks.base import Recipe

    hints = typing.get_type_hints(Recipe)
    recipe = {
        field.name: Option(field.name, hints[field.name], plain(getattr(cls.recipe, field.name)))
        for field in fields(Recipe)
        if field.name != "data"
    }
    own = _keywords(cls, skip={"spec"})
    if clash := recipe.keys() & own.keys():
        raise UsageError(f"method {cls.name}: options named like recipe fields: {', '.join(sorted(clash))}")
    return own | recipe


@cache
def dataset_options(cls: type[Dataset]) -> Mapping[str, Option]:
    """A dataset's own options as `data.<name>`; those of serving (batch size, seed, cache) are the runner's."""
    from datamodules.base import Dataset

    serving = set(inspect.signature(Dataset.__init__).parameters)
    own = _keywords(cls, skip=serving)
    return {
        f"data.{name}": Option(f"data.{name}", option.type, option.default) for name, option in own.items()
    }


def problem_options(cls: type[Dataset]) -> frozenset[str]:
    """The options `data.<name>` of a dataset that state another problem, whose results stand in tables of their own:
    those that its class attribute `problem` names (none where it has no such attribute).

    A `UsageError` where one of them is no option.
    """
    named = frozenset(f"data.{name}" for name in getattr(cls, "problem", ()))
    if strange := named - dataset_options(cls).keys():
        raise UsageError(
            f"dataset {cls.name}: `problem` names {', '.join(sorted(strange))}, which is no option"
        )
    return named


def _keywords(cls: type, skip: set[str]) -> dict[str, Option]:
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    return {
        name: Option(name, hints.get(name, Any), plain(parameter.default))
        for name, parameter in inspect.signature(cls.__init__).parameters.items()  # type: ignore[misc]
        if name not in skip | {"self"}
        and parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    }


def plain(value: Any) -> Any:
    """A value as JSON would hold it: tuples become lists, mappings dicts, paths strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"option value {value!r} is no plain value")
