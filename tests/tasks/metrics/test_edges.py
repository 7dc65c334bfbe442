"""The BSDS benchmark: thinning, matching, counts and scores, against hand counts and a slow obvious version."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from skimage.morphology import thin

from tasks.metrics.edges import THRESHOLDS, EdgeScores, edge_counts, match_edges, ods_ois_ap, thin_edges


def edge_counts_reference(
    probability: np.ndarray, annotators: np.ndarray, thresholds: tuple[float, ...], max_distance: float
) -> np.ndarray:
    """`edge_counts`, the obvious way: for each threshold and annotator a dense distance matrix and an optimal
    assignment, in which a pair within tolerance costs its distance and any other pair a thousand times more."""
    tolerance = max_distance * np.hypot(*probability.shape)
    counts = []
    for threshold in thresholds:
        edges = thin(probability >= threshold)
        pixels = np.argwhere(edges)
        covered = np.zeros(len(pixels), bool)
        matched_truth = truth = 0
        for annotator in annotators:
            marks = np.argwhere(annotator)
            truth += len(marks)
            distances = np.linalg.norm(pixels[:, None] - marks[None], axis=-1).reshape(
                len(pixels), len(marks)
            )
            cost = np.where(distances <= tolerance, distances, 1000 * tolerance + 1000)
            rows, columns = linear_sum_assignment(cost)
            good = distances[rows, columns] <= tolerance
            matched_truth += good.sum()
            covered[rows[good]] = True
        counts.append([matched_truth, truth, covered.sum(), len(pixels)])
    return np.array(counts)


def random_case(seed: int, annotators: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Lines with noise around them, or noise alone; several annotators; a tolerance of 1 to 4 pixels."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(12, 26)), int(rng.integers(12, 26)))
    field = gaussian_filter(rng.random(shape), 2.0)
    maps = []
    for _ in range(annotators):
        own = field + 0.004 * gaussian_filter(rng.standard_normal(shape), 1.0)
        level = own > np.median(own)
        maps.append((level[1:, 1:] != level[:-1, 1:]) | (level[1:, 1:] != level[1:, :-1]))
    truth = np.stack([np.pad(plane, ((1, 0), (1, 0))) for plane in maps])
    blurred = gaussian_filter(truth.mean(0), rng.uniform(0.0, 1.2))
    probability = np.clip(blurred * rng.uniform(0.5, 2.0) + rng.uniform(0, 0.4) * rng.random(shape), 0, 1)
    return probability.astype(np.float32), truth, float(rng.uniform(1, 4) / np.hypot(*shape))


@pytest.mark.parametrize("blur", [0.0, 1.0, 3.0])
def test_thinning_is_that_of_scikit_image(blur: float) -> None:
    rng = np.random.default_rng(int(blur * 10))
    for share in (0.1, 0.3, 0.5, 0.8, 1.0):
        field = gaussian_filter(rng.random((37, 52)), blur)
        mask = field >= np.quantile(field, 1 - share)
        assert np.array_equal(thin_edges(mask), thin(mask))


def test_thinning_leaves_a_thin_line_alone_and_makes_a_thick_one_thin() -> None:
    line = np.zeros((9, 20), bool)
    line[4, 3:17] = True
    assert np.array_equal(thin_edges(line), line)
    thick = np.zeros((9, 20), bool)
    thick[3:6, 3:17] = True
    thinned = thin_edges(thick)
    assert thinned[:, 6:14].sum(0).tolist() == [1] * 8


def test_matching_by_hand() -> None:
    prediction, truth = np.zeros((8, 6), bool), np.zeros((8, 6), bool)  # diagonal 10
    prediction[1, 1] = prediction[1, 2] = True  # both within 1 of the only truth at (1, 1)
    truth[1, 1] = True
    prediction[5, 2] = truth[5, 4] = True  # two apart
    covered, found = match_edges(prediction, truth, 0.1)
    assert covered.sum() == found.sum() == 1
    assert found[1, 1]
    assert covered[1, 1]
    assert not covered[1, 2]  # the nearest is tried first
    covered, found = match_edges(prediction, truth, 0.2)  # the tolerance is inclusive
    assert covered[5, 2]
    assert found[5, 4]
    assert covered.sum() == 2


def test_matching_augments_where_greed_would_lose_one() -> None:
    prediction, truth = np.zeros((8, 6), bool), np.zeros((8, 6), bool)
    # a chain: truth 0 - prediction 1 - truth 2 - prediction 3 - truth 4 - prediction 5 within one pixel each
    truth[2, [0, 2, 4]] = True
    prediction[2, [1, 3, 5]] = True
    covered, found = match_edges(prediction, truth, 0.1)
    assert covered.sum() == found.sum() == 3


def test_matching_of_empty_maps() -> None:
    empty, full = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    for prediction, truth in ((empty, full), (full, empty), (empty, empty)):
        covered, found = match_edges(prediction, truth, 0.1)
        assert not covered.any()
        assert not found.any()
    with pytest.raises(ValueError, match="differ in shape"):
        match_edges(np.zeros((5, 4), bool), np.zeros((4, 5), bool), 0.1)


@pytest.mark.parametrize("seed", range(20))
def test_matching_has_the_cardinality_of_an_optimal_assignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 20, 2)
    prediction, truth = (rng.random((height, width)) < rng.uniform(0.05, 0.7) for _ in range(2))
    tolerance = rng.uniform(0.0, 4.0)
    covered, found = match_edges(prediction, truth, tolerance / np.hypot(height, width))
    pixels, marks = np.argwhere(prediction), np.argwhere(truth)
    near = np.linalg.norm(pixels[:, None] - marks[None], axis=-1) <= tolerance
    expected = near[linear_sum_assignment(near, maximize=True)].sum()
    assert covered.sum() == found.sum() == expected
    assert not (covered & ~prediction).any()
    assert not (found & ~truth).any()


@pytest.mark.parametrize("seed", range(12))
def test_counts_of_one_annotator_equal_the_reference(seed: int) -> None:
    probability, truth, max_distance = random_case(seed, annotators=1)
    thresholds = tuple(step / 10 for step in range(1, 10))
    fast = edge_counts(probability, truth, thresholds, max_distance)
    assert np.array_equal(fast, edge_counts_reference(probability, truth, thresholds, max_distance))


@pytest.mark.parametrize("seed", range(12))
def test_counts_of_several_annotators_against_the_reference(seed: int) -> None:
    """Recall's counts and the number of predicted pixels are equal. Which predicted pixels a maximum matching covers
    is not unique, so the union over annotators may differ a little; each part lies between its bounds."""
    probability, truth, max_distance = random_case(100 + seed, annotators=4)
    thresholds = tuple(step / 10 for step in range(1, 10))
    fast = edge_counts(probability, truth, thresholds, max_distance)
    slow = edge_counts_reference(probability, truth, thresholds, max_distance)
    assert np.array_equal(fast[:, [0, 1, 3]], slow[:, [0, 1, 3]])
    each = np.stack(
        [edge_counts(probability, plane[None], thresholds, max_distance)[:, 0] for plane in truth]
    )
    assert (fast[:, 2] >= each.max(0)).all()
    assert (fast[:, 2] <= np.minimum(each.sum(0), fast[:, 3])).all()
    assert np.abs(fast[:, 2] - slow[:, 2]).max() <= 0.05 * slow[:, 3].max()


@pytest.mark.parametrize("seed", range(8))
def test_the_counts_do_not_depend_on_the_other_thresholds(seed: int) -> None:
    """The matching is carried from threshold to threshold, and both gains and loses pixels as thinning changes
    its mind; its size must be that of a fresh one."""
    rng = np.random.default_rng(seed)
    truth = rng.random((1, 24, 30)) < rng.uniform(0.1, 0.5)
    probability = gaussian_filter(rng.random((24, 30)), rng.uniform(0, 1.5))
    probability = np.float32((probability - probability.min()) / np.ptp(probability))
    max_distance = rng.uniform(1, 4) / np.hypot(24, 30)
    together = edge_counts(probability, truth, THRESHOLDS, max_distance)
    for row in range(0, 99, 7):
        alone = edge_counts(probability, truth, (THRESHOLDS[row],), max_distance)
        assert np.array_equal(together[row], alone[0])


def test_counts_by_hand() -> None:
    annotators = np.zeros((2, 12, 16), np.uint8)  # diagonal 20
    annotators[0, 3, 2:8] = 1  # six pixels
    annotators[1, 8, 2:12] = 1  # ten
    probability = np.zeros((12, 16), np.float32)
    probability[4, 2:8] = 0.9  # one below the first line
    probability[8, 2:6] = 0.4  # four of the second
    probability[0, 12:15] = 0.4  # three at nothing
    counts = edge_counts(probability, annotators, (0.3, 0.5, 0.95), max_distance=0.05)
    assert counts.tolist() == [[10, 16, 10, 13], [6, 16, 6, 6], [0, 16, 0, 0]]
    assert edge_counts(probability, annotators, (0.5,), max_distance=0.049).tolist() == [[0, 16, 0, 6]]


def test_a_pixel_that_several_annotators_confirm_counts_once_for_precision() -> None:
    line = np.zeros((12, 16), np.float32)
    line[5, 3:13] = 1
    counts = edge_counts(line, np.stack([line, line, line]), (0.5,), 0.05)
    assert counts.tolist() == [[30, 30, 10, 10]]


def test_one_annotators_own_map_has_perfect_precision() -> None:
    _, truth, _ = random_case(3, annotators=4)
    counts = edge_counts(truth[1].astype(np.float32), truth, max_distance=0.0075)
    assert counts[0, 3] > 10
    assert (counts[:, 2] == counts[:, 3]).all()


def test_a_threshold_is_met_by_its_own_value() -> None:
    line = np.zeros((12, 16), np.float32)
    line[5, 3:13] = 0.7
    counts = edge_counts(line, (line > 0)[None], max_distance=0.01)
    assert counts[69, 3] == 10  # t = .70
    assert counts[70, 3] == 0


def test_scores_by_hand() -> None:
    first = [[8, 10, 8, 16], [6, 10, 6, 8], [0, 10, 0, 0]]
    second = [[10, 10, 10, 30], [9, 10, 9, 12], [8, 10, 8, 8]]
    scores = ods_ois_ap(np.array([first, second]))
    # pooled: R = .9, .75, .4; P = 18/46, .75, 1. F = .545, .75, .571; between the last two, at share s of the way,
    # P = .75 + .25 s and R = .75 - .35 s, whose F only falls; so ods = .75 at the second threshold.
    assert scores["ods"] == pytest.approx(0.75)
    # own best: image one the second (F = 2/3 against .615), image two the third (F = .889 against .818)
    # pooled there: matched truth 14 of 20, matched prediction 14 of 16
    assert scores["ois"] == pytest.approx(2 * 0.7 * 0.875 / 1.575)
    # P over R from .4 to .9: a line from 1 to .75 at R = .75, then to 18/46
    recalls = np.arange(40, 91) / 100
    precisions = [
        1 - 0.25 * (r - 0.4) / 0.35 if r <= 0.75 else 0.75 + (18 / 46 - 0.75) * (r - 0.75) / 0.15
        for r in recalls
    ]
    assert scores["ap"] == pytest.approx(sum(precisions) / 100)


def test_ods_looks_between_thresholds() -> None:
    counts = np.array([[[9, 10, 3, 10], [3, 10, 9, 10]]])
    # P = .3, R = .9 and the reverse: F = .45 at both; halfway P = R = .6. The published evaluation takes 100 steps, so
    # it meets shares 49/99 and 50/99, next to the middle.
    share = 50 / 99
    p, r = 0.3 + 0.6 * share, 0.9 - 0.6 * share
    assert ods_ois_ap(counts)["ods"] == pytest.approx(2 * p * r / (p + r), abs=1e-12)
    assert ods_ois_ap(counts)["ois"] == pytest.approx(0.45)


def test_scores_of_nothing_and_of_everything() -> None:
    nothing = np.array([[[0, 10, 0, 0]] * 3])
    assert ods_ois_ap(nothing) == {"ods": 0.0, "ois": 0.0, "ap": 0.0}
    perfect = np.array([[[10, 10, 10, 10]] * 3])
    # a map with a single recall has no area under its curve: so says the published evaluation
    assert ods_ois_ap(perfect) == {"ods": pytest.approx(1.0), "ois": pytest.approx(1.0), "ap": 0.0}
    with pytest.raises(ValueError, match="at least one image"):
        ods_ois_ap(np.zeros((0, 3, 4), int))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5, 4\)"):
        edge_counts(np.zeros((4, 5)), np.zeros((1, 5, 4)))
    with pytest.raises(ValueError, match="ascending"):
        edge_counts(np.zeros((4, 5)), np.zeros((1, 4, 5)), (0.5, 0.2))
    with pytest.raises(ValueError, match="positive"):
        edge_counts(np.zeros((4, 5)), np.zeros((1, 4, 5)), (0.0, 0.2))
    with pytest.raises(ValueError, match="finite"):
        EdgeScores().update(
            torch.full((1, 1, 4, 5), torch.nan), torch.zeros(1, 1, 4, 5).byte(), torch.tensor([1])
        )
    with pytest.raises(ValueError, match="fraction"):
        EdgeScores(max_distance=4.3)


def test_the_metric_over_batches_and_processes_is_that_of_all_images() -> None:
    cases = [random_case(seed, annotators=3) for seed in range(4)]
    size = (12, 12)
    edge = torch.stack([torch.from_numpy(case[0][:12, :12])[None] for case in cases])
    edges = torch.stack([torch.from_numpy(case[1][:, :12, :12]).byte() for case in cases])
    annotators = torch.tensor([3, 2, 1, 3])
    assert edge.shape == (4, 1, *size)

    whole = EdgeScores(0.1)
    whole.update(edge, edges, annotators)
    first, second = EdgeScores(0.1), EdgeScores(0.1)
    first.update(edge[:1], edges[:1], annotators[:1])
    first.update(edge[1:2], edges[1:2], annotators[1:2])
    second.update(edge[2:], edges[2:], annotators[2:])
    # What a process gathers from all others: the lists of states, one after the other.
    first.counts = [*first.counts, *second.counts]
    assert {k: float(v) for k, v in first.compute().items()} == {
        k: float(v) for k, v in whole.compute().items()
    }

    tables = [
        edge_counts(case[0][:12, :12], case[1][:number, :12, :12], max_distance=0.1)
        for case, number in zip(cases, annotators.tolist(), strict=True)
    ]
    expected = ods_ois_ap(np.stack(tables))
    assert {k: float(v) for k, v in whole.compute().items()} == pytest.approx(expected)
    assert whole._reductions["counts"].__name__ == "dim_zero_cat"


def test_a_noisy_picture_takes_seconds_not_minutes() -> None:
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.random((160, 240)), 6.0)
    maps = []
    for _ in range(5):
        own = field + 0.1 * gaussian_filter(rng.random((160, 240)), 6.0)
        level = own > np.median(own)
        maps.append(np.pad(level[:, 1:] != level[:, :-1], ((0, 0), (0, 1))))
    truth = np.stack(maps)
    probability = np.clip(gaussian_filter(truth.mean(0), 1.0) + 0.3 * rng.random((160, 240)), 0, 1)
    start = time.process_time()
    counts = edge_counts(probability.astype(np.float32), truth)
    assert time.process_time() - start < 20
    assert counts[20, 0] > 0.5 * counts[20, 1]
