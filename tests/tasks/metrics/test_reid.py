"""Ranks of person re-identification: by hand, against a plain evaluation of the protocol, ties, errors, gathering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_average_precision

from tasks.metrics import reid
from tasks.metrics.reid import GatheredPersons, camera_errors, camera_ranks, cumulative_match, ranked


def long(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def eval_market(
    distance: np.ndarray, q_pid: np.ndarray, q_cam: np.ndarray, g_pid: np.ndarray, g_cam: np.ndarray
) -> tuple[list[float], list[int], list[int]]:
    """The protocol, query by query, in the manner of fast-reid: AP, first hit (from 1) and camera of a wrong first
    answer (-1 if it is right), of the queries that count."""
    precision, first, error_camera = [], [], []
    for q in range(len(q_pid)):
        order = [i for i in distance[q].argsort(kind="stable") if g_pid[i] != -1]
        order = [i for i in order if not (g_pid[i] == q_pid[q] and g_cam[i] == q_cam[q])]
        hits = [g_pid[i] == q_pid[q] for i in order]
        if not any(hits):
            continue
        precision.append(np.mean([sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit]))
        first.append(hits.index(True) + 1)
        error_camera.append(-1 if hits[0] else int(g_cam[order[0]]))
    return precision, first, error_camera


def test_one_query_by_hand() -> None:
    # Order of the gallery: junk, own camera's crop (both out), wrong, right, distractor, right.
    person, camera = long(-1, 3, 8, 3, 0, 3), long(1, 0, 0, 1, 0, 2)
    distance = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    ranks = camera_ranks(distance, long(3), long(0), person, camera)
    assert ranks.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2])
    assert ranks.first.tolist() == [2]
    assert ranks.nearest_wrong_camera.tolist() == [0]
    assert camera_errors(ranks, long(0)) == (1, 0)
    # Without the rules for cameras and junk, the own camera's crop would come second and the junk first.
    as_if = camera_ranks(distance, long(3), long(9), person.clamp(min=0), camera)
    assert as_if.first.tolist() == [2]
    assert as_if.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 4 + 3 / 6) / 3])


def test_distractors_count_as_wrong_and_junk_does_not() -> None:
    distance = torch.tensor([[0.1, 0.2]])
    of = lambda number: camera_ranks(distance, long(4), long(0), long(number, 4), long(1, 1))  # noqa: E731
    assert of(0).first.tolist() == [2]
    assert of(-1).first.tolist() == [1]


def test_agrees_with_a_plain_evaluation_of_the_protocol() -> None:
    random = np.random.default_rng(1)
    for _ in range(5):
        queries, gallery = 60, 300
        q_pid, g_pid = random.integers(1, 25, queries), random.integers(-1, 25, gallery)
        q_cam, g_cam = random.integers(0, 4, queries), random.integers(0, 4, gallery)
        distance = random.random((queries, gallery)).astype(np.float32)
        distance[g_pid == q_pid[:, None]] -= 0.3
        expected = eval_market(distance, q_pid, q_cam, g_pid, g_cam)
        ranks = camera_ranks(*(torch.from_numpy(a) for a in (distance, q_pid, q_cam, g_pid, g_cam)))
        assert ranks.average_precision[ranks.valid].tolist() == pytest.approx(expected[0])
        assert ranks.first[ranks.valid].tolist() == expected[1]
        cameras = torch.where(ranks.first == 1, -1, ranks.nearest_wrong_camera)[ranks.valid]
        assert cameras.tolist() == expected[2]


def test_average_precision_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    distance = torch.rand(1, 50, generator=generator)
    person = torch.randint(1, 4, (50,), generator=generator)
    ranks = camera_ranks(distance, long(2), long(0), person, torch.ones(50, dtype=torch.long))
    expected = retrieval_average_precision(1 - distance[0], person == 2)
    assert float(ranks.average_precision[0]) == pytest.approx(float(expected), abs=1e-6)


def test_a_tie_counts_against_the_method() -> None:
    # Equal embeddings: each right answer stands behind all three wrong ones.
    ranks = camera_ranks(torch.zeros(1, 5), long(1), long(0), long(1, 1, 2, 3, 0), long(1, 2, 1, 1, 1))
    assert ranks.first.tolist() == [4]
    assert ranks.average_precision.tolist() == pytest.approx([(1 / 4 + 2 / 5) / 2])


def test_a_query_without_an_answer_is_left_out() -> None:
    ranks = camera_ranks(torch.rand(2, 2), long(1, 2), long(0, 0), long(1, 9), long(0, 1))
    assert ranks.valid.tolist() == [False, False]
    assert ranks.average_precision.isnan().all()
    assert camera_errors(ranks, long(0, 0)) == (0, 0)


def test_curve_of_first_hits() -> None:
    match = cumulative_match(long(1, 2, 2, 11, 0), 10)
    assert match[[0, 1, 9]].tolist() == pytest.approx([0.25, 0.75, 0.75])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    distance = torch.rand(17, 40, generator=generator)
    numbers = [torch.randint(1, 6, (size,), generator=generator) for size in (17, 17, 40, 40)]
    whole = ranked(lambda chunk: distance[chunk], *numbers)
    monkeypatch.setattr(reid, "CHUNK", 5)
    parts = ranked(lambda chunk: distance[chunk], *numbers)
    torch.testing.assert_close(whole.average_precision, parts.average_precision, equal_nan=True)
    assert whole.first.tolist() == parts.first.tolist()


def test_refuses_nan_and_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="NaN"):
        camera_ranks(torch.full((1, 1), torch.nan), long(1), long(0), long(1), long(1))
    with pytest.raises(ValueError, match="2 pictures"):
        camera_ranks(torch.zeros(1, 2), long(1), long(0), long(1), long(1))


def test_gathers_any_key_once_a_picture() -> None:
    gathered = GatheredPersons()
    for names, value in ((["a", "b"], 1.0), (["b", "c"], 2.0)):
        prediction = {"embedding": torch.full((2, 3), value), "parts": torch.full((2, 4, 2), value)}
        gathered.update(prediction, long(1, 2), long(0, 1), torch.tensor([True, False]), names)
    predicted, person, camera, queries = gathered.compute()
    assert predicted["parts"].shape == (3, 4, 2)
    assert predicted["embedding"][:, 0].tolist() == [1.0, 1.0, 2.0]  # the second "b" is dropped
    assert (person.tolist(), camera.tolist(), queries.tolist()) == (
        [1, 2, 2],
        [0, 1, 1],
        [True, False, False],
    )
    gathered.reset()
    with pytest.raises(ValueError, match="expected predictions"):
        gathered.update({"other": torch.zeros(1, 2)}, long(1), long(0), torch.tensor([True]), ["a"])
