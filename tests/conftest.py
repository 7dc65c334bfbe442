"""Shared fixtures: one miniature cache for the whole session, and the real samples where they exist."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_SAMPLES = Path(os.environ.get("PARAGONE_DATA", BESIDE_THE_CHECKOUT))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for rendered miniatures that all workers of one test run share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    return shared / "miniatures"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real samples in published formats; skips where it isn't there."""
    if not REAL_SAMPLES.is_dir():
        pytest.skip(f"no real samples at {REAL_SAMPLES}")
    return REAL_SAMPLES
