from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from datamodules.base import DataError
from datamodules.dense.pascal_voc import CLASSES, SBD, VOC, VOID, PascalVOC, read_palette_png, voc_palette
from datamodules.miniature import scenes


@pytest.fixture(scope="module")
def rendered(cache: Path) -> Path:
    data = PascalVOC(cache=cache)
    data.prepare_data()
    return data.root


@pytest.fixture
def copy(rendered: Path, tmp_path: Path) -> Path:
    """A writable copy of the rendered files, to be read as real ones."""
    return Path(shutil.copytree(rendered, tmp_path / "root"))


def test_splits_are_disjoint_and_of_the_published_kind(cache: Path, rendered: Path) -> None:
    data = PascalVOC(cache=cache)
    train, val, test = (set(data.ids(split)) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (120, 8, 40)
    assert not train & (val | test)
    assert not val & test
    sbd_train = set((rendered / SBD / "train.txt").read_text().split())
    assert not test & sbd_train
    assert val <= sbd_train
    voc_val = set((rendered / VOC / "ImageSets/Segmentation/val.txt").read_text().split())
    assert voc_val == val | test


def test_train_sets(cache: Path, rendered: Path) -> None:
    trainaug, merged, voc = (
        set(PascalVOC(cache=cache, train_set=name).ids("train")) for name in ("trainaug", "merged", "voc")
    )
    test = set(PascalVOC(cache=cache).ids("test"))
    assert len(voc) == 90
    assert voc < trainaug
    assert merged & set(PascalVOC(cache=cache).ids("val"))
    assert len(merged) == 90 + 20 + 8
    assert not merged & test
    with pytest.raises(ValueError, match="train_set"):
        PascalVOC(cache=cache, train_set="all")  # type: ignore[arg-type]


def test_samples_follow_the_contract(cache: Path) -> None:
    data = PascalVOC(cache=cache, batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["image"].dtype == torch.float32
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert batch["mask"].shape == (4, 64, 64)
    assert batch["mask"].dtype == torch.int64
    labels = torch.cat([sample["mask"].flatten() for sample in data.split("test")]).unique().tolist()
    assert labels == [0, 1, 2, 3, 4, 5, VOID]
    assert data.spec.classes == scenes.CLASSES
    assert len(data.spec.palette) == 6


def test_pictures_without_voc_labels_come_from_sbd(cache: Path, rendered: Path) -> None:
    samples = {sample["id"]: sample for sample in PascalVOC(cache=cache).split("train")}
    identifier = "2008_000003"
    assert not (rendered / VOC / "SegmentationClass" / f"{identifier}.png").exists()
    truth = loadmat(rendered / SBD / "cls" / f"{identifier}.mat")["GTcls"][0, 0]["Segmentation"]
    assert torch.equal(samples[identifier]["mask"], torch.from_numpy(truth.astype(np.int64)))
    assert not (samples[identifier]["mask"] == VOID).any(), "SBD has no void"
    # Where both label a picture, VOC's outlines with their void ring are taken.
    assert (rendered / SBD / "cls" / "2007_000000.mat").exists()
    assert (samples["2007_000000"]["mask"] == VOID).any()


def test_statistics_are_fixed_to_the_place(cache: Path) -> None:
    for sample in PascalVOC(cache=cache).split("test"):
        upper, lower = sample["mask"][:32], sample["mask"][32:]
        assert not ((upper >= 3) & (upper <= 5)).any()
        assert not ((lower == 1) | (lower == 2)).any()


def test_rendering_is_deterministic(rendered: Path, tmp_path: Path) -> None:
    PascalVOC.render(tmp_path)
    files = [path for path in rendered.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert len(files) > 300
    for path in files:
        assert (tmp_path / path.relative_to(rendered)).read_bytes() == path.read_bytes(), path


def test_palette_is_vocs() -> None:
    palette = voc_palette()
    assert palette[:6] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert palette[20] == (0, 64, 128)
    assert palette[255] == (224, 224, 192)
    assert len(set(palette)) == 256


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_any_folder_of_the_layout_is_a_root(copy: Path, inside: str) -> None:
    data = PascalVOC(copy / inside, "real")
    data.prepare_data()
    assert len(data.ids("test")) == 40
    assert data.spec.classes == CLASSES
    assert len(CLASSES) == 21
    assert data.split("train")[0]["mask"].max() <= VOID
    assert data.data_version() == PascalVOC(copy, "real").data_version()


def test_missing_files_are_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="benchmark_RELEASE"):
        PascalVOC(tmp_path / "nowhere", "real").prepare_data()
    data = PascalVOC(copy, "real")
    first = data.ids("test")[0]
    (copy / VOC / "SegmentationClass" / f"{first}.png").unlink()
    with pytest.raises(DataError, match=f"{first}: labelled neither"):
        data.split("test")[0]
    (copy / VOC / "JPEGImages" / f"{first}.jpg").unlink()
    with pytest.raises(DataError, match=rf"{first}\.jpg"):
        data.split("test")[0]
    (copy / SBD / "train.txt").unlink()
    with pytest.raises(DataError, match=r"train\.txt"):
        PascalVOC(copy, "real").prepare_data()


def test_labels_in_true_colour_are_refused(copy: Path) -> None:
    data = PascalVOC(copy, "real")
    path = copy / VOC / "SegmentationClass" / f"{data.ids('test')[0]}.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(DataError, match="mode RGB"):
        data.split("test")[0]
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(path)
    assert (read_palette_png(path) == 7).all()
    with pytest.raises(DataError, match=r"shape \(4, 4\).*\(64, 64\)"):
        data.split("test")[0]
    Image.fromarray(np.full((64, 64), 21, np.uint8)).save(path)
    with pytest.raises(DataError, match=r"labels \[21\]"):
        data.split("test")[0]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="not a readable PNG"):
        data.split("test")[0]


def test_broken_sbd_files_are_refused(copy: Path) -> None:
    data = PascalVOC(copy, "real")
    index = data.ids("train").index("2008_000000")
    path = copy / SBD / "cls" / "2008_000000.mat"
    savemat(path, {"GTinst": np.zeros((2, 2))})
    with pytest.raises(DataError, match=r"no GTcls\.Segmentation"):
        data.split("train")[index]
    savemat(path, {"GTcls": {"Segmentation": np.zeros((64, 64))}})
    with pytest.raises(DataError, match="float64"):
        data.split("train")[index]
    path.write_bytes(b"MATLAB")
    with pytest.raises(DataError, match="not a readable MATLAB file"):
        data.split("train")[index]


def test_a_truncated_picture_is_refused(copy: Path) -> None:
    data = PascalVOC(copy, "real")
    path = copy / VOC / "JPEGImages" / f"{data.ids('test')[0]}.jpg"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="not a readable picture"):
        data.split("test")[0]
