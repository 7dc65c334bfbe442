"""CUB-200-2011 for zero-shot learning: attributes, workers' clicks, disagreeing files, the miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError
from datamodules.recognition.cub200_zsl import CUB200ZeroShot, read_clicks
from datamodules.recognition.zero_shot_images import write_proposed_split

TABLES = {
    "CUB_200_2011/images.txt": "1 001.A/a.jpg\n2 001.A/b.jpg\n3 002.B/c.jpg\n4 003.C/d.jpg\n",
    "CUB_200_2011/classes.txt": "1 001.A\n2 002.B\n3 003.C\n",
    "CUB_200_2011/parts/parts.txt": "1 back\n2 left eye\n",
    "CUB_200_2011/parts/part_click_locs.txt": (
        "1 1 10.0 20.0 1 3.2\n1 1 12.0 22.0 1 1.0\n1 2 0.0 0.0 0 9.1\n4 2 7.0 8.0 1 1.0\n"
    ),
    "CUB_200_2011/attributes/class_attribute_labels_continuous.txt": "10 90\n80 0\n50 100\n",
    "attributes.txt": "1 has_bill::curved\n2 has_bill::flat\n",
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for line in TABLES["CUB_200_2011/images.txt"].splitlines():
        path = tmp_path / "CUB_200_2011" / "images" / line.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # The splits list pictures in an order of their own.
    write_proposed_split(
        tmp_path / "xlsa17/data/CUB",
        names=["001.A", "002.B", "003.C"],
        files=[
            f"/BS/CUB_200_2011/images/{file}"
            for file in ("003.C/d.jpg", "001.A/a.jpg", "001.A/b.jpg", "002.B/c.jpg")
        ],
        labels=np.array([2, 0, 0, 1]),
        unseen=np.array([2]),
        held_out=np.array([1]),
        values=np.ones((3, 2)),
    )
    return tmp_path


def test_attributes_and_clicks(fake: Path) -> None:
    data = CUB200ZeroShot(fake, "real")
    spec = data.spec
    assert spec.classes == ("001.A", "002.B", "003.C")
    assert spec.seen == 2
    assert spec.attributes == ("has_bill::curved", "has_bill::flat")
    assert spec.values == ((0.1, 0.9), (0.8, 0.0), (0.5, 1.0))
    assert spec.present == ()
    assert spec.parts == ("back", "left eye")
    assert spec.image_size == (112, 112)
    train = data.split("train")
    assert train.files == ["001.A/a.jpg", "001.A/b.jpg", "002.B/c.jpg"]  # type: ignore[attr-defined]
    assert train.clicks[0].tolist() == [[[10, 20, 1], [12, 22, 1]], [[0, 0, 0], [0, 0, 0]]]  # type: ignore[attr-defined]
    assert data.split("test").clicks[0, 1].tolist() == [[7, 8, 1], [0, 0, 0]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "CUB_200_2011/attributes/class_attribute_labels_continuous.txt",
            "1 2\n3 4\n",
            r"expected 3 classes x 2",
        ),
        ("CUB_200_2011/classes.txt", "1 001.A\n2 002.B\n3 003.X\n", r"classes.txt has no '003.C'"),
        (
            "CUB_200_2011/images.txt",
            "1 001.A/a.jpg\n2 001.A/b.jpg\n3 002.B/c.jpg\n4 9/d.jpg\n",
            "has no '003.C/d.jpg'",
        ),
        ("CUB_200_2011/parts/part_click_locs.txt", "1 1 3 4 1\n", "expected 6 columns"),
        ("CUB_200_2011/parts/part_click_locs.txt", "1 3 3 4 1 0\n", r"click 1: .* parts 1\.\.2"),
        ("CUB_200_2011/parts/part_click_locs.txt", "1 1 3 4 2 0\n", "visible 0 or 1"),
        ("CUB_200_2011/parts/part_click_locs.txt", "1 1 x 4 1 0\n", "no matrix of numbers"),
        ("attributes.txt", "1\n", "line 1: expected"),
    ],
)
def test_wrong_tables_are_named(fake: Path, file: str, text: str, message: str) -> None:
    (fake / file).write_text(text)
    with pytest.raises(DataError, match=message):
        _ = CUB200ZeroShot(fake, "real").spec


def test_clicks_of_a_part_are_kept_in_order(tmp_path: Path) -> None:
    file = tmp_path / "clicks.txt"
    file.write_text("2 1 5 6 1 0\n1 2 1 2 1 0\n2 1 7 8 0 0\n")
    at = read_clicks(file, 2, 2)
    assert at.shape == (2, 2, 2, 3)
    assert at[1, 0].tolist() == [[5, 6, 1], [7, 8, 0]]
    assert at[0, 1].tolist() == [[1, 2, 1], [0, 0, 0]]
    assert at.sum() == 5 + 6 + 1 + 7 + 8 + 1 + 2 + 1


def test_miniature(cache: Path) -> None:
    data = CUB200ZeroShot(cache=cache)
    spec = data.spec
    assert data.verify() == []
    assert (spec.seen, spec.held_out, len(spec.classes), len(spec.attributes), len(spec.parts)) == (
        24,
        0,
        30,
        24,
        6,
    )
    assert spec.image_size == (56, 56)
    assert len(data.split("train")) == 24 * 24
    assert len(data.split("test")) == 6 * 30
    present = torch.tensor(spec.values) > 0.5
    assert (present.sum(1) == 6).all()
    # Unseen classes are new combinations of looks that seen ones have.
    assert present[:24].any(0).all()
    assert len({tuple(row) for row in present.tolist()}) == 30
    batch = next(iter(data.train_dataloader()))
    assert batch["clicks"].shape == (32, 6, 5, 3)
    assert set(batch["clicks"][..., 2].unique().tolist()) == {0.0, 1.0}
    held = CUB200ZeroShot(cache=cache, validation=True)
    assert (held.spec.seen, held.spec.held_out) == (18, 6)
    assert len(held.split("val")) == 6 * 24
