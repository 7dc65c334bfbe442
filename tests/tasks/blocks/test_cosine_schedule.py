"""The rate falls along half a cosine wave."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.blocks.cosine_schedule import cosine_optimiser


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_the_rate_falls_from_the_first_to_the_last(optimiser: str) -> None:
    layer = nn.Linear(2, 1)
    made = cosine_optimiser(layer.parameters(), 100, optimiser=optimiser, lr=0.1, final_lr=0.001)  # type: ignore[arg-type]
    schedule = made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        made["optimizer"].step()
        schedule.step()
    assert (rates[0], rates[100]) == pytest.approx((0.1, 0.001))
    assert rates[50] == pytest.approx(0.0505)
    assert rates == sorted(rates, reverse=True)


def test_what_is_optimised_and_how() -> None:
    parameters = list(nn.Linear(2, 1).parameters())
    sgd = cosine_optimiser(parameters, 5, optimiser="sgd", lr=0.1, final_lr=0.0)["optimizer"]
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["weight_decay"]) == (0.9, 1e-4)
    adam = cosine_optimiser(parameters, 5, optimiser="adam", lr=0.1, final_lr=0.0)["optimizer"]
    assert isinstance(adam, torch.optim.Adam)
    with pytest.raises(ValueError, match="none of sgd, adam"):
        cosine_optimiser(parameters, 5, optimiser="adamw", lr=0.1, final_lr=0.0)  # type: ignore[arg-type]
