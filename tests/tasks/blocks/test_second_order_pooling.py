"""Second-order pooling: by hand, beside slow forms, and the lengths their authors state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tasks.blocks.second_order_pooling import (
    PooledClassifier,
    bilinear_pool,
    covariance,
    eigenvalue_root,
    newton_schulz_root,
    root_normalise,
    tensor_sketch,
    upper_triangle,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def positive(size: int = 5, count: int = 2) -> Tensor:
    half = random(count, size, 2 * size).double()
    return half @ half.transpose(1, 2) / size


def test_bilinear_pooling_by_hand() -> None:
    features = torch.tensor([[[[1.0, 0.0]], [[2.0, 2.0]]]])  # 2 channels, 1 x 2 pixels
    # Mean outer products: [[1/2, 1], [1, 4]].
    expected = torch.tensor([[0.5, 1.0, 1.0, 4.0]]).sqrt()
    torch.testing.assert_close(bilinear_pool(features), expected / expected.norm(), atol=1e-5, rtol=1e-5)


def test_the_signed_root_keeps_signs_and_has_a_finite_slope_at_zero() -> None:
    vector = torch.tensor([[-4.0, 0.0, 9.0]], requires_grad=True)
    rooted = root_normalise(vector)
    torch.testing.assert_close(rooted.detach(), torch.tensor([[-2.0, 0.0, 3.0]]) / 13**0.5, atol=1e-5, rtol=0)
    rooted.sum().backward()
    assert vector.grad.isfinite().all()


def test_covariance_is_numpys() -> None:
    features = random(1, 3, 2, 4)
    expected = torch.cov(features[0].flatten(1), correction=0)
    torch.testing.assert_close(covariance(features)[0], expected)


def test_both_roots_are_square_roots() -> None:
    matrix = positive()
    root = eigenvalue_root(matrix)
    torch.testing.assert_close(root @ root, matrix)
    iterated = newton_schulz_root(matrix, iterations=25)
    torch.testing.assert_close(iterated, root, atol=1e-6, rtol=1e-6)
    few = newton_schulz_root(matrix)
    assert (few - root).norm() < 0.5 * root.norm()


def test_the_roots_gradient_is_the_functions() -> None:
    def symmetric(matrix: Tensor) -> Tensor:
        return eigenvalue_root((matrix + matrix.transpose(1, 2)) / 2)

    assert torch.autograd.gradcheck(symmetric, (positive(3, 1).requires_grad_(),))
    equal = torch.eye(3, dtype=torch.double)[None].requires_grad_()  # eigenvectors have no gradient here
    eigenvalue_root(equal).sum().backward()
    torch.testing.assert_close(equal.grad, torch.full_like(equal, 0.5))


def test_the_sketch_is_the_circular_convolution_and_estimates_products() -> None:
    generator = torch.Generator().manual_seed(0)
    buckets = torch.randint(7, (2, 4), generator=generator)
    signs = 2.0 * torch.randint(2, (2, 4), generator=generator) - 1
    pixel = random(1, 4, 1)
    expected = torch.zeros(7)
    for i in range(4):
        for j in range(4):
            place = (buckets[0, i] + buckets[1, j]) % 7
            expected[place] += signs[0, i] * signs[1, j] * pixel[0, i, 0] * pixel[0, j, 0]
    torch.testing.assert_close(tensor_sketch(pixel, buckets, signs, 7)[0], expected, atol=1e-5, rtol=1e-5)
    wide = torch.randint(4096, (2, 4), generator=generator)
    first, second = random(1, 4, 1, seed=1), random(1, 4, 1, seed=2)
    product = (tensor_sketch(first, wide, signs, 4096) * tensor_sketch(second, wide, signs, 4096)).sum()
    assert product.item() == pytest.approx((first * second).sum().item() ** 2, rel=0.05)


def test_the_upper_triangle_runs_by_rows() -> None:
    matrix = torch.arange(9.0).view(1, 3, 3)
    assert upper_triangle(matrix)[0].tolist() == [0, 1, 2, 4, 5, 8]


@pytest.mark.parametrize(
    ("pooling", "length"),
    [("gap", 2048), ("bp", 512**2), ("cbp", 8192), ("mpn", 32_896), ("isqrt", 32_896)],
)
def test_lengths_for_a_resnet(pooling: str, length: int) -> None:
    with torch.device("meta"):
        head = PooledClassifier(2048, 200, pooling)
    assert head.linear.in_features == length


@pytest.mark.parametrize("pooling", ["gap", "bp", "cbp", "mpn", "isqrt"])
def test_every_head_has_finite_gradients(pooling: str) -> None:
    torch.manual_seed(0)
    head = PooledClassifier(6, 3, pooling, sketch=32)
    features = random(4, 6, 3, 3).relu().requires_grad_()
    head(features).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert features.grad.isfinite().all()
    assert features.grad.any()
