"""MSCOCO 2014 captions: the reader, its messages, and the miniature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.base import DataError
from datamodules.language.coco_captions import COCOCaptions


@pytest.fixture(scope="module")
def data(cache: Path) -> COCOCaptions:
    dataset = COCOCaptions(cache=cache)
    dataset.prepare_data()
    return dataset


def test_the_miniature_serves_pairs_and_pictures(data: COCOCaptions) -> None:
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [5 * 300, 50, 100]
    sample = data.split("test")[0]
    assert sample["path"].endswith(f"val2014/COCO_val2014_{int(sample['id']):012d}.jpg")
    assert len(sample["captions"]) == len(set(sample["caption_ids"])) == 5
    assert "train2014" in data.split("train")[0]["path"]
    assert len(data.word_vectors_of(data.spec.vocabulary)) == len(data.spec.vocabulary)


def layout(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for part, first in (("train2014", 1), ("val2014", 11)):
        (root / part).mkdir(parents=True)
        images, annotations = [], []
        for number in range(first, first + 3):
            name = f"COCO_{part}_{number:012d}.jpg"
            Image.new("RGB", (12, 10)).save(root / part / name)
            images.append({"id": number, "file_name": name})
            annotations += [
                {"id": 100 * number + 7 - i, "image_id": number, "caption": f"caption\n {7 - i} "}
                for i in range(7)
            ]
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/captions_{part}.json").write_text(
            json.dumps({"images": images, "annotations": annotations})
        )
    (root / "splits").mkdir()
    (root / "splits/val.txt").write_text("COCO_val2014_000000000013.jpg\n")
    (root / "splits/test.txt").write_text("12\n11\n")
    monkeypatch.setattr(COCOCaptions, "counts", {"real": {"train": 3, "val": 1, "test": 2}})
    return root


def test_five_captions_by_number_are_kept_and_lists_give_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = COCOCaptions(layout(tmp_path, monkeypatch), "real")
    assert [sample["id"] for sample in data.split("test")] == ["12", "11"]
    assert data.split("test")[0]["captions"] == [f"caption {i}" for i in (1, 2, 3, 4, 5)]
    assert data.split("test")[0]["caption_ids"][0] == "12#1201"
    assert len(data.split("train")) == 15


def test_what_is_wrong_with_the_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layout(tmp_path, monkeypatch)
    test, file = root / "splits/test.txt", root / "annotations/captions_val2014.json"
    whole = file.read_text()

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            COCOCaptions(root, "real").split("test")

    test.write_text("12\n")
    refused("names 1 pictures, expected 2")
    test.write_text("12\n13\n")
    refused("'13' under 'val' and again under 'test'")
    test.write_text("12\n77\n")
    refused("picture 77 isn't in")
    test.write_text("a cat\n")
    refused("neither a picture's number nor its file name")
    test.write_text("12\n11\n")
    content = json.loads(whole)
    content["annotations"] = content["annotations"][:4] + content["annotations"][7:]
    file.write_text(json.dumps(content))
    refused("picture 11 has 4 captions")
    file.write_text(json.dumps({"images": []}))
    refused("lacks 'annotations'")
    file.write_text(whole[: len(whole) // 2])
    refused("is no captions file of COCO")
    file.write_text(whole)
    (root / "val2014/COCO_val2014_000000000011.jpg").unlink()
    refused("missing but listed")
