"""`victim`: small classifiers to attack, trained plainly or against attacks.

Nine of them stand in for the eleven networks of Gao et al. (ECCV 2020, section 4.1):
- normally trained: `plain`, `residual`, `branch`, `dense`, `large_kernel`, five designs;
- ensemble adversarial training (Tramèr et al., ICLR 2018): `ens3`, `ens4`, trained on clean pictures and on
  FGSM pictures of three and four *other*, trained and fixed networks, drawn anew for each batch, with eps
  uniform in (0, 16] for each picture;
- adversarial training with feature denoising (Xie et al., CVPR 2019): `pgd`, `pgd_denoise`, trained on PGD
  pictures of themselves with eps 16 from a random start, the second with a denoising block after its second
  stage.

Xie et al. take 30 steps of 1 for every batch, as the `paper` profile does. The smaller profiles take few long
steps; `mini` begins with clean pictures and lets eps grow, since a short training that meets the full eps at
once learns nothing. Left open and chosen here: Adam with a one-cycle rate, half of a batch of `ens` clean as
in Tramèr et al.; the batch statistics of PGD steps are those of the training mode, as the network is trained
with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.gradient_attacks import input_gradient, within
from tasks.recognition.image_classification import ImageClassification, classes_of
from tasks.robustness.victims_networks import Denoise, Design, network


class Victim(Method):
    """A small classifier; `logits(image)` takes pictures in [0, 1].

    design, width, denoise: see `victims_networks.network`. training: on clean pictures, on FGSM pictures of
    the `others` ("ensemble") or on PGD pictures of its own ("pgd"). others: names of presets of this method.
    eps: of the training attacks, 0..255. pgd_steps, pgd_step: their number, and length in 0..255.
    clean_start: share of the training, from its beginning, that takes clean pictures instead of PGD's.
    eps_warmup: share of it, after that, in which PGD's eps and step grow to full length.
    learning_rate, weight_decay: of Adam and its one-cycle schedule.
    """

    name = "victim"
    task = ImageClassification
    paper = Paper(
        title="Ensemble Adversarial Training; Feature Denoising for Improving Adversarial Robustness (stand-ins)",
        venue="ICLR 2018; CVPR 2019",
        url="https://openreview.net/forum?id=rkZvSe-RZ",
    )
    recipe = Recipe(batch_size=64, max_epochs=60, validate_every=0)
    profiles = {
        "mini": {"max_epochs": 4, "pgd_steps": 2, "pgd_step": 10.0, "clean_start": 0.25, "eps_warmup": 0.5},
        "smoke": {"width": 8, "max_epochs": 1, "max_steps": 2, "pgd_steps": 1, "pgd_step": 16.0},
    }
    presets = {
        "plain": {},
        "residual": {"design": "residual"},
        "branch": {"design": "branch"},
        "dense": {"design": "dense"},
        "large_kernel": {"design": "large_kernel"},
        "ens3": {"design": "branch", "training": "ensemble", "others": ["plain", "residual", "dense"]},
        "ens4": {
            "design": "residual",
            "training": "ensemble",
            "others": ["plain", "branch", "dense", "large_kernel"],
        },
        "pgd": {"design": "residual", "training": "pgd"},
        "pgd_denoise": {"design": "residual", "training": "pgd", "denoise": "non_local"},
    }

    def __init__(
        self,
        spec: Spec,
        *,
        design: Design = "plain",
        width: int = 16,
        denoise: Denoise = "none",
        training: Literal["clean", "ensemble", "pgd"] = "clean",
        others: tuple[str, ...] = (),
        eps: float = 16.0,
        pgd_steps: int = 30,
        pgd_step: float = 1.0,
        clean_start: float = 0.0,
        eps_warmup: float = 0.0,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if (training == "ensemble") != bool(others):
            raise ValueError(f"training {training!r} with others {list(others)}: only an ensemble has others")
        # Twice as fast on a CPU: these layers are narrow and the pictures small.
        self.network = network(design, len(classes_of(spec)), width, denoise).to(
            memory_format=torch.channels_last
        )
        self.training_kind, self.other_roles = training, tuple(others)
        self.others = nn.ModuleDict()
        self.eps, self.pgd_steps, self.pgd_step = eps / 255, pgd_steps, pgd_step / 255
        self.clean_start, self.eps_warmup = clean_start, eps_warmup
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.chance: torch.Generator | None = None

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return [Need(role=name, method=f"victim:{name}") for name in options["others"]]

    def adopt(self, role: str, trained: Method) -> None:
        """Take one of the others and freeze it."""
        if role not in self.other_roles:
            raise TypeError(
                f"{self.name} is trained on {', '.join(self.other_roles) or 'no others'}, not {role!r}"
            )
        self.others[role] = trained.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Victim:
        super().train(mode)
        self.others.eval()
        return self

    def logits(self, image: Tensor) -> Tensor:
        """float [B, 3, H, W] in [0, 1] -> [B, C]; brought to [-1, 1] here."""
        return self.network((2 * image - 1).contiguous(memory_format=torch.channels_last))

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self.logits(batch["image"])}

    def on_fit_start(self) -> None:
        self.chance = torch.Generator().manual_seed(torch.initial_seed() % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch["image"], batch["label"]
        if self.training_kind == "ensemble":
            half = len(image) // 2
            image = torch.cat([image[:half], self.single_step(image[half:], label[half:])])
        elif self.training_kind == "pgd":
            image = self.projected_descent(image, label)
        loss = F.cross_entropy(self.logits(image).float(), label)
        self.log("train/loss", loss)
        return loss

    def single_step(self, image: Tensor, label: Tensor) -> Tensor:
        """FGSM pictures [B, 3, H, W] of one of the others, drawn, with eps drawn for each picture."""
        pick = int(torch.randint(len(self.other_roles), (), generator=self.chance))
        eps = self.eps * (1 - torch.rand(len(image), 1, 1, 1, generator=self.chance)).to(image)
        gradient = input_gradient([self.others[self.other_roles[pick]]], image, label)
        return (image + eps * gradient.sign()).clamp(0, 1)

    def attack_share(self, done: float) -> float:
        """What part of eps PGD has when the share `done` of the training is over."""
        if done < self.clean_start:
            return 0.0
        return min(1.0, (done - self.clean_start) / self.eps_warmup) if self.eps_warmup else 1.0

    def projected_descent(self, image: Tensor, label: Tensor) -> Tensor:
        """PGD pictures [B, 3, H, W] of the network itself from a random start in the eps ball."""
        share = self.attack_share(self.trainer.global_step / self.trainer.estimated_stepping_batches)
        if share == 0:
            return image
        eps, length = share * self.eps, share * self.pgd_step
        start = torch.rand(image.shape, generator=self.chance).to(image)
        current = within(image + eps * (2 * start - 1), image, eps)
        for _ in range(self.pgd_steps):
            step = length * input_gradient([self], current, label).sign()
            current = within(current + step, image, eps)
        return current

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(
            self.network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
