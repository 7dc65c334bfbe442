"""What code a class reaches: names, not whole files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import reachable, registry

METHOD = '''
"""A docstring."""
from __future__ import annotations
from typing import TYPE_CHECKING
import tasks.whole
from tasks.parts import used, unused as other
if TYPE_CHECKING:
    from tasks.typing_only import Hint

LIMIT = 3  # a comment
TABLE = {}
TABLE["a"] = LIMIT


class Mine:
    """What it is."""

    def run(self) -> Hint:
        from tasks.late import late
        return used(late)


class Other:
    other = other
'''
PARTS = """
from tasks.deep import deep


def used(x):
    return _inner(x)


def _inner(x):
    return x + 1


def unused(x):
    return deep(x)
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "tasks").mkdir()
    files = {
        "method": METHOD,
        "parts": PARTS,
        "whole": "WHOLE = 1",
        "late": "def late(): return 'late'",
        "deep": "def deep(x): return 'deep'",
        "typing_only": "class Hint: pass",
    }
    for name, text in files.items():
        (tmp_path / "tasks" / f"{name}.py").write_text(text)
    monkeypatch.setattr(registry, "PROJECT", tmp_path)

    def read(name: str = "Mine", **changed: str) -> str:
        for module, text in changed.items():
            (tmp_path / "tasks" / f"{module}.py").write_text(text)
        reachable._file.cache_clear()
        reachable._anatomy.cache_clear()
        return reachable.source([("tasks.method", name)])

    yield read
    reachable._file.cache_clear()
    reachable._anatomy.cache_clear()


def test_names_lead_to_definitions_and_nothing_else(tree: Any) -> None:
    code = tree()
    for present in ("class Mine", "def used", "def _inner", "def late", "TABLE['a'] = LIMIT", "LIMIT = 3"):
        assert present in code
    for absent in ("class Other", "def unused", "deep", "What it is", "docstring", "comment", "class Hint"):
        assert absent not in code
    assert "tasks.whole" not in code
    assert "def deep" in tree("Other")
    assert "def _inner" not in tree("Other")


def test_only_what_is_reached_changes_it(tree: Any) -> None:
    before = tree()
    assert tree(parts=PARTS.replace("return deep(x)", "return 2")) == before
    assert tree(parts=PARTS + "\n# more\n") == before
    assert tree(parts=PARTS.replace("x + 1", "x + 2")) != before


def test_a_module_used_as_such_counts_whole(tree: Any) -> None:
    using = METHOD.replace("return used(late)", "return tasks.whole.WHOLE")
    assert "WHOLE = 1" in tree(method=using)


def test_a_name_that_is_bound_out_of_sight_counts_as_the_whole_module(tree: Any) -> None:
    assert "def deep" in tree(parts="from tasks.deep import *\n" + PARTS.replace("def used", "def used2"))
