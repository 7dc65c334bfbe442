"""Tree reconstruction error: by hand, fitted vectors, random attributes of the same density."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.metrics.tree_reconstruction import (
    compositions,
    fit_attribute_vectors,
    random_attributes,
    tree_errors,
)


def test_compositions_by_hand() -> None:
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]])
    attributes = torch.tensor([[[True, True, False], [False, False, True]]])
    assert compositions(vectors, attributes).tolist() == [[[1, 2], [5, 5]]]
    with pytest.raises(ValueError, match=r"vectors must be \[R, A, D\]"):
        compositions(vectors, attributes[..., :2])


def test_errors_by_hand() -> None:
    representation = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    composed = torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.0, 0.0]])
    # The same direction, the opposite one, and nothing to compare with.
    torch.testing.assert_close(tree_errors(representation, composed), torch.tensor([0.0, 2.0, 1.0]))
    both = tree_errors(representation[:1], torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]))
    torch.testing.assert_close(both, torch.tensor([[1 - 1 / math.sqrt(2)], [1.0]]))


def test_random_attributes_keep_every_class_as_dense() -> None:
    attributes = torch.rand(30, 24, generator=torch.Generator().manual_seed(0)) < 0.3
    drawn = random_attributes(attributes, 5, torch.Generator().manual_seed(1))
    assert drawn.shape == (5, 30, 24)
    assert drawn.dtype == torch.bool
    assert (drawn.sum(2) == attributes.sum(1)).all()
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn, random_attributes(attributes, 5, torch.Generator().manual_seed(1)))
    # Places are uniform: none is preferred over many draws.
    many = random_attributes(attributes, 400, torch.Generator().manual_seed(2)).float().mean(0)
    expected = attributes.float().mean(1, keepdim=True).expand_as(many)
    assert (many - expected).abs().max() < 0.12


def compositional(noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures whose representation is the sum of vectors of their class's looks: features, labels, attributes."""
    generator = torch.Generator().manual_seed(3)
    looks = torch.randint(4, (30, 6), generator=generator)
    attributes = torch.nn.functional.one_hot(looks, 4).flatten(1).bool()
    vectors = torch.randn(24, 16, generator=generator)
    label = torch.arange(30).repeat_interleave(8)
    features = (attributes.float() @ vectors)[label]
    return features + noise * torch.randn(features.shape, generator=generator), label, attributes


def ratio(features: torch.Tensor, label: torch.Tensor, attributes: torch.Tensor) -> float:
    """TRE ratio on the last six classes of vectors fitted on the first 24."""
    draws = torch.cat([attributes[None], random_attributes(attributes, 2, torch.Generator().manual_seed(0))])
    seen = label < 24
    vectors = fit_attribute_vectors(
        features[seen], label[seen], draws, generator=torch.Generator().manual_seed(0)
    )
    errors = tree_errors(features[~seen], compositions(vectors, draws)[:, label[~seen]])
    return float(errors[0].mean() / errors[1:].mean())


def test_compositional_features_have_a_low_ratio_and_random_ones_have_none() -> None:
    features, label, attributes = compositional(0.1)
    assert ratio(features, label, attributes) < 0.35
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(5))
    assert 0.9 < ratio(noise, label, attributes) < 1.1


def test_the_fit_by_classes_is_the_fit_by_pictures() -> None:
    features, label, attributes = compositional(0.5)
    quick = fit_attribute_vectors(
        features, label, attributes[None], generator=torch.Generator().manual_seed(0), steps=20
    )
    slow = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimiser = torch.optim.RMSprop([slow], lr=0.01)
    for _ in range(20):
        optimiser.zero_grad()
        tree_errors(features, compositions(slow, attributes[None])[0, label]).mean().backward()
        optimiser.step()
    torch.testing.assert_close(quick, slow.detach(), atol=1e-3, rtol=1e-3)


def test_fitting_lowers_the_error_also_where_gradients_are_off() -> None:
    features, label, attributes = compositional(0.1)
    errors = []
    with torch.no_grad():
        for steps in (0, 400):
            vectors = fit_attribute_vectors(
                features, label, attributes[None], generator=torch.Generator().manual_seed(0), steps=steps
            )
            assert not vectors.requires_grad
            errors.append(tree_errors(features, compositions(vectors, attributes[None])[0, label]).mean())
    assert errors[1] < 0.05 < errors[0]
