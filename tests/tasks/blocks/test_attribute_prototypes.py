"""Prototypes from attributes: distances, episodes, averaged probabilities, a head that learns unseen classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.blocks.attribute_prototypes import (
    AttributePrototypes,
    episode,
    fit_prototypes,
    patch_log_probabilities,
)


def test_scores_are_negative_squared_distances_to_unit_prototypes() -> None:
    torch.manual_seed(0)
    head = AttributePrototypes(5, F.normalize(torch.rand(4, 3), dim=1), space=6)
    features = torch.randn(2, 5)
    prototypes = head.prototypes()
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(4))
    expected = -(head.of_features(features)[:, None] - prototypes).square().sum(2)
    torch.testing.assert_close(head(features), expected)
    assert head(features[:, None].expand(-1, 7, -1)).shape == (2, 7, 4)


def test_probabilities_are_averaged_not_scores() -> None:
    # Two patches: one is sure of class 1, the other prefers class 0 a little more in scores, not in probability.
    logits = torch.tensor([[[0.0, 8.0], [9.0, 0.0]]])
    expected = torch.stack([p.softmax(0) for p in logits[0]]).mean(0).log()
    torch.testing.assert_close(patch_log_probabilities(logits, [range(2)])[0], expected)
    mild = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [30.0, 0.0]]])
    assert mild.mean(1).argmax() == 0  # as averaged representations would have it
    assert patch_log_probabilities(mild, [range(2)]).argmax() == 1


def test_groups_do_not_draw_on_each_other() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    both = patch_log_probabilities(logits, [range(2), range(2, 2), range(2, 5)])
    logits[..., :2] += 100.0
    again = patch_log_probabilities(logits, [range(2), range(2, 2), range(2, 5)])
    torch.testing.assert_close(both[:, 2:], again[:, 2:])
    torch.testing.assert_close(both[:, 2:].exp().sum(1), torch.ones(2))


def test_an_episode_holds_pictures_of_its_classes() -> None:
    label = torch.tensor([7, 3, 3, 9, 7, 3])
    for seed in range(10):
        indices, classes = episode(label, 2, 4, torch.Generator().manual_seed(seed))
        assert len(set(classes.tolist())) == 2
        assert label[indices].view(2, 4).eq(classes[:, None]).all()
    indices, classes = episode(label, 50, 10, torch.Generator().manual_seed(0))
    assert sorted(classes.tolist()) == [3, 7, 9]
    assert set(indices.tolist()) == set(range(6))


@pytest.mark.parametrize("per_patch", [False, True])
def test_a_head_tells_unseen_combinations_apart(per_patch: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    looks = torch.cartesian_prod(*[torch.arange(4)] * 3)[torch.randperm(64, generator=generator)]
    semantics = F.normalize(F.one_hot(looks, 4).flatten(1).float(), dim=1)
    label = torch.arange(64).repeat_interleave(6)
    features = semantics[label] @ torch.randn(12, 16, generator=generator)
    features += 0.05 * torch.randn(features.shape, generator=generator)
    if per_patch:
        features = features[:, None].repeat(1, 2, 1)
    head = AttributePrototypes(16, semantics, space=32)
    seen = label < 56
    with torch.no_grad():
        loss = fit_prototypes(
            head,
            features[seen],
            label[seen],
            steps=100,
            pictures=4,
            generator=torch.Generator().manual_seed(1),
            learning_rate=0.01,
            per_patch=per_patch,
        )
    assert loss < 0.7 * math.log(50)
    logits = head(features[~seen])
    if per_patch:
        logits = patch_log_probabilities(logits, [range(56), range(56, 64)])
    answer = logits[:, 56:].argmax(1) + 56
    assert (answer == label[~seen]).float().mean() > 0.8


def test_fitting_is_repeatable_whatever_came_before() -> None:
    features, label = torch.randn(20, 4), torch.arange(4).repeat_interleave(5)
    heads = [AttributePrototypes(4, F.normalize(torch.rand(6, 3), dim=1), space=5) for _ in range(2)]
    heads[1].semantics.copy_(heads[0].semantics)
    for head in heads:
        fit_prototypes(head, features, label, steps=5, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(*(head.parameters() for head in heads), strict=True))
    assert math.isnan(fit_prototypes(heads[0], features, label, steps=0, generator=torch.Generator()))
