"""The task image-text-retrieval: its judge by hand, a method's own comparison, its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import CaptionsSpec, Spec
from tasks.language.image_text_retrieval import ImageTextRetrieval, caption_owners

SPEC = CaptionsSpec(dataset="test", captions=2, vocabulary=("a",))


def angles(*degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for name in range(6):
        pixels = np.full((20 + 10 * name, 60, 3), 40 * name, np.uint8)
        Image.fromarray(pixels).save(path / f"{name}.png")
    return path


def batch_of(pictures: list[int], counts: list[int], folder: Path) -> dict:
    names = [f"p{picture}" for picture in pictures]
    return {
        "image_id": names,
        "path": [str(folder / f"{picture}.png") for picture in pictures],
        "captions": [
            [
                f"caption {n} of picture {picture}, a long sentence that goes on and on " * 2
                for n in range(count)
            ]
            for picture, count in zip(pictures, counts, strict=True)
        ],
        "caption_ids": [
            [f"{name}#{n}" for n in range(count)] for name, count in zip(names, counts, strict=True)
        ],
        "id": names,
    }


def predicted(image: Tensor, text: Tensor, batch: dict) -> dict:
    return {"image": image, "text": text, "owner": caption_owners(batch)}


def test_measures() -> None:
    names = [measure.name for measure in ImageTextRetrieval.measures]
    assert ImageTextRetrieval.primary().name == "rsum"
    assert len(set(names)) == len(names)
    assert [m.name for m in ImageTextRetrieval.measures if not m.higher_is_better] == [
        "i2t_median",
        "t2i_median",
    ]


def test_judge_by_hand_over_batches(folder: Path) -> None:
    # Pictures at 0, 40, 90 degrees; captions at 5 | 42, 85 | 60, of pictures 0 | 1, 1 | 2; lengths don't matter.
    judge = ImageTextRetrieval.judge(SPEC)
    first, second = batch_of([0, 1], [1, 2], folder), batch_of([2], [1], folder)
    judge.update(predicted(angles(0, 40), angles(5, 42, 85) * 3.0, first), first)
    judge.update(predicted(angles(90) * 0.2, angles(60), second), second)
    scores = judge.compute()
    # Pictures: 0 finds 5 at rank 1; 40 finds 42 at rank 1; 90 finds 85 first, then 60: rank 2.
    assert scores["i2t_r1"] == pytest.approx(200 / 3)
    assert (scores["i2t_r5"], scores["i2t_r10"], scores["i2t_median"]) == (100, 100, 1)
    # Captions: 5 -> rank 1; 42 -> 1; 85 -> 90 comes before its 40: 2; 60 -> 40 comes before its 90: 2.
    assert (scores["t2i_r1"], scores["t2i_r5"], scores["t2i_median"]) == (50, 100, 1.5)
    assert scores["rsum"] == pytest.approx(200 / 3 + 50 + 400)
    assert scores["r1"] == pytest.approx((200 / 3 + 50) / 2)
    assert set(scores) == {measure.name for measure in ImageTextRetrieval.measures}


def test_a_method_compares_for_itself(folder: Path) -> None:
    # Lengths of vectors differ, and the directions are weighed apart: text to image is turned around.
    batch = batch_of([0, 1, 2], [1, 1, 1], folder)
    judge = ImageTextRetrieval.judge(SPEC)
    seen: list[tuple[str, str]] = []

    def compare(queries: dict, gallery: dict) -> Tensor:
        (asked,), (searched,) = queries, gallery
        seen.append((asked, searched))
        product = queries[asked][:, :2] @ gallery[searched][:, :2].T
        return -product if asked == "image" else product

    judge.compare = compare
    vectors = angles(0, 40, 90)
    judge.update(predicted(vectors, F.pad(vectors, (0, 5)), batch), batch)
    scores = judge.compute()
    assert seen == [("image", "text"), ("text", "image")]
    assert scores["i2t_r1"] == 100.0
    assert scores["t2i_r1"] == 0.0
    judge.compare = lambda queries, gallery: torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"\(3, 3\), not \(1, 1\)"):
        judge.compute()
    judge.compare = None
    with pytest.raises(ValueError, match="2 and 7 numbers"):
        judge.compute()


def test_a_bad_prediction_is_refused(folder: Path) -> None:
    batch = batch_of([0, 1], [1, 2], folder)
    judge = ImageTextRetrieval.judge(SPEC)
    with pytest.raises(ValueError, match="lacks owner"):
        judge.update({"image": angles(0, 1), "text": angles(0, 1, 2)}, batch)
    with pytest.raises(ValueError, match="owner must name"):
        judge.update(
            {"image": angles(0, 1), "text": angles(0, 1, 2), "owner": torch.tensor([0, 0, 1])}, batch
        )
    with pytest.raises(TypeError, match="CaptionsSpec"):
        ImageTextRetrieval.judge(Spec(dataset="points"))


def test_pictures_of_the_split(folder: Path) -> None:
    judge = ImageTextRetrieval.judge(SPEC)
    assert judge.figures() == {}
    batch = batch_of([0, 1, 2, 3, 4, 5], [2] * 6, folder)
    image = torch.eye(6)
    judge.update(predicted(image, image.repeat_interleave(2, 0), batch), batch)
    judge.compute()
    figures = judge.figures()
    assert set(figures) == {"image_to_text", "text_to_image", "recall"}
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in figures.values())
    again = ImageTextRetrieval.judge(SPEC)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = batch_of(order, [2] * 6, folder)
    again.update(predicted(image[order], image[order].repeat_interleave(2, 0), shuffled), shuffled)
    again.compute()
    assert np.array_equal(again.figures()["recall"], figures["recall"])
    again.reset()
    assert again.figures() == {}


def test_a_right_caption_is_green(folder: Path) -> None:
    batch = batch_of([0, 5], [1, 1], folder)
    drawn = ImageTextRetrieval.draw(predicted(angles(0, 90), angles(1, 89), batch), batch, SPEC)
    swapped = ImageTextRetrieval.draw(predicted(angles(0, 90), angles(89, 1), batch), batch, SPEC)
    assert len(drawn) == len(swapped) == 2

    def green_rows(picture: np.ndarray) -> np.ndarray:
        value = picture[:, 140:].astype(int)
        return np.nonzero((value[..., 1] - value[..., 0] > 60).any(1))[0]

    assert green_rows(drawn[0]).max() < green_rows(swapped[0]).min()  # first line, second line
    assert ImageTextRetrieval.draw(predicted(angles(0, 90), torch.eye(2, 7), batch), batch, SPEC) == []
