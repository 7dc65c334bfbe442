"""KITTI scene flow 2015 as pairs of point clouds, in two published preparations. Test only: nobody trains on them.

Axes as served: x to the side, y up, z forwards, metres, as FlyingThings3D's.

kitti-s (of HPLFlowNet): `KITTI_processed_occ_final/000NNN/{pc1,pc2}.npy`, float32 [N, 3] each, index-aligned. Of the
200 scenes those count that come from a known raw drive (142): line NNN + 1 of `KITTI_mapping.txt` names it, or is
empty. (The file comes with the code of HPLFlowNet and FLOT; it is KITTI's own `train_mapping.txt`.) Points with
y < -1.4 m in both clouds are ground and dropped; those with z < 35 m in both are kept.
kitti-o (of FlowNet3D): `kitti_rm_ground/*.npz` (150) with pos1, pos2 and gt (the flow), columns forwards, side, up,
which are reordered (1, 2, 0). The ground was removed in preparation; z < 35 m is kept in each cloud. All flows count.

`points` and `draws` as in FlyingThings3D: n random points of the full scene in one pass, not in chunks.

Miniature: 40 scenes of streets (`datamodules/miniature/moving_solids.py`); kitti-s has four more without a mapping.

Licence: CC BY-NC-SA 3.0.
Citation: Menze et al., Object Scene Flow, ISPRS Journal of Photogrammetry and Remote Sensing 2018; Gu et al.,
HPLFlowNet, CVPR 2019; Liu et al., FlowNet3D, CVPR 2019.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature import moving_solids
from datamodules.pointcloud.flyingthings3d import (
    Scene,
    SceneFlowPairs,
    read_aligned,
    read_pair,
    write_npz,
)

GROUND, REACH = -1.4, 35.0
TO_SERVED = (1, 2, 0)
MINI_SCENES, MINI_UNMAPPED, MINI_POINTS = 40, 4, 3072


class KittiSceneFlow(SceneFlowPairs):
    """What both preparations share: a test split, and no other."""

    url = "https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php"
    licence = "CC BY-NC-SA 3.0"

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        if split != "test":
            raise DataError(
                f"{self.name} has no {split} split: methods train on FlyingThings3D and are only tested here. "
                "In a suite write `trained_on: flyingthings3d-s` (or -o) for this dataset."
            )
        return super().read(split)


class KittiSubset(KittiSceneFlow):
    """HPLFlowNet's preparation."""

    name = "kitti-s"
    title = "KITTI scene flow 2015, prepared as in HPLFlowNet"
    required = (
        "KITTI_processed_occ_final/*/pc1.npy",
        "KITTI_processed_occ_final/*/pc2.npy",
        "KITTI_mapping.txt",
    )

    def scenes(self, split: Split) -> list[tuple[str, Path]]:
        mapping = self.root / "KITTI_mapping.txt"
        lines = [line.strip() for line in mapping.read_text().split("\n")]
        found = []
        for path in sorted((self.root / "KITTI_processed_occ_final").glob("*/pc1.npy")):
            folder = path.parent
            if not folder.name.isdigit():
                raise DataError(f"{folder} must be named by its scene's number, as 000042")
            if int(folder.name) >= len(lines):
                raise DataError(
                    f"{mapping} has {len(lines)} lines, none for scene {folder.name}: fetch it again"
                )
            if lines[int(folder.name)]:
                found.append((folder.name, folder))
        return found

    def load(self, path: Path) -> Scene:
        first, second = read_aligned(path)
        kept = ~((first[:, 1] < GROUND) & (second[:, 1] < GROUND))
        kept &= (first[:, 2] < REACH) & (second[:, 2] < REACH)
        if not kept.any():
            raise DataError(
                f"{path}: no point above the ground and within {REACH:.0f} m; are the axes x, y, z?"
            )
        first, second = first[kept], second[kept]
        return Scene(first, second, second - first, np.ones(len(first), bool), aligned=True)

    @classmethod
    def render(cls, folder: Path) -> None:
        lines = []
        for number in range(MINI_SCENES + MINI_UNMAPPED):
            rng = random_generator("kitti-s", number)
            solids, ego = moving_solids.street_scene(rng), moving_solids.ego_motion(rng)
            pair = moving_solids.aligned_pair(solids, ego, MINI_POINTS, rng)
            home = folder / "KITTI_processed_occ_final" / f"{number:06d}"
            home.mkdir(parents=True)
            np.save(home / "pc1.npy", pair.first.astype(np.float32))
            np.save(home / "pc2.npy", pair.second.astype(np.float32))
            mapped = number % 11 != 5  # 5, 16, 27, 38
            lines.append(f"2011_09_26 2011_09_26_drive_{number:04d}_sync 0000000010" if mapped else "")
        (folder / "KITTI_mapping.txt").write_text("\n".join(lines) + "\n")


class KittiOccluded(KittiSceneFlow):
    """FlowNet3D's preparation."""

    name = "kitti-o"
    title = "KITTI scene flow 2015, prepared as in FlowNet3D"
    required = ("kitti_rm_ground/*.npz",)

    def scenes(self, split: Split) -> list[tuple[str, Path]]:
        return [(path.stem, path) for path in sorted((self.root / "kitti_rm_ground").glob("*.npz"))]

    def load(self, path: Path) -> Scene:
        first, second, flow = (values[:, TO_SERVED] for values in read_pair(path, ("pos1", "pos2", "gt")))
        near = first[:, 2] < REACH
        first, flow, second = first[near], flow[near], second[second[:, 2] < REACH]
        if not len(first) or not len(second):
            raise DataError(f"{path}: no point within {REACH:.0f} m; are the columns forwards, side, up?")
        return Scene(first, second, flow, np.ones(len(first), bool), aligned=False)

    @classmethod
    def render(cls, folder: Path) -> None:
        home = folder / "kitti_rm_ground"
        home.mkdir(parents=True)
        to_file = np.argsort(TO_SERVED)
        for number in range(MINI_SCENES):
            rng = random_generator("kitti-o", number)
            solids, ego = moving_solids.street_scene(rng), moving_solids.ego_motion(rng)
            solids = [solid for solid in solids if solid.shape != "ground"]
            pair = moving_solids.occluded_pair(solids, ego, MINI_POINTS // 3, rng)
            write_npz(
                home / f"{number:06d}.npz",
                pos1=pair.first[:, to_file].astype(np.float32),
                pos2=pair.second[:, to_file].astype(np.float32),
                gt=pair.flow[:, to_file].astype(np.float32),
            )
