"""PI-FGSM: Patch-Wise Attack for Fooling Deep Neural Network (Gao et al., ECCV 2020).

Against I-FGSM, steps are `beta` times longer, and what overflows the bound isn't thrown away by clipping: the
"cut noise" is pushed onto the neighbouring pixels by a hollow box kernel. The noise forms patches, which cover
the different regions that different networks look at, so more of it transfers to networks never looked into.

- Eqs. 2-6, FGSM, I-, MI-, DI-, TI-FGSM: `tasks/blocks/gradient_attacks.py` and the switches here.
- Eq. 10, cut noise: `cut_noise`. Algorithm 1's line 7 prints it without |.|, which would drop all negative
  noise; Eq. 10 stands. Its test for ||a|| >= eps is the same thing element by element, so there is no branch.
- Eq. 12, project kernel: `project_kernel`. Eq. 11 and Algorithm 1: `patchwise`.
- The order of combinations is that of the official code: D transforms the input, T smooths the gradient, M
  normalises and accumulates it, then the sign, then the projection.
- Parameters by target and setting (sections 4.3 to 4.5): `parameters`. Where the text gives none, gamma is
  beta eps / T, and kernel 21 for "fd" targets of "nt" sources.

Chosen where paper and code leave room:
- overflow below 1e-6 is 0, and so is a projection that small: with beta = 1 the float sum of T steps may
  exceed eps by 4e-9, and the sign would make a full step of gamma out of it;
- MI divides by the L1 norm as Eq. 4 has it, each picture its own; the code's mean has the same signs;
- DI resizes by nearest neighbours as the TensorFlow code behind the paper's numbers (`interpolation`); sizes
  scale with the picture: [299, 330) in 299;
- the gaussian project kernel, of which the paper says nothing but that it differs by a point, is TI's with an
  empty centre; `use_aux` adds the auxiliary heads' loss, as the code does, where a source has such a head;
- the loss is summed over a batch, so a picture's noise doesn't depend on the others'.

Small pictures: both convolutions' sizes follow one rule, `scaled_size`: the paper's size times the ratio of
the pictures' widths, rounded up to an odd number, at least 3. At 48 pixels instead of 299, the `mini` profile,
project kernels of 3, 7 and 21 become 3, 3 and 5, and TI's 15 becomes 3. So there "nt" and "eat" targets have the
same parameters, given one source and no D.

The matrix of attacks and sources, and the curves of Figs. 2 and 3, are trials with `source`, `beta` and
`kernel_size` set; see the task's `adversarial_attack`.

Targeted attacks are not here: the paper evaluates none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.specs import Spec
from tasks.base import Claim, Paper
from tasks.blocks.gradient_attacks import (
    Interpolation,
    convolve_channels,
    diversify,
    gaussian_kernel,
    input_gradient,
    normalise_l1,
    within,
)
from tasks.robustness.adversarial_attack import MAX_NOISE, Attack, Family, Victim, Zoo, family_of

PAPER_SIDE, MINI_SIDE = 299, 48
TRANSLATION_SIZE = 15
NEGLIGIBLE = 1e-6
Kernel = Literal["uniform", "gaussian"]


class Parameters(NamedTuple):
    """beta: factor on the step eps / T. gamma: of the projection, in 0..255. kernel_size: of the project
    kernel."""

    beta: float
    gamma: float
    kernel_size: int


def parameters(
    target: Family, source: Family, sources: int, diverse: bool, eps: float, steps: int
) -> Parameters:
    """The paper's parameters for a family of targets, the family and number of sources, and with D or
    without."""
    if target == "fd" and source == "fd":
        return Parameters(2.5, 1.0, 3)
    if target == "nt":
        return Parameters(2.5, 2.0, 3) if diverse else Parameters(10.0, 10.0 * eps / steps, 3)
    beta = 5.0 if sources > 1 else 10.0
    return Parameters(beta, beta * eps / steps, 7 if target == "eat" else 21)


def scaled_size(size: int, scale: float) -> int:
    """The odd kernel size for pictures `scale` times the paper's: rounded up, at least 3; 1, no kernel, stays 1.

    >>> [scaled_size(size, 48 / 299) for size in (1, 3, 7, 15, 21)], scaled_size(7, 1.0)
    ([1, 3, 3, 3, 5], 7)
    """
    return max(3, 2 * math.ceil((size * scale - 1) / 2) + 1) if size > 1 else 1


def project_kernel(size: int, kind: Kernel = "uniform") -> Tensor:
    """W_p, Eq. 12: [size, size], 0 in the centre, 1 / (size^2 - 1) elsewhere; size 1 is 0: no projection."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the project kernel's size must be odd and positive, got {size}")
    kernel = torch.ones(size, size) if kind == "uniform" else gaussian_kernel(size)
    kernel[size // 2, size // 2] = 0
    return kernel / kernel.sum() if size > 1 else kernel


def cut_noise(accumulated: Tensor, eps: float) -> Tensor:
    """C, Eq. 10: what exceeds the bound, with its sign, any shape; less than 1e-6 counts as nothing."""
    overflow = accumulated.abs() - eps
    return torch.where(overflow < NEGLIGIBLE, torch.zeros_like(overflow), overflow) * accumulated.sign()


def projection(cut: Tensor, kernel: Tensor, gamma: float) -> Tensor:
    """P = gamma sign(W_p * C), the cut noise's feasible direction: [B, C, H, W], each channel by itself."""
    spread = convolve_channels(cut, kernel)
    # Neighbours that cancel must give no direction, whatever order they were added in.
    smallest = NEGLIGIBLE * float(kernel.max())
    return gamma * torch.where(spread.abs() < smallest, torch.zeros_like(spread), spread.sign())


def patchwise(
    clean: Tensor,
    direction: Callable[[Tensor], Tensor],
    *,
    eps: float,
    steps: int,
    beta: float,
    gamma: float,
    kernel: Tensor | None,
    accumulate_projection: bool = True,
) -> Tensor:
    """Algorithm 1: adversarial pictures [B, C, H, W] in [0, 1] from clean ones; eps and gamma in the same
    unit.

    direction: picture -> sign of the gradient there. kernel: W_p, or None for plain clipping (no projection).
    """
    step = beta * eps / steps
    image, accumulated = clean, torch.zeros_like(clean)
    for _ in range(steps):
        move = step * direction(image)
        if kernel is not None:
            accumulated = accumulated + move  # line 5
            spread = projection(cut_noise(accumulated, eps), kernel, gamma)  # lines 6-8
            if accumulate_projection:
                accumulated = accumulated + spread
            move = move + spread
        image = within(image + move, clean, eps)  # lines 12-13
    return image


PI: dict[str, Any] = {"patch": True}
PLAIN: dict[str, Any] = {"patch": False}
D, M, T = {"diversity": 0.7}, {"momentum": 1.0}, {"translation": True}
ATTACKS: dict[str, dict[str, Any]] = {
    "fgsm": {**PLAIN, "steps": 1},
    "i_fgsm": PLAIN,
    "mi_fgsm": {**PLAIN, **M},
    "di_fgsm": {**PLAIN, **D},
    "ti_fgsm": {**PLAIN, **T, "steps": 1},
    "ti_bim": {**PLAIN, **T},
    "dmi": {**PLAIN, **D, **M},
    "mti": {**PLAIN, **M, **T},
    "dtmi": {**PLAIN, **D, **T, **M},
    "pi": PI,
    "mpi": {**PI, **M},
    "dpi": {**PI, **D},
    "tpi": {**PI, **T},
    "dmpi": {**PI, **D, **M},
    "dtpi": {**PI, **D, **T},
}
"""Attacks by initials, as switches."""
ENSEMBLE = {"source": "nt_ensemble", "target": "eat"}
FD = {"source": "fd1", "target": "fd"}


class PatchwiseAttack(Attack):
    """All of the paper's attacks by switches.

    eps: bound in 0..255, at most the task's 16. steps: T. patch: the paper's accumulation and projection;
    without it, steps are clipped. beta, gamma (0..255), kernel_size: None: the paper's for `target` (see
    `parameters`; beta 1 without `patch`), gamma then beta eps / T where beta is given. kernel_scale: of the
    paper's kernel sizes, for smaller pictures (`scaled_size`); a size that is given stands as it is. kernel:
    of the projection. accumulate_projection: add P to the accumulated noise. momentum: MI's mu, 0: off.
    diversity: DI's probability, 0: off; interpolation: of its resize. translation: TI, with a gaussian of
    translation_size (None: 15, scaled). use_aux: also attack auxiliary heads. direction: "random" draws
    signs, the floor.
    zoo, victims_folder, defences, source: see `Attack`.
    """

    name = "patchwise_attack"
    paper = Paper(
        title="Patch-Wise Attack for Fooling Deep Neural Network",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_19",
        code="https://github.com/qilong-zhang/Patch-wise-iterative-attack",
    )
    profiles = {
        "mini": {"zoo": "miniature", "kernel_scale": MINI_SIDE / PAPER_SIDE},
        "smoke": {"zoo": "miniature", "kernel_scale": MINI_SIDE / PAPER_SIDE},
    }
    presets = {
        **{name: options for name, options in ATTACKS.items() if name != "pi"},
        "random_sign": {**PLAIN, "steps": 1, "direction": "random"},
        "gamma0": {"gamma": 0.0},
        "no_projection": {"kernel_size": 1},
        "beta1": {"beta": 1.0},
        "gaussian": {"kernel": "gaussian"},
        "forgetful": {"accumulate_projection": False},
        "aux": {"use_aux": True},
        # Settings of Tables 2 to 4; further ones by the options `source` and `target`.
        "eat": {"target": "eat"},
        "ensemble": ENSEMBLE,
        "mi_fgsm_ensemble": {**ATTACKS["mi_fgsm"], **ENSEMBLE},
        "fd": FD,
        "i_fgsm_fd": {**ATTACKS["i_fgsm"], **FD},
    }
    baselines = (
        "patchwise_attack:i_fgsm",
        "patchwise_attack:mi_fgsm",
        "patchwise_attack:gamma0",
        "patchwise_attack:di_fgsm",
        "patchwise_attack:ti_fgsm",
        "patchwise_attack:fgsm",
        "patchwise_attack:random_sign",
    )
    claims = (
        Claim(
            method="patchwise_attack",
            over="patchwise_attack:i_fgsm",
            measure="success_nt",
            reported="60.5 against 27.7, mean of the 16 black-box cells of Table 1",
        ),
        Claim(
            method="patchwise_attack",
            over="patchwise_attack:mi_fgsm",
            measure="success_nt",
            reported="60.5 against 55.8, mean of the 16 black-box cells of Table 1",
        ),
        Claim(
            method="patchwise_attack",
            over="patchwise_attack:gamma0",
            measure="success_nt",
            reported="the projection's part of the gain, Fig. 2 at beta 10",
        ),
        Claim(
            method="patchwise_attack:eat",
            over="patchwise_attack:i_fgsm",
            measure="success_eat",
            reported="39.3, 39.5, 28.8 against 11.7, 12.1, 5.5 with source Inc-v3 (Table 2)",
        ),
        Claim(
            method="patchwise_attack:eat",
            over="patchwise_attack:gamma0",
            measure="success_eat",
            reported="the projection's part of the gain, Fig. 2 at beta 10",
        ),
        Claim(
            method="patchwise_attack:eat",
            over="patchwise_attack:ti_fgsm",
            measure="success_eat",
            reported="+9.0 points on average (Table 2)",
        ),
        Claim(
            method="patchwise_attack:ensemble",
            over="patchwise_attack:mi_fgsm_ensemble",
            measure="success_eat",
            reported="+9.6 points on average (Table 3)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        zoo: Zoo = "published",
        victims_folder: str | None = None,
        defences: tuple[str, ...] = (),
        source: str = "nt1",
        target: Family = "nt",
        eps: float = 16.0,
        steps: int = 10,
        patch: bool = True,
        beta: float | None = None,
        gamma: float | None = None,
        kernel_size: int | None = None,
        kernel_scale: float = 1.0,
        kernel: Kernel = "uniform",
        accumulate_projection: bool = True,
        momentum: float = 0.0,
        diversity: float = 0.0,
        interpolation: Interpolation = "nearest",
        translation: bool = False,
        translation_size: int | None = None,
        use_aux: bool = False,
        direction: Literal["gradient", "random"] = "gradient",
    ) -> None:
        super().__init__(spec, zoo=zoo, victims_folder=victims_folder, defences=defences, source=source)
        if not 0 < eps <= MAX_NOISE:
            raise ValueError(f"eps must be in (0, {MAX_NOISE}], the bound of the task, got {eps}")
        if steps < 1 or not 0 <= diversity <= 1 or momentum < 0:
            raise ValueError(
                f"steps >= 1, 0 <= diversity <= 1 and momentum >= 0, got {steps}, {diversity}, {momentum}"
            )
        if kernel_scale <= 0:
            raise ValueError(f"kernel_scale must be positive, got {kernel_scale}")
        if (beta is not None and beta <= 0) or (gamma is not None and gamma < 0):
            raise ValueError(f"beta must be positive and gamma not negative, got {beta} and {gamma}")
        self.eps, self.steps, self.patch = eps, steps, patch
        table = parameters(
            target, family_of(self.source_roles[0]), len(self.source_roles), diversity > 0, eps, steps
        )
        if not patch:
            table = Parameters(1.0, 0.0, 1)
        elif beta is not None:
            table = table._replace(gamma=beta * eps / steps)
        self.parameters_used = Parameters(
            table.beta if beta is None else beta,
            table.gamma if gamma is None else gamma,
            scaled_size(table.kernel_size, kernel_scale) if kernel_size is None else kernel_size,
        )
        self.accumulate_projection = accumulate_projection
        self.momentum, self.diversity, self.interpolation = momentum, diversity, interpolation
        self.use_aux, self.direction = use_aux, direction
        self.register_buffer(
            "project", project_kernel(self.parameters_used.kernel_size, kernel), persistent=False
        )
        if translation_size is None:
            translation_size = scaled_size(TRANSLATION_SIZE, kernel_scale)
        self.register_buffer("smooth", gaussian_kernel(translation_size), persistent=False)
        self.translation = translation

    def attack(
        self, models: Sequence[Victim], image: Tensor, label: Tensor, generator: torch.Generator
    ) -> Tensor:
        velocity = torch.zeros_like(image)

        def direction(current: Tensor) -> Tensor:
            """Sign of the gradient at the current picture: D, T, M in this order."""
            nonlocal velocity
            if self.direction == "random":
                coin = torch.randint(0, 2, image.shape, generator=generator)
                return (2.0 * coin - 1.0).to(image)
            gradient = input_gradient(
                models,
                current,
                label,
                transform=lambda picture: self._diversified(picture, generator),
                use_aux=self.use_aux,
            )
            if self.translation:
                gradient = convolve_channels(gradient, self.smooth)
            if self.momentum:
                gradient = velocity = self.momentum * velocity + normalise_l1(gradient)  # Eq. 4
            return gradient.sign()

        beta, gamma, _ = self.parameters_used
        return patchwise(
            image,
            direction,
            eps=self.eps / 255,
            steps=self.steps,
            beta=beta,
            gamma=gamma / 255,
            kernel=self.project if self.patch else None,
            accumulate_projection=self.accumulate_projection,
        )

    def _diversified(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if not self.diversity:
            return image
        return diversify(image, generator, probability=self.diversity, interpolation=self.interpolation)

    def diagnostics(self) -> Mapping[str, float]:
        """The parameters that the table gave, or the options."""
        return {name: float(value) for name, value in self.parameters_used._asdict().items()}
