"""`pwave_hallucination`: a tiny face enlarged with the help of other pictures of the person.

K. Wang, J. Oramas M., T. Tuytelaars, "Multiple Exemplars-based Hallucination for Face Super-resolution and
Editing", ACCV 2020; thesis chapter "Face Image Hallucination". A trunk (ISR) enlarges the small picture; at
LR scale and at twice that it takes in features of m exemplars, combined place by place (PWAve): a network
(WNN) scores each exemplar's features beside the LR picture, the scores are shared over the exemplars, the
features summed with them. The baselines combine by a plain average (`:average`) or have no exemplars
(`:m0`).

Equations: 6.1 and 6.2 `content_loss`; 6.3 and 6.4 `perceptual_distance`
(tasks/blocks/perceptual_features.py); 6.5 `critic_loss` and `gradient_penalty`
(tasks/blocks/style_critic.py): as printed both terms of D have one sign and the penalty is subtracted; here
it is WGAN-GP as cited. 6.6 `training_step`.

What the paper leaves open, and was chosen:
- all widths, 3 x 3 kernels, leaky ReLU, the output's tanh (see tasks/restoration/pwave_network.py);
  equalised learning rates, which the rate of 3e-3 presumes, in all but the two WNNs; lambda_gp = 10, l1, l2,
  l3 = 0.1, 1e-3, 0.1; "N = 8 (CelebA), 4 (WebFace)" is read as the batch size; the length of the training; m =
  3 exemplars in training.
- the W of the text is normalised over the exemplars; a caption says "second channel", which has length 1.
- gradients of the losses on I_SR flow into G_S through WNN-2 (`detach_small` stops them).
- Phi_p: VGG-16 with ImageNet weights where `vgg_weights` names the file (without LPIPS' learnt weights), else
  the middle layers of the identity network (`diagnostics` says which). Phi_ID: instead of a face-emotion
  network the last layer before classification of a network that tells persons apart, trained as a trial of its
  own on training persons; of unit length, so that l1 doesn't depend on its scale. Small pictures are enlarged
  to 64 pixels for both.

The `mini` profile has Adam's beta1 at 0.9 and decaying rates, which suit its few hundred steps, and l1 = l3 =
0.005: 0.03 costs `m0` half a dB of PSNR there.

m is free at test time (any m >= 0). Other exemplars at test time edit the face: the dataset serves them, and
`figures` shows it. Left out: the peers that warp one exemplar, the user study, caching of exemplars'
features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.perceptual_features import PerceptualFeatures, perceptual_distance
from tasks.blocks.style_critic import StyleCritic, critic_loss, gradient_penalty
from tasks.restoration.bicubic import bicubic_resize
from tasks.restoration.pwave_network import Fusion, Generator, Hallucination, SmallGenerator
from tasks.restoration.super_resolution import JUROR, SuperResolution, captioned, facts_of, identity_needs

SHOWN = 4


def content_loss(made: Tensor, true: Tensor) -> Tensor:
    """Equations 6.1 and 6.2: the mean absolute difference of two pictures [B, 3, H, W]."""
    return F.l1_loss(made.float(), true.float())


def decayed(step: int, steps: int, least: float = 0.01) -> float:
    """The share of the initial rate at a step: from 1 along half a cosine to `least` after `steps`, then that."""
    done = min(step / steps, 1.0)
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))


class PWAveHallucination(Method):
    """See the module's docstring.

    fusion: how exemplars' features are combined. discriminator: train with a critic (else l2 is 0).
    perceptual: the losses L_p and L_p^s. vgg_weights: file of VGG-16's ImageNet weights for Phi_p; empty:
    the identity network. gs: G_S learned, or bicubic enlargement in its place. wnn_lr_input: WNNs see the LR
    picture. detach_small: see above. l1, l2, l3: weights of L_p, L_adv, L_p^s; lambda_gp: of the gradient
    penalty. channels, residual_blocks, features, encoder_width, weight_width, small_width: see `Generator`.
    critic_base, critic_widest: see `StyleCritic`. lr, lr_wnn: of everything and of the WNNs. betas: Adam's.
    decay_steps: steps in which the rates fall to a hundredth; None: they are constant.
    """

    name = "pwave_hallucination"
    task = SuperResolution
    paper = Paper(
        title="Multiple Exemplars-based Hallucination for Face Super-resolution and Editing",
        venue="ACCV 2020; thesis chapter 6",
        url="https://doi.org/10.1007/978-3-030-69532-3_16",
    )
    recipe = Recipe(batch_size=8, max_epochs=20, validate_every=0)
    profiles = {
        "mini": {
            "channels": (64, 48, 24, 12, 12),
            "features": 32,
            "encoder_width": 12,
            "weight_width": 16,
            "small_width": 16,
            "critic_base": 64,
            "critic_widest": 24,
            "l1": 0.005,
            "l3": 0.005,
            "lr": 4e-2,
            "lr_wnn": 3e-3,
            "betas": (0.9, 0.99),
            "decay_steps": 450,
            "batch_size": 4,
            "max_steps": 450,
            "max_epochs": None,
        },
        "smoke": {
            "channels": (6, 6, 4, 4, 4),
            "features": 4,
            "encoder_width": 4,
            "weight_width": 4,
            "small_width": 4,
            "critic_base": 32,
            "critic_widest": 4,
            "batch_size": 2,
            "max_steps": 2,
            "max_epochs": None,
        },
    }
    presets = {
        "wo_critic": {"discriminator": False},
        "wo_critic_perceptual": {"discriminator": False, "perceptual": False},
        "average": {"discriminator": False, "fusion": "average"},
        "max": {"discriminator": False, "fusion": "max"},
        "image_level": {"discriminator": False, "fusion": "image_level"},
        "m0": {"discriminator": False, "data.exemplars": 0},
        "m1": {"discriminator": False, "data.exemplars": 1},
        "m2": {"discriminator": False, "data.exemplars": 2},
        "m4": {"discriminator": False, "data.exemplars": 4},
        "m5": {"discriminator": False, "data.exemplars": 5},
        "gs_bicubic": {"discriminator": False, "gs": "bicubic"},
        "gs_detached": {"discriminator": False, "detach_small": True},
        "wnn_blind": {"discriminator": False, "wnn_lr_input": False},
    }
    baselines = ("upscaling:bicubic", "pwave_hallucination:average", "pwave_hallucination:m0")
    claims = (
        Claim(
            method="pwave_hallucination:wo_critic",
            over="upscaling:bicubic",
            measure="psnr",
            reported="+2.73 dB (x8), +2.26 dB (x16) on CelebA, +2.88 and +1.51 dB on WebFace, Table 6.1",
        ),
        Claim(
            method="pwave_hallucination:wo_critic",
            over="upscaling:bicubic",
            measure="ssim",
            reported="+0.13 (x8), +0.14 (x16) on CelebA, +0.10 and +0.10 on WebFace, Table 6.1",
        ),
        *(
            Claim(method=f"pwave_hallucination:{better}", over=f"pwave_hallucination:{worse}", measure=measure,
                  reported="bars without numbers, Figure 6.8")
            for better, worse in (("wo_critic", "average"), ("m5", "wo_critic"), ("wo_critic", "m1"), ("m1", "m0"))
            for measure in ("psnr", "ssim")
        ),
        Claim(
            method="pwave_hallucination:wo_critic",
            over="pwave_hallucination:wo_critic_perceptual",
            measure="psnr",
            reported="+1.10 dB on CelebA x8, section 6.4.1",
        ),
    )  # fmt: skip

    def __init__(
        self,
        spec: Spec,
        *,
        fusion: Fusion = "pwave",
        discriminator: bool = True,
        perceptual: bool = True,
        vgg_weights: str = "",
        gs: SmallGenerator = "learned",
        wnn_lr_input: bool = True,
        detach_small: bool = False,
        l1: float = 0.1,
        l2: float = 1e-3,
        l3: float = 0.1,
        lambda_gp: float = 10.0,
        channels: tuple[int, ...] = (256, 256, 128, 64, 32),
        residual_blocks: int = 1,
        features: int = 128,
        encoder_width: int = 32,
        weight_width: int = 64,
        small_width: int = 64,
        critic_base: int = 8192,
        critic_widest: int = 512,
        lr: float = 3e-3,
        lr_wnn: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.99),
        decay_steps: int | None = None,
    ) -> None:
        super().__init__(spec)
        facts = facts_of(spec)
        self.automatic_optimization = False
        self.generator = Generator(
            facts.factor,
            channels=channels,
            residual_blocks=residual_blocks,
            features=features,
            encoder_width=encoder_width,
            weight_width=weight_width,
            small_width=small_width,
            fusion=fusion,
            small=gs,
            wnn_lr_input=wnn_lr_input,
            detach_small=detach_small,
        )
        self.critic: StyleCritic | None = None
        if discriminator:
            height, width = facts.image_size
            if height != width:
                raise ValueError(f"the critic needs square pictures, {spec.dataset} has {facts.image_size}")
            self.critic = StyleCritic(height, base=critic_base, widest=critic_widest)
        self.perception = PerceptualFeatures(vgg_weights=vgg_weights) if perceptual else None
        self.learns_small = gs == "learned"
        self.l1, self.l2, self.l3, self.lambda_gp = l1, l2, l3, lambda_gp
        self.lr, self.lr_wnn, self.betas = lr, lr_wnn, betas
        self.decay_steps = decay_steps
        self._taken = 0
        self._shown: dict[str, Tensor] | None = None

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return identity_needs(options) if options["perceptual"] else ()

    def adopt(self, role: str, trained: Method) -> None:
        """Take the identity network for the perceptual losses."""
        if role != JUROR or self.perception is None:
            raise TypeError(f"{self.name} needs no {role!r}")
        self.perception.adopt(trained)

    def forward(self, batch: Batch) -> Hallucination:
        return self.generator(2 * batch["low"] - 1, 2 * batch["exemplars"] - 1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Equation 6.6: one step of the critic, if there is one, then one of the generator."""
        true = 2 * batch["high"] - 1
        made = self(batch)
        optimisers = self.optimizers()
        generator_optimiser, *others = optimisers if isinstance(optimisers, list) else [optimisers]
        self._decay([generator_optimiser, *others])
        if self.critic is not None:
            self._step(others[0], self._critic_loss(made.image.detach(), true))
        loss = content_loss(made.image, true)
        self.log("train/content", loss.detach())
        pairs = [(self.l1, made.image, true)]
        if self.learns_small:
            true_small = bicubic_resize(true, tuple(made.small.shape[-2:])).clamp(-1, 1)
            small = content_loss(made.small, true_small)
            self.log("train/content_small", small.detach())
            loss = loss + small
            pairs.append((self.l3, made.small, true_small))
        if self.perception is not None:
            for (weight, image, wanted), name in zip(pairs, ("", "_small"), strict=False):
                difference = self._perceptual(image, wanted)
                self.log(f"train/perceptual{name}", difference.detach())
                loss = loss + weight * difference
        if self.critic is not None:
            self.critic.requires_grad_(False)
            loss = loss - self.l2 * self.critic(made.image).mean()
        self.log("train/loss", loss.detach())
        self._step(generator_optimiser, loss)
        if self.critic is not None:
            self.critic.requires_grad_(True)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        slow = self.generator.weight_parameters()
        apart = {id(parameter) for parameter in slow}
        fast = [parameter for parameter in self.generator.parameters() if id(parameter) not in apart]
        groups = [{"params": fast, "lr": self.lr}, {"params": slow, "lr": self.lr_wnn}]
        optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=self.betas)]
        if self.critic is not None:
            optimisers.append(torch.optim.Adam(self.critic.parameters(), lr=self.lr, betas=self.betas))
        return optimisers

    def predict(self, batch: Batch) -> Prediction:
        """`image`, and the W of twice the LR scale as `weights` where the fusion has one."""
        made = self(batch)
        prediction = {"image": (made.image + 1) / 2}
        if made.weights is not None:
            prediction["weights"] = made.weights[1]
        return prediction

    def diagnostics(self) -> dict[str, float]:
        """Which networks the perceptual losses compare in (1: yes)."""
        kind = "none" if self.perception is None else self.perception.kind
        return {
            "phi_p_is_vgg16": float(kind == "vgg16"),
            "phi_p_is_identity_network": float(kind == "identity"),
            "phi_id": float(self.perception is not None and self.perception.identity is not None),
        }

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep a few samples of the first batch, far apart in it, for `figures`."""
        if batch_idx == 0:
            chosen = torch.linspace(0, len(batch["low"]) - 1, SHOWN).round().long().unique().tolist()
            self._shown = {key: batch[key][chosen].clone() for key in ("low", "high", "exemplars")}

    @torch.no_grad()
    def figures(self) -> dict[str, np.ndarray]:
        """`weights`: where each exemplar counts, at both scales; `editing`: what exemplars of another sample do."""
        if self._shown is None or self._shown["exemplars"].shape[1] == 0:
            return {}
        own = self(self._shown)
        exchanged = {**self._shown, "exemplars": self._shown["exemplars"].roll(1, dims=0)}
        figures = {"editing": editing_sheet(exchanged, own.image, self(exchanged).image)}
        if own.weights is not None:
            figures["weights"] = weights_sheet(self._shown, own)
        return figures

    def _critic_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        assert self.critic is not None
        mix = torch.rand(len(real), 1, 1, 1, device=real.device)
        distance = critic_loss(self.critic(fake), self.critic(real))
        penalty = gradient_penalty(self.critic, fake, real, mix)
        self.log_dict({"train/critic": distance.detach(), "train/penalty": penalty.detach()})
        return distance + self.lambda_gp * penalty

    def _perceptual(self, made: Tensor, true: Tensor) -> Tensor:
        """Equations 6.3 and 6.4; both pictures in [-1, 1]."""
        assert self.perception is not None
        with torch.no_grad():
            wanted = self.perception((true + 1) / 2)
        return perceptual_distance(self.perception((made + 1) / 2), wanted)

    def _decay(self, optimisers: Sequence[Any]) -> None:
        """Bring the rates to where they should be at this step."""
        if self.decay_steps is None:
            return
        share = decayed(self._taken, self.decay_steps)
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = share * group.setdefault("initial_lr", group["lr"])
        self._taken += 1

    def _step(self, optimiser: Any, loss: Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()


def overlay(image: Tensor, weights: Tensor) -> np.ndarray:
    """W of one exemplar [h, w] in [0, 1], in jet, half over its picture [3, H, W] in [0, 1]: uint8 [H, W, 3]."""
    from matplotlib import colormaps

    fine = F.interpolate(weights[None, None].float(), size=image.shape[-2:], mode="bilinear")[0, 0]
    colour = colormaps["jet"](fine.clamp(0, 1).cpu().numpy())[..., :3]
    picture = image.permute(1, 2, 0).float().cpu().numpy()
    return (255 * (0.5 * picture + 0.5 * colour)).clip(0, 255).round().astype(np.uint8)


def weights_sheet(batch: Mapping[str, Tensor], made: Hallucination) -> np.ndarray:
    """Row by row a sample: given, true, restored, then each exemplar as it is and under its W at both scales."""
    assert made.weights is not None
    rows = []
    for index, low in enumerate(batch["low"]):
        tiles = [
            captioned(low, "given"),
            captioned(batch["high"][index], "true"),
            captioned((made.image[index] + 1) / 2, "restored"),
        ]
        for number, exemplar in enumerate(batch["exemplars"][index], start=1):
            tiles.append(captioned(exemplar, f"exemplar {number}"))
            for name, weights in zip(("W at LR scale", "W at twice that"), made.weights, strict=True):
                tiles.append(captioned(overlay(exemplar, weights[index, number - 1]), name))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


def editing_sheet(batch: Mapping[str, Tensor], own: Tensor, edited: Tensor) -> np.ndarray:
    """Row by row a sample: given, true, restored with its own exemplars, with others' (the first is shown)."""
    rows = []
    for index, low in enumerate(batch["low"]):
        tiles = [
            (low, "given"),
            (batch["high"][index], "true"),
            ((own[index] + 1) / 2, "own exemplars"),
            ((edited[index] + 1) / 2, "another's exemplars"),
            (batch["exemplars"][index, 0], "another's exemplar 1"),
        ]
        rows.append(np.concatenate([captioned(picture, text) for picture, text in tiles], axis=1))
    return np.concatenate(rows, axis=0)
