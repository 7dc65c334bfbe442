"""OFF files as published, glued and damaged; points drawn from a surface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.base import DataError
from datamodules.pointcloud.off_meshes import (
    Mesh,
    in_unit_sphere,
    read_off,
    sample_surface,
    triangle_areas,
    write_off,
)

SQUARE = "0 0 0\n4 0 0\n4 2 0\n0 2 0\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "thing_0001.off"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "head",
    ["OFF\n4 2 0\n", "OFF4 2 0\n", "OFF 4 2 0\n", "# made by hand\nOFF\n# counts\n4 2 0\n\n", "OFF\n4 2\n"],
)
def test_published_headers_are_read(tmp_path: Path, head: str) -> None:
    mesh = read_off(write(tmp_path, head + SQUARE + "3 0 1 2\n3 0 2 3\n"))
    assert mesh.vertices.tolist() == [[0, 0, 0], [4, 0, 0], [4, 2, 0], [0, 2, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert triangle_areas(mesh).tolist() == [4, 4]


def test_polygons_become_fans_and_colours_are_left_out(tmp_path: Path) -> None:
    quad = read_off(write(tmp_path, "OFF\n4 1 0\n" + SQUARE + "4 0 1 2 3\n"))
    assert quad.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    coloured = read_off(write(tmp_path, "OFF\n4 1 0\n" + SQUARE + "3 0 1 2 255 0 0\n"))
    assert coloured.faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("glued", [False, True])
def test_what_is_written_is_read(tmp_path: Path, glued: bool) -> None:
    rng = np.random.default_rng(0)
    mesh = Mesh(rng.normal(size=(9, 3)).round(6), rng.integers(0, 9, (5, 3)))
    write_off(tmp_path / "a.off", mesh, glued=glued)
    assert (tmp_path / "a.off").read_text().startswith("OFF9 5 0\n" if glued else "OFF\n9 5 0\n")
    again = read_off(tmp_path / "a.off")
    assert np.array_equal(again.vertices, mesh.vertices)
    assert np.array_equal(again.faces, mesh.faces)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with OFF"),
        ("PLY\n4 2 0\n", "does not begin with OFF"),
        ("OFF\n", "no counts"),
        ("OFF\nfour 2 0\n", "no counts"),
        ("OFF\n4 2 0\n" + SQUARE + "3 0 1 2\n", "says 4 vertices and 2 faces, but 5 lines follow"),
        ("OFF\n4 0 0\n" + SQUARE, "says 4 vertices and 0 faces"),
        ("OFF\n4 1 0\n0 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n", "malformed"),
        ("OFF\n4 1 0\n" + SQUARE.replace("4 2 0", "4 x 0") + "3 0 1 2\n", "malformed"),
        ("OFF\n4 1 0\n" + SQUARE.replace("4 2 0", "4 nan 0") + "3 0 1 2\n", "finite points"),
        ("OFF\n4 1 0\n" + SQUARE + "3 0 1 4\n", r"vertices 0\.\.4, there are 0\.\.3"),
        ("OFF\n4 1 0\n" + SQUARE + "3 0 1\n", "malformed"),
        ("OFF\n4 1 0\n" + SQUARE + "2 0 1\n", "malformed"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_off(write(tmp_path, text))
    assert "thing_0001.off" in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.off"):
        read_off(tmp_path / "nowhere.off")
    (tmp_path / "b.off").write_bytes(b"OFF\n\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_off(tmp_path / "b.off")


def test_points_are_uniform_by_area_not_by_vertex() -> None:
    """A large triangle and a small one cut into many: the small one gets its share of the area alone."""
    small = [[10 + 0.1 * i, 0, 0] for i in range(11)] + [[10.5, 1, 0]]
    vertices = np.array([[0, 0, 0], [3, 0, 0], [0, 2, 0], *small], dtype=float)
    faces = np.array([[0, 1, 2], *[[3 + i, 4 + i, 14] for i in range(10)]])
    mesh = Mesh(vertices, faces)
    points, face = sample_surface(mesh, 20_000, np.random.default_rng(0))
    assert (face == 0).mean() == pytest.approx(3 / 3.5, abs=0.01)
    on_large = points[face == 0]
    assert on_large.mean(axis=0) == pytest.approx([1, 2 / 3, 0], abs=0.02)  # the centroid
    assert (on_large[:, 0] / 3 + on_large[:, 1] / 2 <= 1 + 1e-9).all()
    assert on_large[:, 0].std() == pytest.approx(3 / np.sqrt(18), rel=0.02)
    assert abs(np.corrcoef(np.arange(len(face)), face)[0, 1]) < 0.03  # in random order, not face by face
    with pytest.raises(ValueError, match="no area"):
        sample_surface(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), 5, np.random.default_rng(0))


def test_normalisation_by_hand() -> None:
    points = in_unit_sphere(np.array([[1.0, 1, 1], [5, 1, 1], [3, 4, 1], [3, -2, 1]]))
    expected = np.array([[-2, 0, 0], [2, 0, 0], [0, 3, 0], [0, -3, 0]]) / 3
    assert np.allclose(points, expected)
    assert points.dtype == np.float32
    assert np.array_equal(in_unit_sphere(np.ones((4, 3))), np.zeros((4, 3)))
