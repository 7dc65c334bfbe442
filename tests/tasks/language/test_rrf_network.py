"""The RRF block by hand, its tied weights, its fusions, and the paper's network counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.language.rrf_network import Branch, RecurrentResidualFusion, RRFNetwork


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def random_norms(block: RecurrentResidualFusion) -> None:
    """Different statistics and affine a step, so that a shared or misplaced one shows."""
    for step, norm in enumerate(block.norms):
        generator = torch.Generator().manual_seed(step)
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)


def unrolled(block: RecurrentResidualFusion, x: Tensor) -> list[Tensor]:
    """h(x) = ReLU(BN_t(W x + b)) + x, written out with numbers."""
    outputs = []
    for norm in block.norms:
        f = x @ block.linear.weight.T + block.linear.bias
        f = (f - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        x = f.clamp(min=0) + x
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("T", [0, 1, 3])
def test_recurrence_written_out(T: int) -> None:
    block = RecurrentResidualFusion(6, T, "none").eval()
    random_norms(block)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        side = block.side_outputs(x)
        expected = unrolled(block, x)
    assert side.shape == (4, T + 1, 6)
    torch.testing.assert_close(side, torch.stack(expected, dim=1))
    torch.testing.assert_close(block(x), expected[-1])


def test_the_skip_comes_after_the_relu() -> None:
    # f is 0 everywhere: h(x) = x, also where x is negative.
    block = RecurrentResidualFusion(3, 2, "none").eval()
    nn.init.zeros_(block.linear.weight)
    nn.init.zeros_(block.linear.bias)
    x = torch.tensor([[1.0, -2.0, 0.5]])
    assert torch.equal(block(x), x)


def test_fusions_by_hand() -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).abs()
    for fusion in ("sum", "conv"):
        block = RecurrentResidualFusion(4, 2, fusion).eval()
        random_norms(block)
        one, two, three = block.side_outputs(x).unbind(1)
        if block.fuse is None:
            fused = one + two + three  # eq. 5.5 with brackets: the skips count too
        else:
            block.fuse.weight.data.copy_(torch.tensor([[[2.0], [-1.0], [0.5]]]))
            block.fuse.bias.data.fill_(0.25)
            fused = 2 * one - two + 0.5 * three + 0.25
        # An untrained normalisation in evaluation divides by sqrt(1 + eps) alone.
        torch.testing.assert_close(block(x), F.relu(fused), rtol=1e-4, atol=1e-5)


def test_weights_are_tied_and_norms_are_not() -> None:
    for T in range(5):
        block = RecurrentResidualFusion(8, T, "conv")
        # W, b; T + 1 pairs and that of the fused vector; T + 1 fusion weights and a bias.
        assert numbers(block) == 8 * 8 + 8 + (T + 2) * 2 * 8 + (T + 1) + 1
    block.train()
    block(torch.randn(16, 8, generator=torch.Generator().manual_seed(2)).abs())
    means = torch.stack([norm.running_mean for norm in block.norms])
    assert all(not torch.equal(means[0], mean) for mean in means[1:])


def test_parameters_of_the_paper() -> None:
    """5.77 M for pictures, 13.86 M for sentences by the layers' widths, norms of the inputs apart; 19.6 M in all."""
    with torch.device("meta"):
        plain = RRFNetwork(2048, 6000, block="plain")
        full = RRFNetwork(2048, 6000, T=3)
    layers = 2048 * 2048 + 2048 + 2048 * 512 + 512 + 2 * (512 * 512 + 512) + 3 * 1024
    assert numbers(plain.image) == 2 * 2048 + layers == pytest.approx(5.77e6, rel=0.002)
    assert (
        numbers(plain.text) == 2 * 6000 + layers + (6000 - 2048) * 2048 == pytest.approx(13.86e6, rel=0.002)
    )
    assert numbers(plain) == pytest.approx(19.6e6, rel=0.003)
    # The block adds T + 1 pairs of normalisation and T + 2 scalars to each branch, and nothing else.
    assert numbers(full) - numbers(plain) == 2 * (4 * 1024 + 5)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = RRFNetwork(64, 80, (128, 64, 64, 32))
    for layer in network.weighted_layers():
        assert layer.bias.eq(0).all()
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert len(network.weighted_layers()) == 2 * 5


def test_one_paper_sized_step() -> None:
    torch.manual_seed(0)
    network = RRFNetwork(2048, 6000)
    image, text = network(torch.randn(4, 2048), torch.randn(4, 6000))
    assert image.shape == text.shape == (4, 512)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(4))
    (image * text).sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters()
    )


def test_layers_in_the_papers_order() -> None:
    branch = Branch(10, (16, 8, 8, 4), block="plain")
    kinds = [
        [type(layer).__name__ for layer in part] for part in (branch.fc1, branch.fc2, branch.fc3, branch.fc4)
    ]
    assert kinds == [
        ["Linear", "ReLU", "Dropout"],
        ["Linear", "BatchNorm1d", "ReLU"],
        ["Linear", "BatchNorm1d", "ReLU"],
        ["Linear", "BatchNorm1d"],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8, 8, 4, 4)}, "keeps the width"),
        ({"widths": (8, 8, 8)}, "four layers"),
        ({"T": -1}, "recurrent steps"),
        ({"fusion": "max"}, "fusion must be"),
        ({"block": "res"}, "block must be"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Branch(6, **({"widths": (8, 8, 8, 4)} | options))
