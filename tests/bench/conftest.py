"""A playground: a copy of the project with the test suite's own methods and dataset in it, run as a user would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Playground:
    """A project folder and a results folder; `run` calls the command line in a process of its own."""

    folder: Path
    cache: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def suite(self, text: str, name: str = "suite") -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return path

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "bench.cli", *map(str, arguments)]

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PARAGONE_CACHE": str(self.cache), **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=400)
        except BaseException:
            os.killpg(process.pid, 9)
            raise
        assert code is None or process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def stored(self, results: str = "results") -> dict[str, dict[str, Any]]:
        """All result files by label and seed."""
        documents = [
            json.loads(path.read_text()) for path in (self.folder / results / "trials").glob("*.json")
        ]
        return {
            f"{document['trial']['label']}/{document['trial']['seed']}": document for document in documents
        }

    def metrics(self, results: str = "results") -> dict[str, Any]:
        return {label: document["metrics"] for label, document in self.stored(results).items()}


@pytest.fixture
def playground(tmp_path: Path, cache: Path) -> Playground:
    folder = tmp_path / "project"
    for package in ("bench", "tasks", "datamodules", "leaderboards"):
        shutil.copytree(
            PROJECT / package,
            folder / package,
            ignore=shutil.ignore_patterns("__pycache__", "results", "*.md"),
        )
    here = Path(__file__).parent / "playground"
    for source, target in (("trying", "tasks/trying/trying.py"), ("tiny", "datamodules/trying/tiny.py")):
        path = folder / target
        path.parent.mkdir()
        (path.parent / "__init__.py").touch()
        shutil.copy(here / f"{source}.py", path)
    cache.mkdir(parents=True, exist_ok=True)
    return Playground(folder, cache)
