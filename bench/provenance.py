"""What produced a result: a fingerprint of the code it ran, and the environment it ran in."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench import reachable, registry


def fingerprint(trial: Mapping[str, Any]) -> str:
    """Digest of the code that a trial (as JSON) runs now: all that its method's and its dataset's class reach in the
    project, and those of the trials it needs.

    Comments, docstrings and layout don't count. Raises `UsageError` where a method or dataset is gone.
    """
    return _fingerprint(tuple(sorted(_pairs(trial))))


def _pairs(trial: Mapping[str, Any]) -> set[tuple[str, str]]:
    needed = (_pairs(each) for each in trial["needs"].values())
    return {(trial["method"], trial["dataset"])}.union(*needed)


@cache
def _fingerprint(pairs: tuple[tuple[str, str], ...]) -> str:
    entries = [
        entry
        for method, dataset in pairs
        for entry in (registry.find("method", method), registry.find("dataset", dataset))
    ]
    code = reachable.source((entry.module, entry.cls) for entry in entries)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


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
