"""Ranks both ways: by hand, against torchmetrics, against a sort in a loop; ties, repeats, order of arrival."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.retrieval import RetrievalHitRate

from tasks.metrics import text_ranks
from tasks.metrics.text_ranks import (
    PairedEmbeddings,
    answers_of,
    first_right_rank,
    key_of,
    median_rank,
    recall_at,
    retrieval_ranks,
)


def ranks_of(similarity: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """similarity [N, M] of pictures and captions, as one matrix."""
    return retrieval_ranks(lambda q: similarity[q], lambda q: similarity.T[q], owner, len(similarity))


def sorted_in_a_loop(similarity: Tensor, owner: Tensor) -> tuple[list[int], list[int]]:
    to_text = []
    for picture, row in enumerate(similarity):
        order = row.argsort(descending=True).tolist()
        places = [1 + place for place, caption in enumerate(order) if owner[caption] == picture]
        to_text += places[:1]
    to_image = []
    for caption, column in enumerate(similarity.T):
        to_image.append(1 + column.argsort(descending=True).tolist().index(int(owner[caption])))
    return to_text, to_image


def uneven(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Similarities of 40 pictures, the last two without captions, in mixed order."""
    owner = torch.randint(38, (130,), generator=generator)
    owner[:2] = 7
    similarity = torch.randn(40, 130, generator=generator)
    similarity[owner, torch.arange(130)] += 1.5
    return similarity, owner


def test_two_pictures_by_hand() -> None:
    # Picture 0 owns captions 0 and 1, picture 1 owns 2.
    similarity = torch.tensor([[0.3, 0.8, 0.9], [0.4, 0.7, 0.6]])
    to_text, to_image = ranks_of(similarity, torch.tensor([0, 0, 1]))
    assert to_text.tolist() == [2, 2]  # 0.9 before 0.8; 0.7 before 0.6
    assert to_image.tolist() == [2, 1, 2]
    assert recall_at(to_text, 1) == 0.0
    assert recall_at(to_text, 5) == 100.0
    assert recall_at(to_image, 1) == pytest.approx(100 / 3)
    assert median_rank(to_image) == 2.0
    assert median_rank(torch.tensor([1, 2, 5, 9])) == 3.5


def test_a_tie_counts_against_the_method() -> None:
    similarity = torch.tensor([[0.5, 0.5, 0.5, 0.1]])
    assert first_right_rank(similarity, torch.tensor([[0]])).item() == 3
    assert (
        first_right_rank(similarity, torch.tensor([[0, 1]])).item() == 2
    )  # its own other caption is no rival
    nearly = torch.tensor([[0.5, 0.5 - 1e-7]])
    assert first_right_rank(nearly, torch.tensor([[0]])).item() == 2
    assert first_right_rank(torch.tensor([[0.5, 0.4999]]), torch.tensor([[0]])).item() == 1


def test_equal_embeddings_find_nothing() -> None:
    owner = torch.arange(30).repeat_interleave(5)
    image, text = F.normalize(torch.ones(30, 64), dim=1), F.normalize(torch.ones(150, 64), dim=1)
    to_text, to_image = ranks_of(image @ text.T, owner)
    assert (to_text == 1 + 145).all()
    assert (to_image == 30).all()


def test_nan_never_wins() -> None:
    nan = torch.nan
    assert first_right_rank(torch.tensor([[nan, 0.2, 0.3]]), torch.tensor([[0]])).item() == 3
    assert first_right_rank(torch.tensor([[0.9, nan, 0.3]]), torch.tensor([[0]])).item() == 2


@pytest.mark.parametrize("seed", range(3))
def test_like_a_sort_in_a_loop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, owner = uneven(torch.Generator().manual_seed(seed))
    expected = sorted_in_a_loop(similarity, owner)
    for chunk in (256, 7):
        monkeypatch.setattr(text_ranks, "CHUNK", chunk)
        to_text, to_image = ranks_of(similarity, owner)
        assert (to_text.tolist(), to_image.tolist()) == expected
    assert len(expected[0]) == len(owner.unique()) < 40  # a picture without captions asks nothing


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_like_torchmetrics(k: int) -> None:
    similarity, owner = uneven(torch.Generator().manual_seed(5))
    target = owner[None] == torch.arange(40)[:, None]
    to_text, to_image = ranks_of(similarity, owner)
    query = torch.arange(40)[:, None].expand(40, 130)
    hits = RetrievalHitRate(top_k=k, empty_target_action="skip")
    assert recall_at(to_text, k) == pytest.approx(
        100 * hits(similarity.flatten(), target.flatten(), query.flatten()).item(), abs=1e-4
    )
    query = torch.arange(130)[:, None].expand(130, 40)
    hits = RetrievalHitRate(top_k=k, empty_target_action="error")
    assert recall_at(to_image, k) == pytest.approx(
        100 * hits(similarity.T.flatten(), target.T.flatten(), query.flatten()).item(), abs=1e-4
    )


def test_answers_are_padded() -> None:
    assert answers_of(torch.tensor([2, 0, 2, 2]), 4).tolist() == [
        [1, -1, -1],
        [-1, -1, -1],
        [0, 2, 3],
        [-1, -1, -1],
    ]


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="no right answer"):
        first_right_rank(torch.rand(1, 3), torch.tensor([[-1]]))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(1, 1\)"):
        first_right_rank(torch.rand(2, 3), torch.tensor([[0]]))


def take(metric: PairedEmbeddings, pictures: list[int]) -> None:
    """Picture p is the unit vector e_p, its two captions e_p and a bit."""
    image = torch.eye(6)[pictures]
    owner = torch.arange(len(pictures)).repeat_interleave(2)
    text = image[owner] + torch.tensor([0.0, 0.1]).repeat(len(pictures))[:, None]
    names = [f"p{p}" for p in pictures]
    metric.update(image, text, owner, names, [f"{name}#{n}" for name in names for n in range(2)])


def test_gathering_forgets_order_and_repeats() -> None:
    straight, mixed = PairedEmbeddings(), PairedEmbeddings()
    take(straight, [0, 1, 2, 3, 4, 5])
    for pictures in ([4, 1], [5], [1, 0], [3, 2, 4]):
        take(mixed, pictures)
    for one, other in zip(straight.compute(), mixed.compute(), strict=True):
        assert torch.equal(one, other)
    image, text, owner, image_keys, text_keys = mixed.compute()
    assert (len(image), len(text)) == (6, 12)
    assert owner.bincount().tolist() == [2] * 6
    assert torch.equal(image.argmax(1)[owner], text.argmax(1))
    assert set(image_keys.tolist()) == {key_of(f"p{p}") for p in range(6)}
    assert key_of("p0#1") in text_keys.tolist()


def test_processes_are_joined_by_name() -> None:
    # What torchmetrics does with states of two processes: it joins the lists.
    whole, first, second = PairedEmbeddings(), PairedEmbeddings(), PairedEmbeddings()
    take(whole, [0, 1, 2, 3, 4, 5])
    take(first, [0, 2, 4])
    take(second, [1, 3, 5, 0])
    for state in ("images", "image_keys", "texts", "text_keys", "owner_keys"):
        getattr(first, state).extend(getattr(second, state))
    for one, other in zip(whole.compute(), first.compute(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owner": torch.tensor([0, 9])}, "owner must be in 0..1"),
        ({"owner": torch.tensor([0])}, "owner"),
        ({"image_ids": ["a"]}, "2 pictures and 2 captions"),
        ({"text": torch.full((2, 3), torch.nan)}, "NaN"),
    ],
)
def test_bad_updates_are_refused(change: dict, message: str) -> None:
    good = {
        "image": torch.rand(2, 3),
        "text": torch.rand(2, 3),
        "owner": torch.tensor([0, 1]),
        "image_ids": ["a", "b"],
        "caption_ids": ["a#0", "b#0"],
    }
    PairedEmbeddings().update(**good)
    with pytest.raises(ValueError, match=message):
        PairedEmbeddings().update(**(good | change))
