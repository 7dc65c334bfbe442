"""The code that a class of the project reaches: its own definition and, name by name, those it refers to.

Read from syntax trees, nothing is imported. What counts is the definition a name leads to, not the whole file it
stands in, so that a new task's spec or a new block changes nothing for those who don't use it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench import registry

PACKAGES = ("tasks", "datamodules")
Symbol = tuple[str, str]
"""A dotted module and a name bound at its top level; "*": the whole module."""


def source(symbols: Iterable[Symbol]) -> str:
    """All code that the symbols reach, module by module in the order of the file; comments, docstrings and layout
    don't count."""
    reached: dict[str, set[int]] = defaultdict(set)
    seen: set[Symbol] = set()
    waiting = list(symbols)
    while waiting:
        module, name = symbol = waiting.pop()
        if symbol in seen or _file(module) is None:
            continue
        seen.add(symbol)
        for number in _anatomy(module).statements_of(name) - reached[module]:
            reached[module].add(number)
            waiting += _anatomy(module).statements[number].refers
    return "\n".join(
        f"{module}\n"
        + "\n".join(_anatomy(module).statements[number].code for number in sorted(reached[module]))
        for module in sorted(reached)
    )


@dataclass(frozen=True)
class _Statement:
    """A top-level statement: its code, and the symbols that it refers to."""

    code: str
    refers: tuple[Symbol, ...]


@dataclass(frozen=True)
class _Anatomy:
    """A module's top-level statements, by number the names they bind, and which of them run for everyone."""

    statements: tuple[_Statement, ...]
    binds: dict[str, set[int]]
    always: frozenset[int]

    def statements_of(self, name: str) -> set[int]:
        """The statements behind a name. One that isn't bound in sight counts as the whole module."""
        if name not in self.binds:
            return set(range(len(self.statements)))
        return self.binds[name] | self.always


@cache
def _anatomy(module: str) -> _Anatomy:
    path = _file(module)
    assert path is not None
    # Unparsed and parsed again, strings and brackets have one spelling.
    tree = ast.parse(ast.unparse(ast.parse(path.read_text(), filename=str(path))))
    _drop_docstrings(tree)
    body = [part for statement in tree.body if not _is_for_typing(statement) for part in _parts(statement)]
    binds: dict[str, set[int]] = defaultdict(set)
    always = set()
    for number, statement in enumerate(body):
        names = set(_bound(statement))
        for name in names:
            binds[name].add(number)
        if not names or not isinstance(statement, _NAMED + _IMPORTS):
            always.add(number)
    statements = tuple(
        _Statement(ast.unparse(statement), tuple(_refers(statement, module, binds.keys())))
        for statement in body
    )
    return _Anatomy(statements, dict(binds), frozenset(always))


_IMPORTS = (ast.Import, ast.ImportFrom)
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign)


def _parts(statement: ast.stmt) -> list[ast.stmt]:
    """An import of several names as one statement a name; any other statement as it is."""
    if isinstance(statement, ast.Import):
        return [ast.Import([alias]) for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names]
    return [statement]


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, _IMPORTS):
        for alias in statement.names:
            yield alias.asname or alias.name.split(".")[0]
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, (*_IMPORTS, ast.FunctionDef, ast.ClassDef)) and node is not statement:
                yield from _bound(node)


def _refers(statement: ast.stmt, module: str, bound: Iterable[str]) -> Iterator[Symbol]:
    names = set(bound)
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and node.id in names:
            yield module, node.id
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "*") for alias in node.names if _ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and _ours(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "*") if _file(inner) else (node.module, alias.name)


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kept = [
                statement
                for statement in node.body
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            ]
            node.body = kept or [ast.Pass()]


def _is_for_typing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")


def _ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


@cache
def _file(module: str) -> Path | None:
    base = registry.PROJECT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
