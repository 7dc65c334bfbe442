"""Deep InfoMax in bags: negatives are others of the same bag, bags of one have none."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from tasks.blocks.deep_infomax import DeepInfoMax, jensen_shannon_loss, others_of_the_bag, prior_loss


def test_losses_by_hand() -> None:
    weight = torch.tensor([0.5, 0.5])
    joint, apart = torch.tensor([[1.0], [2.0]]), torch.tensor([[-1.0], [0.0]])
    expected = (
        (math.log1p(math.exp(-1)) + math.log1p(math.exp(-1))) + (math.log1p(math.exp(-2)) + math.log(2))
    ) / 2
    assert jensen_shannon_loss(joint, apart, weight).item() == pytest.approx(expected)
    assert jensen_shannon_loss(joint, apart, torch.zeros(2)).item() == 0.0
    assert prior_loss(torch.zeros(4), torch.zeros(2)).item() == pytest.approx(2 * math.log(2))
    assert prior_loss(torch.full((4,), 50.0), torch.full((2,), -50.0)).item() == pytest.approx(0, abs=1e-6)


def test_negatives_are_others_of_the_same_bag() -> None:
    bag = torch.arange(4).repeat_interleave(torch.tensor([5, 1, 2, 7]))
    seen = set()
    for seed in range(200):
        torch.manual_seed(seed)
        other, valid = others_of_the_bag(bag, 4)
        assert torch.equal(bag[other], bag)
        assert torch.equal(valid, bag != 1)
        assert (other != torch.arange(15))[valid].all()
        assert len(other.unique()) == 15  # a permutation
        seen |= {(0, int(other[0])), (3, int(other[8]))}
    assert seen == {(0, k) for k in range(1, 5)} | {(3, k) for k in range(9, 15)}


@pytest.mark.parametrize("global_input", ["feature", "map"])
def test_the_parts_and_their_sum(global_input: str) -> None:
    torch.manual_seed(0)
    module = DeepInfoMax((3, 2, 2), 4, weights=(0.5, 1.0, 0.1), global_input=global_input, hidden=(6, 5))
    maps, feature = torch.randn(5, 3, 2, 2), torch.rand(5, 4)
    bag = torch.tensor([0, 0, 0, 1, 2])
    torch.manual_seed(1)
    parts = module(maps, feature, bag, 3)
    assert parts["total"].item() == pytest.approx(
        0.5 * parts["global"].item() + parts["local"].item() + 0.1 * parts["prior"].item()
    )
    # The same by a loop over the instances that have a negative, over all places.
    torch.manual_seed(1)
    other, _ = others_of_the_bag(bag, 3)
    first = feature if global_input == "feature" else maps.flatten(1)
    spread, near = [], []
    for i in range(3):
        j = int(other[i])
        near.append(
            softplus(-module.global_score(torch.cat([first[i], feature[i]])))
            + softplus(module.global_score(torch.cat([first[j], feature[i]])))
        )
        for y in range(2):
            for x in range(2):
                here, there = (
                    module.local_score(
                        torch.cat([feature[i], maps[k, :, y, x]])[None, :, None, None]
                    ).flatten()
                    for k in (i, j)
                )
                spread.append(softplus(-here) + softplus(there))
    assert parts["global"].item() == pytest.approx(torch.stack(near).mean().item(), rel=1e-5)
    assert parts["local"].item() == pytest.approx(torch.stack(spread).mean().item(), rel=1e-5)


def test_bags_of_one_take_part_in_the_prior_only() -> None:
    torch.manual_seed(0)
    module = DeepInfoMax((3, 2, 2), 4, hidden=(6, 5))
    maps = torch.randn(3, 3, 2, 2, requires_grad=True)
    parts = module(maps, torch.rand(3, 4), torch.arange(3), 3)
    assert parts["global"].item() == parts["local"].item() == 0.0
    assert parts["prior"].item() > 0
    parts["total"].backward()
    assert not maps.grad.any()


def test_discriminators_of_the_official_code() -> None:
    with torch.device("meta"):
        module = DeepInfoMax((50, 4, 4), 500)
        by_map = DeepInfoMax((50, 4, 4), 500, global_input="map")

    def count(part: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    tail = 512 * 128 + 128 + 128 + 1
    assert count(module.global_score) == 1000 * 512 + 512 + tail
    assert count(module.local_score) == 550 * 512 + 512 + tail
    assert count(module.prior_score) == 500 * 512 + 512 + tail
    assert count(by_map.global_score) == 1300 * 512 + 512 + tail


def test_it_learns_to_tell_pairs_apart() -> None:
    torch.manual_seed(0)
    module = DeepInfoMax((2, 1, 1), 2, hidden=(32, 16))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    bag = torch.arange(8).repeat_interleave(4)
    start = None
    for _ in range(150):
        feature = torch.rand(32, 2)
        loss = module(feature[:, :, None, None], feature, bag, 8)["local"]  # maps that are the feature itself
        start = loss.item() if start is None else start
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.7 * start
