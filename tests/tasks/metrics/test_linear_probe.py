"""The linear probe: it reads what is there, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.metrics.linear_probe import probe_accuracy


def test_the_probe_reads_what_is_there_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    pose = torch.arange(240) % 6
    scene = torch.arange(240) // 6
    noise = torch.randn(240, 12, generator=generator)
    accuracy, chance = probe_accuracy(noise + 4 * F.one_hot(pose, 12), pose, scene)
    assert accuracy > 0.95
    assert chance == pytest.approx(1 / 6)
    assert probe_accuracy(noise, pose, scene)[0] < 0.4
    assert all(math.isnan(value) for value in probe_accuracy(noise, torch.zeros_like(pose), scene))
