"""Poolings of bags: against loops over bags, on bags of one, and without influence of neighbours in the batch."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.bag_pooling import (
    POOLINGS,
    DynamicPooling,
    LSTMPooling,
    PlainPooling,
    bag_sizes,
    build_pooling,
    positions,
    softmax_in_bags,
    squash,
)

SIZES = (3, 1, 5, 2)
BAG = torch.arange(4).repeat_interleave(torch.tensor(SIZES))


def features(count: int = sum(SIZES), width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def build(pool: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_pooling(pool, 6, 5, hidden=4)  # type: ignore[arg-type]


def test_positions_and_sizes_by_hand() -> None:
    sizes = bag_sizes(BAG, 4)
    assert sizes.tolist() == list(SIZES)
    assert positions(BAG, sizes).tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1]
    for bag, bags in ((torch.tensor([0, 2]), 3), (torch.tensor([1, 0]), 2), (torch.tensor([0, 0]), 2)):
        with pytest.raises(ValueError, match="ascending"):
            bag_sizes(bag, bags)


@pytest.mark.parametrize("pool", POOLINGS)
def test_a_bag_in_a_batch_is_as_alone(pool: str) -> None:
    module, x = build(pool), features()
    together = module(x, BAG, 4)
    assert together.shape == (4, module.length)
    for number, part in enumerate(x.split(SIZES)):
        alone = module(part, torch.zeros(len(part), dtype=torch.long), 1)
        torch.testing.assert_close(together[number], alone[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLINGS)
def test_no_gradient_flows_from_one_bag_to_another(pool: str) -> None:
    module, x = build(pool), features().requires_grad_()
    module(x, BAG, 4)[1].sum().backward()
    assert x.grad[3].abs().sum() > 0
    x.grad[3] = 0
    assert not x.grad.any()


@pytest.mark.parametrize("pool", [pool for pool in POOLINGS if pool != "lstm"])
def test_all_but_the_lstm_ignore_the_order(pool: str) -> None:
    module, x = build(pool), features(5)
    bag = torch.zeros(5, dtype=torch.long)
    torch.testing.assert_close(module(x, bag, 1), module(x.flip(0), bag, 1))


def test_the_lstm_does_not_ignore_the_order() -> None:
    module, x = build("lstm"), features(5)
    bag = torch.zeros(5, dtype=torch.long)
    assert not torch.allclose(module(x, bag, 1), module(x.flip(0), bag, 1))


def test_the_backward_state_is_that_which_reached_the_first() -> None:
    """Against two LSTMs of one direction, run over one bag in both orders."""
    module, x = build("lstm"), features(4)
    forward, backward = torch.nn.LSTM(6, 5), torch.nn.LSTM(6, 5)
    for name, value in module.lstm.named_parameters():
        other = backward if name.endswith("_reverse") else forward
        getattr(other, name.removesuffix("_reverse")).data.copy_(value)
    ahead, _ = forward(x)
    back, _ = backward(x.flip(0))
    expected = torch.cat([ahead[-1], back[-1]])
    found = module(x, torch.zeros(4, dtype=torch.long), 1)[0]
    torch.testing.assert_close(found, expected)
    out, _ = module.lstm(x[None])
    assert not torch.allclose(
        out[0, -1, 5:], expected[5:]
    )  # the backward half there has seen one instance only


def test_padding_changes_nothing_whatever_stands_beside() -> None:
    module, x = build("lstm"), features()
    small = module(x, BAG, 4)[1]
    bag = torch.cat([BAG, torch.full((40,), 4)])
    large = module(torch.cat([x, 100 * features(40)]), bag, 5)[1]
    torch.testing.assert_close(small, large)


def test_running_states_end_in_the_forward_half() -> None:
    module, x = build("lstm"), features()
    states = module.states(x, BAG, 4)
    assert states.shape == (sum(SIZES), 5)
    last = torch.tensor(SIZES).cumsum(0) - 1
    torch.testing.assert_close(states[last], module(x, BAG, 4)[:, :5])
    one_way = LSTMPooling(6, 5, bidirectional=False)
    assert one_way.length == 5
    torch.testing.assert_close(one_way(x, BAG, 4), one_way.states(x, BAG, 4)[last])


def test_attention_by_a_loop() -> None:
    for pool in ("attention", "gated_attention"):
        module, x = build(pool), features()
        found = module(x, BAG, 4)
        for number, part in enumerate(x.split(SIZES)):
            hidden = module.value(part).tanh()
            if pool == "gated_attention":
                hidden = hidden * module.gate(part).sigmoid()
            weight = module.weight(hidden).softmax(dim=0)
            torch.testing.assert_close(found[number], (weight * part).sum(0))


def test_dynamic_pooling_by_a_loop() -> None:
    x = features()
    found = DynamicPooling(6)(x, BAG, 4)
    for number, part in enumerate(x.split(SIZES)):
        b = torch.zeros(len(part))
        for _ in range(3):
            z = squash((b.softmax(0)[:, None] * part).sum(0))
            b = b + part @ z
        torch.testing.assert_close(found[number], z)


def test_squash_and_softmax_by_hand() -> None:
    torch.testing.assert_close(squash(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]) * 25 / 26)
    assert not squash(torch.zeros(3)).any()
    score = torch.tensor([1.0, 1.0, 500.0, -500.0])
    weight = softmax_in_bags(score, torch.tensor([0, 0, 1, 1]), 2)
    assert weight.tolist() == [0.5, 0.5, 1.0, 0.0]


def test_mean_and_maximum_by_hand() -> None:
    x = torch.tensor([[-1.0, 2.0], [-3.0, 4.0], [-5.0, -6.0]])
    bag = torch.tensor([0, 0, 1])
    assert PlainPooling(2, "mean")(x, bag, 2).tolist() == [[-2.0, 3.0], [-5.0, -6.0]]
    assert PlainPooling(2, "max")(x, bag, 2).tolist() == [[-1.0, 4.0], [-5.0, -6.0]]


def test_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        lstm = build_pooling("lstm", 500, 500)
    assert sum(parameter.numel() for parameter in lstm.parameters()) == 4_008_000
    with pytest.raises(ValueError, match="median"):
        build_pooling("median", 4, 4)  # type: ignore[arg-type]
