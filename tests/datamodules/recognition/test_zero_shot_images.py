"""The proposed splits, crops that clicks follow, partners of the same class, and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from datamodules.base import DataError, Visit
from datamodules.recognition.zero_shot_images import (
    Clicks,
    ProposedSplit,
    Semantics,
    ZeroShotImages,
    cell_strings,
    numbered,
    read_matrix,
    string_cell,
    write_proposed_split,
)

NAMES = ["ant", "bee", "cat", "dog"]
LABELS = np.array([0, 0, 0, 1, 2, 2, 3, 3])  # one picture of the bee
FILES = [f"{NAMES[label]}/{number}.png" for number, label in enumerate(LABELS)]


class Gradients(ZeroShotImages):
    """Pictures 40 wide and 20 high whose red is the column and whose green is the picture's number."""

    name = "gradients"
    title = url = licence = "test"
    required = ("images/*/*.png", "xlsa17/data/G/att_splits.mat", "xlsa17/data/G/res101.mat")
    splits_folder = "xlsa17/data/G"
    pictures_folder = "images"

    def semantics(self, proposed: ProposedSplit) -> Semantics:
        return Semantics(("a", "b"), np.arange(8).reshape(4, 2) / 8)

    def clicks(self, proposed: ProposedSplit) -> Clicks:
        at = np.zeros((len(proposed.files), 2, 1, 3), np.float32)
        at[:, 0, 0] = [20, 10, 1]  # the centre of every picture
        return Clicks(("middle", "hidden"), at)

    @classmethod
    def render(cls, folder: Path) -> None:
        write(folder)


def write(folder: Path, **changes: Any) -> None:
    for number, file in enumerate(FILES):
        pixels = np.zeros((20, 40, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.arange(40) * 6, 20 * number
        path = folder / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    settings: dict[str, Any] = {
        "names": NAMES,
        "files": [f"/their/disk/images/{file}" for file in FILES],
        "labels": LABELS,
        "unseen": np.array([3]),
        "held_out": np.array([2]),
        "values": np.arange(8.0).reshape(4, 2) + 1,
    }
    write_proposed_split(folder / "xlsa17/data/G", **{**settings, **changes})


def test_classes_stand_in_groups(tmp_path: Path) -> None:
    write(tmp_path)
    data = Gradients(tmp_path, "real", resize=16)
    assert data.spec.classes == ("ant", "bee", "cat", "dog")
    assert (data.spec.seen, data.spec.held_out) == (3, 0)
    assert data.spec.image_size == (14, 14)
    assert len(data.split("val")) == 0
    assert [data.split("test")[i]["label"] for i in range(2)] == [3, 3]
    apart = Gradients(tmp_path, "real", resize=16, validation=True)
    assert (apart.spec.seen, apart.spec.held_out) == (2, 1)
    assert {apart.split("train")[i]["label"] for i in range(len(apart.split("train")))} == {0, 1}
    assert {apart.split("val")[i]["label"] for i in range(2)} == {2}
    assert apart.spec.values[3] == data.spec.values[3] == (0.75, 0.875)


def test_no_unseen_picture_is_trained_on(tmp_path: Path) -> None:
    write(tmp_path)
    data = Gradients(tmp_path, "real", resize=16)
    served = {data.split("train")[i]["id"] for i in range(len(data.split("train")))}
    assert served.isdisjoint({data.split("test")[i]["id"] for i in range(2)})
    splits = scipy.io.loadmat(tmp_path / "xlsa17/data/G/att_splits.mat")
    splits["test_unseen_loc"] = np.array([[7.0], [8.0], [1.0]])
    scipy.io.savemat(
        tmp_path / "xlsa17/data/G/att_splits.mat", {k: v for k, v in splits.items() if k[0] != "_"}
    )
    with pytest.raises(DataError, match="test_unseen_loc holds classes of another part: ant"):
        _ = Gradients(tmp_path, "real", resize=16).spec


def test_crops_are_random_in_training_and_central_elsewhere_and_clicks_follow(tmp_path: Path) -> None:
    write(tmp_path)
    data = Gradients(tmp_path, "real", resize=64)
    fixed = data.split("train")[0]
    # 40 x 20 becomes 64 x 64 and loses 4 on every side: the middle is at 32 - 4.
    assert fixed["image"].shape == (3, 56, 56)
    assert fixed["clicks"].tolist()[0] == [[28.0, 28.0, 1.0]]
    assert fixed["clicks"][1, 0, 2] == 0
    assert "view" not in fixed
    corners = set()
    for epoch in range(12):
        sample = data.split("train")[Visit(0, epoch)]
        x, y, _ = sample["clicks"][0, 0].tolist()
        corners.add((x, y))
        assert 24 <= x <= 32
        assert 24 <= y <= 32
        # Where the middle is clicked, the ramp has its middle value.
        assert sample["image"][0, 20, int(x)].item() * 255 == pytest.approx(20 * 6, abs=8)
    assert len(corners) > 4
    again = data.split("train")[Visit(0, 3)]
    assert torch.equal(again["image"], data.split("train")[Visit(0, 3)]["image"])
    assert not torch.equal(again["image"], data.split("train")[Visit(0, 4)]["image"])


def test_partners_are_other_pictures_of_the_class_or_the_only_one(tmp_path: Path) -> None:
    write(tmp_path)
    train = Gradients(tmp_path, "real", resize=64).split("train")
    numbers = [int(train[i]["id"].split("/")[1].split(".")[0]) for i in range(len(train))]
    for index, own in enumerate(numbers):
        partners = set()
        for epoch in range(15):
            sample = train[Visit(index, epoch)]
            partners.add(round(sample["partner"][1].mean().item() * 255 / 20))
            assert round(sample["view"][1].mean().item() * 255 / 20) == own
        same = {other for other in numbers if LABELS[other] == LABELS[own]}
        assert partners == (same - {own} or {own})


def test_what_is_not_asked_for_is_not_served_and_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    samples = [
        Gradients(tmp_path, "real", resize=64, pairs=p).split("train")[Visit(1, 2)]
        for p in ("none", "view", "partner")
    ]
    assert ["view" in s for s in samples] == [False, True, True]
    assert ["partner" in s for s in samples] == [False, False, True]
    assert all(torch.equal(s["image"], samples[0]["image"]) for s in samples)
    with pytest.raises(ValueError, match="pairs 'both'"):
        Gradients(tmp_path, "real", pairs="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 8"):
        Gradients(tmp_path, "real", resize=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": [f"/their/disk/pictures/{file}" for file in FILES]}, "not under images/"),
        ({"labels": np.array([0, 0, 0, 1, 2, 2, 3])}, "7 labels for 8 image_files"),
        ({"names": NAMES[:3], "values": np.ones((3, 2))}, r"labels 1\.\.4, but att_splits.mat names 3"),
        ({"unseen": np.array([9])}, "test_unseen_loc must hold indices"),
    ],
)
def test_wrong_splits_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        _ = Gradients(tmp_path, "real").proposed


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "xlsa17/data/G/res101.mat"
    scipy.io.savemat(file, {"labels": LABELS + 1})
    with pytest.raises(DataError, match=r"res101\.mat: has no variable 'image_files'"):
        _ = Gradients(tmp_path, "real").proposed
    file.write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(DataError, match=r"res101\.mat: cannot be read as a MATLAB file"):
        _ = Gradients(tmp_path, "real").proposed
    file.unlink()
    with pytest.raises(DataError, match=r"not found under .*res101\.mat"):
        _ = Gradients(tmp_path, "real").spec


def test_lists_and_matrices(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("  1\tantelope\n  2\tgrizzly+bear\n")
    assert numbered(file) == ["antelope", "grizzly+bear"]
    file.write_text("1 a\n3 b\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2: expected `2 <name>`"):
        numbered(file)
    file.write_text("1 2\n3\n")
    with pytest.raises(DataError, match="no matrix of numbers"):
        read_matrix(file)
    assert cell_strings(string_cell(["a", "bc"])) == ("a", "bc")


def test_a_miniature_is_always_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name)
    for file in ("att_splits.mat", "res101.mat"):
        paths = [tmp_path / name / "xlsa17/data/G" / file for name in ("a", "b")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert scipy.io.loadmat(paths[0])
