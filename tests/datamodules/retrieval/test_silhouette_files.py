"""Reading one silhouette: tones, colour maps, polarity, contours in text, bad files; lists and draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.retrieval.silhouette_files import by_prefix, list_shapes, load_silhouette, numbered


def block() -> np.ndarray:
    shape = np.zeros((12, 20), bool)
    shape[3:8, 4:15] = True
    shape[5, 6] = False  # a hole stays
    shape[10, 18] = True  # a part apart stays
    return shape


def saved(folder: Path, name: str, values: np.ndarray, palette: list[int] | None = None) -> Path:
    picture = Image.fromarray(values.astype(np.uint8), mode="L" if palette is None else "P")
    if palette is not None:
        picture.putpalette(palette)
    picture.save(folder / name)
    return folder / name


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp"])
@pytest.mark.parametrize("tones", [(0, 255), (255, 0), (0, 250), (16, 248), (240, 3)])
def test_tones_and_polarity(tmp_path: Path, suffix: str, tones: tuple[int, int]) -> None:
    path = saved(tmp_path, f"a-1.{suffix}", np.where(block(), tones[1], tones[0]))
    shape = load_silhouette(path)
    assert shape.dtype == torch.bool
    np.testing.assert_array_equal(shape.numpy(), block())


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_colour_maps_are_applied(tmp_path: Path, suffix: str) -> None:
    # Index 1 is the dark tone here: the index says nothing.
    path = saved(tmp_path, f"a-1.{suffix}", np.where(block(), 0, 1), [250, 250, 250, 8, 8, 8])
    np.testing.assert_array_equal(load_silhouette(path).numpy(), block())


def test_three_tones(tmp_path: Path) -> None:
    values = np.where(block(), 250, 0)
    values[4, 5:9], values[0, 0] = 248, 11
    np.testing.assert_array_equal(load_silhouette(saved(tmp_path, "a-1.png", values)).numpy(), block())


def test_a_shape_that_touches_the_frame_stays_the_shape(tmp_path: Path) -> None:
    shape = np.zeros((12, 20), bool)
    shape[:, :7] = True  # 12 + 14 - 2 of 60 pixels of the frame
    shape[3:9, :19] = True
    np.testing.assert_array_equal(load_silhouette(saved(tmp_path, "a-1.png", shape * 255)).numpy(), shape)


def test_polarity_can_be_set(tmp_path: Path) -> None:
    path = saved(tmp_path, "a-1.png", block() * 255)
    np.testing.assert_array_equal(load_silhouette(path, "light").numpy(), block())
    np.testing.assert_array_equal(load_silhouette(path, "dark").numpy(), ~block())


def test_transparency_is_dark(tmp_path: Path) -> None:
    picture = np.full((*block().shape, 4), 255, np.uint8)
    picture[..., 3] = block() * 255
    Image.fromarray(picture).save(tmp_path / "a-1.png")
    np.testing.assert_array_equal(load_silhouette(tmp_path / "a-1.png").numpy(), block())


def test_contour_in_text(tmp_path: Path) -> None:
    (tmp_path / "a-1.txt").write_text("0 0\n10 0\n10 5\n0 5\n")
    (tmp_path / "a-2.txt").write_text("0,0\n0,2\n4,2\n4,0\n")
    for name in ("a-1.txt", "a-2.txt"):
        shape = load_silhouette(tmp_path / name)
        # The longer side has 256 pixels, the shorter half as many.
        assert int(shape.any(0).sum()) == pytest.approx(256, abs=1)
        assert int(shape.any(1).sum()) == pytest.approx(128, abs=1)
        assert int(shape.sum()) == pytest.approx(256 * 128, rel=0.01)
        assert not shape[0].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 4\n", "are no contour"),
        ("a b\n", "cannot be read as a contour"),
        ("1 1\n2 1\n3 1\n", "on a line"),
    ],
)
def test_bad_contours(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a-1.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_silhouette(tmp_path / "a-1.txt")


def test_bad_pictures(tmp_path: Path) -> None:
    path = saved(tmp_path, "a-1.png", block() * 255)
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.png: cannot be read as a picture"):
        load_silhouette(tmp_path / "cut.png")
    with pytest.raises(DataError, match="no pixel of 20 x 12"):
        load_silhouette(saved(tmp_path, "b-1.png", np.zeros((12, 20))))
    with pytest.raises(DataError, match=r"absent\.gif"):
        load_silhouette(tmp_path / "absent.gif")


def test_names() -> None:
    assert numbered(Path("personal_car-07.png")) == ("personal_car", 7)
    assert numbered(Path("a-b-12.gif")) == ("a-b", 12)
    for name in ("car.png", "car-.png", "car-x.png", "-3.png"):
        with pytest.raises(DataError, match="<class>-<number>"):
            numbered(Path(name))
    classes, files = by_prefix([Path(name) for name in ("b-1.png", "a-10.png", "a-2.png")])
    assert classes == ("a", "b")
    assert [(file.path.name, file.label) for file in files] == [
        ("a-2.png", 0),
        ("a-10.png", 0),
        ("b-1.png", 1),
    ]
    with pytest.raises(DataError, match=r"both number 2 of 'a'"):
        by_prefix([Path("a-2.png"), Path("a-02.png")])


def test_batches_keep_sizes() -> None:
    samples = [
        {
            "shape": torch.zeros(3 + i, 4, dtype=torch.bool),
            "label": i,
            "is_query": True,
            "index": i,
            "id": str(i),
        }
        for i in range(2)
    ]
    batch = list_shapes(samples)
    assert [tuple(shape.shape) for shape in batch["shape"]] == [(3, 4), (4, 4)]
    assert batch["label"].dtype == torch.int64
    assert batch["is_query"].dtype == torch.bool
    assert batch["id"] == ["0", "1"]
