"""The judge of set retrieval against rankings worked out by hand; drawings; what is refused."""

from __future__ import annotations

import pytest
import torch

from datamodules.specs import PictureSetsSpec, ShapesSpec, Spec
from tasks.retrieval.set_retrieval import SetRetrieval

SPEC = PictureSetsSpec(dataset="x", image_size=(8, 8))


def batch(labels: list[int], sizes: list[int]) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(sum(sizes), 3, 8, 8, generator=generator),
        "set": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        "catalogue": torch.rand(len(sizes), 3, 8, 8, generator=generator),
        "label": torch.tensor(labels),
        "id": [str(label) for label in labels],
    }


def answer(
    query: list[float], catalogue: list[float], owner: list[int] | None = None
) -> dict[str, torch.Tensor]:
    return {
        "query": torch.tensor(query)[:, None],
        "query_set": torch.tensor(owner) if owner else torch.arange(len(query)),
        "catalogue": torch.tensor(catalogue)[:, None],
    }


def test_recall_by_hand() -> None:
    judge = SetRetrieval.judge(SPEC)
    # 12 products at 0..11; sets stand at their own product but for two.
    place = [float(number) for number in range(12)]
    query = [*place]
    query[0], query[5] = 10.6, 6.2  # rank 11 (0 is beaten by all but... 1 at 9.6 from 10.6) and rank 2
    judge.update(answer(query[:7], place[:7]), batch(list(range(7)), [2] * 7))
    judge.update(answer(query[7:], place[7:]), batch(list(range(7, 12)), [1] * 5))
    scores = judge.compute()
    assert scores["recall_at_1"] == pytest.approx(100 * 10 / 12)
    assert scores["recall_at_10"] == pytest.approx(100 * 11 / 12)
    assert scores["recall_at_20"] == scores["recall_at_50"] == 100
    assert judge.figures()["ranked_lists"].shape[2] == 3
    judge.reset()
    judge.update(answer([0.0, 1.0], [0.0, 1.0]), batch([3, 8], [1, 1]))
    assert judge.compute()["recall_at_1"] == 100


def test_a_set_that_comes_twice_counts_once() -> None:
    judge = SetRetrieval.judge(SPEC)
    judge.compare = lambda queries, gallery: torch.cdist(
        torch.stack(
            [queries["query"][queries["query_set"] == s].mean(0) for s in queries["query_set"].unique()]
        ),
        gallery["catalogue"],
    )
    judge.update(answer([0.0, 5.0, 9.0], [0.0, 5.0, 1.0]), batch([4, 2, 7], [1, 1, 1]))
    once = judge.compute()
    judge.update(answer([0.0], [0.0]), batch([4], [1]))
    assert judge.compute() == once


def test_ties_count_against() -> None:
    judge = SetRetrieval.judge(SPEC)
    judge.update(answer([0.0, 0.0], [1.0, 1.0]), batch([0, 1], [1, 1]))
    assert judge.compute()["recall_at_1"] == 0


def test_sets_of_several_rows_need_a_way_to_compare() -> None:
    judge = SetRetrieval.judge(SPEC)
    judge.update(answer([0.0, 0.2, 1.0], [0.0, 1.0], [0, 0, 1]), batch([0, 1], [2, 1]))
    with pytest.raises(ValueError, match="several rows"):
        judge.compute()
    asked = []

    def compare(queries, gallery):  # type: ignore[no-untyped-def]
        asked.append(queries["query_set"].tolist())
        return torch.tensor([[0.0, 1.0], [1.0, 0.0]])[: int(queries["query_set"].max()) + 1]

    judge.compare = compare
    assert judge.compute()["recall_at_1"] == 100
    assert asked[0] == [0, 0, 1]
    judge.compare = lambda queries, gallery: torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"must answer \(2, 2\)"):
        judge.compute()


def test_what_does_not_fit_is_refused() -> None:
    judge = SetRetrieval.judge(SPEC)
    good = batch([0, 1], [2, 1])
    with pytest.raises(ValueError, match="catalogue"):
        judge.update(answer([0.0, 1.0], [0.0]), good)
    with pytest.raises(ValueError, match="must have a row"):
        judge.update(answer([0.0, 1.0], [0.0, 1.0], [0, 0]), good)
    with pytest.raises(ValueError, match="NaN"):
        judge.update(answer([0.0, float("nan")], [0.0, 1.0]), good)
    with pytest.raises(TypeError, match="PictureSetsSpec"):
        SetRetrieval.judge(ShapesSpec(dataset="x", classes=("a",)))
    assert Spec.from_json(SPEC.to_json()) == SPEC


def test_drawings() -> None:
    sheets = SetRetrieval.draw(answer([0.0, 1.0], [0.0, 1.0]), batch([0, 1], [12, 1]), SPEC)
    assert len(sheets) == 2
    assert sheets[0].shape == sheets[1].shape
    assert sheets[0].dtype == "uint8"
