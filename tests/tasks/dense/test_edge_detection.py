"""The edge task: its judge and its pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import EdgeSpec
from tasks.dense.edge_detection import EdgeDetection

SPEC = EdgeSpec(dataset="drawn", annotators=3, max_distance=0.05)


def batch() -> dict[str, object]:
    edges = torch.zeros(1, 3, 12, 16, dtype=torch.uint8)  # diagonal 20: one pixel of tolerance
    edges[0, 0, 3, 2:8] = 1
    edges[0, 1, 8, 2:12] = 1
    return {
        "image": torch.full((1, 3, 12, 16), 0.25),
        "edges": edges,
        "annotators": torch.tensor([2]),
        "id": ["a"],
    }


def test_the_judge_scores_a_known_map() -> None:
    drawn = batch()
    edge = torch.zeros(1, 1, 12, 16)
    edge[0, 0, 4, 2:8] = 0.9  # beside the first annotator's line
    edge[0, 0, 8, 2:6] = 0.4  # four of the second's ten
    edge[0, 0, 0, 12:15] = 0.4  # three of nobody's
    judge = EdgeDetection.judge(SPEC)
    judge.update({"edge": edge}, drawn)
    scores = judge.compute()
    assert set(scores) == {measure.name for measure in EdgeDetection.measures}
    # P, R = 10/13, 10/16 below .4 and 1, 6/16 above: F = .6897 and .5454
    assert scores["ods"] == pytest.approx(2 * 10 / 13 * 10 / 16 / (10 / 13 + 10 / 16))
    assert scores["ois"] == scores["ods"]
    judge.reset()
    judge.update({"edge": drawn["edges"][:, :1].float()}, drawn)  # type: ignore[index]
    assert judge.compute()["ods"] == pytest.approx(2 * 6 / 16 / (1 + 6 / 16))


def test_the_tolerance_is_the_specs() -> None:
    drawn = batch()
    edge = torch.zeros(1, 1, 12, 16)
    edge[0, 0, 4, 2:8] = 0.9
    strict = EdgeDetection.judge(EdgeSpec(dataset="drawn", annotators=3, max_distance=0.04))
    strict.update({"edge": edge}, drawn)
    assert strict.compute()["ods"] == 0


def test_padding_maps_do_not_count() -> None:
    drawn = batch()
    drawn["edges"][0, 2] = 1  # type: ignore[index]
    judge = EdgeDetection.judge(SPEC)
    edge = torch.ones(1, 1, 12, 16)
    judge.update({"edge": edge}, drawn)
    assert judge.scores.counts[0][0, 0, 1] == 16


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, 1, H, W\]"):
        EdgeDetection.judge(SPEC).update({"edge": torch.zeros(1, 1, 16, 12)}, batch())


def test_ods_ranks_and_more_is_better() -> None:
    assert EdgeDetection.primary().name == "ods"
    assert all(m.higher_is_better and m.decimals == 3 and m.unit == "" for m in EdgeDetection.measures)


def test_drawing_shows_input_share_of_annotators_and_prediction() -> None:
    drawn = batch()
    edge = torch.zeros(1, 1, 12, 16)
    edge[0, 0, 5, 5] = 1
    (picture,) = EdgeDetection.draw({"edge": edge}, drawn, SPEC)
    assert picture.shape == (12, 48, 3)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [64] * 3
    assert picture[3, 16 + 2].tolist() == [128] * 3  # one of two annotators
    assert picture[5, 32 + 5].tolist() == [0] * 3
    assert picture[5, 32 + 6].tolist() == [255] * 3
