"""MPEG-7 CE-1, CE-2 and MCD: layouts, classes, queries, draws by the seed, and the real files of CE-1."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.retrieval.mcd import MCD
from datamodules.retrieval.mpeg7 import MPEG7
from datamodules.retrieval.mpeg7_ce2 import MPEG7CE2, read_classes
from datamodules.retrieval.silhouette_files import SilhouetteFilesDataset


def write(path: Path, side: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((side + 4, side + 5), np.uint8)
    picture[2:-2, 2:-2] = 255
    Image.fromarray(picture).save(path)


@pytest.mark.parametrize("home", [".", "MPEG7", "original", "mpeg7"])
@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_mpeg7_layouts(tmp_path: Path, home: str, suffix: str) -> None:
    for name in ("bat-1", "bat-2", "apple-1", "apple-10"):
        write(tmp_path / home / f"{name}.{suffix}", side=4 + len(name))
    data = MPEG7(tmp_path, "real")
    data.prepare_data()
    assert data.spec.classes == ("apple", "bat")
    assert data.spec.group_size == 2
    batch = next(iter(data.test_dataloader()))
    assert batch["id"] == ["apple-1", "apple-10", "bat-1", "bat-2"]
    assert batch["label"].tolist() == [0, 0, 1, 1]
    assert batch["index"].tolist() == [0, 1, 2, 3]
    assert batch["is_query"].all()
    assert [shape.shape[0] for shape in batch["shape"]] == [15, 16, 13, 13]
    assert data.data_version().startswith("real-1-")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    for cls in (MPEG7, MPEG7CE2, MCD):
        with pytest.raises(DataError, match="not found under"):
            cls(tmp_path, "real").prepare_data()
    write(tmp_path / "bat-1.png")
    with pytest.raises(DataError, match="one class"):
        _ = MPEG7(tmp_path, "real").spec
    write(tmp_path / "notes.png")
    with pytest.raises(DataError, match=r"notes\.png: expected a name like"):
        _ = MPEG7(tmp_path, "real").spec


def test_mcd_by_folder_or_prefix_and_never_another_folder(tmp_path: Path) -> None:
    for name in ("bat/1.png", "bat/x.png", "apple/7.png"):
        write(tmp_path / "a" / "MCD" / name)
    (tmp_path / "a" / "MCD" / "apple" / "8.txt").write_text("0 0\n1 0\n1 1\n")
    write(tmp_path / "a" / "Set5" / "face-1.png")  # other pictures under the same root
    by_folder = MCD(tmp_path / "a", "real")
    assert by_folder.spec.classes == ("apple", "bat")
    assert [sample["label"] for sample in by_folder.split("test")] == [0, 0, 1, 1]
    write(tmp_path / "b" / "mcd" / "bat-1.png")
    write(tmp_path / "b" / "mcd" / "apple-1.bmp")
    assert MCD(tmp_path / "b", "real").spec.classes == ("apple", "bat")
    assert MCD(tmp_path / "b" / "mcd", "real").spec.classes == ("apple", "bat")
    (tmp_path / "c" / "Set5").mkdir(parents=True)
    write(tmp_path / "c" / "Set5" / "face-1.png")
    assert MCD(tmp_path / "c", "real").missing()


def test_ce2_queries_by_list(tmp_path: Path) -> None:
    for name in ("1", "2", "3", "10"):
        write(tmp_path / f"{name}.png")
    (tmp_path / "classes.txt").write_text("3 star\n1.png moon\n\n2 star\n")
    data = MPEG7CE2(tmp_path, "real")
    assert data.spec.classes == ("moon", "star")
    facts = {s["id"]: (s["label"], s["is_query"]) for s in data.split("test")}
    assert facts == {"1": (0, True), "2": (1, True), "3": (1, True), "10": (-1, False)}
    (tmp_path / "classes.txt").write_text("9 star\n")
    with pytest.raises(DataError, match=r"1 files it names are not there, the first is '9'"):
        _ = MPEG7CE2(tmp_path, "real").spec


@pytest.mark.parametrize(("text", "message"), [("a\n", "expected '<file> <class>'"), ("a b\na c\n", "again")])
def test_bad_class_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("cls", "classes", "views", "others"), [(MPEG7, 40, 10, 0), (MCD, 60, 12, 0), (MPEG7CE2, 60, 8, 60)]
)
def test_miniatures(
    cls: type[SilhouetteFilesDataset], classes: int, views: int, others: int, cache: Path
) -> None:
    data = cls(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    samples = data.split("test")
    sizes = Counter(file.label for file in data.listing()[1])
    assert sizes.pop(-1, 0) == others
    assert sizes == dict.fromkeys(range(classes), views)
    assert (len(data.spec.classes), data.spec.group_size) == (classes, views)
    for place in range(0, len(samples), 37):
        shape = samples[place]["shape"]
        assert shape.shape == (128, 128)
        assert 0.02 < shape.double().mean() < 0.7
        assert int(shape[1:-1, 1:-1].sum()) == int(shape.sum())  # nothing touches the frame


def test_draws_depend_on_the_seed_alone(cache: Path) -> None:
    def ids(seed: int) -> list[str]:
        data = MPEG7CE2(cache=cache, seed=seed, draw_classes=10, draw_views=4)
        assert data.spec.group_size == 4
        assert len(data.spec.classes) == 10
        # Look-alikes stay together: classes 2k and 2k + 1.
        numbers = {int(name.removeprefix("region")) // 2 for name in data.spec.classes}
        assert len(numbers) == 5
        assert {sample["label"] for sample in data.split("test")} == {-1, *range(10)}
        return [file.path.name for file in data.listing()[1]]

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)
    assert len(ids(0)) == 10 * 4 + 60
    whole = MPEG7CE2(cache=cache, draw_classes=500, draw_views=500)
    assert len(whole.listing()[1]) == 60 * 8 + 60
    with pytest.raises(ValueError, match="draw_views must be at least 2"):
        MCD(cache=cache, draw_views=1)


def test_look_alikes_share_their_outline_and_part_but_not_their_holes() -> None:
    one, other, third = MPEG7CE2.region(3, 6), MPEG7CE2.region(3, 7), MPEG7CE2.region(4, 8)
    for mine, its in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(mine, its)
    assert any(a.shape != b.shape or not np.allclose(a, b) for a, b in zip(one[2:], other[2:], strict=False))
    assert one[0].shape != third[0].shape or not np.allclose(one[0], third[0])


def test_real_mpeg7(real_data: Path) -> None:
    if not (real_data / "MPEG7").is_dir():
        pytest.skip(f"no MPEG-7 silhouettes under {real_data}")
    data = MPEG7(real_data, "real")
    data.prepare_data()
    classes, files = data.listing()
    assert (len(classes), len(files), data.spec.group_size) == (70, 1400, 20)
    inverted, light = [], MPEG7(real_data, "real", polarity="light").split("test")
    for place, sample in enumerate(data.split("test")):
        shape = sample["shape"]
        frame = torch.cat([shape[0], shape[-1], shape[:, 0], shape[:, -1]])
        assert frame.double().mean() < 0.5
        assert 0.003 < shape.double().mean() < 0.9, sample["id"]
        # Every seventh file, and the one that is stored dark on light.
        if (place % 7 == 0 or sample["id"] == "rat-09") and not torch.equal(light[place]["shape"], shape):
            inverted.append(sample["id"])
    assert inverted == ["rat-09"]
