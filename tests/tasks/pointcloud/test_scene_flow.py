"""The task of scene flow: what its judge reports, clouds of unequal sizes, and what it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import ImageClassesSpec, SceneFlowSpec
from tasks.pointcloud.scene_flow import SceneFlow, without_padding

SPEC = SceneFlowSpec(dataset="made-up", points=6)


def make_batch(batch: int = 2, n: int = 6, m: int = 7) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "first": 10 * torch.rand(batch, n, 3, generator=generator),
        "second": 10 * torch.rand(batch, m, 3, generator=generator),
        "flow": torch.rand(batch, n, 3, generator=generator),
        "mask": torch.ones(batch, n).bool(),
        "match": torch.full((batch, n), -1),
        "first_valid": torch.ones(batch, n).bool(),
        "second_valid": torch.ones(batch, m).bool(),
        "id": [str(number) for number in range(batch)],
    }


def test_the_flow_is_always_judged_the_rest_where_it_is_given() -> None:
    batch = make_batch()
    judge = SceneFlow.judge(SPEC)
    judge.update({"flow": batch["flow"] + torch.tensor([0.0, 0.2, 0.0])}, batch)
    scores = judge.compute()
    assert set(scores) == {"epe", "as", "ar", "outliers"}
    assert scores["epe"] == pytest.approx(0.2, abs=1e-6)
    judge.reset()
    batch["match"][0, :2] = torch.tensor([3, 4])
    match = torch.zeros(2, 6).long()
    match[0, 1] = 4
    judge.update({"flow": batch["flow"], "unrefined": batch["flow"] + 1, "match": match}, batch)
    scores = judge.compute()
    assert set(scores) == {measure.name for measure in SceneFlow.measures}
    assert (scores["epe"], scores["as"], scores["outliers"]) == (0.0, 100.0, 0.0)
    assert scores["epe_unrefined"] == pytest.approx(3**0.5, abs=1e-6)
    assert scores["match_hit"] == 50.0
    assert SceneFlow.primary().name == "epe"
    assert not SceneFlow.primary().higher_is_better


def test_no_share_of_matches_where_none_is_known() -> None:
    batch = make_batch()
    judge = SceneFlow.judge(SPEC)
    judge.update({"flow": batch["flow"], "match": torch.zeros(2, 6).long()}, batch)
    assert "match_hit" not in judge.compute()


def test_padding_never_reaches_a_method() -> None:
    batch = make_batch()
    batch["first_valid"][1, 4:] = False
    batch["second_valid"][1, 5:] = False
    seen = []

    def estimate(first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append((tuple(first.shape), tuple(second.shape)))
        return {"flow": first + second.mean(1, keepdim=True), "mass": first.sum(-1)}

    answer = without_padding(batch, estimate)
    assert seen == [((1, 6, 3), (1, 7, 3)), ((1, 4, 3), (1, 5, 3))]
    assert answer["flow"].shape == (2, 6, 3)
    assert answer["mass"].shape == (2, 6)
    expected = batch["first"][1, :4] + batch["second"][1, :5].mean(0)
    torch.testing.assert_close(answer["flow"][1, :4], expected)
    assert not answer["flow"][1, 4:].any()
    seen.clear()
    without_padding(make_batch(), estimate)
    assert seen == [((2, 6, 3), (2, 7, 3))]


def test_pictures_show_every_scene_and_change_with_the_prediction() -> None:
    batch = make_batch()
    batch["mask"][1, 0] = False
    batch["first_valid"][1, 5] = False
    right = SceneFlow.draw({"flow": batch["flow"]}, batch, SPEC)
    wrong = SceneFlow.draw({"flow": -batch["flow"]}, batch, SPEC, limit=1)
    assert [len(right), len(wrong)] == [2, 1]
    for one, other in zip(right[:1], wrong, strict=True):
        assert one.dtype == np.uint8
        assert one.ndim == 3
        assert one.shape[2] == 3
        assert not np.array_equal(one, other)
        left = one.shape[1] // 4  # the truth, on the left, is the same
        assert np.array_equal(one[80:, :left], other[80:, :left])


def test_another_kind_of_spec_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a SceneFlowSpec"):
        SceneFlow.judge(ImageClassesSpec(dataset="x", classes=("a",), image_size=(2, 2)))
