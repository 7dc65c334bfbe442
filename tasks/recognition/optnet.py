"""`optnet`: OPT-Net, which takes an object's pose out of a picture and then puts another one in.

Y. Ge, J. Zhao, L. Itti, "Pose Augmentation: Class-Agnostic Object Pose Transformation for Object
Recognition", ECCV 2020. StarGAN gives its generator the target pose with the picture and fails on changes as
large as a turn. OPT-Net's first eliminates the pose (G_elim, which no pose reaches: a bottleneck, and an
adversarial pose classifier P_elim that is to find all poses equally likely), then adds the target pose (G_add),
so that all pairs of poses share one way. Poses are points in a plane (yaw, pitch), so that decimal ones can be
asked for.

Equations: 1 as the paper uses it, Wasserstein with gradient penalty: `critic_loss`, `gradient_penalty`
(tasks/blocks/style_critic.py); 2, 3 and 5 are cross-entropies in `critic_terms` and `generator_terms`; 4
`reconstruction_loss`; 6 `uniform_cross_entropy`; 7, 8, 9 `training_step`. Networks:
tasks/recognition/optnet_networks.py.

A step is a training batch: D and P_elim step in each, the generator in every fifth (`critic_steps`). Equation 5 reaches
P_elim alone (x_r is detached), equation 6 G_elim alone (P_elim is frozen).

What the paper leaves to its supplement, which isn't public, was chosen as StarGAN has it: widths, kernels and norms,
lambda_cls = 1, lambda_rec = 10, lambda_gp = 10, Adam at 1e-4 with betas (0.5, 0.999), five D steps a G step, batches of
16, 200,000 D steps, the rate falling linearly to 0 over the second half. And further:
- lambda_pose falls geometrically from 5 to 0.05 over the training ("gradually reduce", "very small").
- stage 2 (after convergence) is the last fifth. Its style consistency loss is equation 1 with decimal targets, drawn
  uniformly from the plane, for D and G alike and beside the terms of stage 1; decimal targets have a reconstruction,
  but no pose classification, for which D has no label.
- the generator's target is drawn uniformly from all poses, whatever the picture's own.

Presets: `stargan` (no P_elim, whole poses), `no_pelim` (eliminated by the bottleneck alone), `reversed_pelim` (the pose
loss is maximised instead: the paper names its failure, all pictures sent to one wrong class), `constant_pose_weight`,
`no_stage2`, and `finetuned`, which starts from the networks trained on another dataset (section 4.3).

P_elim's accuracy alone is no proof, for it may have lost the game: `probe_accuracy` is that of a fresh logistic
regression on x_r, fitted after training. No code is published, so there are no weights to load. Left out: the
experiments on ImageNet (section 4.5, in the supplement).

The `mini` profile has fewer channels and residual blocks, two D steps a G step, a larger rate and other weights, for
StarGAN alike. A few hundred steps have not taught either generator to turn objects: where it was looked at, D_cls was
satisfied before there were objects, and the trivial predictors of `pose_guess` were ahead. The merging convolution of
G_add has no InstanceNorm (chosen here), which would remove what the constant pose mask adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.style_critic import critic_loss, gradient_penalty
from tasks.metrics.linear_probe import probe_accuracy
from tasks.recognition.optnet_networks import (
    Discriminator,
    EliminateAddGenerator,
    PoseEliminateModule,
    StarGenerator,
)
from tasks.recognition.pose_transformation import PoseTransformation, pose_text, pose_tile, poses_of

ROLE = "pretrained"
PROBED = 2000
SHOWN = 6

Architecture = Literal["eliminate_add", "stargan"]
PelimTarget = Literal["uniform", "reversed"]
PoseWeight = Literal["scheduled", "constant"]


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """Equation 6: cross-entropy of the uniform distribution and the predicted one, mean over [B, N].

    >>> uniform_cross_entropy(torch.zeros(2, 4)).exp().item()
    4.0
    """
    return -logits.float().log_softmax(dim=1).mean()


def reconstruction_loss(image: Tensor, again: Tensor) -> Tensor:
    """Equation 4: mean absolute difference of a picture and what came back, [B, 3, H, W] each."""
    return F.l1_loss(again.float(), image.float())


def pose_weight(share: float, first: float, last: float) -> float:
    """lambda_pose after a share of the training, geometric from `first` to `last`.

    >>> [round(pose_weight(share, 5.0, 0.05), 3) for share in (0.0, 0.5, 1.0)]
    [5.0, 0.5, 0.05]
    """
    return first * (last / first) ** min(share, 1.0)


def rate_share(share: float, constant: float = 0.5) -> float:
    """The share of the initial rate after a share of the training: 1, then linearly to 0 from `constant` on.

    >>> [rate_share(share) for share in (0.0, 0.5, 0.75, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    return min(1.0, (1.0 - min(share, 1.0)) / (1.0 - constant))


class OPTNet(Method):
    """See the module's docstring.

    architecture: OPT-Net's generator or StarGAN's (which has no P_elim, and no stage 2). use_pelim: train with P_elim.
    pelim_target: equation 6, or minus equation 5. pose_weight: lambda_pose falls, or stays at `lambda_pose`.
    lambda_pose, lambda_pose_last: its first and last value. stage2: the style consistency loss, from the share
    `stage2_from` of the training on. start: from scratch, or from the trial that the role "pretrained" names.
    lambda_cls, lambda_rec, lambda_gp, lambda_style: weights of the losses. critic_steps: D steps a G step. width,
    critic_width: channels of the first layers; critic_layers: D's halvings. blocks: residual blocks of G_elim and of
    G_add; star_blocks: of StarGAN's generator. lr, betas: Adam's. steps: training steps
    over which the rate and lambda_pose fall.
    """

    name = "optnet"
    task = PoseTransformation
    paper = Paper(
        title="Pose Augmentation: Class-Agnostic Object Pose Transformation for Object Recognition",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_9",
        code="https://github.com/gyhandy/Pose-Augmentation",
    )
    recipe = Recipe(batch_size=16, max_steps=200_000, validate_every=0)
    profiles = {
        "mini": {
            "width": 12,
            "critic_width": 24,
            "critic_layers": 3,
            "blocks": (1, 2),
            "star_blocks": 2,
            "critic_steps": 2,
            "lambda_cls": 0.3,
            "lambda_gp": 1.0,
            "lambda_pose": 0.1,
            "lr": 1.5e-3,
            "steps": 400,
            "batch_size": 16,
            "max_steps": 400,
        },
        "smoke": {
            "width": 4,
            "critic_width": 4,
            "critic_layers": 3,
            "critic_steps": 2,
            "steps": 4,
            "batch_size": 4,
            "max_steps": 4,
        },
    }
    presets = {
        "stargan": {"architecture": "stargan", "use_pelim": False, "stage2": False},
        "no_pelim": {"use_pelim": False},
        "reversed_pelim": {"pelim_target": "reversed"},
        "constant_pose_weight": {"pose_weight": "constant"},
        "no_stage2": {"stage2": False},
        "finetuned": {"start": "pretrained"},
    }
    baselines = ("optnet:stargan", "pose_guess:copy_input", "pose_guess:mean_pose_image")
    claims = (
        Claim(
            method="optnet",
            over="optnet:stargan",
            measure="psnr_foreground",
            reported="+1.09 dB on iLab-20M, Table 1",
        ),
        Claim(
            method="optnet",
            over="optnet:stargan",
            measure="mse_foreground",
            reported="-127.75 on iLab-20M, Table 1",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        architecture: Architecture = "eliminate_add",
        use_pelim: bool = True,
        pelim_target: PelimTarget = "uniform",
        pose_weight: PoseWeight = "scheduled",
        stage2: bool = True,
        stage2_from: float = 0.8,
        start: Literal["scratch", "pretrained"] = "scratch",
        lambda_cls: float = 1.0,
        lambda_rec: float = 10.0,
        lambda_gp: float = 10.0,
        lambda_pose: float = 5.0,
        lambda_pose_last: float = 0.05,
        lambda_style: float = 1.0,
        critic_steps: int = 5,
        width: int = 64,
        critic_width: int = 64,
        critic_layers: int = 6,
        blocks: Sequence[int] = (3, 5),
        star_blocks: int = 6,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        steps: int = 200_000,
    ) -> None:
        super().__init__(spec)
        facts = poses_of(spec)
        height, side = facts.image_size
        if height != side or side % 4:
            raise ValueError(
                f"{self.name} needs square pictures of 4 n pixels, {spec.dataset} has {facts.image_size}"
            )
        if architecture == "stargan" and (use_pelim or stage2):
            raise ValueError(
                "StarGAN has no canonical feature and no decimal poses: set use_pelim and stage2 to false"
            )
        if critic_steps < 1 or steps < 1:
            raise ValueError(f"critic_steps and steps must be positive, got {critic_steps} and {steps}")
        self.automatic_optimization = False
        self.yaws, self.pitches = facts.yaws, facts.pitches
        poses = facts.yaws * facts.pitches
        self.generator: EliminateAddGenerator | StarGenerator
        if architecture == "stargan":
            self.generator = StarGenerator(facts.yaws, facts.pitches, width=width, blocks=star_blocks)
        else:
            eliminate, add = blocks
            self.generator = EliminateAddGenerator(
                facts.yaws, facts.pitches, width=width, eliminate_blocks=eliminate, add_blocks=add
            )
        self.discriminator = Discriminator(side, poses, width=critic_width, layers=critic_layers)
        self.pelim = PoseEliminateModule(side // 4, poses, channels=4 * width) if use_pelim else None
        self.pelim_target, self.pose_weight = pelim_target, pose_weight
        self.stage2_from = stage2_from if stage2 else float("inf")
        self.start = start
        self.lambda_cls, self.lambda_rec, self.lambda_gp = lambda_cls, lambda_rec, lambda_gp
        self.lambda_pose, self.lambda_pose_last, self.lambda_style = (
            lambda_pose,
            lambda_pose_last,
            lambda_style,
        )
        self.critic_steps, self.lr, self.betas, self.steps = critic_steps, lr, betas, steps
        self.probe: Tensor
        self.register_buffer("probe", torch.full((3,), torch.nan))
        self._taken = 0
        self._shown: list[dict[str, Tensor]] = []

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return (Need(role=ROLE, method="optnet"),) if options["start"] == "pretrained" else ()

    def adopt(self, role: str, trained: Method) -> None:
        """Start from the networks that were trained on another dataset; a `ValueError` where they don't fit."""
        if role != ROLE or self.start != "pretrained" or not isinstance(trained, OPTNet):
            raise TypeError(f"{self.name} takes {role!r} from no {trained.name}")
        own, theirs = (
            {key: value for key, value in method.state_dict().items() if key != "probe"}
            for method in (self, trained)
        )
        shapes = [{key: tuple(value.shape) for key, value in state.items()} for state in (own, theirs)]
        if shapes[0] != shapes[1]:
            differing = sorted(
                key for key in own.keys() | theirs.keys() if shapes[0].get(key) != shapes[1].get(key)
            )
            raise ValueError(
                f"the networks trained on {trained.spec.dataset} don't fit {self.spec.dataset}: {', '.join(differing)}"
            )
        self.load_state_dict(theirs, strict=False)

    # Training.

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self._taken / self.steps

    def current_pose_weight(self) -> float:
        """lambda_pose at this step."""
        if self.pose_weight == "constant":
            return self.lambda_pose
        return pose_weight(self.progress, self.lambda_pose, self.lambda_pose_last)

    def draw_poses(self, count: int, *, decimal: bool) -> Tensor:
        """Random target poses [count, 2]: whole ones, or any between the first and the last."""
        most = torch.tensor([self.yaws, self.pitches], device=self.device)
        chance = torch.rand(count, 2, device=self.device)
        return 1 + (chance * (most - 1) if decimal else (chance * most).floor())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Equations 8 and 9, and after `critic_steps` of them equation 7."""
        image, own = 2 * batch["image"] - 1, batch["pose"]
        wanted = [self.draw_poses(len(image), decimal=False)]
        if self.progress >= self.stage2_from:
            wanted.append(self.draw_poses(len(image), decimal=True))
        optimisers = self.optimizers()
        assert isinstance(optimisers, list)
        self._decay(optimisers)
        losses = self.critic_terms(image, batch["pose_class"], wanted)
        for optimiser, name in zip(optimisers[1:], ("critic", "pelim"), strict=False):
            self._step(optimiser, losses.pop(name))
        self._taken += 1
        if self._taken % self.critic_steps == 0:
            for judge in (self.discriminator, self.pelim):
                if judge is not None:
                    judge.requires_grad_(False)
            terms = self.generator_terms(image, own, batch["pose_class"], wanted)
            self._step(optimisers[0], terms.pop("generator"))
            for judge in (self.discriminator, self.pelim):
                if judge is not None:
                    judge.requires_grad_(True)
            losses |= terms
        losses["lambda_pose"] = image.new_tensor(self.current_pose_weight())
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})

    def critic_terms(self, image: Tensor, own: Tensor, wanted: Sequence[Tensor]) -> dict[str, Tensor]:
        """Equations 8 ("critic") and 9 ("pelim"), and their terms.

        image: [B, 3, H, W] in [-1, 1]; own: int64 [B], its pose's number; wanted: poses [B, 2], whole ones first, in
        stage 2 decimal ones next. No gradient reaches the generator.
        """
        with torch.no_grad():
            if isinstance(self.generator, EliminateAddGenerator):
                canonical = self.generator.eliminate(image)
                fakes = [self.generator.synthesise(canonical, pose) for pose in wanted]
            else:
                fakes = [self.generator(image, pose) for pose in wanted]
        real = self.discriminator(image)
        terms = {"cls_real": F.cross_entropy(real.pose.float(), own)}
        terms["critic"] = self.lambda_cls * terms["cls_real"]
        for fake, name, weight in zip(fakes, ("", "_decimal"), (1.0, self.lambda_style), strict=False):
            mix = torch.rand(len(image), 1, 1, 1, device=image.device)
            distance = critic_loss(self.discriminator(fake).source.float(), real.source.float())
            penalty = gradient_penalty(lambda x: self.discriminator(x).source, fake, image, mix)
            terms |= {f"distance{name}": distance, f"penalty{name}": penalty}
            terms["critic"] = terms["critic"] + weight * (distance + self.lambda_gp * penalty)
        if self.pelim is not None:
            logits = self.pelim(canonical).float()
            terms["pelim"] = F.cross_entropy(logits, own)
            terms["pelim_accuracy"] = (logits.argmax(1) == own).float().mean()
        return terms

    def generator_terms(
        self, image: Tensor, own: Tensor, number: Tensor, wanted: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Equation 7 ("generator") and its terms; own: the pictures' poses [B, 2], number: int64 [B]; see above."""
        canonical = None
        if isinstance(self.generator, EliminateAddGenerator):
            canonical = self.generator.eliminate(image)
        terms: dict[str, Tensor] = {}
        total = image.new_zeros(())
        for pose, name, weight in zip(wanted, ("", "_decimal"), (1.0, self.lambda_style), strict=False):
            fake = (
                self.generator(image, pose)
                if canonical is None
                else self.generator.synthesise(canonical, pose)  # type: ignore[union-attr, operator]
            )
            verdict = self.discriminator(fake)
            again = reconstruction_loss(image, self.generator(fake, own))
            terms |= {f"adv{name}": -verdict.source.float().mean(), f"rec{name}": again}
            total = total + weight * (terms[f"adv{name}"] + self.lambda_rec * again)
            if not name:
                asked = ((pose[:, 1] - 1) * self.yaws + pose[:, 0] - 1).long()
                terms["cls_fake"] = F.cross_entropy(verdict.pose.float(), asked)
                total = total + self.lambda_cls * terms["cls_fake"]
        if self.pelim is not None:
            logits = self.pelim(canonical)
            if self.pelim_target == "uniform":
                terms["pose"] = uniform_cross_entropy(logits)
            else:
                terms["pose"] = -F.cross_entropy(logits.float(), number)
            total = total + self.current_pose_weight() * terms["pose"]
        return {**terms, "generator": total}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator, for D and, where there is one, for P_elim."""
        modules = [self.generator, self.discriminator, *([self.pelim] if self.pelim is not None else [])]
        return [torch.optim.Adam(module.parameters(), lr=self.lr, betas=self.betas) for module in modules]

    def _decay(self, optimisers: Sequence[Any]) -> None:
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = self.lr * rate_share(self.progress)

    def _step(self, optimiser: Any, loss: Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()

    # Use.

    def transform(self, image: Tensor, pose: Tensor) -> Tensor:
        """The objects of pictures [B, 3, H, W] in [0, 1] in other poses [B, 2]: [B, 3, H, W] in [0, 1]."""
        return (self.generator(2 * image - 1, pose) + 1) / 2

    def predict(self, batch: Batch) -> Prediction:
        return {"image": self.transform(batch["image"], batch["target_pose"])}

    # Diagnostics.

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Fit the probe on training pictures of the classes that training has in all poses (of all, if none has)."""
        if not isinstance(self.generator, EliminateAddGenerator):
            return
        loader = self.trainer.train_dataloader
        spec = poses_of(self.spec)
        every = self.yaws * self.pitches
        full = {label for label, numbers in enumerate(spec.seen) if len(numbers) == every}
        chosen = torch.linspace(0, len(loader.dataset) - 1, min(PROBED, len(loader.dataset))).round().long()
        ordered = DataLoader(
            Subset(loader.dataset, chosen.tolist()),
            batch_size=loader.batch_size,
            collate_fn=loader.collate_fn,
        )
        feature, pose, scene, guess = [], [], [], []
        training = self.training
        self.eval()
        for batch in ordered:
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            canonical = self.generator.eliminate(2 * batch["image"] - 1)
            rows = torch.tensor([not full or label in full for label in batch["label"].tolist()])
            feature.append(F.adaptive_avg_pool2d(canonical, 4).flatten(1).float().cpu()[rows])
            pose.append(batch["pose_class"].cpu()[rows])
            scene.append(batch["scene"].cpu()[rows])
            if self.pelim is not None:
                guess.append(self.pelim(canonical).argmax(1).cpu()[rows])
        self.train(training)
        numbers = torch.cat(pose)
        accuracy, chance = probe_accuracy(torch.cat(feature), numbers, torch.cat(scene))
        adversary = float((torch.cat(guess) == numbers).float().mean()) if guess else float("nan")
        self.probe = torch.tensor([accuracy, chance, adversary], device=self.device)

    def diagnostics(self) -> dict[str, float]:
        """Accuracies in % on x_r: of a fresh probe on other scenes, of always guessing the most frequent pose there,
        and of P_elim on training pictures."""
        names = ("probe_accuracy", "probe_chance", "pelim_accuracy")
        return {
            name: 100 * value
            for name, value in zip(names, self.probe.tolist(), strict=True)
            if value == value  # what was not measured is NaN
        }

    def on_test_start(self) -> None:
        self._shown = []

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the first picture of a few batches for `figures`."""
        if len(self._shown) < SHOWN:
            self._shown.append({key: batch[key][:1].clone() for key in ("image", "pose")})

    @torch.no_grad()
    def figures(self) -> dict[str, np.ndarray]:
        """`poses`: a row a source, a column a target yaw; where poses are a plane, in steps of a half."""
        if not self._shown:
            return {}
        step = 0.5 if isinstance(self.generator, EliminateAddGenerator) else 1.0
        yaws = torch.arange(1, self.yaws + step / 2, step)
        rows = []
        for shown in self._shown:
            pose = torch.stack([yaws, shown["pose"][0, 1].cpu().expand(len(yaws))], dim=1).to(self.device)
            made = self.transform(shown["image"].expand(len(yaws), -1, -1, -1), pose)
            tiles = [pose_tile(shown["image"][0], f"source, {pose_text(shown['pose'][0])}", side=84)]
            tiles += [
                pose_tile(picture, pose_text(point), side=84)
                for picture, point in zip(made, pose, strict=True)
            ]
            rows.append(np.concatenate(tiles, axis=1))
        return {"poses": np.concatenate(rows, axis=0)}
