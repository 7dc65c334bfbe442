"""Nuclei of colon tissue: bmp and .mat files, patches, folds, stain jitter, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from skimage.color import hed2rgb, rgb2hed

from datamodules.base import DataError, Visit
from datamodules.miniature.nuclei import draw_tissue
from datamodules.recognition.colon_nuclei import (
    FOLDS,
    TYPES,
    ColonNuclei,
    jitter_stains,
    patches_around,
    read_centres,
    turned,
)


@pytest.fixture
def few(cache: Path, tmp_path: Path) -> Path:
    """A real root with ten pictures that a test may damage."""
    data = ColonNuclei(cache=cache)
    data.prepare_data()
    home = tmp_path / "root" / "CRCHistoPhenotypes_2016_04_28"
    for number in range(1, 11):
        part = Path("Classification") / f"img{number}"
        shutil.copytree(data.root / part, home / part)
    return tmp_path / "root"


def test_the_miniature_is_balanced_and_typed(cache: Path) -> None:
    data = ColonNuclei(cache=cache, fold=2)
    assert data.spec.instance_classes == TYPES
    assert data.spec.witnesses == (0,)
    assert data.spec.rule == "presence"
    splits = {split: data.split(split) for split in ("train", "val", "test")}
    assert {split: len(bags) for split, bags in splits.items()} == {"train": 72, "val": 8, "test": 20}
    labels = [splits["train"][index]["label"] for index in range(72)]
    assert 25 < sum(labels) < 47
    sample = splits["test"][0]
    size = len(sample["instance_label"])
    assert sample["instances"].shape == (size, 3, 27, 27)
    assert sample["instances"].dtype == torch.float32
    assert sample["label"] == int((sample["instance_label"] == 0).any())
    assert all(5 < len(bag["types"]) <= 41 for bag in splits["train"].bags)
    assert data.verify() == []


def test_folds_are_disjoint_and_follow_the_seed(cache: Path) -> None:
    tested = []
    for fold in range(FOLDS):
        data = ColonNuclei(cache=cache, fold=fold)
        parts = {split: {path.name for path in data.folders(split)} for split in ("train", "val", "test")}
        assert not parts["train"] & parts["val"]
        assert not (parts["train"] | parts["val"]) & parts["test"]
        tested += sorted(parts["test"])
    assert len(tested) == len(set(tested)) == 100
    assert ColonNuclei(cache=cache, seed=8).folders("test") == ColonNuclei(cache=cache, fold=3).folders(
        "test"
    )
    with pytest.raises(ValueError, match="fold"):
        ColonNuclei(fold=5)


def test_rendering_is_repeatable(cache: Path, tmp_path: Path) -> None:
    data = ColonNuclei(cache=cache)
    data.prepare_data()
    picture, centres = draw_tissue(epithelial=True, random=np.random.default_rng(1))
    again, _ = draw_tissue(epithelial=True, random=np.random.default_rng(1))
    assert np.array_equal(picture, again)
    assert "epithelial" in centres
    assert "epithelial" not in draw_tissue(epithelial=False, random=np.random.default_rng(1))[1]
    head = (data.root / "Classification/img3/img3_others.mat").read_bytes()[:116]
    assert head == b"MATLAB 5.0 MAT-file".ljust(116)  # no time of writing


def test_patches_are_centred_and_mirrored_at_the_border() -> None:
    picture = np.arange(50 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(50, 60, 3)
    found = patches_around(picture, np.array([[31.0, 21.0], [1.0, 1.0], [60.4, 50.0]]))
    assert found.shape == (3, 27, 27, 3)
    assert np.array_equal(found[0], picture[7:34, 17:44])  # x is the column, from 1
    assert np.array_equal(found[1][13:, 13:], picture[:14, :14])
    assert np.array_equal(found[1][12], found[1][14])
    assert np.array_equal(found[2][:14, :14], picture[36:50, 46:60])


def test_stain_jitter_against_scikit_image() -> None:
    random = np.random.default_rng(0)
    patches = random.uniform(0.3, 0.9, (4, 5, 5, 3))
    same = jitter_stains(patches, np.ones(3), np.zeros(3))
    np.testing.assert_allclose(same, patches, atol=1e-6)
    factor, shift = np.array([1.1, 0.9, 1.0]), np.array([0.005, 0.003, 0.0])
    stains = rgb2hed(patches)
    positive = (stains > 0).all(-1) & ((stains * factor + shift) > 0).all(-1)
    expected = hed2rgb(stains * factor + shift)
    assert positive.sum() > 10
    np.testing.assert_allclose(jitter_stains(patches, factor, shift)[positive], expected[positive], atol=1e-5)


def test_turns_keep_the_pixels_of_each_patch() -> None:
    random = np.random.default_rng(0)
    patches = random.random((40, 5, 5, 3))
    out = turned(patches, random)
    np.testing.assert_allclose(np.sort(out.reshape(40, -1)), np.sort(patches.reshape(40, -1)))
    ways = {
        (quarter, mirror)
        for patch, now in zip(patches, out, strict=True)
        for quarter in range(4)
        for mirror in (1, -1)
        if np.array_equal(np.rot90(patch[:, ::mirror], quarter), now)
    }
    assert len(ways) == 8


def test_training_changes_patches_and_order_and_tests_do_not(cache: Path) -> None:
    data = ColonNuclei(cache=cache, fold=0)
    train, test = data.split("train"), data.split("test")
    first, second = (train[Visit(0, epoch)] for epoch in (0, 1))
    assert first["label"] == second["label"]
    assert sorted(first["instance_label"].tolist()) == sorted(second["instance_label"].tolist())
    assert not torch.equal(first["instances"], second["instances"])
    assert torch.equal(test[Visit(0, 0)]["instances"], test[Visit(0, 1)]["instances"])
    plain = ColonNuclei(cache=cache, fold=0, augment=False, shuffle=False).split("train")
    assert torch.equal(plain[Visit(0, 0)]["instances"], plain[Visit(0, 1)]["instances"])
    # In the files nuclei stand type by type; in a bag they don't.
    mixed = [sample["instance_label"] for sample in (test[index] for index in range(20))]
    assert any((types.diff() < 0).any() for types in mixed)


def test_real_layout_and_a_picture_without_nuclei(few: Path) -> None:
    home = few / "CRCHistoPhenotypes_2016_04_28" / "Classification" / "img10"
    for kind in TYPES:
        savemat(home / f"img10_{kind}.mat", {"detection": np.empty((0, 0))})
    bags = [bag for fold in range(FOLDS) for bag in ColonNuclei(few, "real", fold=fold).split("test").bags]
    assert len(bags) == 9


def test_broken_files_are_named(few: Path) -> None:
    folder = few / "CRCHistoPhenotypes_2016_04_28" / "Classification"

    def read_all() -> None:
        for fold in range(FOLDS):
            ColonNuclei(few, "real", fold=fold).split("test")

    path = folder / "img4" / "img4_others.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    with pytest.raises(DataError, match=r"img4_others\.mat: cannot be read as a \.mat file"):
        read_all()
    savemat(path, {"points": np.ones((2, 2))})
    with pytest.raises(DataError, match=r"img4_others\.mat has no variable 'detection', only points"):
        read_all()
    savemat(path, {"detection": np.ones((2, 3))})
    with pytest.raises(DataError, match=r"img4_others\.mat: 'detection' must be \[n, 2\].*\(2, 3\)"):
        read_all()
    savemat(path, {"detection": np.array([[20.0, 161.0]])})
    with pytest.raises(DataError, match=r"img4_others\.mat: centres .* outside the picture of 160 x 160"):
        read_all()
    savemat(path, {"detection": "text"})
    with pytest.raises(DataError, match=r"img4_others\.mat: 'detection' must hold numbers"):
        read_all()
    path.write_bytes(whole)
    picture = folder / "img4" / "img4.bmp"
    picture.write_bytes(picture.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"img4\.bmp: cannot be read as a picture"):
        read_all()
    Image.new("RGB", (160, 160)).save(picture)
    path.unlink()
    with pytest.raises(DataError, match=r"img4_others\.mat is missing"):
        read_centres(path)
    with pytest.raises(DataError, match="Classification/img"):
        ColonNuclei(few / "elsewhere", "real").prepare_data()
