"""VTN retrieval: volumetric transformer networks for instance-level image retrieval (ECCV 2020, section 4.3).

The last feature map of a backbone is warped (`tasks/blocks/volumetric_transformer.py`; the peers in
`tasks/blocks/spatial_warps.py`), pooled by MAC, SPoC, GeM or R-MAC (`tasks/blocks/global_pooling.py`), brought to unit
length and compared by dot product. Training follows the protocols that the paper cites:

- GeM with the contrastive loss: tuples of a query, a right answer and 5 hard negatives of different landmarks, mined
  anew in each epoch for 2,000 queries from a pool of 22,000 pictures with the network as it is; 362 pixels, margin
  0.85, Adam 5e-7 falling by e^-0.01 an epoch, 5 tuples a batch; tested on scales 1, 1/sqrt(2) and 1/2;
- R-MAC with the triplet ranking loss on the same tuples, margin 0.1;

plus lambda L_cons (Eq. 4) on the triplets (query, right answer, hardest negative) of the batch.

Left open by the paper and chosen here:
- pictures are squashed to squares in training, because Eq. 4 compares maps of one shape;
- the network is in evaluation mode for mining; queries and right answers of an epoch depend on seed and epoch alone,
  the same under every warp, and negatives on what the network finds hard;
- BN statistics of the backbone are kept as trained, as the cited toolbox does, where it starts from ImageNet weights
  (`freeze_bn`); a backbone from scratch needs its own;
- neither learned whitening nor, for R-MAC, the fully connected layer that is PCA: the paper mentions neither;
- one pass over a picture a scale, GeM's power mean over scales, the plain mean for the others.

The paper's text says ResNet-50, but its row for GeM is the published one of a ResNet-101 with whitening. DELF with
aggregated selective match kernels is a reported number only. No weights can be loaded: see `vtn`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchmetrics import MeanMetric

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.field_pictures import draw_fields
from tasks.blocks.global_pooling import DescriptorPooling, GlobalPooling
from tasks.blocks.tuple_losses import contrastive_tuple_loss, hardest_of_other_labels, triplet_tuple_loss
from tasks.blocks.volumetric_transformer import VolumetricTransformer, uniform_field
from tasks.blocks.warp_consistency import Reduction, Triplets, consistency_loss
from tasks.blocks.warped_backbone import Backbone, Warp, WarpedBackbone, field_statistics
from tasks.retrieval.landmark_retrieval import LandmarkRetrieval, landmarks_of

ALPHA: dict[str, float] = {"vgg19": 20.0, "resnet50": 30.0, "small": 30.0}
"""The threshold of Eq. 4 by backbone."""
ROLE = "start"
SHOWN = 3


class VTNRetrieval(Method):
    """See the module's docstring.

    backbone, weights, warp, groups, window, beta, shared_field: see `WarpedBackbone`. pooling: see
    `DescriptorPooling`. loss, margin: contrastive (None: 0.85) or triplet (None: 0.1). alpha, lambda_cons,
    cons_reduction: threshold (None: 20 for VGG, 30 for ResNet), weight and reduction over pixels of L_cons. cons_unit:
    what V is divided by for it, to bring the responses of another backbone to the range that lambda = 1 is meant for.
    pretrained, pretrain_epochs: start from the backbone of a Base that was trained for so many epochs on the same
    pictures (the trial `start`), where no ImageNet weights exist.
    tuples, negatives: queries a batch and wrong answers to each. queries, pool: of an epoch, or all there are.
    scales: of the picture, in test. freeze_bn: keep the backbone's BN statistics, in training too.
    lr, new_lr: of Adam, for the backbone and for warp and pooling (None: the same). decay: of the rate, in e^-decay an
    epoch.
    """

    name = "vtn_retrieval"
    task = LandmarkRetrieval
    paper = Paper(
        title="Volumetric Transformer Networks",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58592-1_33",
        code="https://github.com/seungryong/VTNs",
    )
    recipe = Recipe(batch_size=35, max_epochs=100, validate_every=0)
    _plain = {"lambda_cons": 0.0}
    presets = {
        "base": {"warp": "none", **_plain},
        "stn": {"warp": "stn", **_plain},
        "no_consistency": _plain,
        "shared_field": {"shared_field": True},
        "rmac": {"pooling": "rmac", "loss": "triplet"},
        "base_rmac": {"warp": "none", "pooling": "rmac", "loss": "triplet", **_plain},
        "stn_rmac": {"warp": "stn", "pooling": "rmac", "loss": "triplet", **_plain},
        "mac": {"pooling": "mac"},
        "spoc": {"pooling": "spoc"},
        "untrained": {"warp": "none", "max_steps": 0, **_plain},
    }
    _small = {
        "backbone": "small",
        "groups": 8,
        "window": 5,
        "freeze_bn": False,
        "cons_reduction": "mean",
    }
    profiles = {
        "mini": {
            **_small,
            "beta": 3.0,
            "alpha": 0.01,
            "cons_unit": 18.0,
            "tuples": 4,
            "negatives": 3,
            "batch_size": 20,
            "queries": 80,
            "lr": 1e-3,
            "pretrained": True,
            "pretrain_epochs": 6,
            "max_epochs": 4,
        },
        "smoke": {
            **_small,
            "tuples": 2,
            "negatives": 2,
            "batch_size": 8,
            "queries": 4,
            "pool": 40,
            "max_epochs": 1,
            "scales": (1.0, 0.5),
        },
    }
    baselines = ("vtn_retrieval:base", "vtn_retrieval:stn", "vtn_retrieval:untrained")
    claims = (
        Claim(
            method="vtn_retrieval",
            over="vtn_retrieval:base",
            measure="map_hard",
            reported="ROxford-H 45.5 vs 38.5, GeM (Table 6)",
        ),
        Claim(
            method="vtn_retrieval",
            over="vtn_retrieval:stn",
            measure="map_hard",
            reported="ROxford-H 43.3 vs 36.1, R-MAC (Table 6)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        backbone: Backbone = "resnet50",
        weights: str | None = None,
        pretrained: bool = False,
        pretrain_epochs: int = 20,
        warp: Warp = "vtn",
        pooling: GlobalPooling = "gem",
        groups: int = 32,
        window: int = 11,
        beta: float = 10.0,
        shared_field: bool = False,
        loss: Literal["contrastive", "triplet"] = "contrastive",
        margin: float | None = None,
        alpha: float | None = None,
        lambda_cons: float = 1.0,
        cons_reduction: Reduction = "sum",
        cons_unit: float = 1.0,
        tuples: int = 5,
        negatives: int = 5,
        queries: int = 2000,
        pool: int = 22_000,
        scales: tuple[float, ...] = (1.0, 2**-0.5, 0.5),
        freeze_bn: bool = True,
        lr: float = 5e-7,
        new_lr: float | None = None,
        decay: float = 0.01,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(landmarks_of(spec))
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive numbers, got {scales}")
        self.network = WarpedBackbone(
            backbone=backbone,
            weights=weights,
            warp=warp,
            groups=groups,
            window=window,
            beta=beta,
            shared_field=shared_field,
        )
        self.pooling = DescriptorPooling(pooling)
        self.loss = loss
        self.margin = (0.85 if loss == "contrastive" else 0.1) if margin is None else margin
        self.alpha = ALPHA[backbone] if alpha is None else alpha
        self.lambda_cons, self.cons_reduction, self.cons_unit = lambda_cons, cons_reduction, cons_unit
        self.tuples, self.negatives, self.queries, self.pool = tuples, negatives, queries, pool
        self.scales, self.freeze_bn = tuple(scales), freeze_bn
        self.lr, self.new_lr = lr, lr if new_lr is None else new_lr
        self.decay, self.weight_decay = decay, weight_decay
        self._means: dict[str, MeanMetric] = {}
        self._shown: tuple[Tensor, Tensor] | None = None

    def train(self, mode: bool = True) -> VTNRetrieval:
        super().train(mode)
        if self.freeze_bn:
            for module in self.network.layers.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    # Where it starts from.

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        if not options["pretrained"] or options["max_steps"] == 0:
            return ()
        start = {"pretrained": False, "max_epochs": options["pretrain_epochs"]}
        return (Need(role=ROLE, method="vtn_retrieval:base", options=start),)

    def adopt(self, role: str, trained: Method) -> None:
        """Take the backbone of a trained Base; warp and pooling stay as they are."""
        if role != ROLE or not isinstance(trained, VTNRetrieval):
            raise TypeError(f"{self.name} needs a VTNRetrieval as {ROLE!r}, not {trained.name} as {role!r}")
        self.network.take_layers(trained.network)

    # Tuples of an epoch.

    def on_fit_start(self) -> None:
        self._schedule(0)

    def on_train_epoch_end(self) -> None:
        following, last = self.current_epoch + 1, self.trainer.max_epochs
        if last in (None, -1) or following < last:
            self._schedule(following)

    def _schedule(self, epoch: int) -> None:
        data = self.trainer.datamodule
        split = data.split("train")
        if split.labels is None or not len(split.pairs):
            raise ValueError(
                f"{data.name} has no labels and pairs to learn from; train on a dataset that has "
                "(`trained_on` in a suite names it)"
            )
        random = np.random.default_rng((data.seed, epoch))
        pairs = split.pairs[random.permutation(len(split.pairs))[: self.queries]]
        pool = np.sort(random.permutation(len(split))[: self.pool])
        label = torch.from_numpy(split.labels)
        asked = np.unique(pairs[:, 0])
        known = torch.from_numpy(np.union1d(pool, asked))
        feature = self._describe_training(data, known.tolist())
        place = torch.full((len(split),), -1)
        place[known] = torch.arange(len(known))
        wrong = []
        for some in torch.from_numpy(pairs[:, 0]).split(256):  # bounds the memory for similarities
            similarity = feature[place[some]] @ feature[place[pool]].T
            wrong.append(hardest_of_other_labels(similarity, label[some], label[pool], self.negatives))
        answers = pool[torch.cat(wrong).numpy()]
        rows = np.concatenate([pairs, answers], axis=1)
        whole = max(1, len(rows) // self.tuples)  # what doesn't fill a batch waits for another epoch
        data.schedule(
            [chunk.reshape(-1).tolist() for chunk in np.array_split(rows[: whole * self.tuples], whole)]
        )

    @torch.no_grad()
    def _describe_training(self, data: Any, indices: list[int]) -> Tensor:
        """Descriptors of training pictures as the network makes them now, [N, K], on the CPU."""
        training = self.training
        self.eval()
        loader = DataLoader(
            Subset(data.split("train"), indices),
            batch_size=self.tuples * (2 + self.negatives),
            collate_fn=data.collate,
            num_workers=data.workers,
        )
        described = [self.describe(batch["image"].to(self.device)).cpu() for batch in loader]
        self.train(training)
        return torch.cat(described)

    def describe(self, image: Tensor) -> Tensor:
        """The descriptor on one scale: [N, 3, H, W] -> unit [N, K]."""
        warped, _ = self.network(image)
        return self.pooling(warped)

    # Training.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        width = 2 + self.negatives
        warped, _ = self.network(batch["image"])
        count = len(warped) // width
        feature = self.pooling(warped).view(count, width, -1)
        ranking = contrastive_tuple_loss if self.loss == "contrastive" else triplet_tuple_loss
        loss = ranking(feature[:, 0], feature[:, 1], feature[:, 2:], self.margin)
        self.log(f"train/{self.loss}", loss)
        if self.lambda_cons:
            first = width * torch.arange(count, device=warped.device)
            consistency = consistency_loss(
                warped / self.cons_unit,
                Triplets(first, first + 1, first + 2),
                alpha=self.alpha,
                reduction=self.cons_reduction,
            )
            self.log("train/consistency", consistency)
            loss = loss + self.lambda_cons * consistency
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        groups = self.network.parameter_groups(self.lr, self.new_lr, self.pooling)
        optimizer = torch.optim.Adam(groups, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, math.exp(-self.decay))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    # Prediction.

    def predict(self, batch: Batch) -> Prediction:
        image = batch["image"]
        described = []
        for scale in self.scales:
            size = [max(1, round(scale * side)) for side in image.shape[2:]]
            resized = F.interpolate(image, size, mode="bilinear", antialias=True) if scale != 1 else image
            described.append(self.describe(resized))
        return {"feature": self.pooling.combine(torch.stack(described))}

    def on_test_start(self) -> None:
        self._means, self._shown = {}, None

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        if self.network.warp is None or not bool(batch["is_query"].any()):
            return
        _, field = self.network(batch["image"])
        warp = self.network.warp
        window = warp.window if isinstance(warp, VolumetricTransformer) else 1
        numbers = field_statistics(field, uniform_field(*field.shape[2:4], window, field))
        del numbers["field_instance_spread"]  # pictures come one by one, in shapes of their own
        for name, value in numbers.items():
            mean = self._means.setdefault(name, MeanMetric().to(self.device))
            mean.update(value, weight=len(field))
        if self._shown is None or (
            len(self._shown[0]) < SHOWN and batch["image"].shape == self._shown[0].shape
        ):
            own = batch["image"].cpu(), field.float().cpu()
            kept = self._shown or tuple(part[:0] for part in own)
            self._shown = tuple(torch.cat([a, b])[:SHOWN] for a, b in zip(kept, own, strict=True))

    def diagnostics(self) -> dict[str, float]:
        """Of the test queries: fields in pixels of the feature map (`field_statistics`); GeM's power; how L_cons was
        taken."""
        numbers = {name: float(mean.compute()) for name, mean in self._means.items()}
        if self.pooling.pooling == "gem":
            numbers["gem_power"] = float(self.pooling.power)
        if self.lambda_cons:
            numbers["cons_alpha"], numbers["cons_unit"] = self.alpha, self.cons_unit
            numbers["cons_summed_over_pixels"] = float(self.cons_reduction == "sum")
        return numbers

    def figures(self) -> dict[str, np.ndarray]:
        """Source positions of up to four groups' fields on the first test queries, coloured by target position."""
        return {} if self._shown is None else {"warping-fields": draw_fields(*self._shown)}
