"""SemanticKITTI: the miniature in the published layout, real samples, and every way a file can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError, random_generator
from datamodules.miniature import lidar
from datamodules.pointcloud import semantic_kitti
from datamodules.pointcloud.semantic_kitti import (
    CLASSES,
    LEARNING_MAP,
    PALETTE,
    PUBLISHED_RATIOS,
    RAW_IDS,
    TRAIN_SEQUENCES,
    SemanticKITTI,
    read_label,
    read_points,
    write_predictions,
)


def write_scan(sequences: Path, sequence: str, number: int, raw: list[int] | None, points: int = 3) -> Path:
    scan = sequences / sequence / "velodyne" / f"{number:06d}.bin"
    scan.parent.mkdir(parents=True, exist_ok=True)
    np.arange(4 * points, dtype="<f4").tofile(scan)
    if raw is not None:
        label = sequences / sequence / "labels" / f"{number:06d}.label"
        label.parent.mkdir(exist_ok=True)
        np.array(raw, dtype="<u4").tofile(label)
    return scan


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one scan of 00 and one of 08."""
    sequences = tmp_path / "SemanticKITTI" / "dataset" / "sequences"
    write_scan(sequences, "00", 0, [40, 252 | 7 << 16, 1])
    write_scan(sequences, "08", 0, [60, 99, 81])
    return tmp_path


def sequences_of(root: Path) -> Path:
    return root / "SemanticKITTI" / "dataset" / "sequences"


# Facts.


def test_the_learning_map_goes_there_and_back() -> None:
    assert [LEARNING_MAP[raw] for raw in RAW_IDS] == list(range(20))
    assert len(CLASSES) == len(PALETTE) == len(RAW_IDS) == 20
    assert CLASSES[LEARNING_MAP[252]] == "car"
    assert CLASSES[LEARNING_MAP[258]] == "truck"
    assert {CLASSES[LEARNING_MAP[raw]] for raw in (13, 16, 256, 257, 259)} == {"other-vehicle"}
    assert CLASSES[LEARNING_MAP[60]] == "road"
    assert {LEARNING_MAP[raw] for raw in (0, 1, 52, 99)} == {0}


def test_published_ratios_are_shares_of_the_training_points() -> None:
    assert set(PUBLISHED_RATIOS) == set(LEARNING_MAP)
    assert sum(PUBLISHED_RATIOS.values()) == pytest.approx(1.0, abs=1e-5)
    counts = np.array(list(PUBLISHED_RATIOS.values())) * 2_349_559_532
    assert np.abs(counts - counts.round()).max() < 1e-3  # whole points


# The miniature.


def test_the_miniature_has_the_published_layout(cache: Path) -> None:
    data = SemanticKITTI(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [24, 8, 8]
    names = {file.parent.parent.name for file in data.split("train").files}
    assert names == set(TRAIN_SEQUENCES)
    assert {sample["id"] for sample in data.split("val")} == {f"08/{k:06d}" for k in range(8)}
    assert (data.sequences / "00" / "calib.txt").is_file()
    assert not (data.sequences / "11" / "labels").exists()


def test_the_miniature_is_deterministic(cache: Path) -> None:
    data = SemanticKITTI(cache=cache)
    data.prepare_data()
    points, label = lidar.render_scan(random_generator("lidar", "08", 3))
    scan = data.sequences / "08" / "velodyne" / "000003.bin"
    assert scan.read_bytes() == points.tobytes()
    assert semantic_kitti.label_file(scan).read_bytes() == label.tobytes()


def test_batches_hold_what_the_task_says(cache: Path) -> None:
    data = SemanticKITTI(cache=cache, batch_size=3)
    batch = next(iter(data.train_dataloader()))
    total = len(batch["points"])
    assert batch["points"].shape == (total, 4)
    assert batch["points"].dtype == torch.float32
    assert batch["scan"].shape == batch["label"].shape == (total,)
    assert batch["scan"].dtype == batch["label"].dtype == torch.int64
    assert len(batch["id"]) == 3
    assert batch["scan"].unique().tolist() == [0, 1, 2]
    assert bool((batch["scan"].diff() >= 0).all())
    assert int(batch["label"].min()) >= 0
    assert int(batch["label"].max()) <= 19


def test_the_spec_states_the_training_points(cache: Path) -> None:
    data = SemanticKITTI(cache=cache)
    spec = data.spec
    assert (spec.beams, spec.azimuths, spec.fov_up, spec.fov_down) == (32, 512, 3.0, -25.0)
    label = torch.cat([sample["label"] for sample in data.split("train")])
    counted = torch.bincount(label, minlength=20).double() / len(label)
    assert spec.class_frequency == pytest.approx(counted.tolist())
    assert spec.class_frequency.index(max(spec.class_frequency)) == CLASSES.index("road")
    points = torch.cat([sample["points"] for sample in data.split("train")]).double()
    features = torch.cat([points[:, :3].norm(dim=1, keepdim=True), points], dim=1)
    assert spec.mean == pytest.approx(features.mean(dim=0).tolist(), abs=1e-4)
    assert spec.std == pytest.approx(features.std(dim=0).tolist(), abs=1e-3)
    assert type(spec).from_json(spec.to_json()) == spec


def test_options_choose_scans(cache: Path) -> None:
    few = SemanticKITTI(cache=cache, max_train_scans=5)
    assert len(few.split("train")) == 5
    assert len({file.parent.parent.name for file in few.split("train").files}) == 5  # spread over sequences
    assert len(few.split("val")) == 8
    held = SemanticKITTI(cache=cache, val_sequences=["09", "10"])
    assert {sample["id"][:2] for sample in held.split("val")} == {"09", "10"}
    assert {file.parent.parent.name for file in held.split("train").files} == set(TRAIN_SEQUENCES) - {
        "09",
        "10",
    }
    assert {file.parent.parent.name for file in held.split("test").files} == {"08"}


def test_hidden_sequences_come_without_truth(cache: Path) -> None:
    data = SemanticKITTI(cache=cache, test_sequences="hidden")
    (sample,) = list(data.split("test"))
    assert sample["id"] == "11/000000"
    assert int(sample["label"].max()) == 0
    assert len(sample["points"]) == len(sample["label"]) > 10_000


def test_wrong_options_are_refused(cache: Path) -> None:
    with pytest.raises(ValueError, match="val_sequences"):
        SemanticKITTI(cache=cache, val_sequences=["11"])
    with pytest.raises(ValueError, match="max_train_scans"):
        SemanticKITTI(cache=cache, max_train_scans=0)
    with pytest.raises(ValueError, match="test_sequences"):
        SemanticKITTI(cache=cache, test_sequences="val2")  # type: ignore[arg-type]


def test_published_ratios_serve_the_whole_training_set(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = SemanticKITTI(cache=cache).spec.class_frequency
    monkeypatch.setattr(semantic_kitti, "COUNTED_SCANS", 20)
    published = SemanticKITTI(cache=cache).spec.class_frequency
    assert sum(published) == pytest.approx(1.0)
    assert published[CLASSES.index("car")] == pytest.approx(0.042608, abs=1e-6)  # 10 and 252
    assert published[CLASSES.index("vegetation")] == pytest.approx(0.266815, abs=1e-6)
    # Where a sequence is absent, counting goes on, over 20 of the 22 scans.
    partial = SemanticKITTI(cache=cache, val_sequences=["10"]).spec.class_frequency
    assert partial != published
    assert partial[CLASSES.index("road")] == pytest.approx(counted[CLASSES.index("road")], abs=0.05)


# Files.


@pytest.mark.parametrize("layout", ["SemanticKITTI/dataset", "dataset", "."])
def test_three_layouts_are_the_same_data(
    root: Path, tmp_path_factory: pytest.TempPathFactory, layout: str
) -> None:
    here = tmp_path_factory.mktemp("layout")
    shutil.copytree(sequences_of(root), here / layout / "sequences")
    data = SemanticKITTI(here, "real")
    data.prepare_data()
    (sample,) = list(data.split("train"))
    assert sample["label"].tolist() == [9, 1, 0]
    assert sample["points"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    (sample,) = list(data.split("test"))
    assert sample["label"].tolist() == [9, 0, 19]
    assert data.data_version() == SemanticKITTI(root, "real").data_version()
    assert data.spec.class_frequency[9] == pytest.approx(1 / 3)
    assert data.spec.mean == semantic_kitti.REAL_MEAN


def test_an_empty_root_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)dataset/sequences/\*/velodyne.*semantic-kitti\.org.*CC BY-NC-SA"
    ):
        SemanticKITTI(tmp_path, "real").prepare_data()


def test_a_split_without_scans_is_named(root: Path) -> None:
    shutil.rmtree(sequences_of(root) / "08")
    data = SemanticKITTI(root, "real")
    with pytest.raises(DataError, match="no scans of the val split"):
        data.split("val")


def test_a_scan_that_is_cut_off_is_named(root: Path) -> None:
    scan = sequences_of(root) / "00" / "velodyne" / "000000.bin"
    scan.write_bytes(scan.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"000000\.bin: 45 bytes, expected a positive multiple of 16"):
        SemanticKITTI(root, "real").split("train")[0]
    scan.write_bytes(b"")
    with pytest.raises(DataError, match=r"000000\.bin: 0 bytes"):
        read_points(scan)


def test_points_that_are_not_finite_are_refused(root: Path) -> None:
    scan = sequences_of(root) / "00" / "velodyne" / "000000.bin"
    np.array([0, 1, np.nan, 0], dtype="<f4").tofile(scan)
    with pytest.raises(DataError, match="1 of 1 points are not finite"):
        read_points(scan)


def test_a_missing_label_file_is_named_when_the_split_opens(root: Path) -> None:
    (sequences_of(root) / "00" / "labels" / "000000.label").unlink()
    with pytest.raises(DataError, match=r"000000\.bin has no label file; expected .*00/labels/000000\.label"):
        SemanticKITTI(root, "real").split("train")
    with pytest.raises(DataError, match="missing"):
        read_label(sequences_of(root) / "00" / "labels" / "000000.label", 3)


def test_another_number_of_labels_is_refused(root: Path) -> None:
    write_scan(sequences_of(root), "00", 0, [40, 40])
    with pytest.raises(DataError, match=r"000000\.label: 8 bytes are 2 labels .* but the scan has 3 points"):
        SemanticKITTI(root, "real").split("train")[0]


def test_an_unknown_raw_class_is_refused(root: Path) -> None:
    write_scan(sequences_of(root), "00", 0, [40, 40, 12])
    with pytest.raises(DataError, match=r"000000\.label: raw classes \[12\]"):
        SemanticKITTI(root, "real").split("train")[0]


def test_predictions_are_written_as_the_benchmark_reads_them(tmp_path: Path) -> None:
    label = torch.arange(20)
    file = write_predictions(tmp_path, "11/000042", label, RAW_IDS)
    assert file == tmp_path / "sequences" / "11" / "predictions" / "000042.label"
    assert np.fromfile(file, dtype="<u4").tolist() == list(RAW_IDS)
    assert read_label(file, 20).tolist() == label.tolist()
    with pytest.raises(ValueError, match="SEQUENCE/SCAN"):
        write_predictions(tmp_path, "../11/000042", label, RAW_IDS)
    with pytest.raises(ValueError, match=r"0\.\.19"):
        write_predictions(tmp_path, "11/000042", label + 1, RAW_IDS)


# Real scans.


def test_real_scans(real_data: Path) -> None:
    if not (real_data / "SemanticKITTI").is_dir():
        pytest.skip("no real SemanticKITTI scans")
    data = SemanticKITTI(real_data, "real")
    data.prepare_data()
    assert data.verify() == []
    sample = data.split("train")[0]
    scan = data.sequences / "00" / "velodyne" / "000000.bin"
    assert sample["id"] == "00/000000"
    assert len(sample["points"]) == scan.stat().st_size // 16 == 124_668
    assert int(sample["label"].min()) >= 0
    assert int(sample["label"].max()) <= 19
    assert float(sample["points"][:, 3].min()) >= 0
    assert float(sample["points"][:, 3].max()) <= 1
    # Road lies about 1.7 m under the sensor.
    road = sample["points"][sample["label"] == CLASSES.index("road"), 2]
    assert float(road.median()) == pytest.approx(-1.7, abs=0.2)
    (tested,) = list(data.split("test"))
    assert tested["id"] == "08/000000"
    assert sum(data.spec.class_frequency) == pytest.approx(1.0)
    assert data.spec.azimuths == 2048
