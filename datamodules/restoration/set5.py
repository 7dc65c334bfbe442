"""Set5: five pictures to enlarge by 2, 3 or 4, the oldest yardstick of single-image super-resolution.

Format: `image_SRF_<factor>/img_<number>_SRF_<factor>_{HR,LR}.png`, RGB; HR cropped so that the factor
divides it, LR made from it by MATLAB's bicubic `imresize` with antialiasing. The folders may lie in `Set5/`.
Splits: `test` only; it is made for evaluation, `train` and `val` are empty. Sizes differ: one picture a
batch. Measured as published on luma with `factor` pixels shaved off each side: bicubic 33.66, 30.39 and
28.42 dB. `set5`, `set5-x3` and `set5-x4` are the same pictures at factors 2, 3 and 4.
Licence: none stated; research use with citation:
M. Bevilacqua et al., "Low-complexity single-image super-resolution based on nonnegative neighbor embedding",
BMVC 2012.

The miniature: five rendered textures of 36 to 60 pixels a side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.objects import TEXTURES, hsv, mottle, paint, plane, silhouette, texture
from datamodules.specs import SuperResolutionSpec

FACTORS = (2, 3, 4)
MINIATURE_SIDES = (36, 48, 48, 60, 60)


def read_rgb(path: Path) -> Tensor:
    """A picture file as float32 [3, H, W] in [0, 1]; a `DataError` names a file that can't be read."""
    try:
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


class Pairs(MapDataset[dict[str, Any]]):
    """Samples `low`, `high`, `exemplars` (none) and `id` of pairs of files (LR, HR)."""

    def __init__(self, files: list[tuple[Path, Path]], factor: int) -> None:
        self.files = files
        self.factor = factor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        low_file, high_file = self.files[index]
        low, high = read_rgb(low_file), read_rgb(high_file)
        expected = [self.factor * side for side in low.shape[-2:]]
        if list(high.shape[-2:]) != expected:
            raise DataError(
                f"{high_file}: is {tuple(high.shape[-2:])} pixels, expected {self.factor} times those of "
                f"{low_file.name}, {tuple(expected)}"
            )
        return {
            "low": low,
            "high": high,
            "exemplars": torch.zeros(0, *high.shape),
            "id": high_file.name.removesuffix("_HR.png"),
        }


class Set5(Dataset):
    """Serves `super-resolution` without exemplars; see the module's docstring.

    factor: 2, 3 or 4; None: the one of the dataset's name. exemplars: must be 0 or None, there are none
    (methods that use some ask for them; they get none).
    """

    name = "set5"
    tasks = ("super-resolution",)
    title = "Set5"
    url = "https://github.com/jbhuang0604/SelfExSR (data/Set5)"
    licence = "none stated; research use with citation"
    required = tuple(
        f"image_SRF_{factor}/img_*_SRF_{factor}_{side}.png" for factor in FACTORS for side in ("HR", "LR")
    )
    default_factor: ClassVar[int] = 2

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        factor: int | None = None,
        exemplars: int | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        self.factor = self.default_factor if factor is None else factor
        if self.factor not in FACTORS:
            raise ValueError(f"{self.name}: the factor is one of {FACTORS}, not {factor}")

    def _home(self, root: Path) -> Path:
        return next((root / name for name in ("Set5", "set5") if (root / name).is_dir()), root)

    @property
    def miniature_folder(self) -> Path:
        return self.cache / f"{Set5.name}-v{self.version}"

    @property
    def spec(self) -> SuperResolutionSpec:
        return SuperResolutionSpec(dataset=self.name, image_size=(0, 0), factor=self.factor, exemplars=0)

    def read(self, split: Split) -> Pairs:
        if split != "test":
            return Pairs([], self.factor)
        folder = self.root / f"image_SRF_{self.factor}"
        highs = sorted(folder.glob("img_*_HR.png"))
        pairs = [(high.with_name(high.name.replace("_HR.png", "_LR.png")), high) for high in highs]
        for low, high in pairs:
            if not low.is_file():
                raise DataError(f"{low} is missing beside {high.name}")
        if not pairs:
            raise DataError(f"{self.name}: no img_*_HR.png in {folder}\n{self.instructions()}")
        return Pairs(pairs, self.factor)

    @classmethod
    def render(cls, folder: Path) -> None:
        for number, side in enumerate(MINIATURE_SIDES, start=1):
            high = _picture(number, side)
            for factor in FACTORS:
                out = folder / f"image_SRF_{factor}"
                out.mkdir(exist_ok=True)
                low = F.interpolate(
                    high[None], scale_factor=1 / factor, mode="bicubic", antialias=True, align_corners=False
                )[0]
                for pixels, kind in ((high, "HR"), (low, "LR")):
                    array = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
                    Image.fromarray(array).save(out / f"img_{number:03d}_SRF_{factor}_{kind}.png")


class Set5x3(Set5):
    """Set5 at factor 3."""

    name = "set5-x3"
    default_factor = 3


class Set5x4(Set5):
    """Set5 at factor 4."""

    name = "set5-x4"
    default_factor = 4


def _picture(number: int, side: int) -> Tensor:
    """A textured thing on mottled ground, float32 [3, side, side]."""
    generator = random_generator("set5", "picture", number)
    x, y = plane(side)
    ground = hsv(generator.uniform(), 0.3, 0.6)
    picture = ground * (0.6 + 0.6 * mottle(generator, x, y)[..., None])
    grain = texture(TEXTURES[number - 1], x, y, generator.uniform(0.35, 0.6))[..., None]
    colour = grain * hsv(generator.uniform(), 0.7, 0.9) + (1 - grain) * hsv(generator.uniform(), 0.6, 0.35)
    paint(picture, silhouette(("disc", "square", "star", "cross", "ring")[number - 1], x, y), colour)
    return torch.from_numpy(picture.clip(0, 1)).permute(2, 0, 1).float()
