"""KITTI's average precision: its rules by hand, and the whole against a literal transcription of its program."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tasks.metrics.box_ap import (
    ABSENT,
    COUNTED,
    IGNORED,
    BoxAveragePrecision,
    found_scores,
    interpolated_ap,
    precisions,
    score_thresholds,
)
from tasks.metrics.rotated_iou import iou_3d

EASY, MODERATE, HARD = range(3)
THREE_D, BEV, IMAGE = range(3)


def car(x: float, y: float = 0.0) -> list[float]:
    return [x, y, 0.0, 4.0, 2.0, 1.5, 0.0]


def frame_of(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


def detections(
    boxes: list[list[float]],
    score: list[float],
    frame: list[int],
    label: list[int] | None = None,
    rectangle: list[list[float]] | None = None,
) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 7),
        "rectangle": torch.tensor(rectangle or [[0.0, 0, 100, 100]] * len(boxes)).reshape(-1, 4),
        "score": torch.tensor(score),
        "label": frame_of(label or [0] * len(boxes)),
        "frame": frame_of(frame),
    }


def truths(
    boxes: list[list[float]],
    frame: list[int],
    difficulty: list[int] | None = None,
    neighbour: list[bool] | None = None,
    label: list[int] | None = None,
) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 7),
        "rectangle": torch.tensor([[0.0, 0, 100, 100]] * len(boxes)).reshape(-1, 4),
        "label": frame_of(label or [0] * len(boxes)),
        "difficulty": frame_of(difficulty or [0] * len(boxes)),
        "neighbour": torch.tensor(neighbour or [False] * len(boxes), dtype=torch.bool),
        "frame": frame_of(frame),
    }


def regions(rectangle: list[list[float]] | None = None, frame: list[int] | None = None) -> dict[str, Tensor]:
    return {
        "rectangle": torch.tensor(rectangle or []).reshape(-1, 4),
        "frame": frame_of(frame or []),
    }


def metric(classes: int = 1, **options: int) -> BoxAveragePrecision:
    return BoxAveragePrecision((0.7,) * classes, (40.0, 25.0, 25.0), **options)


def score(
    found: dict[str, Tensor], truth: dict[str, Tensor], frames: int, stuff: dict[str, Tensor] | None = None
) -> Tensor:
    judge = metric()
    judge.update(found, truth, stuff or regions(), frames)
    return judge.compute()[:, 0]


def test_all_found_is_100_and_nothing_found_is_0() -> None:
    truth = truths([car(10), car(20), car(30)], [0, 0, 1])
    found = detections([car(10), car(20), car(30)], [0.3, 0.9, 0.5], [0, 0, 1])
    assert score(found, truth, 2).tolist() == [[100.0] * 3] * 3
    assert score(detections([], [], []), truth, 2).tolist() == [[0.0] * 3] * 3


def test_a_wrong_box_costs_from_its_score_down() -> None:
    """Of two true boxes one is found before and one after a false one: precision 1, then 2/3."""
    truth = truths([car(10), car(20)], [0, 0])
    found = detections([car(10), car(50), car(20)], [0.9, 0.8, 0.7], [0, 0, 0])
    # Of 40 positions those nearer to recall 1/2 than to 1 (1/40 ... 30/40) have the first threshold.
    expected = (30 * 100 + 10 * 100 * 2 / 3) / 40
    assert float(score(found, truth, 1)[THREE_D, MODERATE]) == pytest.approx(expected)


def test_a_second_box_on_the_same_object_is_wrong() -> None:
    truth = truths([car(10)], [0])
    found = detections([car(10), car(10.1)], [0.5, 0.9], [0, 0])
    # The better scored one gives the threshold; the other one lies below it.
    assert float(score(found, truth, 1)[THREE_D, MODERATE]) == 100.0
    truth = truths([car(10), car(30)], [0, 0])
    found = detections([car(10), car(10.1), car(30)], [0.9, 0.8, 0.7], [0, 0, 0])
    assert float(score(found, truth, 1)[THREE_D, MODERATE]) == pytest.approx((30 + 10 * 2 / 3) / 0.4)


def test_frames_and_classes_are_kept_apart() -> None:
    truth = truths([car(10)], [0])
    assert float(score(detections([car(10)], [0.9], [1]), truth, 2)[THREE_D, EASY]) == 0.0
    judge = metric(classes=2)
    found = detections([car(10), car(10)], [0.9, 0.8], [0, 0], label=[1, 0])
    judge.update(found, truths([car(10)], [0], label=[1]), regions(), 1)
    scores = judge.compute()
    assert scores[:, 0].isnan().all()  # no truth, no number
    assert (scores[:, 1] == 100).all()


def test_harder_boxes_and_neighbours_are_neither_truth_nor_error() -> None:
    boxes = [car(10), car(20), car(30), car(40)]
    truth = truths(boxes, [0] * 4, difficulty=[0, 1, 2, 0], neighbour=[False, False, False, True])
    every = detections(boxes, [0.9, 0.8, 0.7, 0.95], [0] * 4)
    assert score(every, truth, 1)[THREE_D].tolist() == [100.0, 100.0, 100.0]
    first = detections([car(10)], [0.9], [0])
    # One of two reaches the 30 positions nearer to 1/2 than to 1, one of three the 20 nearer to 1/3 than to 2/3.
    assert score(first, truth, 1)[THREE_D].tolist() == [100.0, 75.0, 50.0]
    never = truths([car(10), car(20)], [0, 0], difficulty=[0, 3])
    assert score(detections(boxes[:2], [0.9, 0.95], [0, 0]), never, 1)[THREE_D].tolist() == [100.0] * 3


def test_small_detections_are_ignored() -> None:
    truth = truths([car(10)], [0])
    rectangle = [[0.0, 0, 100, 30], [0.0, 0, 100, 100]]
    found = detections([car(50), car(10)], [0.9, 0.5], [0, 0], rectangle=rectangle)
    easy, moderate, _ = score(found, truth, 1)[THREE_D].tolist()
    assert easy == 100.0  # 30 pixels are too few at this level
    assert moderate == 50.0


def test_dont_care_regions_excuse_in_the_image_only() -> None:
    truth = truths([car(10)], [0])
    rectangle = [[200.0, 0, 300, 100], [0.0, 0, 100, 100]]
    found = detections([car(50), car(10)], [0.9, 0.5], [0, 0], rectangle=rectangle)
    assert score(found, truth, 1)[:, EASY].tolist() == [50.0, 50.0, 50.0]
    stuff = regions([[190.0, 0, 310, 100]], [0])
    assert score(found, truth, 1, stuff)[:, EASY].tolist() == [50.0, 50.0, 100.0]
    half = regions([[250.0, 0, 310, 100]], [0])
    assert score(found, truth, 1, half)[IMAGE, EASY].item() == 50.0


def test_positions_and_envelope_by_hand() -> None:
    assert score_thresholds([0.1, 0.4, 0.3, 0.2], truths=4, positions=4) == [0.4, 0.4, 0.3, 0.2, 0.1]
    assert score_thresholds([], truths=4) == []
    assert len(score_thresholds([k / 1000 for k in range(1000)], truths=1000)) == 41
    assert interpolated_ap(torch.ones(41)) == 100.0
    assert interpolated_ap(torch.ones(21)) == 50.0
    assert interpolated_ap(torch.tensor([0.2, 0.9]), positions=2) == pytest.approx(45.0)


def kitti_thresholds(scores: list[float], truths: int) -> list[float]:
    """The published program's `getThresholds`, in exact fractions."""
    thresholds, recall = [], Fraction(0)
    descending = sorted(scores, reverse=True)
    for i, value in enumerate(descending):
        left = Fraction(i + 1, truths)
        right = Fraction(i + 2, truths) if i < len(descending) - 1 else left
        if right - recall < recall - left and i < len(descending) - 1:
            continue
        thresholds.append(value)
        recall += Fraction(1, 40)
    return thresholds


@pytest.mark.parametrize(
    ("found", "total"), [(61, 61), (50, 97), (97, 97), (301, 1000), (1, 100), (79, 80), (700, 999)]
)
def test_thresholds_are_those_of_the_published_program(found: int, total: int) -> None:
    scores = torch.rand(found, generator=torch.Generator().manual_seed(found)).tolist()
    assert score_thresholds(scores, total) == kitti_thresholds(scores, total)


def literal_statistics(
    overlap: Tensor,
    score: list[float],
    detection: list[int],
    truth: list[int],
    least: float,
    threshold: float,
    fp: bool,
) -> tuple[int, int, list[float]]:
    """The published program's `computeStatistics` of one frame: true positives, false positives, their scores."""
    taken = [False] * len(score)
    hits, found = 0, []
    for i, state in enumerate(truth):
        if state == ABSENT:
            continue
        chosen, best, chosen_ignored, valid = -1, 0.0, False, -math.inf
        for j, own in enumerate(detection):
            if own == ABSENT or taken[j] or (fp and score[j] < threshold):
                continue
            value = float(overlap[i, j])
            if not fp and value > least and score[j] > valid:
                chosen, valid = j, score[j]
            elif fp and value > least and (value > best or chosen_ignored) and own == COUNTED:
                chosen, best, valid, chosen_ignored = j, value, 1.0, False
            elif fp and value > least and valid == -math.inf and own == IGNORED:
                chosen, valid, chosen_ignored = j, 1.0, True
        if chosen >= 0:
            if state == COUNTED and detection[chosen] == COUNTED:
                hits += 1
                found.append(score[chosen])
            taken[chosen] = True
    wrong = sum(not (taken[j] or own != COUNTED or score[j] < threshold) for j, own in enumerate(detection))
    return hits, wrong, found


def test_matching_is_that_of_the_published_program() -> None:
    """Crowded frames, in which every rule decides something."""
    generator = torch.Generator().manual_seed(4)
    frames, boxes, guesses, least = 40, 6, 10, 0.3

    def random_boxes(count: int) -> Tensor:
        spread = torch.tensor([6.0, 2.0, 0.3, 1.0, 0.5, 0.3, 1.0])
        start = torch.tensor([0.0, 0.0, 0.0, 3.5, 1.5, 1.5, -0.5])
        return torch.rand(frames, count, 7, generator=generator) * spread + start

    overlap = iou_3d(random_boxes(boxes)[:, :, None], random_boxes(guesses)[:, None])
    score = torch.rand(frames, guesses, generator=generator)
    detection = torch.randint(-1, 2, (frames, guesses), generator=generator)
    truth = torch.randint(-1, 2, (frames, boxes), generator=generator)
    thresholds = torch.tensor([0.8, 0.5, 0.1])

    def literal(threshold: float, fp: bool) -> list[tuple[int, int, list[float]]]:
        return [
            literal_statistics(
                overlap[f], score[f].tolist(), detection[f].tolist(), truth[f].tolist(), least, threshold, fp
            )
            for f in range(frames)
        ]

    expected = sorted(value for _, _, found in literal(0.0, False) for value in found)
    got = found_scores(overlap, score, detection, truth, least)
    assert len(expected) > 10
    assert sorted(got.tolist()) == pytest.approx(expected)
    nothing = torch.zeros_like(score, dtype=torch.bool)
    hits, wrong = precisions(overlap, score, detection, truth, nothing, thresholds, least)
    for k, threshold in enumerate(thresholds.tolist()):
        one = literal(threshold, True)
        assert int(hits[k]) == sum(row[0] for row in one)
        assert int(wrong[k]) == sum(row[1] for row in one)
    excused = torch.ones_like(nothing)
    assert not precisions(overlap, score, detection, truth, excused, thresholds, least)[1].any()


def test_batches_and_chunks_change_nothing_and_processes_are_joined_by_frames() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = [car(float(x), float(y)) for x, y in torch.randint(0, 40, (60, 2), generator=generator).tolist()]
    moved = [[x + 0.3 * (k % 4), *rest] for k, (x, *rest) in enumerate(boxes)]
    frames = sorted(torch.randint(0, 8, (60,), generator=generator).tolist())
    scores = torch.rand(60, generator=generator).tolist()
    whole = metric()
    whole.update(detections(moved, scores, frames), truths(boxes, frames), regions(), 8)
    small, parts = metric(chunk=3), metric()
    small.update(detections(moved, scores, frames), truths(boxes, frames), regions(), 8)
    for start in (0, 5):
        end = 5 if start == 0 else 8
        rows = [k for k, frame in enumerate(frames) if start <= frame < end]
        local = [frames[k] - start for k in rows]
        found = detections([moved[k] for k in rows], [scores[k] for k in rows], local)
        parts.update(found, truths([boxes[k] for k in rows], local), regions(), end - start)
    assert 0 < float(whole.compute()[THREE_D, 0, EASY]) < 100
    assert torch.equal(whole.compute(), small.compute())
    assert torch.equal(whole.compute(), parts.compute())


def test_unordered_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"detections: frame must ascend within 0\.\.1"):
        metric().update(detections([car(1), car(2)], [0.1, 0.2], [1, 0]), truths([], []), regions(), 2)
    with pytest.raises(ValueError, match="min_heights are for easy, moderate, hard"):
        BoxAveragePrecision((0.7,), (25.0,))
