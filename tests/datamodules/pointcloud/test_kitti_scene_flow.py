"""KITTI scene flow: filters, axes and the mapping by hand, and that nobody can train on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError
from datamodules.pointcloud.flyingthings3d import write_npz
from datamodules.pointcloud.kitti_scene_flow import KittiOccluded, KittiSubset


def write_scene(root: Path, name: str, first: list[list[float]], second: list[list[float]]) -> None:
    folder = root / "KITTI_processed_occ_final" / name
    folder.mkdir(parents=True)
    np.save(folder / "pc1.npy", np.array(first, np.float32))
    np.save(folder / "pc2.npy", np.array(second, np.float32))


FIRST = [[1.0, 0.0, 10.0], [2.0, -1.5, 10.0], [3.0, -1.5, 10.0], [4.0, 0.0, 34.9], [5.0, 0.0, 35.5]]
SECOND = [[1.0, 0.0, 9.0], [2.0, -1.5, 9.0], [3.0, -1.3, 9.0], [4.0, 0.0, 35.1], [5.0, 0.0, 34.0]]


def test_ground_in_both_clouds_and_far_points_in_either_are_dropped(tmp_path: Path) -> None:
    write_scene(tmp_path, "000000", FIRST, SECOND)
    (tmp_path / "KITTI_mapping.txt").write_text("a b 1\n")
    sample = KittiSubset(tmp_path, "real").split("test")[0]
    # The second point is ground in both, the third in one only; the last two are too far in one.
    assert sorted(sample["first"][:, 0].tolist()) == [1.0, 3.0]
    rows = sample["first"][:, 0].argsort()
    torch.testing.assert_close(sample["flow"][rows], torch.tensor([[0.0, 0, -1], [0.0, 0.2, -1]]))
    assert sample["mask"].all()
    assert sorted(sample["match"].tolist()) == [0, 1]


def test_scenes_without_a_raw_drive_do_not_count(tmp_path: Path) -> None:
    for number in range(4):
        write_scene(tmp_path, f"{number:06d}", FIRST, SECOND)
    (tmp_path / "KITTI_mapping.txt").write_text("a b 1\n\n  \nc d 2\n")
    split = KittiSubset(tmp_path, "real", draws=2).split("test")
    assert [split[number]["id"] for number in range(4)] == ["000000#0", "000003#0", "000000#1", "000003#1"]
    (tmp_path / "KITTI_mapping.txt").write_text("a b 1")
    with pytest.raises(DataError, match=r"has 1 lines, none for scene 000001"):
        KittiSubset(tmp_path, "real").split("test")
    (tmp_path / "KITTI_mapping.txt").unlink()
    with pytest.raises(DataError, match=r"KITTI_mapping\.txt"):
        KittiSubset(tmp_path, "real").split("test")


def test_columns_are_brought_into_order_and_each_cloud_cut_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "kitti_rm_ground"
    folder.mkdir()
    # Forwards, side, up.
    first = np.array([[10.0, 1.0, 0.5], [36.0, 2.0, 0.5]], np.float32)
    second = np.array([[9.0, 1.0, 0.5], [40.0, 2.0, 0.5], [34.0, 3.0, 0.5]], np.float32)
    flow = np.array([[-1.0, 0.2, 0.1], [5.0, 0.0, 0.0]], np.float32)
    write_npz(folder / "000007.npz", pos1=first, pos2=second, gt=flow)
    sample = KittiOccluded(tmp_path, "real").split("test")[0]
    assert sample["first"].tolist() == [[1.0, 0.5, 10.0]]
    assert sorted(sample["second"].tolist()) == [[1.0, 0.5, 9.0], [3.0, 0.5, 34.0]]
    torch.testing.assert_close(sample["flow"], torch.tensor([[0.2, 0.1, -1.0]]))
    write_npz(folder / "000007.npz", pos1=first[1:], pos2=second, gt=flow[1:])
    with pytest.raises(DataError, match=r"000007\.npz: no point within 35 m"):
        KittiOccluded(tmp_path, "real").split("test")[0]
    write_npz(folder / "000007.npz", pos1=first, pos2=second)
    with pytest.raises(DataError, match="no gt; it holds pos1, pos2"):
        KittiOccluded(tmp_path, "real").split("test")[0]


@pytest.mark.parametrize("cls", [KittiSubset, KittiOccluded])
def test_nobody_trains_on_it(cls: type[KittiSubset], cache: Path) -> None:
    data = cls(points=64, cache=cache)
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(DataError, match="trained_on: flyingthings3d-s"):
            loader()
    assert not data.spec.matched


@pytest.mark.parametrize("cls", [KittiSubset, KittiOccluded])
def test_the_miniature_has_40_scenes_without_ground(cls: type[KittiSubset], cache: Path) -> None:
    data = cls(points=64, draws=2, cache=cache)
    data.prepare_data()
    assert not data.missing()
    assert len(data.split("test")) == 80
    for batch in data.test_dataloader():
        assert batch["first"].shape == (4, 64, 3)
        assert batch["mask"].all()
        assert float(batch["first"][..., 2].max()) < 35
        assert float(batch["first"][..., 1].min()) > -1.45
