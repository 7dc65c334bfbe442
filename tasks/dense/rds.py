"""RDS: edge detection with relaxed deep supervision, and HED with general supervision as its baseline.

Liu and Lew, "Learning Relaxed Deep Supervision for Better Edge Detection", CVPR 2016; here after the
chapter "Recognizing Image Edges" of Liu's thesis, whose equation numbers are used.

HED gives its five side outputs and their fusion one and the same target. RDS gives side output k its own
target R^(k) in {0: no edge, 1: edge, 2: relaxed}: pixels on which a cheap detector fires and annotators did
not are ignored at that level and left to a later one. Early levels ignore many pixels, late ones few, the
fusion none.

    D^(k) = C^(k) without G                          (3.1), (3.2)   `relaxed_labels`
    L = sum_k l_side(R^(k)) + l_fuse(G)              (3.3)          `RDS.training_step`
    l = -alpha log P | -beta log(1 - P) | 0          (3.4)          `balanced_cross_entropy`
    L_CEA = l_fuse(G) on coarse annotations          (3.6)          preset `cea_stage`

The minus sign of (3.4), missing in print, is restored. Baseline 1 of the chapter is `rds:fuse_only`,
Baseline 2 is `rds:general`.

The chapter leaves open, and here is chosen:
* Canny's hysteresis: quantiles .35 and .7 of the gradient magnitude. MATLAB's defaults are the .7 quantile
  and 0.4 times it, which on natural images lies at the .35 quantile for every sigma used.
* The Structured Edge forest may not be redistributed. `relax_source="se"` and "gpb" read maps from
  `edge_maps`; `se_surrogate` computes a stand-in. The default is Canny, which the chapter specifies whole,
  so that `rds` never hides which detector it used: tables show `rds:se` or `rds:se_surrogate` by name.
* Edge maps are taken as the detector gives them, before any thinning: v is their mean, and of the pixels
  above eta v only ridges relax (`thin_maps`). The chapter does not say; its relaxed pixels are lines, sparser
  than Canny's, which thresholding a broad map is not (on natural pictures it relaxes most pixels at eta .5),
  and the mean of a thinned map is so small that all five thresholds admit the same pixels.
* A precomputed map is thresholded at its own size and the binary maps are resized by nearest neighbour;
  Canny and the surrogate run on the picture as served. Where a map is 0 it never relaxes.
* Relaxed pixels lie outside the *dilated* G, or a ring of them would hug every edge. Dilation: 3x3, once,
  after resizing.
* A picture with fewer than three annotators needs all of them to agree (coarse annotations have one).
* Layer-wise learning rates: HED's ("basic parameters as HED").
* The step is given for the summed loss. With `reduction="mean"`, rate and weight decay are converted so
  that SGD follows the same path (`sgd_rates`). The released HED layer also divides by the number of
  pictures; this does not.
* conv1_1 pads by 1; `pad_first=35` is HED's.

Late merging of side outputs and several scales are not here: the chapter does neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from skimage.color import rgb2gray
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.base import DataError
from datamodules.specs import EdgeSpec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.edge_consensus import consensus
from tasks.blocks.edge_losses import POSITIVE, RELAXED, balanced_cross_entropy, image_balance
from tasks.blocks.edge_nms import thin
from tasks.blocks.edge_sources import canny_edges, load_edge_map, structured_edge_surrogate
from tasks.blocks.hed_multipliers import multiplied_groups
from tasks.blocks.side_outputs import SideOutputs
from tasks.blocks.vgg import Convention, VGG16Trunk, normalise
from tasks.dense.edge_detection import EdgeDetection

LEVELS = 5
SUPERVISED = {"all": (0, 1, 2, 3, 4), "early": (0, 1, 2), "late": (3, 4), "none": ()}


# Targets


def relaxed_labels(detected: Tensor, target: Tensor) -> Tensor:
    """Eqs. 3.1 and 3.2: R^(k) = 1 on G, 2 where the detector fires outside G, 0 elsewhere.

    detected: bool [B, K, H, W], the detector at the strictness of each level. target: G, int64 [B, 1, H, W].
    Returns int64 [B, K, H, W]; R^(k) == 1 is G at every k.
    """
    return torch.where(detected & (target != POSITIVE), RELAXED, target)


def canny_levels(image: np.ndarray, sigmas: Sequence[float], quantiles: tuple[float, float]) -> np.ndarray:
    """C^(k): Canny's edges of RGB [H, W, 3] at each sigma, bool [K, H, W]."""
    gray = rgb2gray(image)
    return np.stack([canny_edges(gray, sigma, *quantiles) for sigma in sigmas])


def map_levels(probability: np.ndarray, etas: Sequence[float], *, lines: bool = True) -> np.ndarray:
    """S^(k) = [E >= eta_k mean(E)] of an edge map E [H, W], bool [K, H, W]; never where E is 0.

    lines: keep only the ridges of E.
    """
    candidates = probability > 0
    if lines:
        edges = torch.from_numpy(np.ascontiguousarray(probability, np.float32))
        candidates = candidates & (thin(edges[None, None], smooth_radius=0, border=0)[0, 0] > 0).numpy()
    mean = probability.mean()
    return np.stack([(probability >= eta * mean) & candidates for eta in etas])


def pack_levels(detected: np.ndarray) -> Tensor:
    """bool [K, H, W], K <= 8, to one byte a pixel [H, W]: bit k is level k."""
    bits = np.packbits(detected, axis=0, bitorder="little")
    return torch.from_numpy(bits[0])


def unpack_levels(packed: Tensor, levels: int) -> Tensor:
    """uint8 [B, H, W] to bool [B, levels, H, W]."""
    bit = torch.arange(levels, device=packed.device, dtype=torch.uint8).view(1, -1, 1, 1)
    return (packed[:, None] >> bit) & 1 > 0


def sgd_rates(
    learning_rate: float, weight_decay: float, reduction: Literal["sum", "mean"], pixels: int
) -> tuple[float, float]:
    """Rate and weight decay for a reduction, given those for the sum over `pixels` pixels of a step.

    A mean has gradients smaller by the number of pixels: the rate grows by it, and the decay, which the rate
    multiplies as well, shrinks by it. 1e-9 over 8 pictures of 400x400 becomes 1.28e-3.
    """
    if reduction == "sum":
        return learning_rate, weight_decay
    return learning_rate * pixels, weight_decay / pixels


# The network


class EdgeNetwork(nn.Module):
    """VGG-16 trunk, five side outputs and their fusion by a 1x1 convolution (weights 0.2, bias 0).

    14,716,171 parameters at width 1 without batch normalisation.
    """

    def __init__(self, channels: int, width: float, batch_norm: bool, pad_first: int) -> None:
        super().__init__()
        self.trunk = VGG16Trunk(channels, width, batch_norm, pad_first)
        self.side_outputs = SideOutputs(self.trunk.widths, self.trunk.offset)
        self.fusion = nn.Conv2d(LEVELS, 1, 1)
        nn.init.constant_(self.fusion.weight, 1 / LEVELS)
        nn.init.zeros_(self.fusion.bias)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures [B, C, H, W] to side logits [B, 5, H, W] and fused logits [B, 1, H, W]."""
        height, width = image.shape[-2:]
        side = self.side_outputs(self.trunk(image), (height, width))
        return side, self.fusion(side)


class RDS(Method):
    """Relaxed deep supervision.

    supervision: of the side outputs: "rds" their own R^(k), "general" G for all, "fuse_only" none.
    levels: which side outputs are supervised (Table 3.2); the fusion always is.
    relax_source: the detector that relaxes. "se" and "gpb" read `<edge_maps>/<id>.png` or `.mat`.
    relax_order: "reversed" gives the first level the strictest detector, as a control.
    sigmas: of Canny, first level first, in pixels of the training picture. canny_quantiles: low and high.
    etas: thresholds of edge maps in units of their mean, first level first.
    thin_maps: of edge maps relax the ridges alone.
    votes, dilate_gt, low_consensus: see `consensus`.
    balance: alpha and beta as given, or each map's own (HED).
    reduction: of the losses over pixels; `learning_rate` and `weight_decay` are those of the sum.
    reference_pixels: pixels of a step for which they hold.
    hed_multipliers: layer-wise rates of HED.
    optimiser: "adam" takes `learning_rate` as it is and is for training from scratch.
    weights: VGG-16 trained on ImageNet (see `VGG16Trunk.load_imagenet`); None starts from random ones.
    convention: how those weights want their input.
    cea: "pretrain+finetune" starts from the stage trained on coarse annotations, "pretrain_only" tests it.
    width, batch_norm, pad_first: of the trunk.
    """

    name = "rds"
    task = EdgeDetection
    paper = Paper(
        title="Learning Relaxed Deep Supervision for Better Edge Detection",
        venue="CVPR 2016",
        url="https://doi.org/10.1109/CVPR.2016.32",
    )
    recipe = Recipe(batch_size=8, max_epochs=25, validate_every=0, data={"train_size": (400, 400)})
    profiles = {
        "mini": {
            "width": 0.125,
            "batch_norm": True,
            "sigmas": (0.5, 1.0, 1.5, 2.0, 3.0),
            "reduction": "mean",
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "hed_multipliers": False,
            "max_steps": 240,
            "max_epochs": None,
            "data.train_size": (96, 96),
        },
        "smoke": {
            "width": 0.0625,
            "batch_norm": True,
            "sigmas": (0.5, 1.0, 1.5, 2.0, 3.0),
            "reduction": "mean",
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "hed_multipliers": False,
            "batch_size": 2,
            "max_steps": 2,
            "max_epochs": None,
            "data.train_size": (48, 48),
        },
    }
    presets = {
        "se": {"relax_source": "se"},
        "se_surrogate": {"relax_source": "se_surrogate"},
        "gpb": {"relax_source": "gpb"},
        "general": {"supervision": "general"},
        "fuse_only": {"supervision": "fuse_only"},
        "hed": {
            "supervision": "general",
            "balance": "per_image",
            "dilate_gt": False,
            "learning_rate": 1e-6,
        },
        "early": {"levels": "early"},
        "late": {"levels": "late"},
        "reversed": {"relax_order": "reversed"},
        "undilated": {"dilate_gt": False},
        "per_image": {"balance": "per_image"},
        "cea_stage": {"supervision": "fuse_only", "max_steps": 10_000, "max_epochs": None},
        "cea_only": {"cea": "pretrain_only", "max_steps": 0},
        "cea": {"cea": "pretrain+finetune"},
    }
    baselines = (
        "rds:general",
        "rds:fuse_only",
        "edge_filter:canny",
        "edge_filter:gradient",
        "edge_filter:se_surrogate",
    )
    claims = (
        Claim(
            method="rds", over="rds:general", measure="ods", reported=".785 against .780, Table 3.1 (Canny)"
        ),
        Claim(
            method="rds", over="rds:general", measure="ap", reported=".813 against .786, Table 3.1 (Canny)"
        ),
        Claim(method="rds:se", over="rds:general", measure="ods", reported=".787 against .780, Table 3.1"),
        Claim(method="rds:se", over="rds:general", measure="ap", reported=".817 against .786, Table 3.1"),
        Claim(
            method="rds:general", over="rds:fuse_only", measure="ods", reported=".780 against .762, Table 3.1"
        ),
        Claim(
            method="rds:general", over="rds:fuse_only", measure="ap", reported=".786 against .766, Table 3.1"
        ),
        Claim(method="rds:cea", over="rds", measure="ods", reported=".790 against .785, Table 3.1 (Canny)"),
    )

    def __init__(
        self,
        spec: EdgeSpec,
        *,
        supervision: Literal["rds", "general", "fuse_only"] = "rds",
        levels: Literal["all", "early", "late", "none"] = "all",
        relax_source: Literal["canny", "se", "gpb", "se_surrogate", "none"] = "canny",
        relax_order: Literal["normal", "reversed"] = "normal",
        sigmas: Sequence[float] = (1.0, 3.0, 5.0, 7.0, 9.0),
        canny_quantiles: tuple[float, float] = (0.35, 0.7),
        etas: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 2.5),
        thin_maps: bool = True,
        edge_maps: str | None = None,
        votes: int = 3,
        dilate_gt: bool = True,
        low_consensus: Literal["negative", "ignore"] = "negative",
        balance: Literal["fixed", "per_image"] = "fixed",
        alpha: float = 9.0,
        beta: float = 1.0,
        reduction: Literal["sum", "mean"] = "sum",
        optimiser: Literal["sgd", "adam"] = "sgd",
        learning_rate: float = 1e-9,
        momentum: float = 0.9,
        weight_decay: float = 2e-4,
        reference_pixels: int = 8 * 400 * 400,
        hed_multipliers: bool = True,
        weights: str | None = None,
        convention: Convention = "torchvision",
        cea: Literal["none", "pretrain_only", "pretrain+finetune"] = "none",
        width: float = 1.0,
        batch_norm: bool = False,
        pad_first: int = 1,
    ) -> None:
        super().__init__(spec)
        if len(sigmas) != LEVELS or len(etas) != LEVELS:
            raise ValueError(
                f"one sigma and one eta a level: got {len(sigmas)} and {len(etas)}, not {LEVELS}"
            )
        self.supervised = SUPERVISED[levels] if supervision != "fuse_only" else ()
        self.relax_source = relax_source if supervision == "rds" and self.supervised else "none"
        self.reversed = relax_order == "reversed"
        self.sigmas, self.canny_quantiles, self.etas = tuple(sigmas), tuple(canny_quantiles), tuple(etas)
        self.thin_maps, self.edge_maps = thin_maps, edge_maps
        self.votes, self.dilate_gt, self.low_consensus = votes, dilate_gt, low_consensus
        self.balance, self.alpha, self.beta, self.reduction = balance, alpha, beta, reduction
        self.optimiser, self.momentum = optimiser, momentum
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.reference_pixels, self.hed_multipliers = reference_pixels, hed_multipliers
        self.pretrained = weights is not None or cea != "none"
        self.convention, self.cea = convention, cea

        self.network = EdgeNetwork(spec.channels, width, batch_norm, pad_first)
        if weights is not None:
            self.network.trunk.load_imagenet(weights)
        # Means over training steps, for the diagnostics.
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("relaxed_fraction", torch.zeros(LEVELS))
        self.register_buffer("last_side_loss", torch.full((LEVELS,), torch.nan))
        # Packed detector maps by sample id: computed once a picture, never more than the training split.
        self._detected: dict[str, Tensor] = {}
        self._trained: tuple[Tensor, Tensor] | None = None
        self._predicted: Tensor | None = None

    # Coarse edge annotations (section 3.3)

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        """The stage that is trained on coarse annotations; a suite names their dataset under `needs`."""
        if options.get("cea", "none") == "none":
            return ()
        shared = ("width", "batch_norm", "pad_first", "weights", "convention")
        same = {key: options[key] for key in shared if key in options}
        return (Need(role="cea", method="rds:cea_stage", options={"cea": "none", **same}),)

    def adopt(self, role: str, trained: Method) -> None:
        if role != "cea":
            super().adopt(role, trained)
        if not isinstance(trained, RDS):
            raise TypeError(f"rds starts from another rds, got {type(trained).__name__}")
        self.network.load_state_dict(trained.network.state_dict())

    # Training

    def on_fit_start(self) -> None:
        if self.cea == "pretrain_only":
            self.trainer.should_stop = True  # the adopted stage is what is to be tested
        elif self.relax_source in ("se", "gpb"):
            self._edge_map_folder()
        if self.optimiser == "sgd" and not self.pretrained:
            rank_zero_warn(
                "rds trains random weights with a recipe made for ImageNet's: they will hardly move. "
                "Pass weights=<VGG-16 file>, or optimiser=adam for training from scratch."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        target = self.target(batch)
        side, fused = self(batch["image"])
        labels = self.labels(batch, target)
        side_loss = self._loss(side, labels)
        fuse_loss = self._loss(fused, target).sum()

        relaxed = (labels == RELAXED).float().mean((0, 2, 3))
        self.steps += 1
        self.relaxed_fraction += (relaxed - self.relaxed_fraction) / self.steps
        self.last_side_loss.copy_(side_loss.detach())
        self._trained = (batch["image"][0].detach(), labels[0])
        for level in range(LEVELS):
            self.log(f"train/relaxed_{level + 1}", relaxed[level])
            self.log(f"train/side_loss_{level + 1}", side_loss[level])
        self.log("train/fuse_loss", fuse_loss)
        return side_loss[list(self.supervised)].sum() + fuse_loss

    def target(self, batch: Batch) -> Tensor:
        """G of a batch, int64 [B, 1, H, W]."""
        return consensus(
            batch["edges"],
            batch["annotators"],
            votes=self.votes,
            dilate=self.dilate_gt,
            low_consensus=self.low_consensus,
        )

    def labels(self, batch: Batch, target: Tensor) -> Tensor:
        """R^(1..5) of a batch with target G [B, 1, H, W], int64 [B, 5, H, W]."""
        if self.relax_source == "none":
            return target.expand(-1, LEVELS, -1, -1)
        for index, sample in enumerate(batch["id"]):
            known = self._detected.get(sample)
            if known is None or known.shape != target.shape[-2:]:
                picture = batch["image"][index].detach().cpu().permute(1, 2, 0).double().numpy()
                self._detected[sample] = pack_levels(self.detect(picture, sample))
        packed = torch.stack([self._detected[sample] for sample in batch["id"]]).to(target.device)
        return relaxed_labels(unpack_levels(packed, LEVELS), target)

    def detect(self, picture: np.ndarray, sample: str) -> np.ndarray:
        """The relaxing detector on one picture, RGB [H, W, 3], at all levels: bool [5, H, W]."""
        if self.relax_source == "canny":
            detected = canny_levels(picture, self.sigmas, self.canny_quantiles)
        elif self.relax_source == "se_surrogate":
            edges = structured_edge_surrogate(picture, thin=False)
            detected = map_levels(edges, self.etas, lines=self.thin_maps)
        else:
            edges = self._edge_map(sample)
            detected = _nearest(map_levels(edges, self.etas, lines=self.thin_maps), picture.shape[:2])
        return detected[::-1].copy() if self.reversed else detected

    def _edge_map_folder(self) -> Path:
        if self.edge_maps is None or not Path(self.edge_maps).expanduser().is_dir():
            raise DataError(
                f"relax_source={self.relax_source!r} reads precomputed edge maps, but edge_maps="
                f"{self.edge_maps!r} is no folder. Write the detector's map of each training picture there "
                "as <id>.png (8 or 16 bits) or <id>.mat (one array in [0, 1]), not thinned, or choose "
                "relax_source=canny or se_surrogate."
            )
        return Path(self.edge_maps).expanduser()

    def _edge_map(self, sample: str) -> np.ndarray:
        folder = self._edge_map_folder()
        files = [folder / f"{sample}{suffix}" for suffix in (".png", ".mat")]
        found = [file for file in files if file.is_file()]
        if not found:
            raise DataError(f"no edge map of training picture {sample!r}: neither {files[0]} nor {files[1]}")
        return load_edge_map(found[0])

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Eq. 3.4 for maps [B, K, H, W]: one loss a level, [K]."""
        if self.balance == "per_image":
            positive, negative = image_balance(labels)
        else:
            positive, negative = self.alpha, self.beta
        loss = balanced_cross_entropy(logits, labels, positive, negative, reduction="none")
        return loss.sum((0, 2, 3)) if self.reduction == "sum" else loss.mean((0, 2, 3))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimiser == "adam":
            rate, decay = self.learning_rate, self.weight_decay
        else:
            rate, decay = sgd_rates(
                self.learning_rate, self.weight_decay, self.reduction, self.reference_pixels
            )
        if self.hed_multipliers:
            net = self.network
            groups: Any = multiplied_groups(
                net.trunk, net.side_outputs, net.fusion, learning_rate=rate, weight_decay=decay
            )
        else:
            groups = self.network.parameters()
        if self.optimiser == "adam":
            return torch.optim.Adam(groups, lr=rate, weight_decay=decay)
        return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, weight_decay=decay)

    # Inference

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] in [0, 1] to side logits [B, 5, H, W] and fused logits [B, 1, H, W]."""
        return self.network(normalise(image, self.convention))

    def predict(self, batch: Batch) -> Prediction:
        """The fused output alone, at one scale, thinned."""
        _, fused = self(batch["image"])
        self._predicted = batch["image"][:1].detach()
        return {"edge": thin(fused.float().sigmoid())}

    def diagnostics(self) -> dict[str, float]:
        """Mean fraction of relaxed pixels and last loss of each level in training."""
        levels = range(LEVELS)
        return {
            **{f"relaxed_{k + 1}": float(self.relaxed_fraction[k]) for k in levels},
            **{f"side_loss_{k + 1}": float(self.last_side_loss[k]) for k in levels if self.steps > 0},
        }

    @torch.no_grad()
    def figures(self) -> dict[str, np.ndarray]:
        """Side outputs 1 to 5 and fusion of the last tested picture, and R^(1..5) of the last training
        picture: edges white, relaxed pixels blue."""
        pictures = {}
        if self._predicted is not None:
            was_training = self.training
            self.eval()
            side, fused = self(self._predicted)
            self.train(was_training)
            maps = torch.cat([side, fused], dim=1)[0].float().sigmoid()
            gray = [edge[..., None].expand(-1, -1, 3) for edge in maps]
            pictures["side_outputs"] = _row([self._predicted[0].permute(1, 2, 0), *gray])
        if self._trained is not None:
            image, labels = self._trained
            colours = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.2, 0.4, 1.0]])
            pictures["relaxed_labels"] = _row([image.permute(1, 2, 0), *colours[labels.cpu()]])
        return pictures


def _nearest(detected: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels [K, H, W] resized by nearest neighbour to [K, *size]."""
    maps = torch.from_numpy(detected).float()[None]
    return (F.interpolate(maps, size=size, mode="nearest-exact")[0] > 0.5).numpy()


def _row(pictures: Sequence[Tensor]) -> np.ndarray:
    """Pictures [H, W, 3] in [0, 1] side by side, uint8 [H, W', 3]."""
    row = torch.cat([picture.detach().float().cpu() for picture in pictures], dim=1)
    return (row.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
