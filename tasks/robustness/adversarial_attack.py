"""The task `adversarial-attack`: untargeted pictures within 16/255 of the clean ones, which unseen
classifiers misread.

Batch: `image` float32 [B, 3, H, W] in [0, 1] (RGB, on the grid of 256 levels), `label` int64 [B], `id` list
of str.
Prediction: `adversarial` float [B, 3, H, W] in [0, 1], no further than 16/255 from `image` at any value;
`white_box` bool [V], which of the V victims the attack has looked into, in the order of `jury_order`.

The judge runs the victims itself. Which they are is the task's `jury`: the miniature zoo (`victim:<name>`),
or the published networks (`published_victim:<name>`) whose weights lie in `victims_folder`, and beside them
any trained classifier that `defences` names ("method:preset"): a defence is one more victim, all it needs is
`logits(image)`.

Measures, in % unless said: a victim's success rate is its error on all adversarial pictures; those it
misreads when clean count as successes for normally ("nt") and ensemble-adversarially trained ("eat") victims,
while for feature-denoising ones ("fd") and defences the clean error is subtracted (Gao et al., ECCV 2020,
section 4.1). `success`: the mean over all black-box victims, `success_nt`, `success_eat`, `success_fd`: over
those of a family, `success_white_box`: over the white-box ones; `success_quantised`: `success` of the
pictures rounded to 256 levels, `success_clean_correct`: counted on the pictures that a victim gets right when
clean. `max_noise`, `mean_noise`: of |adversarial - image|, 0..255. `patchiness`: its lag-1 autocorrelation,
`patchiness_signed`: that of the noise with its signs. A group's measure is absent where it has no victim.
Further `success/<victim>` and `clean_error/<victim>`.

Matrix and curves. A trial is one attack with one source, and its figure one row of the matrix of attacks,
sources and targets, white-box victims starred. The whole matrix is a leaderboard: a suite has one entry a
source, and since what is set on top of a preset is part of a trial's label, each row says its source; the
columns are `success/<victim>`. The curves over beta (1..10; each attack in steps of beta eps / T) and over the
kernel's size (1, 3, .. 21; 1: no projection) come about alike, one entry a point:

    - methods: [patchwise_attack, "patchwise_attack:i_fgsm", "patchwise_attack:mi_fgsm"]
      datasets: [...]
      options: {source: nt2}      # nt1 .. nt5, fd1, fd2 (with target: fd), ...
    - methods: [patchwise_attack, "patchwise_attack:i_fgsm", "patchwise_attack:mi_fgsm"]
      datasets: [...]
      options: {beta: 5}
    - methods: [patchwise_attack]
      datasets: [...]
      options: {kernel_size: 7}

Methods share `Attack`, which brings the sources and leaves `attack(models, image, label)` to write.
"""

from __future__ import annotations

import warnings
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from datamodules.specs import ImageClassesSpec, Spec
from tasks.base import Batch, Judge, Measure, Method, Need, Prediction, Profile, Recipe, Task
from tasks.metrics.adversarial import NoiseStatistics, Rates, VictimErrors, patch_map, quantise

MAX_NOISE = 16
"""The bound of the task, in 0..255."""
TOLERANCE = 0.01
"""Float rounding that the judge forgives, in 0..255."""

Family = Literal["nt", "eat", "fd"]
Zoo = Literal["published", "miniature"]

ZOOS: Mapping[Zoo, Mapping[str, Family]] = {
    "published": {
        "inc_v3": "nt",
        "inc_v4": "nt",
        "res152_v2": "nt",
        "incres_v2": "nt",
        "dense161": "nt",
        "inc_v3_ens3": "eat",
        "inc_v3_ens4": "eat",
        "incres_v2_ens": "eat",
        "resnext_da": "fd",
        "res152_b": "fd",
        "res152_d": "fd",
    },
    "miniature": {
        "plain": "nt",
        "residual": "nt",
        "branch": "nt",
        "dense": "nt",
        "large_kernel": "nt",
        "ens3": "eat",
        "ens4": "eat",
        "pgd": "fd",
        "pgd_denoise": "fd",
    },
}
"""Names and families of the victims, in the order of the paper's tables."""
ENSEMBLE = 4
"""Normally trained networks in the ensemble source: the first four."""
WEIGHTS = (".safetensors", ".pth", ".pt")


@runtime_checkable
class Victim(Protocol):
    """A trained classifier that can be attacked; it is in evaluation mode and frozen."""

    def logits(self, image: Tensor) -> Tensor:
        """float [B, 3, H, W] in [0, 1] -> [B, C]; sizes and normalisation are the victim's matter."""
        ...


@runtime_checkable
class WithAuxiliary(Protocol):
    """A victim with an auxiliary head, as the Inceptions have."""

    def logits_and_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both heads' logits [B, C]; None where this network has no second head."""
        ...


def family_of(role: str) -> Family | Literal["defence"]:
    """The family of a victim by its role."""
    known = {name: family for zoo in ZOOS.values() for name, family in zoo.items()}
    return known.get(role, "defence")


def jury_order(roles: Iterable[str]) -> list[str]:
    """Victims as judges and attacks list them: the zoo's in its own order, then defences by name."""
    order = [name for zoo in ZOOS.values() for name in zoo]
    return sorted(roles, key=lambda role: (order.index(role) if role in order else len(order), role))


def weights_file(folder: str | Path | None, name: str) -> Path | None:
    """The file `<folder>/<name>.safetensors`, `.pth` or `.pt` of a published network, if there is one."""
    candidates = [Path(folder).expanduser() / f"{name}{suffix}" for suffix in WEIGHTS] if folder else []
    return next((path for path in candidates if path.is_file()), None)


def victim_need(name: str, zoo: Zoo, folder: str | None) -> Need:
    """The trial that a zoo's victim comes from."""
    if zoo == "miniature":
        return Need(role=name, method=f"victim:{name}")
    return Need(role=name, method=f"published_victim:{name}", options={"weights_folder": folder})


def source_names(source: str, zoo: Zoo) -> tuple[str, ...]:
    """The victims that an attack looks into.

    source: names of the zoo joined by "+", or "nt1".. / "fd1".. for the k-th network of a family, or
    "nt_ensemble" (the first four) / "fd_ensemble" (all), which read alike in both zoos.
    """
    members = {family: [n for n, f in ZOOS[zoo].items() if f == family] for family in ("nt", "eat", "fd")}
    if source == "nt_ensemble":
        return tuple(members["nt"][:ENSEMBLE])
    if source == "fd_ensemble":
        return tuple(members["fd"])
    numbered = {f"{family}{k}": name for family in members for k, name in enumerate(members[family], 1)}
    names = tuple(numbered.get(part, part) for part in source.split("+"))
    if unknown := [name for name in names if name not in ZOOS[zoo]]:
        raise ValueError(
            f"source {unknown[0]!r} is no victim of the {zoo} zoo: {', '.join([*ZOOS[zoo], *numbered])}"
        )
    return names


class AttackJudge(Judge):
    """Runs every victim on clean, adversarial and rounded pictures. Raises `ValueError` for noise over the
    bound."""

    def __init__(self) -> None:
        super().__init__()
        self.victims = nn.ModuleDict()
        self.errors = VictimErrors()
        self.noise = NoiseStatistics()
        self.white_box: Tensor | None = None

    def adopt(self, role: str, trained: Method) -> None:
        if not isinstance(trained, Victim):
            raise TypeError(f"{trained.name} cannot be a victim: it has no logits(image)")
        self.victims[role] = trained.requires_grad_(False).eval()

    @property
    def roles(self) -> list[str]:
        return jury_order(self.victims)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        image, label, adversarial = batch["image"], batch["label"], prediction["adversarial"].float()
        roles = self.roles
        if not roles:
            raise RuntimeError(
                "an attack needs victims: none was adopted (are there weights in victims_folder?)"
            )
        if adversarial.shape != image.shape:
            raise ValueError(f"adversarial must be {tuple(image.shape)}, got {tuple(adversarial.shape)}")
        white_box = prediction["white_box"].cpu()
        if white_box.shape != (len(roles),) or white_box.dtype != torch.bool:
            raise ValueError(
                f"white_box must be bool [{len(roles)}], got {white_box.dtype} {list(white_box.shape)}"
            )
        rounded = quantise(adversarial)
        for name, pictures in (("adversarial", adversarial), ("rounded adversarial", rounded)):
            _check_bound(name, pictures, image, batch["id"])
        self.white_box = white_box
        self.noise.update(adversarial - image)
        kinds = torch.cat([image, adversarial, rounded])
        wrong = torch.stack([self._wrong(role, kinds, label.repeat(3)) for role in roles], dim=1)
        self.errors.update(*wrong.chunk(3))

    @torch.no_grad()
    def _wrong(self, role: str, image: Tensor, label: Tensor) -> Tensor:
        """Whether a victim misreads each picture, bool [B]."""
        return self.victims[role].logits(image).argmax(1) != label

    def compute(self) -> dict[str, float]:
        rates, roles = Rates(*self.errors.compute()), self.roles
        assert self.white_box is not None
        success = success_rates(rates, roles)
        scores = {}
        for name, values, members in self._groups(success, rates, roles):
            if members.any():
                scores[name] = float(values[members].mean())
        if "success" not in scores:  # every victim is a source: the white-box rate is all there is
            scores["success"] = float(success.adversarial.mean())
        return {
            **scores,
            **self.noise.compute(),
            **{f"success/{role}": float(s) for role, s in zip(roles, success.adversarial, strict=True)},
            **{f"clean_error/{role}": float(s) for role, s in zip(roles, rates.clean, strict=True)},
        }

    def _groups(
        self, success: Rates, rates: Rates, roles: Sequence[str]
    ) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Measures as (name, values [V], which victims they are the mean of)."""
        black = ~self.white_box
        families = [family_of(role) for role in roles]
        yield "success", success.adversarial, black
        for family in ("nt", "eat", "fd"):
            members = torch.tensor([each == family for each in families])
            yield f"success_{family}", success.adversarial, black & members
        yield "success_white_box", success.adversarial, self.white_box
        yield "success_quantised", success.quantised, black
        yield "success_clean_correct", rates.clean_correct, black & ~rates.clean_correct.isnan().cpu()

    def figures(self) -> dict[str, np.ndarray]:
        """One row of the attack x source x target matrix: success on each victim, white-box ones starred."""
        rates, roles = Rates(*self.errors.compute()), self.roles
        success = success_rates(rates, roles).adversarial.tolist()
        starred = [bool(flag) for flag in self.white_box]
        return {"victims": draw_row(roles, success, rates.clean.tolist(), starred)}


def success_rates(rates: Rates, roles: Sequence[str]) -> Rates:
    """Errors as success rates: of victims that are neither "nt" nor "eat" the clean error is subtracted."""
    kept = torch.tensor([family_of(role) in ("nt", "eat") for role in roles])
    clean = torch.where(kept, 0.0, rates.clean.cpu())
    return rates._replace(
        adversarial=rates.adversarial.cpu() - clean,
        quantised=rates.quantised.cpu() - clean,
        clean_correct=rates.clean_correct.cpu(),
    )


class AdversarialAttack(Task):
    """Pictures that classifiers misread, within a bound."""

    name = "adversarial-attack"
    family = "robustness"
    measures = (
        Measure("success", higher_is_better=True, unit="%"),
        Measure("success_nt", higher_is_better=True, unit="%"),
        Measure("success_eat", higher_is_better=True, unit="%"),
        Measure("success_fd", higher_is_better=True, unit="%"),
        Measure("success_white_box", higher_is_better=True, unit="%"),
        Measure("success_quantised", higher_is_better=True, unit="%"),
        Measure("success_clean_correct", higher_is_better=True, unit="%"),
        Measure("max_noise", higher_is_better=False),
        Measure("mean_noise", higher_is_better=False),
        Measure("patchiness", higher_is_better=True, decimals=3),
        Measure("patchiness_signed", higher_is_better=True, decimals=3),
    )

    @classmethod
    def jury(cls, options: Mapping[str, Any], profile: Profile) -> Sequence[Need]:
        """The zoo that the options name (`zoo`; by default the published one in the paper's profile), and
        `defences`. Published networks without a weights file are left out with a warning."""
        zoo = options.get("zoo") or ("published" if profile == "paper" else "miniature")
        folder = options.get("victims_folder")
        names = list(ZOOS[zoo])
        if zoo == "published":
            absent = [name for name in names if weights_file(folder, name) is None]
            if absent:
                where = folder or "victims_folder, which is not set"
                warnings.warn(f"victims without a weights file in {where} are skipped: {', '.join(absent)}")
            names = [name for name in names if name not in absent]
        defences = [Need(role=label, method=label) for label in options.get("defences", ())]
        return [*(victim_need(name, zoo, folder) for name in names), *defences]

    @classmethod
    def judge(cls, spec: Spec) -> AttackJudge:
        if not isinstance(spec, ImageClassesSpec):
            raise TypeError(f"an attack needs an ImageClassesSpec, {spec.dataset} has {type(spec).__name__}")
        return AttackJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """Clean picture, adversarial picture, noise (grey is none) and patch map, side by side."""
        shown = (batch["image"][:limit], prediction["adversarial"][:limit].float(), batch["label"][:limit])
        return [
            _panels(image.cpu(), adversarial.cpu(), spec.classes[label])
            for image, adversarial, label in zip(shown[0], shown[1], shown[2].tolist(), strict=True)
        ]


class Attack(Method):
    """What every attack has: its sources, and no training.

    zoo, victims_folder, defences: the victims, see `AdversarialAttack.jury`. source: see `source_names`.
    """

    task = AdversarialAttack
    recipe = Recipe(batch_size=10, max_steps=0, validate_every=0)

    def __init__(
        self,
        spec: Spec,
        *,
        zoo: Zoo = "published",
        victims_folder: str | None = None,
        defences: tuple[str, ...] = (),
        source: str = "nt1",
    ) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.source_roles = source_names(source, zoo)
        self.sources = nn.ModuleDict()

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        names = source_names(options["source"], options["zoo"])
        return [victim_need(name, options["zoo"], options["victims_folder"]) for name in names]

    def adopt(self, role: str, trained: Method) -> None:
        """Take a source and freeze it."""
        if role not in self.source_roles:
            raise TypeError(f"{self.name} looks into {', '.join(self.source_roles)}, not into {role!r}")
        if not isinstance(trained, Victim):
            raise TypeError(f"{trained.name} cannot be a source: it has no logits(image)")
        self.sources[role] = trained.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Attack:
        """Sources stay in evaluation mode: an attack must not move batch statistics or drop units."""
        super().train(mode)
        self.sources.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """An attack learns nothing."""

    def configure_optimizers(self) -> None:
        return None

    @abstractmethod
    def attack(
        self, models: Sequence[Victim], image: Tensor, label: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Adversarial pictures [B, 3, H, W] in [0, 1] for clean ones and their labels [B]; gradients are
        enabled.

        models: the sources, in evaluation mode and frozen. generator: all chance of this batch (on the CPU).
        """

    def predict(self, batch: Batch) -> Prediction:
        missing = [role for role in self.source_roles if role not in self.sources]
        if missing:
            raise RuntimeError(
                f"{self.name} has no source {missing[0]!r}: call adopt({missing[0]!r}, victim) with a trained "
                "classifier, or let the runner bring it"
            )
        # Names, not the place in the loader, so that chance is the same however pictures are looped over.
        seed = torch.initial_seed() ^ zlib.crc32("\n".join(batch["id"]).encode())
        generator = torch.Generator().manual_seed(seed % 2**63)
        models = [self.sources[role] for role in self.source_roles]
        device = batch["image"].device.type
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            image, label = batch["image"].detach().clone().float(), batch["label"].clone()
            adversarial = self.attack(models, image, label, generator)
        victims = jury_order(self._jurors)
        white_box = torch.tensor([role in self.source_roles for role in victims], dtype=torch.bool)
        return {"adversarial": adversarial.detach(), "white_box": white_box}


def _check_bound(name: str, adversarial: Tensor, image: Tensor, ids: Sequence[str]) -> None:
    """Raise a `ValueError` for pictures that leave [0, 1] or the bound, or aren't finite."""
    noise = ((adversarial - image).abs() * 255).amax((1, 2, 3))
    outside = torch.maximum(-adversarial, adversarial - 1).amax((1, 2, 3)) * 255
    # Not "over the bound": a NaN is over nothing.
    bad = ~((noise <= MAX_NOISE + TOLERANCE) & (outside <= TOLERANCE))
    if bad.any():
        worst = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} picture {ids[worst]} is {float(noise[worst]):.3f}/255 from the clean one and "
            f"{max(0.0, float(outside[worst])):.3f}/255 outside of [0, 1]; the bound is {MAX_NOISE}/255"
        )


def _panels(image: Tensor, adversarial: Tensor, label: str, side: int = 144) -> np.ndarray:
    """Four pictures [3, H, W] side by side under captions, uint8 [side + 22, 4 side + 15, 3]."""
    noise = (adversarial - image) * 255
    largest = float(noise.abs().max())
    panels = {
        f"clean: {label}": image,
        f"adversarial, noise <= {largest:.1f}": adversarial,
        "noise x 8 around grey": 0.5 + noise * 8 / 255,
        "patch map |noise| 256/16": patch_map(noise, MAX_NOISE) / 255,
    }
    sheet = Image.new("RGB", (4 * side + 15, side + 22), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (caption, picture) in enumerate(panels.items()):
        pixels = (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        left = column * (side + 5)
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left, 22))
        pen.text((left + 2, 5), caption, fill=(0, 0, 0))
    return np.asarray(sheet)


COLOURS = {"nt": (64, 110, 170), "eat": (196, 120, 40), "fd": (60, 140, 90), "defence": (120, 120, 120)}


def draw_row(
    roles: Sequence[str], success: Sequence[float], clean: Sequence[float], starred: Sequence[bool]
) -> np.ndarray:
    """Horizontal bars of the success rates in %, the clean error as a black tick -> uint8 [H, 640, 3]."""
    sheet = Image.new("RGB", (640, 22 * len(roles) + 52), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 6), "success rate by victim (* white-box; black tick: clean error)", fill=(0, 0, 0))
    for row, (role, rate, error, star) in enumerate(zip(roles, success, clean, starred, strict=True)):
        top = 28 + 22 * row
        family = family_of(role)
        pen.text((8, top + 3), f"{role} ({family})", fill=(0, 0, 0))
        pen.rectangle((200, top, 200 + 3.8 * max(0.0, rate), top + 16), fill=COLOURS[family])
        pen.line((200 + 3.8 * error, top, 200 + 3.8 * error, top + 16), fill=(0, 0, 0), width=2)
        pen.text((206 + 3.8 * max(0.0, rate), top + 3), f"{rate:.1f}{'*' if star else ''}", fill=(0, 0, 0))
    pen.line((200, 26, 200, 28 + 22 * len(roles)), fill=(0, 0, 0))
    pen.text((196, 30 + 22 * len(roles)), "0", fill=(0, 0, 0))
    pen.text((570, 30 + 22 * len(roles)), "100 %", fill=(0, 0, 0))
    return np.asarray(sheet)
