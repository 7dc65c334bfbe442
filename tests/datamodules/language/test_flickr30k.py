"""Flickr30K: the reader, its messages, and the miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import DataError
from datamodules.language.flickr30k import COUNTS, Flickr30K, read_tokens
from datamodules.miniature.captioned_scenes import scenes
from datamodules.specs import CaptionsSpec


@pytest.fixture(scope="module")
def data(cache: Path) -> Flickr30K:
    dataset = Flickr30K(cache=cache, batch_size=20)
    dataset.prepare_data()
    return dataset


def test_training_lists_all_pairs_and_test_serves_a_picture_with_all_its_captions(data: Flickr30K) -> None:
    sizes = [len(data.split(split)) for split in ("train", "val", "test")]
    assert sizes == [5 * 1000, 100, 200]
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"id", "image_id", "path", "captions", "caption_ids"}
    assert [len(captions) for captions in batch["captions"]] == [1] * 20
    assert batch["id"] == [ids[0] for ids in batch["caption_ids"]]
    assert all(key.startswith(f"{image}#") for key, image in zip(batch["id"], batch["image_id"], strict=True))
    assert len({s["id"] for s in data.split("train")}) == 5000
    batch = next(iter(data.test_dataloader()))
    assert batch["id"] == batch["image_id"]
    assert [len(captions) for captions in batch["captions"]] == [5] * 50
    assert batch["caption_ids"][3] == [f"{batch['id'][3]}#{i}" for i in range(5)]
    with Image.open(batch["path"][0]) as picture:
        assert picture.size == (96, 96)


def test_pixels_come_only_if_asked_for(cache: Path) -> None:
    served = next(iter(Flickr30K(cache=cache, pixels=True).test_dataloader()))["image"]
    assert served.shape == (50, 3, 96, 96)
    assert 0 <= served.min() < 0.3 < 0.7 < served.max() <= 1


def test_fewer_training_pictures_are_the_first_of_the_list(data: Flickr30K, cache: Path) -> None:
    few = Flickr30K(cache=cache, train_pictures=40)
    assert len(few.split("train")) == 200
    assert [s["id"] for s in few.split("train")] == [data.split("train")[i]["id"] for i in range(200)]
    assert len(few.split("test")) == 200
    with pytest.raises(ValueError, match="1000 training pictures"):
        Flickr30K(cache=cache, train_pictures=2000).split("train")


def test_the_vocabulary_is_that_of_the_training_sentences(data: Flickr30K) -> None:
    spec = data.spec
    assert spec.captions == 5
    told = {w for s in data.split("train") for c in s["captions"] for w in CaptionsSpec.words(c)}
    assert spec.vocabulary == tuple(sorted(told))
    vectors = data.word_vectors_of(spec.vocabulary)
    assert set(vectors) == told
    assert {vector.shape for vector in vectors.values()} == {(50,)}
    assert CaptionsSpec.from_json(spec.to_json()) == spec


def test_word_vectors_are_counted_on_training_sentences_alone(data: Flickr30K) -> None:
    """The file lists words by how often the training sentences hold them."""
    lines = data.word_vectors_path.read_text().splitlines()[1:]
    written = [line.split(" ")[0] for line in lines]
    counts = dict.fromkeys(written, 0)
    for sample in data.split("train"):
        for word in CaptionsSpec.words(sample["captions"][0]):
            counts[word] += 1
    assert written == sorted(written, key=lambda word: (-counts[word], word))


def test_splits_share_no_picture_and_each_has_look_alikes_of_its_own(data: Flickr30K) -> None:
    ids = {split: {s["image_id"] for s in data.split(split)} for split in ("train", "val", "test")}
    assert len(ids["train"] | ids["val"] | ids["test"]) == 1000 + 100 + 200
    for split in ("train", "val", "test"):
        world = scenes(len(ids[split]), "flickr30k", split)
        assert sum(scene.twin is not None for scene in world) >= 0.4 * len(world)


def real_copy(root: Path, monkeypatch: pytest.MonkeyPatch, *, pictures: int = 4) -> Path:
    """A tiny data set in the published layout, of as many pictures a split as the lists say."""
    (root / "flickr30k_images").mkdir(parents=True)
    (root / "splits" / "mrnn").mkdir(parents=True)
    tokens = []
    for number in range(pictures):
        size = (20 + number, 30)
        Image.fromarray(np.full((*size, 3), 40 * number, np.uint8)).save(
            root / f"flickr30k_images/{number}.jpg"
        )
        tokens += [f"{number}.jpg#{i}\tTwo dogs , number {i} .\n" for i in range(5)]
    (root / "results_20130124.token").write_text("".join(tokens))
    for split, ids in (("train", "0.jpg\n1.jpg\n"), ("val", "2\n"), ("test", "3\n")):
        (root / f"splits/mrnn/{split}.txt").write_text(ids)
    monkeypatch.setitem(COUNTS, "mrnn", {"train": 2, "val": 1, "test": 1})
    return root


def test_the_published_layout_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Flickr30K(real_copy(tmp_path, monkeypatch), "real")
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [10, 1, 1]
    assert data.split("test")[0]["captions"][4] == "Two dogs , number 4 ."
    with pytest.raises(DataError, match="GoogleNews"):
        data.word_vectors_of(["dogs"])


def test_what_is_wrong_with_the_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = real_copy(tmp_path, monkeypatch)
    tokens, train = root / "results_20130124.token", root / "splits/mrnn/train.txt"
    whole = tokens.read_text()

    def refused(message: str, split: str = "train") -> None:
        with pytest.raises(DataError, match=message):
            Flickr30K(root, "real").split(split)

    train.write_text("0.jpg\n")
    refused("names 1 pictures, expected 2")
    train.write_text("0.jpg\n3.jpg\n")
    refused("list '3' under 'train' and again under 'test'")
    train.write_text("0.jpg\n1.jpg\n")
    tokens.write_text(whole.replace("0.jpg#4", "9.jpg#4"))
    refused("0.jpg of 'train' has the sentences")
    tokens.write_text(whole + "1.jpg 3 no tab\n")
    refused("line 21")
    tokens.write_text(whole + whole.splitlines()[0] + "\n")
    refused("stands twice")
    tokens.write_text(whole)
    (root / "flickr30k_images/1.jpg").unlink()
    refused("1.jpg is missing but listed")
    (root / "flickr30k_images/3.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        Flickr30K(root, "real", pixels=True).split("test")[0]
    with pytest.raises(DataError, match="karpathy"):
        Flickr30K(root, "real", split_lists="karpathy").split("test")
    (root / "splits/mrnn/val.txt").unlink()
    with pytest.raises(DataError, match=r"splits/\*/val.txt"):
        Flickr30K(root, "real").prepare_data()


def test_tokens_are_read_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "t.token"
    path.write_text("7.jpg#1\tA b .\n7.jpg#0\tC .\n")
    assert read_tokens(path) == {"7": {1: "A b .", 0: "C ."}}
