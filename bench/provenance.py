"""What produced a result: a fingerprint of the code it ran, and the environment it ran in."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench import registry

PACKAGES = ("tasks", "datamodules")


def fingerprint(trial: Mapping[str, Any]) -> str:
    """Digest of the code that a trial (as JSON) runs now: the syntax trees of its method's and its dataset's
    modules, of what they import in the project, and of the same for the trials it needs.

    Comments, docstrings and layout don't count. Raises `UsageError` where a method or dataset is gone.
    """
    needed = (*trial["needs"].values(), trial)
    return _fingerprint(tuple(sorted({(each["method"], each["dataset"]) for each in needed})))


@cache
def _fingerprint(pairs: tuple[tuple[str, str], ...]) -> str:
    modules: set[str] = set()
    for method, dataset in pairs:
        for module in (registry.find("method", method).module, registry.find("dataset", dataset).module):
            modules |= _closure(module)
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(f"{module}\n{_code(module)}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _closure(module: str) -> frozenset[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in seen or _file(current) is None:
            continue
        seen.add(current)
        waiting += _imports(current)
    return frozenset(seen)


@cache
def _tree(module: str) -> ast.Module:
    path = _file(module)
    assert path is not None
    return ast.parse(path.read_text(), filename=str(path))


@cache
def _code(module: str) -> str:
    tree = ast.parse(ast.unparse(_tree(module)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kept = [
            statement
            for statement in node.body
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        ]
        node.body = kept or [ast.Pass()]
    return ast.unparse(tree)


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def _file(module: str) -> Path | None:
    base = registry.PROJECT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def environment() -> dict[str, Any]:
    """Versions, processor and device names, git commit and whether the tree differs from it."""
    import pytorch_lightning
    import torch
    import torchmetrics
    import torchvision

    commit = _git("rev-parse", "HEAD")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": pytorch_lightning.__version__,
        "torchmetrics": torchmetrics.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "git_commit": commit,
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git(*arguments: str) -> str | None:
    """A git answer, or None where the project isn't a checkout or git isn't there."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(registry.PROJECT), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
