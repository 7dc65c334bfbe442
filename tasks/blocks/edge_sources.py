"""Edge detectors without learning: sources of relaxed labels, and opponents of learned detectors.

* `canny_edges`: Canny, "A computational approach to edge detection", TPAMI 1986; thresholds as quantiles of
  the image's own gradient, because absolute ones fire nothing once the image is smoothed with a sigma of 9.
* `structured_edge_surrogate`: stands in for Structured Edges (Dollar & Zitnick, TPAMI 2015), whose trained
  forest may not be redistributed. It is *not* SE and is called `se_surrogate` wherever it is reported.
* `load_edge_map`: a precomputed map (SE, gPb ...) from a PNG or MAT file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
import torch
from PIL import Image, UnidentifiedImageError
from scipy import ndimage
from skimage.color import rgb2gray, rgb2lab
from skimage.feature import canny

from datamodules.base import DataError
from tasks.blocks import edge_nms


def canny_edges(gray: np.ndarray, sigma: float, low_quantile: float, high_quantile: float) -> np.ndarray:
    """Canny edges, float [H, W] -> bool [H, W].

    sigma: standard deviation of the Gaussian, in pixels.
    low_quantile, high_quantile: of the gradient magnitude over the image, 0 <= low <= high <= 1; edges that
        exceed the low one are kept where they are connected to one that exceeds the high one.
    """
    _plane(gray, "gray")
    if not 0 <= low_quantile <= high_quantile <= 1:
        raise ValueError(f"quantiles must obey 0 <= low <= high <= 1, got {low_quantile} and {high_quantile}")
    if np.ptp(gray) == 0:
        return np.zeros(gray.shape, bool)
    # Mirrored borders: with zero padding, the picture's frame would itself be the strongest edge.
    return canny(
        gray.astype(np.float64),
        sigma=sigma,
        low_threshold=low_quantile,
        high_threshold=high_quantile,
        use_quantiles=True,
        mode="reflect",
    )


def gradient_magnitude(image: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of Gaussian derivatives, the largest over channels; float [H, W] or [H, W, C] -> [H, W].

    Scaled by sigma, so that a straight step has about the same response at all scales.
    """
    planes = image[..., None] if image.ndim == 2 else image
    return sigma * np.max(
        [
            np.hypot(
                ndimage.gaussian_filter(plane, sigma, order=(1, 0)),
                ndimage.gaussian_filter(plane, sigma, order=(0, 1)),
            )
            for plane in np.moveaxis(planes.astype(np.float64), -1, 0)
        ],
        axis=0,
    )


def gradient_probability(image: np.ndarray, sigma: float) -> np.ndarray:
    """Thinned gradient magnitude of the grey picture, scaled to its maximum: float [H, W, 3] -> [H, W]."""
    magnitude = gradient_magnitude(rgb2gray(image), sigma)
    return suppress_non_maxima(magnitude / max(float(magnitude.max()), 1e-12))


def structured_edge_surrogate(
    image: np.ndarray,
    *,
    scales: Sequence[float] = (1.0, 2.0, 4.0),
    surround: float = 6.0,
    constant: float = 2.0,
    thin: bool = True,
) -> np.ndarray:
    """A multi-scale edge probability in [0, 1] from gradients alone: RGB float [H, W, 3] in [0, 1] -> [H, W].

    Like the features of Structured Edges, it works in a perceptual colour space (Lab), takes the strongest
    channel, and divides the magnitude by its local mean, so that an edge amid texture counts less than one
    that stands alone. With g_s the gradient at scale s:

        p_s = g_s / (g_s + mean_{surround * s}(g_s) + constant),        E = (prod_s p_s)^(1 / #scales)

    The geometric mean asks all scales to agree, which fine texture does not. `constant` is in Lab units, of
    which noise has about one. Where E = x / (2x + constant) at a lone ramp, E stays below 1; it is stretched
    so that the image's strongest pixel, if it is above noise (E > .2), reaches 1.

    thin: with non-maximum suppression, as the toolbox delivers its maps.
    """
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image must be [H, W, 3], got {image.shape}")
    lab = rgb2lab(np.clip(image.astype(np.float64), 0, 1))
    logarithms = []
    for scale in scales:
        magnitude = gradient_magnitude(lab, scale)
        around = ndimage.gaussian_filter(magnitude, surround * scale)
        logarithms.append(np.log(magnitude / (magnitude + around + constant) + 1e-12))
    probability = np.exp(np.mean(logarithms, axis=0))
    probability = np.clip(probability / max(float(probability.max()), 0.2), 0, 1)
    return suppress_non_maxima(probability) if thin else probability


def suppress_non_maxima(edges: np.ndarray) -> np.ndarray:
    """The thinning of learned detectors (`tasks/blocks/edge_nms.py`), without smoothing: [H, W] -> [H, W]."""
    _plane(edges, "edges")
    return edge_nms.thin(torch.from_numpy(edges.astype(np.float32))[None, None], smooth_radius=0)[
        0, 0
    ].numpy()


def load_edge_map(path: str | Path) -> np.ndarray:
    """A precomputed edge map as float [H, W] in [0, 1].

    PNG: one channel, 8 or 16 bits, scaled by its largest code. MAT: the file's only two-dimensional numeric
    array (`E`, `gPb_thin` ...), already in [0, 1]. Raises `DataError` for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such edge map")
    if path.suffix.lower() == ".mat":
        try:
            content = scipy.io.loadmat(path)
        except Exception as error:
            raise DataError(f"{path}: not a readable MAT file ({error})") from error
        planes = {
            key: value
            for key, value in content.items()
            if not key.startswith("__")
            and value.ndim == 2
            and min(value.shape) > 1
            and value.dtype.kind in "fiub"
        }
        if len(planes) != 1:
            raise DataError(
                f"{path}: needs exactly one two-dimensional array, found {sorted(planes) or 'none'}"
            )
        values = next(iter(planes.values())).astype(np.float64)
    else:
        try:
            with Image.open(path) as picture:
                values = np.asarray(picture)
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path}: not a readable picture ({error})") from error
        if values.ndim != 2:
            raise DataError(f"{path}: an edge map has one channel, got an array of {values.shape}")
        values = values / (1.0 if values.dtype == bool else 255.0 if values.dtype == np.uint8 else 65535.0)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DataError(f"{path}: values must lie in [0, 1], got {values.min():.4g} .. {values.max():.4g}")
    return values


def _plane(values: np.ndarray, name: str) -> None:
    if values.ndim != 2:
        raise ValueError(f"{name} must be [H, W], got {values.shape}")
