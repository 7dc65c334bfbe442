"""`cca`: regularised linear canonical correlation analysis on the frozen features of a picture and a sentence.

The learned baseline without depth: two linear maps under which pairs correlate most, in closed form. Of
centred features x, y with covariances C_xx, C_yy and C_xy over all training pairs,

    (C_xx + r_x I)^-1/2 C_xy (C_yy + r_y I)^-1/2 = U diag(s) V^T,

the embeddings are s^p * (U^T (C_xx + r_x I)^-1/2 x) and the same of y, compared by cosine. Weighing each
direction by a power of its correlation, p = 4, is Gong et al.'s ("A Multi-View Embedding Space for Modeling
Internet Images, Tags, and Their Semantics", IJCV 2014), and what CCA over Fisher vectors of sentences uses
as well. r is `regularisation` times the mean variance of a feature, so that it has no unit.

Cholesky factors stand for the square roots: they differ by a rotation, which U and V take up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import CaptionsSpec
from tasks.base import Batch, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.frozen_features import FrozenPairFeatures, ImageEncoder, TextEncoder
from tasks.language.image_text_retrieval import ImageTextRetrieval, caption_owners, check_captions


class Correlations(NamedTuple):
    """What `fit_cca` finds: projections [Dx, K] and [Dy, K], and the correlations [K], falling; float64."""

    x: Tensor
    y: Tensor
    correlation: Tensor


def fit_cca(xx: Tensor, xy: Tensor, yy: Tensor, directions: int, regularisation: float) -> Correlations:
    """Canonical directions from covariances [Dx, Dx], [Dx, Dy] and [Dy, Dy]; see the module's docstring.

    directions: K, at most min(Dx, Dy). regularisation: added to each diagonal, as a share of its mean.
    """
    if xx.shape[0] != xy.shape[0] or yy.shape[0] != xy.shape[1]:
        raise ValueError(f"covariances don't fit: {tuple(xx.shape)}, {tuple(xy.shape)}, {tuple(yy.shape)}")
    if not 1 <= directions <= min(xy.shape):
        raise ValueError(f"there are 1 to {min(xy.shape)} directions, not {directions}")
    x_root, y_root = (
        torch.linalg.cholesky(
            square + regularisation * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
        )
        for square in (xx.double().cpu(), yy.double().cpu())
    )
    half = torch.linalg.solve_triangular(x_root, xy.double().cpu(), upper=False)
    whitened = torch.linalg.solve_triangular(y_root, half.T, upper=False).T
    left, correlation, right = torch.linalg.svd(whitened, full_matrices=False)
    return Correlations(
        torch.linalg.solve_triangular(x_root.T, left[:, :directions], upper=True),
        torch.linalg.solve_triangular(y_root.T, right[:directions].T, upper=True),
        correlation[:directions],
    )


class Moments:
    """Sums of pairs taken in batch by batch, in float64."""

    def __init__(self) -> None:
        self.pairs = 0
        self.sums: list[Tensor] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        """x [B, Dx], y [B, Dy]"""
        x, y = x.double(), y.double()
        new = [x.sum(0), y.sum(0), x.T @ x, x.T @ y, y.T @ y]
        self.sums = (
            [total.add_(part) for total, part in zip(self.sums, new, strict=True)] if self.pairs else new
        )
        self.pairs += len(x)

    def covariances(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means of x and y, covariances xx, xy and yy."""
        x, y, xx, xy, yy = (total / self.pairs for total in self.sums)
        return x, y, xx - torch.outer(x, x), xy - torch.outer(x, y), yy - torch.outer(y, y)


class CCA(Method):
    """See the module's docstring.

    directions: K, cut to the shorter feature. regularisation: r. power: p of the correlations.
    image_encoder, text_encoder, image_weights, adopted_image_dim, word_dim, centres, text_pca: of
        `FrozenPairFeatures`.
    """

    name = "cca"
    task = ImageTextRetrieval
    paper = Paper(
        title="Relations Between Two Sets of Variates",
        venue="Biometrika 1936",
        url="https://doi.org/10.1093/biomet/28.3-4.321",
    )
    recipe = Recipe(batch_size=1500, max_epochs=1, validate_every=0)
    profiles = {
        "mini": {
            "image_encoder": "adopted",
            "word_dim": 50,
            "centres": 5,
            "text_pca": 128,
            "batch_size": 250,
        },
        "smoke": {
            "image_encoder": "adopted",
            "word_dim": 50,
            "centres": 2,
            "text_pca": 32,
            "batch_size": 250,
        },
    }
    presets = {"gmm_fv": {"text_encoder": "gmm_fv"}, "mean_w2v": {"text_encoder": "mean_w2v"}}
    baselines = ("chance_retrieval",)

    def __init__(
        self,
        spec: CaptionsSpec,
        *,
        directions: int = 512,
        regularisation: float = 0.01,
        power: float = 4.0,
        image_encoder: ImageEncoder = "resnet152",
        text_encoder: TextEncoder = "hglmm",
        image_weights: str | None = None,
        adopted_image_dim: int = 128,
        word_dim: int = 300,
        centres: int = 30,
        text_pca: int = 6000,
    ) -> None:
        super().__init__(check_captions(spec))
        if regularisation <= 0:
            raise ValueError(f"regularisation must be positive, got {regularisation}")
        self.automatic_optimization = False
        self.features = FrozenPairFeatures(
            spec,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            image_weights=image_weights,
            adopted_image_dim=adopted_image_dim,
            word_dim=word_dim,
            centres=centres,
            text_pca=text_pca,
        )
        self.regularisation, self.power = regularisation, power
        image_dim, text_dim = self.features.image_dim, self.features.text_dim
        self.directions = min(directions, image_dim, text_dim)
        self.image_mean: Tensor
        self.text_mean: Tensor
        self.image_projection: Tensor
        self.text_projection: Tensor
        self.correlation: Tensor
        for name, shape in (
            ("image_mean", (image_dim,)),
            ("text_mean", (text_dim,)),
            ("image_projection", (image_dim, self.directions)),
            ("text_projection", (text_dim, self.directions)),
            ("correlation", (self.directions,)),
        ):
            self.register_buffer(name, torch.zeros(shape))

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return FrozenPairFeatures.needs(options["image_encoder"], options["text_encoder"])

    def adopt(self, role: str, trained: Method) -> None:
        self.features.adopt(role, trained)

    def on_fit_start(self) -> None:
        self.features.fit(self.trainer.datamodule)  # type: ignore[attr-defined]

    def on_test_start(self) -> None:
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            self.features.open_cache(data)

    @torch.no_grad()
    def on_train_start(self) -> None:
        """One pass over all training pairs, in their own order, and the closed form."""
        moments = Moments()
        for batch in self.trainer.datamodule.in_order("train"):  # type: ignore[attr-defined]
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            owner = caption_owners(batch).to(self.device)
            moments.update(self.features.images(batch)[owner], self.features.texts(batch))
        image_mean, text_mean, xx, xy, yy = moments.covariances()
        found = fit_cca(xx, xy, yy, self.directions, self.regularisation)
        for buffer, value in (
            (self.image_mean, image_mean),
            (self.text_mean, text_mean),
            (self.image_projection, found.x),
            (self.text_projection, found.y),
            (self.correlation, found.correlation),
        ):
            buffer.copy_(value)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int:
        """-1 ends the epoch before its first step: everything is learnt by then."""
        return -1

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is left to learn from a single batch: see `on_train_start`."""

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        scale = self.correlation.clamp(min=0) ** self.power
        image = (self.features.images(batch) - self.image_mean) @ self.image_projection * scale
        text = (self.features.texts(batch) - self.text_mean) @ self.text_projection * scale
        return {
            "image": F.normalize(image, dim=1),
            "text": F.normalize(text, dim=1),
            "owner": caption_owners(batch).to(self.device),
        }

    def diagnostics(self) -> dict[str, float]:
        """The largest correlation, and how many directions correlate by more than 0.5."""
        return {
            "first_correlation": float(self.correlation.max()),
            "strong_directions": float((self.correlation > 0.5).sum()),
        }
