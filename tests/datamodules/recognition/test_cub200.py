"""CUB-200-2011: the published tables, boxes, disagreeing files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.base import DataError
from datamodules.recognition.cub200 import CUB200

TABLES = {
    "images.txt": "1 001.A/a.jpg\n2 001.A/b.jpg\n3 002.B/c.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n",
    "train_test_split.txt": "1 1\n2 0\n3 0\n",
    "classes.txt": "1 001.A\n2 002.B\n",
    "bounding_boxes.txt": "1 1.0 2.0 3.0 4.0\n2 0.0 0.0 5.0 5.0\n3 2.5 0.0 1.0 1.0\n",
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        file = tmp_path / "CUB_200_2011" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    for picture in ("001.A/a.jpg", "001.A/b.jpg", "002.B/c.jpg"):
        path = tmp_path / "CUB_200_2011" / "images" / picture
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_tables(fake: Path) -> None:
    data = CUB200(fake, "real")
    data.prepare_data()
    assert data.spec.classes == ("001.A", "002.B")
    (train,) = data.listing("train")
    assert (train.id, train.values["label"], train.box) == ("001.A/a.jpg", 0, (1.0, 2.0, 3.0, 4.0))
    assert [item.values["label"] for item in data.listing("test")] == [0, 1]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images.txt", "1 001.A/a.jpg\n2\n3 002.B/c.jpg\n", "line 2: expected an id and 1"),
        ("image_class_labels.txt", "1 1\n2 1\n", r"2 pictures, but images\.txt has 3; .*\[3\]"),
        ("image_class_labels.txt", "1 1\n2 1\n3 7\n", r"picture 3 has class 7, not 1 \.\. 2"),
        ("bounding_boxes.txt", "1 1 2 3\n2 0 0 5 5\n3 2 0 1 1\n", "line 1: expected an id and 4"),
        ("bounding_boxes.txt", "1 1 2 3 4\n2 0 0 5 x\n3 2 0 1 1\n", "picture 2 .* no numbers"),
        ("classes.txt", "1 001.A\n3 002.B\n", "class ids must be"),
    ],
)
def test_wrong_tables_are_named(fake: Path, file: str, text: str, message: str) -> None:
    (fake / "CUB_200_2011" / file).write_text(text)
    with pytest.raises(DataError, match=rf"(?s){message}"):
        CUB200(fake, "real").listing("test")


def test_miniature(cache: Path) -> None:
    data = CUB200(cache=cache)
    assert len(data.spec.classes) == 10
    assert data.verify() == []
    for split, each in (("train", 30), ("test", 20)):
        labels = Counter(listed.values["label"] for listed in data.listing(split))
        assert labels == dict.fromkeys(range(10), each)
    sample = data.split("test")[0]
    assert sample["image"].shape == (3, 64, 64)
    x1, y1, x2, y2 = sample["box"].tolist()
    assert 0 <= x1 < x2 <= 64
    assert 0 <= y1 < y2 <= 64
    parts = (data.root / "CUB_200_2011" / "parts" / "part_locs.txt").read_text().splitlines()
    assert len(parts) == 4 * 500


def test_box_scales_with_the_served_picture(cache: Path) -> None:
    small, large = (CUB200(cache=cache, image_size=size) for size in (48, 96))
    large.prepare_data()
    torch.testing.assert_close(small.split("test")[7]["box"] * 2, large.split("test")[7]["box"])
    assert large.listing("test")[7].box[0] == pytest.approx(large.split("test")[7]["box"][0].item())
