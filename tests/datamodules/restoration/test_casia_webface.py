"""CASIA-WebFace: the sharpest ten of each person, folders that train, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import DataError
from datamodules.restoration.casia_webface import CasiaWebFace, CasiaWebFacex16, sharpness


def test_sharpness_by_hand(tmp_path: Path) -> None:
    grey = np.zeros((5, 5), np.uint8)
    grey[2, 2] = 10
    Image.fromarray(grey).save(tmp_path / "a.png")
    # Inside 3 x 3: 40 once, -10 four times, 0 four times: mean 0, mean square (1600 + 400) / 9.
    assert sharpness(tmp_path / "a.png") == pytest.approx(2000 / 9)
    Image.fromarray(np.full((5, 5), 9, np.uint8)).save(tmp_path / "b.png")
    assert sharpness(tmp_path / "b.png") == 0.0


def test_miniature_keeps_the_ten_sharpest_of_persons_with_ten(cache: Path) -> None:
    data = CasiaWebFace(cache=cache)
    data.prepare_data()
    folders = sorted(path for path in data.root.iterdir() if path.name.isdigit())
    counts = [len(list(folder.glob("*.jpg"))) for folder in folders]
    assert len(folders) == 48
    for split, part in (("train", counts[:36]), ("test", counts[36:])):
        assert len(data.split(split)) == 10 * sum(count >= 10 for count in part)
    assert len(data.split("val")) == 0
    # Pictures after the tenth were blurred when rendered: none is among the best.
    assert all(int(portrait.path.stem) <= 10 for portrait in data.split("train").portraits)
    sample = data.split("test")[0]
    assert sample["low"].shape == (3, 8, 8)
    assert sample["exemplars"].shape == (3, 3, 64, 64)
    assert "corrupted" in sample
    assert CasiaWebFacex16(cache=cache).split("test")[0]["low"].shape == (3, 4, 4)


def test_sharpness_is_measured_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CasiaWebFace(cache=cache).portraits("test")
    monkeypatch.setattr("datamodules.restoration.casia_webface.sharpness", lambda path: 1 / 0)
    assert CasiaWebFace(cache=cache).portraits("test") == first


def test_real_layout_sizes_and_what_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "CASIA-WebFace"
    random = np.random.default_rng(0)
    for person in range(3):
        folder = root / f"{person:07d}"
        folder.mkdir(parents=True)
        for number in range(10 if person else 9):
            pixels = random.integers(0, 255, (250, 250, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.jpg")
    data = CasiaWebFace(tmp_path, "real", train_people=2, exemplars=1, cache=tmp_path / "cache")
    data.prepare_data()
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [10, 0, 10]
    sample = data.split("train")[0]
    assert sample["high"].shape == (3, 256, 256)
    assert sample["low"].shape == (3, 32, 32)
    assert "corrupted" not in sample
    with pytest.raises(DataError, match="the first 9121 train"):
        CasiaWebFace(tmp_path, "real", cache=tmp_path / "cache").split("test")
    (root / "0000001/003.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"0000001/003\.jpg"):
        CasiaWebFace(tmp_path, "real", train_people=2, cache=tmp_path / "cache").split("train")
    with pytest.raises(ValueError, match=r"0\.\.9"):
        CasiaWebFace(exemplars=10)
