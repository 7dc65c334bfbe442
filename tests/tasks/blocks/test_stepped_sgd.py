"""The schedule of rates, step by step."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.stepped_sgd import stepped_sgd

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}


def rates(steps: int, **options: object) -> list[float]:
    answer = stepped_sgd([torch.nn.Parameter(torch.ones(1))], steps, **SGD, **options)
    schedule = answer["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_the_papers_schedule() -> None:
    found = rates(200, drops=(0.4, 0.6, 0.8))
    assert found == pytest.approx([0.1] * 80 + [0.01] * 40 + [0.001] * 40 + [0.0001] * 40)


def test_warmup_rises_to_the_full_rate() -> None:
    assert rates(10, drops=(0.5,), warmup=0.3) == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01]
    )


def test_what_the_optimiser_is() -> None:
    optimizer = stepped_sgd([torch.nn.Parameter(torch.ones(1))], 5, **SGD, drops=())["optimizer"]
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
    with pytest.raises(ValueError, match="parts of the training"):
        stepped_sgd([torch.nn.Parameter(torch.ones(1))], 5, **SGD, drops=(80,))
