"""Edge detectors without learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.ndimage import gaussian_filter

from datamodules.base import DataError
from tasks.blocks.edge_sources import (
    canny_edges,
    gradient_magnitude,
    gradient_probability,
    load_edge_map,
    structured_edge_surrogate,
)


def step(height: int = 40, width: int = 60, at: int = 30) -> np.ndarray:
    gray = np.zeros((height, width))
    gray[:, at:] = 1
    return gray


def test_canny_draws_one_line_at_a_step() -> None:
    gray = step()
    gray[:, 30] = 0.5  # else the pixels on both sides are equally steep
    edges = canny_edges(gray, 1.0, 0.8, 0.9)
    assert edges.dtype == bool
    assert (edges[5:-5].sum(1) == 1).all()
    assert edges[5:-5, 30].all()


def test_canny_of_a_plain_picture_is_empty_and_its_frame_is_no_edge() -> None:
    assert not canny_edges(np.full((20, 30), 0.7), 2.0, 0.5, 0.9).any()
    assert not canny_edges(1 + step(), 3.0, 0.5, 0.9)[:, :15].any()


def test_canny_fires_less_where_sigma_is_larger() -> None:
    gray = np.random.default_rng(0).random((60, 60))
    counts = [canny_edges(gray, sigma, 0.8, 0.9).sum() for sigma in (1, 2, 4)]
    assert counts[0] > counts[1] > counts[2] > 0


def test_canny_fires_at_sigma_nine_because_thresholds_are_quantiles() -> None:
    gray = gaussian_filter(np.random.default_rng(0).random((120, 120)), 6) * 0.1
    assert canny_edges(gray, 9.0, 0.8, 0.9).any()


@pytest.mark.parametrize("quantiles", [(0.9, 0.8), (-0.1, 0.5), (0.5, 1.1)])
def test_canny_refuses_impossible_quantiles(quantiles: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="quantiles"):
        canny_edges(step(), 1.0, *quantiles)


def test_gradient_of_a_step_is_that_of_a_gaussian_at_all_scales() -> None:
    for sigma in (1.0, 2.0, 4.0):
        magnitude = gradient_magnitude(step(), sigma)
        # sigma * the Gaussian's density half a pixel from the step
        expected = np.exp(-0.125 / sigma**2) / np.sqrt(2 * np.pi)
        assert magnitude[20, 29] == pytest.approx(expected, rel=0.05)
        assert magnitude[20, 5] == pytest.approx(0, abs=1e-6)


def test_gradient_probability_is_a_thin_line() -> None:
    edges = gradient_probability(np.repeat(step()[..., None], 3, -1), 1.5)
    assert edges.min() >= 0
    assert edges.max() <= 1
    assert edges[20].argmax() in (29, 30)
    assert (edges[20] > 0.5).sum() <= 2


def coloured(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, -1)


def test_surrogate_is_a_probability_and_blank_on_a_blank_picture() -> None:
    edges = structured_edge_surrogate(coloured(step()))
    assert edges.shape == (40, 60)
    assert edges.min() >= 0
    assert edges.max() <= 1
    assert edges[20, 28:32].max() > 0.8
    assert structured_edge_surrogate(np.full((40, 60, 3), 0.5)).max() == pytest.approx(0, abs=1e-6)


def test_surrogate_counts_an_edge_in_texture_less_than_a_lone_one() -> None:
    gray = 0.2 + 0.4 * step(60, 120, 60)
    textured = gray.copy()
    stripes = 0.2 * (np.arange(60) // 2 % 2)
    textured[:, 70:] += stripes[10:]
    edges = structured_edge_surrogate(coloured(textured), thin=False)
    lone = edges[25:35, 58:62].max(1).mean()
    assert lone > 2 * edges[25:35, 85:110].max(1).mean()


def test_surrogate_turns_with_the_picture() -> None:
    picture = gaussian_filter(np.random.default_rng(1).random((40, 50, 3)), (1, 1, 0))
    plain = structured_edge_surrogate(picture, thin=False)
    turned = structured_edge_surrogate(np.rot90(picture), thin=False)
    assert np.allclose(np.rot90(plain), turned, atol=1e-9)


def test_surrogate_is_sparser_when_thinned() -> None:
    picture = gaussian_filter(np.random.default_rng(1).random((40, 50, 3)), (1, 1, 0))
    thinned = structured_edge_surrogate(picture)
    assert (thinned > 0).sum() < 0.5 * thinned.size
    assert (thinned <= structured_edge_surrogate(picture, thin=False) + 1e-6).all()


def test_surrogate_wants_colour() -> None:
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        structured_edge_surrogate(step())


def test_edge_maps_load_from_png_and_mat(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    Image.fromarray((values * 255).round().astype(np.uint8)).save(tmp_path / "eight.png")
    Image.fromarray((values * 65535).round().astype(np.uint16)).save(tmp_path / "sixteen.png")
    savemat(tmp_path / "map.mat", {"E": values, "threshold": 0.5})
    assert np.allclose(load_edge_map(tmp_path / "eight.png"), values, atol=1 / 255)
    assert np.allclose(load_edge_map(tmp_path / "sixteen.png"), values, atol=1 / 65535)
    assert np.allclose(load_edge_map(tmp_path / "map.mat"), values)


def test_bad_edge_maps_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such edge map"):
        load_edge_map(tmp_path / "none.png")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match="one channel"):
        load_edge_map(tmp_path / "colour.png")
    savemat(tmp_path / "two.mat", {"E": np.zeros((3, 4)), "O": np.zeros((3, 4))})
    with pytest.raises(DataError, match=r"\['E', 'O'\]"):
        load_edge_map(tmp_path / "two.mat")
    savemat(tmp_path / "large.mat", {"E": np.full((3, 4), 255.0)})
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        load_edge_map(tmp_path / "large.mat")
    (tmp_path / "cut.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match="not a readable MAT"):
        load_edge_map(tmp_path / "cut.mat")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="not a readable picture"):
        load_edge_map(tmp_path / "cut.png")
