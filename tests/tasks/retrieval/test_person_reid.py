"""The task's judge and pictures: the protocol by hand, a method's own distance, figures, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import ImageClassesSpec, PersonsSpec
from tasks.retrieval.person_reid import PersonReId

SPEC = PersonsSpec(dataset="toy", identities=3, cameras=2, image_size=(16, 8))


def batch(label: list[int], camera: list[int], queries: int) -> dict:
    count = len(label)
    return {
        "image": torch.rand(count, 3, 16, 8, generator=torch.Generator().manual_seed(0)),
        "label": torch.tensor(label),
        "camera": torch.tensor(camera),
        "is_query": torch.arange(count) < queries,
        "id": [f"picture-{i}" for i in range(count)],
    }


# Queries: persons 1 and 2 under camera 0. Gallery: 1 and 2 under camera 1, 1 under camera 0, distractor, junk.
BATCH = batch([1, 2, 1, 2, 1, 0, -1], [0, 0, 1, 1, 0, 0, 0], 2)
#            queries          right of 1, of 2,  own,   0,    -1
POSITION = [[0.0], [10.0], [1.0], [13.0], [0.0], [12.0], [10.0]]


def test_protocol_by_hand() -> None:
    judge = PersonReId.judge(SPEC)
    judge.update({"embedding": torch.tensor(POSITION)}, BATCH)
    scores = judge.compute()
    # Query 1: its own camera's crop at distance 0 is out, the right one comes first. Query 2: junk is out, the
    # distractor at 2 comes before the right one at 3; it is of the query's camera.
    assert scores == pytest.approx(
        {"map": 75.0, "rank1": 50.0, "rank5": 100.0, "rank10": 100.0, "ice": 1.0, "cce": 0.0}
    )
    assert set(scores) == {measure.name for measure in PersonReId.measures}
    assert not PersonReId.measures[4].higher_is_better


def test_batches_and_repeats_change_nothing() -> None:
    whole, parts = PersonReId.judge(SPEC), PersonReId.judge(SPEC)
    embedding = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    whole.update({"embedding": embedding}, BATCH)
    for rows in ([0, 1, 2], [3, 4, 5], [6, 0]):
        part = {k: [v[i] for i in rows] if isinstance(v, list) else v[rows] for k, v in BATCH.items()}
        parts.update({"embedding": embedding[rows]}, part)
    assert whole.compute() == pytest.approx(parts.compute())


def test_a_methods_own_distance_sees_all_it_predicts() -> None:
    judge = PersonReId.judge(SPEC)
    seen = {}

    def compare(queries: dict, gallery: dict) -> torch.Tensor:
        seen.update(
            queries={k: v.shape for k, v in queries.items()}, gallery={k: v.shape for k, v in gallery.items()}
        )
        return (queries["parts"].sum((1, 2))[:, None] - gallery["parts"].sum((1, 2))[None]).abs()

    judge.compare = compare
    parts = torch.tensor(POSITION)[:, :, None]
    judge.update({"embedding": torch.zeros(7, 2), "parts": parts}, BATCH)
    assert judge.compute()["map"] == pytest.approx(75.0)
    assert seen["gallery"] == {"embedding": (5, 2), "parts": (5, 1, 1)}
    judge.compare = lambda queries, gallery: torch.zeros(1, 1)
    with pytest.raises(ValueError, match="compare must answer"):
        judge.compute()


def test_figures_and_drawings() -> None:
    judge = PersonReId.judge(SPEC)
    judge.update({"embedding": torch.tensor(POSITION)}, BATCH)
    judge.compute()
    figures = judge.figures()
    assert set(figures) == {"ranked_lists", "cmc"}
    lists = figures["ranked_lists"]
    assert (lists.dtype, lists.shape) == (np.uint8, (2 * 72, 11 * 40, 3))
    # Each row: the query in black; its first answer is right (green) for person 1, wrong (red) for person 2.
    assert lists[1, 20].tolist() == [0, 0, 0]
    assert lists[1, 60].tolist() == [0, 150, 0]
    assert lists[73, 60].tolist() == [200, 0, 0]
    drawn = PersonReId.draw({"embedding": torch.tensor(POSITION)}, BATCH, SPEC, limit=3)
    assert [picture.shape for picture in drawn] == [(72, 440, 3)] * 3
    assert drawn[0][1, 60].tolist() == [150, 150, 150]  # nearest is the same person under the same camera


def test_refusals() -> None:
    with pytest.raises(TypeError, match="PersonsSpec"):
        PersonReId.judge(ImageClassesSpec(dataset="x", classes=("a",), image_size=(8, 8)))
    judge = PersonReId.judge(SPEC)
    with pytest.raises(ValueError, match=r"\[7, D\]"):
        judge.update({"embedding": torch.zeros(3, 2)}, BATCH)
    with pytest.raises(ValueError, match="NaN"):
        judge.update({"embedding": torch.full((7, 2), torch.nan)}, BATCH)
    with pytest.raises(ValueError, match="nothing has been taken in"):
        judge.compute()
    only = batch([1, 1], [0, 1], 2)
    judge.update({"embedding": torch.zeros(2, 2)}, only)
    with pytest.raises(ValueError, match="nothing to rank"):
        judge.compute()
