"""The volumetric transformer: groups, Eqs. 1 and 2 beside slow loops, its start, its mixing, its ablations."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tasks.blocks.volumetric_transformer import (
    GroupMixing,
    TransformationEstimator,
    VolumetricTransformer,
    candidate_offsets,
    expected_displacement,
    group_samples,
    transformation_probability,
    uniform_field,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_groups_fall_in_order_and_are_normalised_each() -> None:
    features = random(2, 6, 3, 4)
    samples = group_samples(features, 3)
    torch.testing.assert_close(samples.largest[:, 1], torch.maximum(features[:, 2], features[:, 3]))
    torch.testing.assert_close(samples.mean[:, 2], (features[:, 4] + features[:, 5]) / 2)
    torch.testing.assert_close(samples.response, samples.largest + samples.mean)
    assert samples.normalised.shape == (2, 3, 2, 3, 4)
    flat = samples.normalised.flatten(2)
    torch.testing.assert_close(flat.mean(2), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.var(2, unbiased=False), torch.ones(2, 3), atol=1e-2, rtol=0)
    raw = torch.stack([samples.largest, samples.mean], 2)[1, 0]
    by_hand = (raw - raw.mean()) / (raw.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(samples.normalised[1, 0], by_hand)
    with pytest.raises(ValueError, match="6 channels don't fall into 4"):
        group_samples(features, 4)


def test_a_group_for_each_channel_takes_the_channel_itself() -> None:
    features = random(1, 3, 2, 2)
    samples = group_samples(features, 3)
    torch.testing.assert_close(samples.normalised[:, :, 0], features)
    torch.testing.assert_close(samples.response, 2 * features)


def test_mixing_acts_on_the_group_axis_alone() -> None:
    mixing, features = GroupMixing(3, 2), random(2, 3, 4, 2, 2)
    expected = torch.zeros(2, 2, 4, 2, 2)
    for k in range(3):
        for out in range(2):
            expected[:, out] += features[:, k] * mixing.weight[k, out]
    torch.testing.assert_close(mixing(features), expected)


def slow_field(response: Tensor, residual: Tensor, window: int, beta: float) -> tuple[Tensor, Tensor]:
    """Eqs. 1 and 2 pixel by pixel."""
    count, groups, height, width = response.shape
    weights = torch.zeros(count, groups, window**2, height, width)
    field = torch.zeros(count, groups, height, width, 2)
    reach = window // 2
    for n in range(count):
        for c in range(groups):
            for y in range(height):
                for x in range(width):
                    terms = {}
                    for number in range(window**2):
                        dy, dx = number // window - reach, number % window - reach
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            score = response[n, c, y + dy, x + dx] + residual[n, c, number, y, x]
                            terms[number] = math.exp(score.item() / beta)
                    for number, term in terms.items():
                        share = term / sum(terms.values())
                        weights[n, c, number, y, x] = share
                        field[n, c, y, x, 0] += share * (number % window - reach)
                        field[n, c, y, x, 1] += share * (number // window - reach)
    return weights, field


@pytest.mark.parametrize(("window", "beta"), [(3, 0.3), (5, 2.0)])
def test_probabilities_and_displacements_are_the_slow_sums(window: int, beta: float) -> None:
    response, residual = random(2, 2, 4, 3), random(2, 2, window**2, 4, 3, seed=1) - 0.5
    probability = transformation_probability(response, residual, window, beta)
    weights, field = slow_field(response, residual, window, beta)
    torch.testing.assert_close(probability, weights)
    torch.testing.assert_close(probability.sum(2), torch.ones(2, 2, 4, 3))
    torch.testing.assert_close(expected_displacement(probability), field)


def test_offsets_are_x_then_y() -> None:
    offsets = candidate_offsets(3, torch.zeros(()))
    assert offsets[0].tolist() == [-1, -1]
    assert offsets[1].tolist() == [0, -1]  # unfold goes along the row first
    assert offsets[5].tolist() == [1, 0]


def test_the_field_starts_as_the_expectation_of_the_responses() -> None:
    module, features = VolumetricTransformer(8, groups=4, window=3, beta=0.5), random(2, 8, 6, 5)
    assert not module.estimator.head.weight.any()
    assert not module.estimator.head.bias.any()
    _, field = module(features)
    response = group_samples(features, 4).response
    _, expected = slow_field(response, torch.zeros(2, 4, 9, 6, 5), 3, 0.5)
    torch.testing.assert_close(field, expected)


def test_a_bright_candidate_draws_its_neighbours() -> None:
    features = torch.zeros(1, 2, 7, 7)
    features[:, :, 3, 4] = 50.0
    field = VolumetricTransformer(2, groups=1, window=5, beta=1.0).eval().field(features)
    torch.testing.assert_close(field[0, 0, 3, 3], torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(field[0, 0, 2, 5], torch.tensor([-1.0, 1.0]), atol=1e-3, rtol=0)


def test_the_uniform_field_is_zero_inside_and_points_inwards_at_the_border() -> None:
    field = uniform_field(7, 7, 5, torch.zeros(()))[0, 0]
    torch.testing.assert_close(field[3, 3], torch.zeros(2))
    torch.testing.assert_close(field[0, 0], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(field[3, 6], torch.tensor([-1.0, 0.0]))
    idle = VolumetricTransformer(4, groups=2, window=5, beta=1e6).eval().field(random(1, 4, 7, 7))
    torch.testing.assert_close(idle[0, 0], field, atol=1e-4, rtol=0)


def trained_like(module: VolumetricTransformer) -> VolumetricTransformer:
    """With a head that isn't zero, in evaluation mode so that BN couples nothing."""
    torch.manual_seed(1)
    nn.init.normal_(module.estimator.head.weight, std=5.0)
    return module.eval()


@pytest.mark.parametrize("squeeze", [True, False])
def test_squeeze_couples_groups(squeeze: bool) -> None:
    torch.manual_seed(0)
    module = trained_like(VolumetricTransformer(8, groups=4, window=3, beta=1.0, use_squeeze=squeeze))
    features = random(1, 8, 8, 8)
    changed = features.clone()
    changed[:, :2, 2:5] += 1.0  # the first group alone
    before, after = module.field(features), module.field(changed)
    assert not torch.allclose(before[:, 0], after[:, 0])
    assert torch.allclose(before[:, 1:], after[:, 1:], atol=1e-6) != squeeze


def test_groups_have_fields_of_their_own() -> None:
    torch.manual_seed(0)
    _, field = trained_like(VolumetricTransformer(8, groups=4, window=5, beta=1.0))(random(2, 8, 7, 6))
    assert field.shape == (2, 4, 7, 6, 2)
    for other in range(1, 4):
        assert (field[:, 0] - field[:, other]).abs().max() > 0.1


def test_parameters_by_hand() -> None:
    module = VolumetricTransformer(2048, groups=32, window=11)
    widths = [2, 16, 32, 64, 64, 64, 32, 32, 16]
    convolutions = sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    mixing = 32 * 16 + 16 * 16 + 16 * 8 + 8 * 8
    mixing += 8 * 8 + 8 * 16 + 16 * 16 + 16 * 32
    head = 9 * 16 * 121 + 121
    assert parameters(module) == convolutions + mixing + head
    assert parameters(VolumetricTransformer(2048, groups=32, use_squeeze=False)) == convolutions + head
    # Whatever the map has channels, W_s is shared by the groups.
    assert parameters(VolumetricTransformer(512, groups=32)) == parameters(module)


def test_the_estimator_pools_14_to_1_and_back() -> None:
    estimator = TransformationEstimator(8, 2, 9)
    sizes = []
    for convolution in estimator.convolutions:
        convolution.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[3:])))
    assert estimator(random(2, 8, 2, 14, 14)).shape == (2, 8, 9, 14, 14)
    assert sizes == [(14, 14), (7, 7), (4, 4), (2, 2), (1, 1), (2, 2), (4, 4), (7, 7)]
    axes = [mixing.weight.shape for mixing in TransformationEstimator(32, 2, 9).mixings]
    assert [tuple(axis) for axis in axes] == [
        (32, 16), (16, 16), (16, 8), (8, 8), (8, 8), (8, 16), (16, 16), (16, 32)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options", [{}, {"use_squeeze": False}, {"use_group": False}, {"prob": False}, {"groups": 1}]
)
def test_every_form_keeps_the_shape_and_reaches_all_its_weights(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    module = VolumetricTransformer(8, **{"groups": 4, "window": 3, "beta": 1.0, **options})
    nn.init.normal_(module.estimator.head.weight, std=0.1)
    features = random(2, 8, 6, 5).requires_grad_()
    warped, field = module(features)
    assert warped.shape == features.shape
    groups = 8 if options.get("use_group") is False else options.get("groups", 4)
    assert field.shape == (2, groups, 6, 5, 2)
    warped.square().sum().backward()
    assert features.grad.isfinite().all()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_without_probabilities_the_field_starts_at_zero() -> None:
    features = random(2, 8, 6, 5)
    warped, field = VolumetricTransformer(8, groups=4, window=3, prob=False)(features)
    assert not field.any()
    torch.testing.assert_close(warped, features)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be odd"):
        VolumetricTransformer(8, groups=4, window=4)
    with pytest.raises(ValueError, match="8 channels don't fall into 3"):
        VolumetricTransformer(8, groups=3)
