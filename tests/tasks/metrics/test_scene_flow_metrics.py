"""Scene flow scores: numbers worked out by hand, averaging per example, and refused shapes."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

from tasks.metrics import scene_flow
from tasks.metrics.scene_flow import MatchHits, SceneFlowScores, scene_flow_scores


def along_x(*lengths: float) -> torch.Tensor:
    return torch.tensor([[[length, 0.0, 0.0] for length in lengths]])


def test_every_threshold_by_hand() -> None:
    truth = along_x(10.0, 10.0, 10.0, 0.2, 0.2, 0.0)
    flow = along_x(10.4, 10.8, 11.5, 0.24, 0.28, 0.2)
    # e: 0.4, 0.8, 1.5, 0.04, 0.08, 0.2; r: 0.04, 0.08, 0.15, 0.2, 0.4, 0.2 / 0.0001.
    # AS: 1st (r), 4th (e). AR: 1st, 2nd (r), 4th, 5th (e). Outliers: 1st, 2nd (e), 3rd, and all three with r > 0.1.
    scores = scene_flow_scores(flow, truth, torch.ones(1, 6).bool())[0].tolist()
    assert scores[0] == pytest.approx(3.02 / 6, abs=1e-6)
    assert scores[1:] == pytest.approx([200 / 6, 400 / 6, 100.0])


def test_a_point_can_be_accurate_and_no_outlier() -> None:
    scores = scene_flow_scores(along_x(1.02), along_x(1.0), torch.ones(1, 1).bool())[0].tolist()
    assert scores == pytest.approx([0.02, 100.0, 100.0, 0.0], abs=1e-6)


def test_the_small_number_keeps_still_points_finite() -> None:
    still = scene_flow_scores(along_x(0.0), along_x(0.0), torch.ones(1, 1).bool())[0].tolist()
    assert still == [0.0, 100.0, 100.0, 0.0]
    # r = 1e-5 / 1e-4 = 0.1 is no outlier; twice that is.
    edge = scene_flow_scores(along_x(0.9e-5, 2e-5), along_x(0.0, 0.0), torch.ones(1, 2).bool())
    assert edge[0, 3].item() == 50.0


def test_examples_count_alike_whatever_their_points() -> None:
    truth = torch.zeros(2, 4, 3)
    flow = torch.zeros(2, 4, 3)
    flow[0, :, 1] = 1.0
    mask = torch.tensor([[True, False, False, False], [True, True, True, True]])
    metric = SceneFlowScores()
    metric.update(flow, truth, mask)
    assert metric.compute()["epe"] == 0.5  # over points it would be 1 / 5
    metric.update(flow[:1] * 4, truth[:1], mask[:1])
    assert metric.compute()["epe"] == pytest.approx(5 / 3)


def test_points_that_do_not_count_may_be_anything_and_empty_examples_are_left_out() -> None:
    truth, flow = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    flow[0, 1] = torch.nan
    flow[1] = 7.0
    mask = torch.tensor([[True, False], [False, False]])
    metric = SceneFlowScores()
    metric.update(flow, truth, mask)
    assert metric.compute()["epe"] == 0.0
    assert (int(metric.examples), int(metric.empty)) == (1, 1)
    assert math.isnan(SceneFlowScores().compute()["epe"])
    flow[0, 0] = torch.nan
    assert math.isnan(scene_flow_scores(flow, truth, mask)[0, 0])  # what counts must not


def test_sums_are_in_double_precision() -> None:
    metric = SceneFlowScores()
    for _ in range(3):
        metric.update(along_x(*[0.1] * 1000), along_x(*[0.0] * 1000), torch.ones(1, 1000).bool())
    assert metric.compute()["epe"] == pytest.approx(float(torch.tensor(0.1).double()), abs=1e-12)


def test_partners_by_hand() -> None:
    metric = MatchHits()
    metric.update(torch.tensor([[0, 2, 1]]), torch.tensor([[0, 1, -1]]))
    assert float(metric.compute()) == 50.0
    with pytest.raises(ValueError, match="must be equal"):
        metric.update(torch.tensor([[0]]), torch.tensor([0]))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[B, n, 3\]"):
        scene_flow_scores(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3), torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match="mask"):
        scene_flow_scores(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.ones(1, 2, 1).bool())


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(scene_flow).failed == 0
