"""BSDS500's reader: miniature, real samples, resizing, and files that are wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from datamodules.base import DataError
from datamodules.dense.bsds500 import BSDS500, read_boundaries, resize_sample


@pytest.fixture(scope="module")
def data(cache: Path) -> BSDS500:
    data = BSDS500(cache=cache)
    data.prepare_data()
    return data


def test_the_miniature_has_sixty_twenty_twenty_pictures_in_both_orientations(data: BSDS500) -> None:
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [60, 20, 20]  # type: ignore[arg-type]
    assert data.verify() == []
    batches = list(data.test_dataloader())
    assert {tuple(batch["image"].shape) for batch in batches} == {(1, 3, 64, 96), (1, 3, 96, 64)}
    batch = batches[0]
    assert batch["image"].dtype == torch.float32
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert batch["edges"].dtype == torch.uint8
    assert batch["edges"].shape == (1, data.spec.annotators, *batch["image"].shape[-2:])
    assert set(batch["edges"].unique().tolist()) == {0, 1}
    assert batch["annotators"].dtype == torch.int64
    assert batch["annotators"].tolist() == [5]
    assert batch["id"] == ["300000"]


def test_training_pictures_can_be_resized_and_batched(data: BSDS500) -> None:
    resized = BSDS500(cache=data.cache, train_size=(48, 48), batch_size=8)
    batch = next(iter(resized.train_dataloader()))
    assert batch["image"].shape == (8, 3, 48, 48)
    assert batch["edges"].shape == (8, 5, 48, 48)
    assert tuple(next(iter(resized.test_dataloader()))["image"].shape[-2:]) != (48, 48)
    with pytest.raises(DataError, match="batch size of 1"):
        list(BSDS500(cache=data.cache, batch_size=8).train_dataloader())


def test_samples_are_decoded_once(data: BSDS500, tmp_path: Path) -> None:
    shutil.copytree(data.root, tmp_path / "copy")
    copy = BSDS500(tmp_path / "copy", "real")
    samples = copy.split("train")
    first = samples[0]
    for picture in (tmp_path / "copy").rglob("*.jpg"):
        picture.unlink()
    again = samples[0]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["edges"], again["edges"])
    again["edges"].fill_(1)  # what a user does with a sample stays there
    assert torch.equal(samples[0]["edges"], first["edges"])


def test_test_limit_takes_the_first(data: BSDS500) -> None:
    limited = BSDS500(cache=data.cache, test_limit=3)
    assert [batch["id"][0] for batch in limited.test_dataloader()] == ["300000", "300001", "300002"]
    assert len(limited.split("val")) == 20  # type: ignore[arg-type]


def test_resizing_keeps_lines_whole_and_thin() -> None:
    edges = torch.zeros(1, 40, 60, dtype=torch.uint8)
    edges[0, 20] = 1
    edges[0, torch.arange(40), torch.arange(40)] = 1
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    for size in ((25, 35), (40, 33), (57, 60), (57, 33)):
        picture, resized = resize_sample(image, edges, size)
        assert picture.shape == (3, *size)
        assert resized.shape == (1, *size)
        assert resized.dtype == torch.uint8
        full = (resized[0].sum(1) == size[1]).sum()
        assert (
            1 <= full <= int(np.ceil(size[0] / 40))
        )  # the horizontal line: present, as thick as the scale asks
        columns = [resized[0, row].nonzero().flatten() for row in range(size[0])]
        assert all(len(found) for found in columns)  # the diagonal passes every row


def test_resizing_by_hand() -> None:
    edges = torch.tensor([[[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]], dtype=torch.uint8)
    image = torch.arange(6, dtype=torch.uint8).expand(3, 2, 6) * 10
    _, half = resize_sample(image, edges, (2, 3))
    assert half.tolist() == [[[1, 0, 0], [0, 0, 1]]]
    _, double = resize_sample(image, edges, (4, 6))
    assert double[0].tolist() == [edges[0, row].tolist() for row in (0, 0, 1, 1)]
    same_image, same = resize_sample(image, edges, (2, 6))
    assert torch.equal(same, edges)
    assert torch.equal(same_image, image)


def test_bad_options_are_refused(data: BSDS500) -> None:
    with pytest.raises(ValueError, match="train_size"):
        BSDS500(cache=data.cache, train_size=(0, 4))
    with pytest.raises(ValueError, match="test_limit"):
        BSDS500(cache=data.cache, test_limit=0)


def cell(*entries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = np.empty((1, len(entries)), object)
    for index, entry in enumerate(entries):
        values[0, index] = entry
    return {"groundTruth": values}


def test_boundaries_are_read_as_published(tmp_path: Path) -> None:
    first, second = np.eye(4, 6, dtype=np.uint8), np.zeros((4, 6), bool)
    entries = [{"Segmentation": np.ones((4, 6), np.uint16), "Boundaries": plane} for plane in (first, second)]
    savemat(tmp_path / "1.mat", cell(*entries))
    maps = read_boundaries(tmp_path / "1.mat")
    assert maps.dtype == np.uint8
    assert np.array_equal(maps, np.stack([first, second]))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    savemat(tmp_path / "key.mat", {"groundtruth": np.zeros(3)})
    with pytest.raises(DataError, match=r"key\.mat: has no 'groundTruth', only groundtruth"):
        read_boundaries(tmp_path / "key.mat")
    savemat(tmp_path / "kind.mat", {"groundTruth": np.zeros((3, 4))})
    with pytest.raises(DataError, match="1xN cell"):
        read_boundaries(tmp_path / "kind.mat")
    savemat(
        tmp_path / "field.mat", cell({"Segmentation": np.ones((3, 4))}, {"Segmentation": np.ones((3, 4))})
    )
    with pytest.raises(DataError, match="no field `Boundaries`"):
        read_boundaries(tmp_path / "field.mat")
    savemat(tmp_path / "shape.mat", cell({"Boundaries": np.ones((3, 4))}, {"Boundaries": np.ones((4, 3))}))
    with pytest.raises(DataError, match=r"annotator 2 have shape \(4, 3\)"):
        read_boundaries(tmp_path / "shape.mat")
    (tmp_path / "cut.mat").write_bytes((tmp_path / "shape.mat").read_bytes()[:150])
    with pytest.raises(DataError, match=r"cut\.mat: not a readable MAT"):
        read_boundaries(tmp_path / "cut.mat")


def test_pictures_and_maps_must_fit(data: BSDS500, tmp_path: Path) -> None:
    shutil.copytree(data.root, tmp_path / "copy")
    pictures = tmp_path / "copy/BSDS500/data/images/test"
    truths = tmp_path / "copy/BSDS500/data/groundTruth/test"
    Image.new("RGB", (30, 20)).save(pictures / "300000.jpg")
    (pictures / "300001.jpg").write_bytes((pictures / "300001.jpg").read_bytes()[:200])
    copy = BSDS500(tmp_path / "copy", "real")
    with pytest.raises(
        DataError, match=r"300000\.mat: Boundaries are \(64, 96\), but 300000\.jpg is \(20, 30\)"
    ):
        copy.split("test")[0]
    with pytest.raises(DataError, match=r"300001\.jpg: not a readable picture"):
        copy.split("test")[1]
    (truths / "300002.mat").unlink()
    with pytest.raises(DataError, match=r"300002\.mat"):
        BSDS500(tmp_path / "copy", "real").split("test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="non-commercial"):
        BSDS500(tmp_path / "empty", "real").prepare_data()


def test_the_real_samples(real_data: Path) -> None:
    for root in (real_data, real_data / "BSDS500"):
        data = BSDS500(root, "real")
        data.prepare_data()
        assert [len(data.split(split)) for split in ("train", "val", "test")] == [200, 20, 50]  # type: ignore[arg-type]
    sample = data.split("test")[0]
    assert sample["id"] == "100007"
    assert sample["image"].shape == (3, 321, 481)
    assert sample["edges"].shape == (9, 321, 481)
    assert sample["annotators"] == 5
    assert sample["edges"][:5].sum() == 13316
    assert not sample["edges"][5:].any()
    assert data.spec.max_distance == 0.0075
    sizes = {tuple(data.split("val")[index]["image"].shape[1:]) for index in range(20)}
    assert sizes == {(321, 481), (481, 321)}
