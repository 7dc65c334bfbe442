"""The line integral transform: its definition in NumPy, Eqs. 14 and 18, invariance, ablations, retrieval."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules.miniature.affine_shapes import fill
from datamodules.retrieval.mcd import MCD
from datamodules.retrieval.mpeg7_ce2 import MPEG7CE2
from datamodules.retrieval.silhouette_files import load_silhouette
from datamodules.specs import ShapesSpec
from tasks.blocks.polar_normalisation import moment_matrix, turn
from tasks.blocks.shape_projections import Corners
from tasks.retrieval.line_integral_shape import (
    LineIntegralShape,
    fourier_invariants,
    line_integral_transform,
)
from tasks.retrieval.shape_retrieval import ShapeMethod

SPEC = ShapesSpec(dataset="test", classes=("a",))
MAPS = {
    "shear": [[1.0, 0.7], [0.0, 1.0]],
    "anisotropic": [[1.0, 0.0], [0.0, 0.45]],
    "reflection": [[-1.0, 0.0], [0.0, 1.0]],
    "rotation": [[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]],
    "all": [[0.9, -0.6], [-0.3, -0.7]],
}


def contour() -> np.ndarray:
    """A closed contour of about unit radius, without symmetry."""
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 1 + 0.3 * np.cos(2 * angle) + 0.25 * np.sin(3 * angle) + 0.1 * np.cos(5 * angle + 1)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def rendered(matrix: list[list[float]], size: int = 400) -> torch.Tensor:
    """The contour with a round hole under a linear map, in a square picture with a margin."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    hole = np.array([0.3, 0.1]) + 0.25 * np.stack([np.cos(angle), np.sin(angle)], 1)
    contours = [points @ np.array(matrix).T for points in (contour(), hole)]
    low, high = contours[0].min(0), contours[0].max(0)
    factor = (size - 10) / (high - low).max()
    return torch.from_numpy(fill([(c - low) * factor + 5 for c in contours], size, size))


def strip_chord(distance: np.ndarray, angle: float) -> np.ndarray:
    """Area of a unit pixel within half a pixel of a line at a distance from its centre: an exact integral of the
    pixel's trapezoid."""
    long, short = sorted((abs(math.cos(angle)) / 2, abs(math.sin(angle)) / 2), reverse=True)

    def below(offset: np.ndarray) -> np.ndarray:
        if short < 1e-12:
            return np.clip((offset + long) / (2 * long), 0, 1)
        ends = ((long + short, 1), (long - short, -1), (short - long, -1), (-long - short, 1))
        return sum(sign * np.maximum(offset + end, 0) ** 2 for end, sign in ends) / (8 * long * short)

    return below(distance + 0.5) - below(distance - 0.5)


def slow_descriptor(shape: np.ndarray, offsets: int, angles: int) -> np.ndarray:
    """The descriptor by its definition, one line after the other over all pixels, in NumPy."""
    rows, columns = np.nonzero(shape)
    x, y = columns + 0.5, rows + 0.5
    matrix = []
    theta = 2 * np.pi * np.arange(angles) / angles
    u = np.stack([np.cos(theta), np.sin(theta)])
    for mu in np.arange(offsets) / offsets:
        psi = np.empty(angles)
        for n, angle in enumerate(theta):
            centre, half = x * u[0, n] + y * u[1, n], np.abs(u[:, n]).sum() / 2
            sigma, opposite = (centre - half).min(), (-centre - half).min()
            gamma = (sigma - opposite) / 2 - mu * (-opposite - sigma) / 2
            psi[n] = strip_chord(gamma - centre, angle).sum()
        values, vectors = np.linalg.eigh((psi**4 * u) @ u.T * (2 * np.pi / angles) / 4)
        mapped = vectors @ np.diag(np.sqrt(values)) @ vectors.T @ u
        place = np.arctan2(mapped[1], mapped[0]) % (2 * np.pi)
        normalised = np.interp(place, theta, psi, period=2 * np.pi) / np.linalg.norm(mapped, axis=0)
        magnitude = np.abs(np.fft.fft(normalised))[: angles // 2 + 1]
        matrix.append(magnitude / magnitude[0])
    return np.array(matrix)


@pytest.mark.parametrize(("offsets", "angles"), [(5, 24), (18, 180)])
def test_descriptor_is_its_definition(offsets: int, angles: int) -> None:
    shape = torch.from_numpy(fill([8 * contour() + [12, 13]], 26, 25))
    method = LineIntegralShape(SPEC, offsets=offsets, angles=angles)
    slow = slow_descriptor(shape.numpy(), offsets, angles)
    fast = method.describe([shape])[0].view(offsets, angles // 2 + 1).numpy()
    np.testing.assert_allclose(fast, slow, atol=1e-8)
    assert (fast[:, 0] == 1).all()


def test_the_papers_size() -> None:
    method = LineIntegralShape(SPEC)
    descriptor = method.describe([rendered(MAPS["shear"], 60), rendered(MAPS["all"], 90)])
    assert descriptor.shape == (2, 18 * 91)
    assert descriptor.dtype == torch.float64
    assert sum(parameter.numel() for parameter in method.parameters()) == 0


def test_rectangle_by_hand() -> None:
    # 40 x 20, theta = 0: every line has a chord of 20; theta = 90 degrees: of 40, whatever mu is.
    shape = torch.ones(20, 40, dtype=torch.bool)
    psi = line_integral_transform(Corners.of([shape]), 4, 8, strip=0.0)[0]
    for column, chord in ((0, 20.0), (2, 40.0), (4, 20.0), (6, 40.0)):
        torch.testing.assert_close(psi[:, column], torch.full((4,), chord, dtype=torch.float64))
    # At 45 degrees the shape reaches to 30 / sqrt 2 from its middle; lines nearer than 10 / sqrt 2 cross it from
    # long side to long side, at 3/4 of 30 the chord is down to 2 * (30 - 22.5) / sqrt 2.
    diagonal = torch.tensor([20.0, 20.0, 15.0, 7.5], dtype=torch.float64) * math.sqrt(2)
    torch.testing.assert_close(psi[:, 1], diagonal)


def test_mu_runs_from_the_centre_line_to_the_binding_line_at_theta() -> None:
    # A triangle that is wide at x = 0 and a point at x = 30: sigma(0) lies at the wide side.
    shape = torch.from_numpy(fill([np.array([[0, 0], [30, 15], [0, 30]]) + 2.0], 34, 34))
    psi = line_integral_transform(Corners.of([shape]), 18, 180)[0]
    assert psi[17, 0] > 25 > 5 > psi[17, 90]
    assert psi[0, 0] == pytest.approx(psi[0, 90].item())


@pytest.mark.parametrize("name", MAPS)
def test_profiles_and_moments_change_as_the_paper_says(name: str) -> None:
    """Eq. 14: Psi_g(mu, theta) = |det A| / |A^T u| Psi_f(mu, angle(A^T u)); Eq. 18: M_g = |det A|^3 A^-T M A^-1."""
    size, count = 400, 720
    plain, mapped = (
        line_integral_transform(Corners.of([rendered(matrix, size)]), 18, count)[0][[0, 6, 12]]
        for matrix in ([[1.0, 0.0], [0.0, 1.0]], MAPS[name])
    )
    # What `rendered` really did: the picture's scale goes with the matrix.
    low_high = [np.ptp(contour() @ np.array(m).T, axis=0).max() for m in (np.eye(2), MAPS[name])]
    linear = torch.tensor(MAPS[name], dtype=torch.float64) * (low_high[0] / low_high[1])
    u = torch.stack([turn(count).cos(), turn(count).sin()])
    back = linear.T @ u
    place = (torch.atan2(back[1], back[0]) * count / (2 * math.pi)).round().long() % count
    expected = torch.linalg.det(linear).abs() / back.norm(dim=0) * plain[:, place]
    # A chord changes fast with the angle where lines graze the outline: compare the mean error with the mean.
    assert (mapped - expected).abs().mean() < 0.012 * expected.mean()
    inverse = torch.linalg.inv(linear)
    moments = torch.linalg.det(linear).abs() ** 3 * inverse.T @ moment_matrix(plain) @ inverse
    difference = (moment_matrix(mapped) - moments).flatten(1).norm(dim=1)
    assert (difference < 0.02 * moments.flatten(1).norm(dim=1)).all()


def other_shapes() -> list[torch.Tensor]:
    """For scale: a disc, a square, and the contour without its hole."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    disc = 190 * np.stack([np.cos(angle), np.sin(angle)], 1) + 200
    square = np.array([[10, 10], [390, 10], [390, 390], [10, 390]], float)
    low, high = contour().min(0), contour().max(0)
    full = (contour() - low) * 390 / (high - low).max() + 5
    return [torch.from_numpy(fill([c], 400, 400)) for c in (disc, square, full)]


@pytest.mark.parametrize("name", MAPS)
def test_invariance(name: str) -> None:
    """Pictures of 400 x 400. Measured: entries of the inner 14 rows differ by up to .0027, where rows have a 0th
    entry of 1; the L1 distance is .2 to .9, half of it in the last two rows, whose lines just touch the pixels.
    Without the hole, which has a twentieth of the area, the distance is 1.3; a disc and a square are far away."""
    method = LineIntegralShape(SPEC)
    plain, mapped, disc, square, full = method.describe(
        [rendered([[1.0, 0.0], [0.0, 1.0]]), rendered(MAPS[name]), *other_shapes()]
    )
    assert (plain - mapped).view(18, 91)[:14].abs().max() < 0.004
    assert (plain - mapped).abs().sum() < 1.0 < 1.2 < (plain - full).abs().sum()
    assert min((plain - disc).abs().sum(), (plain - square).abs().sum()) > 3


def test_pixel_exact_maps_change_nothing() -> None:
    """Quarter turns, reflections and shifts move pixels onto pixels."""
    shape = rendered(MAPS["shear"], 80)
    padded = torch.nn.functional.pad(shape, (7, 1, 3, 30))
    images = [shape.flip(0), shape.flip(1), shape.rot90(), shape.mT.contiguous(), padded]
    plain, *others = LineIntegralShape(SPEC).describe([shape, *images])
    for other in others:
        torch.testing.assert_close(other, plain, atol=1e-9, rtol=0)


def test_scale_only_refines_the_outline() -> None:
    small = rendered(MAPS["shear"], 200)
    twice = small.repeat_interleave(2, 0).repeat_interleave(2, 1)
    one, other = LineIntegralShape(SPEC, strip=0.0).describe([small, twice])
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_moment_normalisation_is_what_makes_it_affine() -> None:
    shapes = [rendered([[1.0, 0.0], [0.0, 1.0]]), rendered(MAPS["anisotropic"])]
    with_it, without = (
        LineIntegralShape(SPEC, **options).describe(shapes) for options in ({}, {"moment_norm": False})
    )
    assert (without[0] - without[1]).abs().sum() > 3 * (with_it[0] - with_it[1]).abs().sum()


def test_an_inner_grid_steadies_moments_and_reading() -> None:
    shapes = [rendered([[1.0, 0.0], [0.0, 1.0]]), *map(rendered, MAPS.values())]
    coarse, fine = (LineIntegralShape(SPEC, inner=inner).describe(shapes) for inner in (1, 4))
    error = [(d[1:] - d[:1]).view(len(MAPS), 18, 91)[:, :14].abs().amax() for d in (coarse, fine)]
    assert error[1] < 0.8 * error[0]


def test_shapes_do_not_influence_each_other() -> None:
    shapes = [
        rendered(matrix, size) for matrix, size in zip(MAPS.values(), (40, 90, 60, 33, 150), strict=True)
    ]
    method = LineIntegralShape(SPEC)
    together = method.describe(shapes)
    for row, shape in zip(together, shapes, strict=True):
        torch.testing.assert_close(row, method.describe([shape])[0], atol=1e-10, rtol=0)


def test_rows_are_divided_by_their_own_or_by_one_coefficient() -> None:
    profile = torch.tensor([[[1.0, 2.0, 3.0, 2.0], [4.0, 4.0, 4.0, 4.0], [0.0] * 4]])
    by_row = fourier_invariants(profile)
    torch.testing.assert_close(by_row[0], torch.tensor([[1.0, 0.25, 0.0], [1.0, 0.0, 0.0], [0.0] * 3]))
    by_all = fourier_invariants(profile, "all")  # mean of 8, 16 and 0
    torch.testing.assert_close(by_all[0], torch.tensor([[1.0, 0.25, 0.0], [2.0, 0.0, 0.0], [0.0] * 3]))


def test_presets_are_different_descriptors() -> None:
    shape = rendered(MAPS["shear"], 100)
    plain = LineIntegralShape(SPEC).describe([shape])[0]
    for name, options in LineIntegralShape.presets.items():
        descriptor = LineIntegralShape(SPEC, **options).describe([shape])[0]
        assert descriptor.isfinite().all(), name
        assert descriptor.shape != plain.shape or not torch.allclose(descriptor, plain), name
    assert LineIntegralShape(SPEC, **LineIntegralShape.presets["mu_only_0"]).describe([shape]).shape == (
        1,
        91,
    )


def test_bad_options_are_refused() -> None:
    for options in ({"angles": 181}, {"offsets": 0}, {"inner": 0}, {"strip": -1.0}):
        with pytest.raises(ValueError, match="angles even"):
            LineIntegralShape(SPEC, **options)


def scores(method: ShapeMethod, data: MCD | MPEG7CE2) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return dict(trainer.test(method, data, verbose=False)[0])


@pytest.mark.parametrize("cls", [MCD, MPEG7CE2])
def test_retrieval_beats_the_ablation_and_the_trivial_descriptor(
    cls: type[MCD] | type[MPEG7CE2], cache: Path
) -> None:
    from tasks.retrieval.shape_moments import ShapeSize

    data = cls(cache=cache, seed=3, draw_classes=12, draw_views=5)
    data.prepare_data()
    method = LineIntegralShape(data.spec)
    full = scores(method, data)
    raw = scores(LineIntegralShape(data.spec, moment_norm=False), data)
    trivial = scores(ShapeSize(data.spec), data)
    assert full["test/knee"] > 85
    assert full["test/knee"] > raw["test/knee"] + 20
    assert full["test/knee_without_query"] > trivial["test/knee_without_query"] + 50
    assert set(method.diagnostics()) == {"descriptor_ms", "retrieval_ms"}
    assert set(method.judged_figures) == {"ranked_lists", "precision_recall"}


def test_real_silhouettes_under_rendered_affine_maps_stay_close(real_data: Path) -> None:
    """Each of 14 real shapes lies nearer to its own affine image than to any other shape or its image."""
    from scipy.ndimage import affine_transform

    folder = real_data / "MPEG7"
    if not folder.is_dir():
        pytest.skip(f"no MPEG-7 silhouettes at {folder}")
    names = ["apple", "bat", "beetle", "Bone", "camel", "cattle", "crown", "device1", "elephant", "fork"]
    names += ["guitar", "Heart", "key", "turtle"]
    linear = np.array(MAPS["all"])
    shapes, images = [], []
    for name in names:
        shape = load_silhouette(folder / f"{name}-1.png").numpy()
        rows, columns = np.nonzero(shape)
        shape = np.pad(shape[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 4)
        shapes.append(torch.from_numpy(shape))
        corners = linear @ np.array([[0, shape.shape[0], 0, shape.shape[0]], [0, 0, *[shape.shape[1]] * 2]])
        extent = np.ceil(np.ptp(corners, axis=1)).astype(int) + 8
        inverse = np.linalg.inv(linear)
        shift = np.array(shape.shape) / 2 - inverse @ (extent / 2)
        image = affine_transform(shape.astype(float), inverse, shift, tuple(extent), order=1)
        images.append(torch.from_numpy(image > 0.5))
    descriptor = LineIntegralShape(SPEC).describe([*shapes, *images])
    distance = torch.cdist(descriptor[: len(names)], descriptor, p=1).fill_diagonal_(torch.inf)
    own = distance[:, len(names) :].diagonal().clone()
    distance[:, len(names) :].fill_diagonal_(torch.inf)
    assert (own < 0.75 * distance.amin(1)).all()
