"""The DeepCaps embedding: sizes, the order of flat capsules, the winner, and what the switches do."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.conv4 import Conv4
from tasks.blocks.deepcaps import CapsCell, DeepCaps, flat_capsules, winner


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_paper_sizes() -> None:
    with torch.device("meta"):
        full = DeepCaps(3, (64, 64))
        small = DeepCaps(3, (32, 32), class_capsules=5, class_dim=16)
    assert full.flat == 4 * 4 * 32 + 8 * 8 * 32 == 2560
    class_capsules = 2560 * 8 * 10 * 32 + 10 * 32
    assert parameters(full) - class_capsules == 6_805_504  # 6.81 M
    assert parameters(full) == 13_359_424
    assert small.flat == 640
    assert parameters(small) == 7_215_184  # the paper's 7.22 M


def test_the_winner_is_the_longest_capsule_of_each_picture() -> None:
    capsules = torch.tensor([[[0.1, 0.0], [0.3, 0.4]], [[0.0, -0.9], [0.5, 0.5]]])
    torch.testing.assert_close(winner(capsules), torch.tensor([[0.3, 0.4], [0.0, -0.9]]))


def test_flat_capsules_keep_their_vectors_together() -> None:
    x = torch.arange(2 * 3 * 4 * 2 * 2).view(2, 3, 4, 2, 2)
    flat = flat_capsules(x)
    assert flat.shape == (2, 12, 4)
    assert flat[1, (1 * 2 + 0) * 3 + 2].tolist() == x[1, 2, :, 1, 0].tolist()


def test_the_skip_is_added_from_the_reduced_map() -> None:
    torch.manual_seed(0)
    cell = CapsCell(2, 4, 3, 4)
    x = torch.randn(1, 2, 4, 8, 8)
    reduced = cell.reduce(x)
    torch.testing.assert_close(cell(x), cell.main(reduced) + cell.skip(reduced))
    assert cell(x).shape == (1, 3, 4, 4, 4)


def test_maps_halve_four_times_and_embeddings_are_shorter_than_one() -> None:
    torch.manual_seed(0)
    narrow = {"stem": 8, "capsules": 4, "class_capsules": 5, "class_dim": 6, "gain": 2.5}
    network = DeepCaps(1, (32, 32), **narrow)
    image = torch.rand(3, 1, 32, 32)
    seen = []
    cells = (network.cell1, network.cell2, network.cell3, network.cell4)
    hooks = [cell.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[1:]))) for cell in cells]
    embedded = network(image)
    for hook in hooks:
        hook.remove()
    assert seen == [(4, 4, 16, 16), (4, 8, 8, 8), (4, 8, 4, 4), (4, 8, 2, 2)]
    assert embedded.shape == (3, 6)
    lengths = embedded.detach().norm(dim=1)
    assert float(lengths.min()) > 0
    assert float(lengths.max()) < 1
    everything = DeepCaps(1, (32, 32), **narrow, embedding="all")
    everything.load_state_dict(network.state_dict())
    assert everything(image).shape == (3, 30)


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    network = DeepCaps(
        3, (16, 16), stem=8, capsules=2, class_capsules=3, class_dim=4, gain=2.5, embedding="all"
    )
    network(torch.rand(4, 3, 16, 16)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_conv4_pools_as_often_as_asked() -> None:
    image = torch.rand(2, 3, 32, 32)
    assert Conv4(3, (32, 32))(image).shape == (2, 64, 2, 2)
    maps = Conv4(3, (32, 32), width=8, pools=2)
    assert maps(image).shape == (2, *maps.shape) == (2, 8, 8, 8)
    # Convolutions 3 -> 64 -> 64 -> 64 -> 64 with bias, and two numbers a channel of normalisation: Snell et al.
    assert parameters(Conv4(3, (84, 84))) == 27 * 64 + 64 + 3 * (9 * 64 * 64 + 64) + 4 * 128 == 113_088
    with pytest.raises(ValueError, match="vanish"):
        Conv4(3, (8, 8))
