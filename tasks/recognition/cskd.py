"""CSKD: Improving Knowledge Distillation via Category Structure (Chen et al., ECCV 2020).

A small student learns from a large frozen teacher: beside labels and the teacher's logits it takes over the structure
of each batch at the level of categories, the offset of each sample from the centre of its category (intra) and the
similarity of each two centres (inter). That is m c + c^2 relations instead of the (m c)^2 between all samples.

- Eqs. 6-8, and both terms of Eq. 9: `category_structure.py`. Eq. 9 with its weights: `CSKD.structure_terms`; Eq. 10:
  `training_step`. Algorithm 1 prints the inter term inside the sum over categories; Eq. 9 is right.
- Networks: tasks/blocks/narrow_resnet.py. The teacher is a trial of its own (`kd_teacher`), or a file of weights
  (`frozen_teacher.py`), and no part of the tested model. The student alone predicts; sigma, the 1x1 convolution to the
  teacher's channels, is trained with it and then of no use.
- Baselines are presets and share everything but their losses (`distillation_losses.py`): `ce` (labels alone), `neither`
  (Eq. 10 without L_CS; the rows "KD" of Table 3 and "neither" of Table 4 hold the same numbers, so this is the paper's
  KD), `kd` (softened logits instead), `fitnet`, `ab`, `cckd`, and Table 4's `intra` and `inter`.

The paper leaves open, and chosen here:
- c in Eq. 9 is the number of categories in the batch; those without a sample have no centre. A single sample is its
  own centre, so its offset is 0 in both networks; `diagnostics` tells how many there are.
- sigma has no bias and no BN (as in the official code), and is used in the intra term alone, as Eq. 9 has it.
- pictures are padded with black before they are normalised, by CIFAR-10's means whatever the dataset (`mean`, `std`).
  Tiny ImageNet's test pictures are served whole, at 64 pixels.
- the other methods: Hinton's temperature is 4; FitNet and AB spend the first `stage_share` of the training on their
  own loss alone (the hint is stage 2; boundaries at all four stages, connectors with BN), then on L_CE and L_KD as all
  others; CCKD adds its loss on the last maps, by the kernel of its authors and times 50, so that it starts as large
  as L_CS does (the authors' own weight is for another scale; 1 leaves a hundredth of L_KD).
- Fig. 4 is drawn of the four classes that lie evenly in the order of labels, for student and teacher.

The official code's form differs in all weights, in what is averaged and in its terms: preset `repo`. In it, maps of
both networks have their centres over the samples that they classify rightly, student's centres are constants, and
students' logits are drawn to their centre. Left out: KDGAN, and the official code's further networks and datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.crop_flip import CIFAR_MEAN, CIFAR_STD, Canvas, ChannelNormalise, augment
from tasks.blocks.identity_batches import identity_batches
from tasks.blocks.narrow_resnet import STAGES, NarrowResNet, Stages
from tasks.blocks.published_weights import load_renamed, read_published
from tasks.blocks.stepped_sgd import stepped_sgd
from tasks.recognition.category_structure import (
    Distance,
    Grouping,
    category_centres,
    category_offsets,
    category_similarity,
    compactness,
    inter_distance,
    intra_distance,
    intra_of_the_right,
)
from tasks.recognition.distillation_diagnostics import StructureRecord
from tasks.recognition.distillation_losses import (
    boundary_loss,
    correlation_loss,
    hint_loss,
    logit_mse,
    softened_kl,
)
from tasks.recognition.frozen_teacher import Teacher
from tasks.recognition.image_classification import ImageClassification, classes_of

ROLE = "teacher"
HINT = 1
Transfer = Literal["structure", "hint", "boundary", "correlation", "none"]
CONNECTED: Mapping[str, tuple[int, ...]] = {
    "structure": (STAGES - 1,),
    "hint": (HINT,),
    "boundary": tuple(range(STAGES)),
    "correlation": (),
    "none": (),
}
"""Stages whose maps are brought to the teacher's channels."""


class CSKD(Method):
    """A student ResNet that is distilled from a teacher.

    depth, ratio, pool_stride: of the student, see `NarrowResNet`. teacher: "name" or "name:preset" of the method that
    is the teacher. teacher_weights: a file of its weights instead. weights: of the student, to start from.
    alpha, beta, gamma: weights of L_CE, of the intra and of the inter term. kd_weight: of L_KD; None: 1 - alpha.
    kd: mean square of logits, or divergence of softened ones at the `temperature`.
    transfer: what is taught beside them; intra, inter: terms of "structure". features: what has the structure: the last
        map, logits, or both (terms are added). transform: whether sigma is used in the intra term alone, or in both.
    form: "repo" averages as the official code does. distance: norms as in the paper, or mean squares.
    detach_centres: the student's centres in the intra term are constants. compactness: weight of the official code's
        term that draws the student's logits to their centre.
    transfer_weight: of the hint, boundary or correlation loss. stage_share: part of the training for the first two.
    balanced: samples of each category in a batch; 0: batches are shuffled.
    canvas, mean, std, lr, momentum, weight_decay, drops, warmup: see `kd_teacher`.
    """

    name = "cskd"
    task = ImageClassification
    paper = Paper(
        title="Improving Knowledge Distillation via Category Structure",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_13",
        code="https://github.com/xeanzheng/CSKD",
    )
    recipe = Recipe(batch_size=128, max_epochs=200, validate_every=0)
    profiles = {
        "mini": {"ratio": 0.125, "pool_stride": 2, "batch_size": 60, "max_epochs": 25, "warmup": 0.05},
        "smoke": {"ratio": 0.0625, "pool_stride": 2, "batch_size": 16, "max_epochs": 1, "max_steps": 3},
    }
    _tiny = {
        "teacher": "kd_teacher:tiny",
        "canvas": "enlarge",
        "weight_decay": 5e-4,
        "drops": (0.25, 0.5, 0.75),
        "batch_size": 200,
    }
    presets = {
        "ce": {"alpha": 1.0, "transfer": "none"},
        "neither": {"intra": False, "inter": False},
        "intra": {"inter": False},
        "inter": {"intra": False},
        "kd": {"transfer": "none", "kd": "softened"},
        "fitnet": {"transfer": "hint"},
        "ab": {"transfer": "boundary"},
        "cckd": {"transfer": "correlation", "transfer_weight": 50.0},
        "repo": {
            "form": "repo",
            "alpha": 0.9,
            "kd_weight": 1e-5,
            "beta": 0.002,
            "gamma": 0.04,
            "compactness": 0.1,
            "features": "both",
            "transform": "both",
            "detach_centres": True,
            "drops": (80 / 200, 120 / 200),
        },
        "logits": {"features": "logits"},
        "map_and_logits": {"features": "both"},
        "detached_centres": {"detach_centres": True},
        "mse": {"distance": "mse"},
        "balanced": {"balanced": 4},
        "r34": {"depth": 34},
        "r50": {"depth": 50},
        "r152_r18": {"teacher": "kd_teacher:r152"},
        "r152_r34": {"teacher": "kd_teacher:r152", "depth": 34},
        "r152_r50": {"teacher": "kd_teacher:r152", "depth": 50},
        "tiny": _tiny,
        "tiny_ce": {**_tiny, "alpha": 1.0, "transfer": "none"},
        "tiny_neither": {**_tiny, "intra": False, "inter": False},
        "tiny_cckd": {**_tiny, "transfer": "correlation", "transfer_weight": 50.0},
    }
    baselines = ("cskd:neither", "cskd:ce", "cskd:kd", "cskd:cckd", "cskd:fitnet", "cskd:ab", "majority")
    claims = (
        *(
            Claim(method="cskd", over=over, measure="error", reported=reported)
            for over, reported in (
                ("cskd:neither", "top-1 53.66 against 49.53 % on Tiny ImageNet (Tables 3 and 4)"),
                (
                    "cskd:ce",
                    "1.52 points on CIFAR-10 on average (Table 1); Tiny ImageNet 53.66, 45.21 % (Table 3)",
                ),
                ("cskd:cckd", "top-1 53.66 against 53.14 % on Tiny ImageNet (Table 3)"),
                ("cskd:intra", "top-1 53.66 against 52.51 % on Tiny ImageNet (Table 4)"),
                ("cskd:inter", "top-1 53.66 against 52.48 % on Tiny ImageNet (Table 4)"),
            )
        ),
        Claim(
            method="cskd:neither",
            over="cskd:ce",
            measure="error",
            reported="KD 49.53 against 45.21 % on Tiny ImageNet (Table 3)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        depth: int = 18,
        ratio: float = 0.25,
        pool_stride: int = 1,
        teacher: str = "kd_teacher",
        teacher_weights: str | None = None,
        weights: str | None = None,
        alpha: float = 0.1,
        beta: float = 0.01,
        gamma: float = 0.2,
        kd_weight: float | None = None,
        kd: Literal["mse", "softened"] = "mse",
        temperature: float = 4.0,
        transfer: Transfer = "structure",
        intra: bool = True,
        inter: bool = True,
        features: Literal["map", "logits", "both"] = "map",
        transform: Literal["intra", "both"] = "intra",
        form: Literal["paper", "repo"] = "paper",
        distance: Distance = "l2",
        detach_centres: bool = False,
        compactness: float = 0.0,
        transfer_weight: float = 1.0,
        stage_share: float = 0.2,
        balanced: int = 0,
        canvas: Canvas = "pad",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        drops: tuple[float, ...] = (80 / 200, 120 / 200, 160 / 200),
        warmup: float = 0.0,
    ) -> None:
        super().__init__(spec)
        if not 0 <= alpha <= 1 or not 0 <= stage_share <= 1:
            raise ValueError(f"alpha and stage_share are parts, got {alpha} and {stage_share}")
        if temperature <= 0 or balanced < 0 or balanced == 1:
            raise ValueError(
                f"temperature {temperature} must be positive, balanced {balanced} must be 0 or at least 2"
            )
        if form == "repo" and (transfer != "structure" or features != "both"):
            raise ValueError("form='repo' is of transfer='structure' on features='both'")
        self.classes = len(classes_of(spec))
        self.normalise = ChannelNormalise(mean, std, spec.channels)
        self.network = NarrowResNet(
            depth, ratio, self.classes, channels=spec.channels, pool_stride=pool_stride
        )
        self.connectors = nn.ModuleDict()
        self.teacher_name = teacher
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.kd_weight = 1 - alpha if kd_weight is None else kd_weight
        self.kd, self.temperature = kd, temperature
        self.transfer: Transfer = transfer
        self.intra, self.inter = (part and transfer == "structure" for part in (intra, inter))
        self.kinds = ("map", "logits") if features == "both" else (features,)
        self.transform, self.form, self.distance = transform, form, distance
        self.detach_centres, self.compactness = detach_centres, compactness
        self.transfer_weight, self.stage_share = transfer_weight, stage_share
        self.balanced = balanced
        self.canvas: Canvas = canvas
        self.sgd: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self.sgd |= {"drops": drops, "warmup": warmup}
        self.record = StructureRecord(self.classes)
        self._teacher: Teacher | None = None
        self._first_stage = 0
        self._labels = np.zeros(0, np.int64)
        if weights is not None:
            self.load_published_weights(weights)
        if teacher_weights is not None:
            self._take(Teacher.from_file(teacher_weights, self.normalise, pool_stride))

    # The teacher

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        """A teacher, unless it comes as a file; also for `ce`, whose structure is compared with it after training."""
        if options.get("teacher_weights") is not None:
            return ()
        return (Need(role=ROLE, method=options.get("teacher", "kd_teacher")),)

    def adopt(self, role: str, trained: Method) -> None:
        if role != ROLE:
            super().adopt(role, trained)
        network, normalise = (getattr(trained, name, None) for name in ("network", "normalise"))
        if not isinstance(network, NarrowResNet) or not isinstance(normalise, ChannelNormalise):
            raise TypeError(f"{self.name}: {trained.name} is no ResNet to learn from")
        self._take(Teacher(network, normalise))

    def _take(self, teacher: Teacher) -> None:
        """Hold the teacher, and build what brings the student's maps to its channels."""
        if teacher.network.fc.out_features != self.classes:
            raise ValueError(
                f"the teacher tells {teacher.network.fc.out_features} classes apart, "
                f"{self.spec.dataset} has {self.classes}"
            )
        if teacher.network.pool_stride != self.network.pool_stride:
            raise ValueError("the teacher's maps are of another size: give both networks one pool_stride")
        stages = CONNECTED[self.transfer]
        if self.transfer == "structure" and ("map" not in self.kinds or not self._uses_sigma):
            stages = ()
        # Forked, so that whatever is built here all presets go on with the same random numbers (their augmentation).
        with torch.random.fork_rng(devices=[]):
            for stage in stages:
                inputs, outputs = self.network.channels[stage], teacher.network.channels[stage]
                sigma: nn.Module = nn.Conv2d(inputs, outputs, 1, bias=False)
                if self.transfer == "boundary":
                    sigma = nn.Sequential(sigma, nn.BatchNorm2d(outputs))
                self.connectors[str(stage)] = sigma.to(self.device)
        self._teacher = teacher

    @property
    def _uses_sigma(self) -> bool:
        return self.intra or (self.inter and self.transform == "both")

    @property
    def teacher(self) -> Teacher:
        """The adopted teacher; a `RuntimeError` says how to get one."""
        if self._teacher is None:
            raise RuntimeError(
                f"{self.name} has no teacher: call adopt({ROLE!r}, trained) with a trained {self.teacher_name}, give "
                "`teacher_weights`, or let the runner train one"
            )
        return self._teacher

    # The losses

    def structure_terms(self, own: Stages, known: Stages, label: Tensor) -> dict[str, Tensor]:
        """The terms of L_CS, each with its weight (Eq. 9, or the official code's form), by name."""
        grouping = Grouping.of(label)
        c = grouping.categories
        intra, inter, terms = [], [], {}
        for kind in self.kinds:
            student, teacher = (getattr(stages, kind) for stages in (own, known))
            sigma = (
                self.connectors[str(STAGES - 1)](student) if kind == "map" and self._uses_sigma else student
            )
            if self.intra and self.form == "repo" and kind == "map":
                right = [stages.logits.argmax(1) == label for stages in (known, own)]
                of_maps = intra_of_the_right(
                    teacher, sigma, grouping, *right, detach_centres=self.detach_centres
                )
                intra.append(of_maps / teacher[0].numel())
            elif self.intra:
                offsets = category_offsets(sigma, grouping, detach_centres=self.detach_centres)
                wanted = category_offsets(teacher, grouping)
                if self.form == "repo":
                    intra.append(intra_distance(wanted, offsets, grouping, "mse") / c)
                else:
                    intra.append(intra_distance(wanted, offsets, grouping, self.distance))
            if self.inter:
                compared = sigma if self.transform == "both" else student
                wanted, similarity = (
                    category_similarity(category_centres(features, grouping))
                    for features in (teacher, compared)
                )
                if self.form == "repo":
                    inter.append(inter_distance(wanted, similarity, "mse") / c)
                else:
                    inter.append(inter_distance(wanted, similarity, self.distance))
        if intra:
            terms["intra"] = self.beta * torch.stack(intra).sum()
        if inter:
            terms["inter"] = self.gamma * torch.stack(inter).sum()
        if self.compactness:
            terms["compactness"] = self.compactness * compactness(own.logits, grouping)
        return terms

    def transfer_terms(self, own: Stages, known: Stages, label: Tensor) -> dict[str, Tensor]:
        """What is taught beside labels and logits, by name."""
        if self.transfer == "structure":
            return self.structure_terms(own, known, label)
        if self.transfer == "hint":
            loss = hint_loss(self.connectors[str(HINT)](own.maps[HINT]), known.maps[HINT])
        elif self.transfer == "boundary":
            connected = [self.connectors[str(stage)](own.before[stage]) for stage in range(STAGES)]
            loss = boundary_loss(connected, known.before)
        elif self.transfer == "correlation":
            loss = correlation_loss(own.map, known.map)
        else:
            return {}
        return {self.transfer: self.transfer_weight * loss}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = augment(batch["image"], self.canvas), batch["label"]
        own = self.network.stages(self.normalise(image))
        staged = self.transfer in ("hint", "boundary")
        terms: dict[str, Tensor] = {}
        if staged and self.global_step < self._first_stage:
            terms |= self.transfer_terms(own, self.teacher(image), label)
        else:
            terms["ce"] = self.alpha * F.cross_entropy(own.logits.float(), label)
            if self.kd_weight or self.transfer != "none":
                known = self.teacher(image)
                terms["kd"] = self.kd_weight * self._logit_loss(own.logits, known.logits)
                terms |= {} if staged else self.transfer_terms(own, known, label)
        loss = torch.stack(list(terms.values())).sum()
        self.record.batch(label)
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in {**terms, "loss": loss}.items()},
            batch_size=len(label),
        )
        return loss

    def _logit_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kd == "softened":
            return softened_kl(student, teacher, self.temperature)
        return logit_mse(student, teacher)

    def configure_optimizers(self) -> dict[str, Any]:
        return stepped_sgd(self.parameters(), int(self.trainer.estimated_stepping_batches), **self.sgd)

    def setup(self, stage: str) -> None:
        """Set the batches before anything asks the trainer how many there are."""
        if stage == "fit" and self.balanced:
            loader = self.trainer.datamodule.in_order("train")
            self._labels = np.concatenate([batch["label"].numpy() for batch in loader])
            self._schedule(0)

    def on_fit_start(self) -> None:
        self.record.restart()
        self._teacher = self.teacher  # there is one, or an error says how to get it
        self._first_stage = round(self.stage_share * self.trainer.estimated_stepping_batches)

    def on_train_epoch_end(self) -> None:
        if self.balanced:
            self._schedule(self.current_epoch + 1)

    def _schedule(self, epoch: int) -> None:
        """The batches of an epoch: `balanced` samples of as many categories as the batch size allows."""
        data = self.trainer.datamodule
        random = np.random.default_rng((data.seed, epoch))
        categories = max(2, data.batch_size // self.balanced)
        data.schedule(identity_batches(self._labels, categories, self.balanced, random))

    # The student

    def features(self, batch: Batch) -> Tensor:
        """The student's pooled last stage of `image`, [B, K], for methods that build on it."""
        return self.network.stages(self.normalise(batch["image"])).pooled

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self.network(self.normalise(batch["image"]))}

    def load_published_weights(self, path: str | Path) -> None:
        """Load a student ResNet's state dict with torchvision's names, those of the official code as far as is known.

        Raises FileNotFoundError, and ValueError that lists the keys that are missing, unexpected or of another shape.
        """
        load_renamed(self.network, read_published(path), lambda name: name)

    # What the paper shows of trained students

    def on_test_start(self) -> None:
        self.record.clear()

    @torch.no_grad()
    def on_test_batch_end(self, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Gather the features of both networks; by itself, so that predictions cost what the student costs."""
        own = self.network.stages(self.normalise(batch["image"]))
        known = None if self._teacher is None else self._teacher(batch["image"])
        self.record.test(own, known, batch["label"])

    def diagnostics(self) -> dict[str, float]:
        """Sizes of both networks and their ratio in %; relations in a training batch (`edge_counts`) and the share of
        categories with a single sample in %; of the last test: see `StructureRecord.diagnostics`; and whether the
        teacher is as it was adopted (1: yes)."""
        own = sum(parameter.numel() for parameter in self.network.parameters())
        numbers = {"student_parameters": float(own), **self.record.diagnostics()}
        if self._teacher is not None:
            size = sum(parameter.numel() for parameter in self._teacher.network.parameters())
            numbers |= {
                "teacher_parameters": float(size),
                "compression": 100 * own / size,
                "teacher_unchanged": float(self._teacher.digest() == self._teacher.adopted),
            }
        return numbers

    def figures(self) -> dict[str, np.ndarray]:
        """Fig. 4: features of the last test, by t-SNE."""
        return self.record.figures(classes_of(self.spec))
