"""Second-order pooling of a feature map into a vector, for a linear classifier behind it.

    bp      bilinear pooling, signed square root, unit length (Lin et al., ICCV 2015)
    cbp     compact bilinear pooling by tensor sketch (Gao et al., CVPR 2016), then as bp
    mpn     matrix power normalised covariance, power 1/2 by eigenvalues (Li et al., ICCV 2017)
    isqrt   the same root by Newton-Schulz iteration (Li et al., CVPR 2018)

`mpn` and `isqrt` reduce the map to 256 channels first by a 1x1 convolution with BN and ReLU, as their authors do,
and give the upper triangle, 32,896 numbers. `bp` and `cbp` do so only for maps of more than 512 channels, to 512: a
bilinear vector of 2048 x 2048 numbers would need a classifier of 840 million weights (chosen here).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["gap", "bp", "cbp", "mpn", "isqrt"]
COVARIANCE_CHANNELS = 256
BILINEAR_CHANNELS = 512


def bilinear_pool(features: Tensor) -> Tensor:
    """Mean outer product over pixels, signed root, unit length: [N, K, H, W] -> [N, K^2]."""
    flat = features.float().flatten(2)
    return root_normalise((flat @ flat.transpose(1, 2) / flat.shape[2]).flatten(1))


def root_normalise(vector: Tensor, eps: float = 1e-12) -> Tensor:
    """sign(v) sqrt(|v|) with a finite slope at 0, brought to unit length: [N, D] -> [N, D]."""
    return F.normalize(vector.sign() * ((vector.abs() + eps).sqrt() - eps**0.5), dim=1)


def tensor_sketch(flat: Tensor, buckets: Tensor, signs: Tensor, length: int) -> Tensor:
    """Circular convolution of two count sketches of each pixel, whose dot products estimate those of outer products.

    flat: [N, K, P]; buckets int64 and signs [2, K]. -> mean over pixels [N, length].
    """
    spectra = []
    for bucket, sign in zip(buckets, signs, strict=True):
        sketch = flat.new_zeros(flat.shape[0], length, flat.shape[2])
        spectra.append(torch.fft.rfft(sketch.index_add(1, bucket, flat * sign[:, None]), dim=1))
    return torch.fft.irfft(spectra[0] * spectra[1], n=length, dim=1).mean(2)


def covariance(features: Tensor) -> Tensor:
    """Covariance of the channels over pixels: [N, K, H, W] -> [N, K, K]."""
    flat = features.float().flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    return centred @ centred.transpose(1, 2) / flat.shape[2]


def newton_schulz_root(matrix: Tensor, iterations: int = 5, eps: float = 1e-12) -> Tensor:
    """Square root of positive matrices [N, K, K]: trace normalisation, coupled Newton-Schulz, post-compensation."""
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1).clamp(min=eps)[:, None, None]
    y, z = matrix / trace, identity.expand_as(matrix)
    for _ in range(iterations):
        step = 0.5 * (3 * identity - z @ y)
        y, z = y @ step, step @ z
    return y * trace.sqrt()


def eigenvalue_root(matrix: Tensor, eps: float = 1e-5) -> Tensor:
    """Square root of positive matrices [N, K, K] by their eigenvalues, those below `eps` of the trace left at 0.

    The gradient is that of the function, (R dA + dA R = dM), not of the eigenvectors, which equal eigenvalues would
    make infinite.
    """
    return _EigenvalueRoot.apply(matrix, eps)


class _EigenvalueRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor, eps: float) -> Tensor:  # type: ignore[no-untyped-def, override]
        values, vectors = torch.linalg.eigh(matrix)
        floor = eps * values.clamp(min=0).sum(1, keepdim=True)
        roots = torch.where(values > floor, values.clamp(min=0).sqrt(), torch.zeros_like(values))
        ctx.save_for_backward(roots, vectors)
        return vectors @ (roots[:, :, None] * vectors.transpose(1, 2))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def, override]
        roots, vectors = ctx.saved_tensors
        inner = vectors.transpose(1, 2) @ (gradient + gradient.transpose(1, 2)) @ vectors / 2
        sums = roots[:, :, None] + roots[:, None, :]
        kept = (roots > 0)[:, :, None] & (roots > 0)[:, None, :]
        inner = torch.where(kept, inner / sums.clamp(min=1e-12), torch.zeros_like(inner))
        return vectors @ inner @ vectors.transpose(1, 2), None


def upper_triangle(matrix: Tensor) -> Tensor:
    """[N, K, K] -> [N, K (K + 1) / 2], row by row."""
    rows, columns = torch.triu_indices(*matrix.shape[1:], device=matrix.device)
    return matrix[:, rows, columns]


class PooledClassifier(nn.Module):
    """Pooling and one linear layer: [N, K, H, W] -> logits [N, classes].

    pooling: "gap" is global average pooling. sketch: length of the compact bilinear vector.
    """

    def __init__(self, channels: int, classes: int, pooling: Pooling = "gap", *, sketch: int = 8192) -> None:
        super().__init__()
        self.pooling, self.sketch = pooling, sketch
        self.reduce: nn.Module = nn.Identity()
        width = channels
        if pooling in ("mpn", "isqrt"):
            width = COVARIANCE_CHANNELS
        elif pooling in ("bp", "cbp"):
            width = min(channels, BILINEAR_CHANNELS)
        if width != channels:
            self.reduce = nn.Sequential(
                nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
        self.buckets: Tensor
        self.signs: Tensor
        if pooling == "cbp":  # drawn once, apart from the seed of the weights
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("buckets", torch.randint(sketch, (2, width), generator=generator))
            self.register_buffer("signs", 2.0 * torch.randint(2, (2, width), generator=generator) - 1)
        length = {"gap": width, "bp": width**2, "cbp": sketch}.get(pooling, width * (width + 1) // 2)
        self.linear = nn.Linear(length, classes)

    def pooled(self, features: Tensor) -> Tensor:
        """The vector before the linear layer; second-order statistics are computed in float32."""
        features = self.reduce(features)
        if self.pooling == "gap":
            return features.mean((2, 3))
        with torch.autocast(features.device.type, enabled=False):
            if self.pooling == "bp":
                return bilinear_pool(features)
            if self.pooling == "cbp":
                flat = features.float().flatten(2)
                return root_normalise(tensor_sketch(flat, self.buckets, self.signs, self.sketch))
            moments = covariance(features)
            root = newton_schulz_root(moments) if self.pooling == "isqrt" else eigenvalue_root(moments)
            return upper_triangle(root)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.pooled(features))
