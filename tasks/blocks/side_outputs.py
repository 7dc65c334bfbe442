"""Side outputs of a trunk: one logit map a stage, up-sampled to the picture by fixed bilinear interpolation.

Xie and Tu, "Holistically-Nested Edge Detection", ICCV 2015, section 3.1 and the released network definition:
a 1x1 convolution to one channel (initialised to 0), a transposed convolution of kernel 2s and stride s whose
bilinear weights are not trained, and a crop to the size of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bilinear_kernel(stride: int) -> Tensor:
    """Weights [2s, 2s] of a transposed convolution of stride s that interpolates bilinearly; 1x1 for s = 1.

    Along an axis 1 - |x - (2s - 1) / 2| / s for x = 0..2s-1 (Caffe's "bilinear" filler).
    """
    if stride < 1:
        raise ValueError(f"stride must be positive, got {stride}")
    if stride == 1:
        return torch.ones(1, 1)
    position = torch.arange(2 * stride, dtype=torch.float32)
    line = 1.0 - (position - (2 * stride - 1) / 2).abs() / stride
    return line[:, None] * line[None, :]


class SideOutputs(nn.Module):
    """One logit map a stage at the size of the picture.

    widths: channels of the stages, finest first; stage k lies at stride 2^k.
    offset: pixels by which stride-1 features extend beyond the picture on each side (VGG16Trunk.offset).

    The up-sampling kernels are buffers that no optimiser sees and no checkpoint stores. Beyond the outermost
    features the transposed convolution sees zeros, so a map fades over the last s/2 pixels, as in HED with
    padding 1.
    """

    def __init__(self, widths: Sequence[int], offset: int = 0) -> None:
        super().__init__()
        self.offset = offset
        self.strides = tuple(2**stage for stage in range(len(widths)))
        self.scores = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)
        for score in self.scores:
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
        for stride in self.strides[1:]:
            self.register_buffer(f"bilinear_{stride}", bilinear_kernel(stride)[None, None], persistent=False)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Stage features [B, widths[k], H_k, W_k] to logits [B, len(widths), H, W] for `size` = (H, W)."""
        height, width = size
        maps = []
        for stride, score, feature in zip(self.strides, self.scores, features, strict=True):
            logits = score(feature)
            if stride > 1:
                kernel = getattr(self, f"bilinear_{stride}")
                logits = F.conv_transpose2d(logits, kernel.to(logits.dtype), stride=stride)
            # Feature i covers pixels [i s, (i + 1) s); its kernel starts s / 2 before them.
            first = self.offset + stride // 2
            maps.append(logits[..., first : first + height, first : first + width])
        if any(logits.shape[-2:] != (height, width) for logits in maps):
            shapes = [tuple(logits.shape[-2:]) for logits in maps]
            raise ValueError(f"side outputs of sizes {shapes} do not cover a picture of {height}x{width}")
        return torch.cat(maps, dim=1)
