"""Set5: pairs of the miniature and the real five, damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from datamodules.base import DataError
from datamodules.restoration.set5 import Set5, Set5x3, Set5x4


@pytest.mark.parametrize(("dataset", "factor"), [(Set5, 2), (Set5x3, 3), (Set5x4, 4)])
def test_miniature_pairs(cache: Path, dataset: type, factor: int) -> None:
    data = dataset(cache=cache)
    data.prepare_data()
    assert (data.spec.factor, data.spec.image_size, data.spec.exemplars) == (factor, (0, 0), 0)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [0, 0, 5]
    for batch in data.test_dataloader():
        height, width = batch["high"].shape[-2:]
        assert batch["low"].shape == (1, 3, height // factor, width // factor)
        assert batch["exemplars"].shape == (1, 0, 3, height, width)
    assert data.split("test")[0]["id"] == f"img_001_SRF_{factor}"


def test_factor_option(cache: Path) -> None:
    assert Set5(cache=cache, factor=4).spec.factor == 4
    with pytest.raises(ValueError, match="not 5"):
        Set5(cache=cache, factor=5)


def test_renders_the_same_bytes_each_time(cache: Path, tmp_path: Path) -> None:
    data = Set5(cache=cache)
    data.prepare_data()
    Set5.render(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert len(files) == 30
    assert all((tmp_path / file).read_bytes() == (data.root / file).read_bytes() for file in files)


def test_damaged_files_are_named(cache: Path, tmp_path: Path) -> None:
    source = Set5(cache=cache)
    source.prepare_data()
    root = tmp_path / "Set5"
    shutil.copytree(source.root, root)
    low = root / "image_SRF_2/img_002_SRF_2_LR.png"
    shutil.copy(root / "image_SRF_2/img_001_SRF_2_LR.png", low)
    data = Set5(tmp_path, "real")
    with pytest.raises(DataError, match=r"img_002_SRF_2_HR\.png: is \(48, 48\) pixels, expected 2 times"):
        data.split("test")[1]
    low.write_bytes(low.read_bytes()[:40])
    with pytest.raises(DataError, match=r"img_002_SRF_2_LR\.png: cannot be read"):
        data.split("test")[1]
    low.unlink()
    with pytest.raises(DataError, match="is missing beside"):
        Set5(tmp_path, "real").split("test")


def test_real_pairs(real_data: Path) -> None:
    data = Set5x3(real_data, "real")
    data.prepare_data()
    shapes = [tuple(sample["high"].shape[1:]) for sample in (data.split("test")[i] for i in range(5))]
    assert shapes == [(510, 510), (288, 288), (255, 255), (279, 279), (342, 228)]
