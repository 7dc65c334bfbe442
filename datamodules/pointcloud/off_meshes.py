"""Triangle meshes in OFF text files, and points drawn from their surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.base import DataError


class Mesh(NamedTuple):
    """vertices float64 [V, 3]; faces int64 [F, 3], indices of vertices."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]


def read_off(path: Path) -> Mesh:
    """Read an OFF file: `OFF`, the counts `V F E`, V lines `x y z`, F lines `n i j k ...`.

    Some published files glue the counts to the header (`OFF490 518 0`). Faces of more than three corners are cut
    into fans. Raises `DataError`, which names the file, where it is missing, no OFF file, cut off, or holds a vertex
    that isn't finite or a face without such vertices.
    """
    try:
        lines = [line.split("#")[0].split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); fetch this file again") from None
    lines = [line for line in lines if line]
    if not lines or not lines[0][0].startswith("OFF"):
        raise DataError(f"{path}: does not begin with OFF")
    glued = [lines[0][0].removeprefix("OFF"), *lines[0][1:]]
    body = lines[1:] if glued == [""] else [[token for token in glued if token], *lines[1:]]
    try:
        vertex_count, face_count = (int(token) for token in body[0][:2])
    except (ValueError, IndexError):
        raise DataError(f"{path}: no counts of vertices and faces after OFF") from None
    rows = body[1:]
    if vertex_count < 3 or face_count < 1 or len(rows) < vertex_count + face_count:
        raise DataError(
            f"{path}: says {vertex_count} vertices and {face_count} faces, but {len(rows)} lines follow"
        )
    try:
        vertices = np.array([row[:3] for row in rows[:vertex_count]], dtype=np.float64)
        faces = _triangles(rows[vertex_count : vertex_count + face_count])
    except ValueError as error:
        raise DataError(f"{path}: a vertex or face is malformed ({error})") from None
    if vertices.shape != (vertex_count, 3) or not np.isfinite(vertices).all():
        raise DataError(f"{path}: vertices must be {vertex_count} finite points of three coordinates")
    if faces.min() < 0 or faces.max() >= vertex_count:
        raise DataError(
            f"{path}: faces name vertices {faces.min()}..{faces.max()}, there are 0..{vertex_count - 1}"
        )
    return Mesh(vertices, faces)


def _triangles(rows: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Face lines `n i j k ...` -> [F, 3]; a `ValueError` where a line has fewer corners than it says."""
    if all(row[0] == "3" and len(row) >= 4 for row in rows):
        return np.array([row[1:4] for row in rows], dtype=np.int64)
    triangles = []
    for row in rows:
        corners = [int(token) for token in row[1 : 1 + int(row[0])]]
        if len(corners) != int(row[0]) or len(corners) < 3:
            raise ValueError(f"face {' '.join(row)!r}")
        triangles += [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]
    return np.array(triangles, dtype=np.int64)


def write_off(path: Path, mesh: Mesh, *, glued: bool = False) -> None:
    """Write an OFF file with six decimals; glued: the counts stand behind the header, as in some published files."""
    head = f"OFF{'' if glued else chr(10)}{len(mesh.vertices)} {len(mesh.faces)} 0"
    vertices = [f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices.tolist()]
    faces = [f"3 {i} {j} {k}" for i, j, k in mesh.faces.tolist()]
    path.write_text("\n".join([head, *vertices, *faces, ""]), encoding="ascii")


def triangle_areas(mesh: Mesh) -> NDArray[np.float64]:
    """Area of each face, [F]."""
    corner, *others = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(others[0] - corner, others[1] - corner), axis=1) / 2


def sample_surface(
    mesh: Mesh, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points drawn uniformly by area, in random order, [count, 3], and the face of each, [count].

    A face is drawn with a probability proportional to its area, a point on it by a square root for the distance from
    the first corner (Osada et al., Shape Distributions, 2002). Raises `ValueError` for a mesh without area.
    """
    areas = triangle_areas(mesh)
    total = float(areas.sum())
    if total <= 0:
        raise ValueError("the mesh has no area")
    face = rng.choice(len(areas), count, p=areas / total)
    first, second, third = (mesh.vertices[mesh.faces[face, i]] for i in range(3))
    out, along = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    return (1 - out) * first + out * (1 - along) * second + out * along * third, face


def in_unit_sphere(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Points [M, 3] minus their mean, divided by the largest norm; one point becomes the origin."""
    centred = points - points.mean(axis=0)
    reach = float(np.linalg.norm(centred, axis=1).max())
    return (centred / (reach if reach > 0 else 1.0)).astype(np.float32)
