"""The two-branch network of RRF-Net (thesis chapter 5): four fully-connected layers a modality, unshared.

FC1: Linear, ReLU, dropout. FC2: Linear, BN, ReLU. FC3: the recurrent residual fusion block, or Linear, BN,
ReLU in the baseline. FC4: Linear, BN. Then unit length. A batch normalisation with learned scale and shift
stands before FC1, and BN and ReLU after a fusion; both are in the official code, not in the text.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Fusion = Literal["none", "sum", "conv"]
Block = Literal["rrf", "plain"]


class RecurrentResidualFusion(nn.Module):
    """One residual fully-connected layer applied T + 1 times with tied weights, its outputs fused (eqs. 5.1-5.6).

        h_t(x) = ReLU(BN_t(W x + b)) + x,   x_t = h_{t-1}(x_{t-1})

    W and b are the same at all steps; each step has a batch normalisation of its own, statistics and affine. The
    fusion sees the T + 1 side outputs h_0(x_0) ... h_T(x_T).

    width: of input and output. T: recurrent steps.
    fusion: conv: a 1x1 convolution over the side outputs, T + 1 weights and one bias for all positions (eq. 5.6);
        sum: their plain sum, skips included (eq. 5.5); none: the last one, without the BN and ReLU that follow a
        fusion.
    """

    def __init__(self, width: int, T: int = 3, fusion: Fusion = "conv") -> None:
        super().__init__()
        if T < 0:
            raise ValueError(f"T counts recurrent steps, so it can't be {T}")
        if fusion not in ("none", "sum", "conv"):
            raise ValueError(f"fusion must be 'none', 'sum' or 'conv', not {fusion!r}")
        self.linear = nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(T + 1))
        self.mode = fusion
        self.fuse = nn.Conv1d(T + 1, 1, kernel_size=1) if fusion == "conv" else None
        self.after = None if fusion == "none" else nn.Sequential(nn.BatchNorm1d(width), nn.ReLU())

    def side_outputs(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, T + 1, width]"""
        outputs = []
        for norm in self.norms:
            x = F.relu(norm(self.linear(x))) + x
            outputs.append(x)
        return torch.stack(outputs, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, width]"""
        side = self.side_outputs(x)
        if self.fuse is not None:
            fused = self.fuse(side)[:, 0]
        else:
            fused = side.sum(dim=1) if self.mode == "sum" else side[:, -1]
        return fused if self.after is None else self.after(fused)


class Branch(nn.Module):
    """A frozen feature to a unit embedding; see the module's docstring.

    inputs: length of the feature. widths: of FC1 to FC4; those of FC2 and FC3 are the same with the RRF block.
    """

    def __init__(
        self,
        inputs: int,
        widths: tuple[int, int, int, int] = (2048, 512, 512, 512),
        *,
        block: Block = "rrf",
        T: int = 3,
        fusion: Fusion = "conv",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths must name four layers, got {widths}")
        if block == "rrf" and widths[1] != widths[2]:
            raise ValueError(f"a residual FC3 keeps the width of FC2, got {widths[1]} and {widths[2]}")
        self.normalise = nn.BatchNorm1d(inputs)
        self.fc1 = nn.Sequential(nn.Linear(inputs, widths[0]), nn.ReLU(), nn.Dropout(dropout))
        self.fc2 = nn.Sequential(nn.Linear(widths[0], widths[1]), nn.BatchNorm1d(widths[1]), nn.ReLU())
        self.fc3: nn.Module
        if block == "rrf":
            self.fc3 = RecurrentResidualFusion(widths[1], T, fusion)
        elif block == "plain":
            self.fc3 = nn.Sequential(nn.Linear(widths[1], widths[2]), nn.BatchNorm1d(widths[2]), nn.ReLU())
        else:
            raise ValueError(f"block must be 'rrf' or 'plain', not {block!r}")
        self.fc4 = nn.Sequential(nn.Linear(widths[2], widths[3]), nn.BatchNorm1d(widths[3]))

    def forward(self, feature: Tensor) -> Tensor:
        """[B, inputs] -> unit rows [B, widths[3]]"""
        embedding = self.fc4(self.fc3(self.fc2(self.fc1(self.normalise(feature)))))
        return F.normalize(embedding.float(), dim=1)


class RRFNetwork(nn.Module):
    """An image branch and a text branch that share nothing.

    init_std: standard deviation of the Gaussian from which all Linear and fusion weights are drawn; biases
    start at 0.
    """

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        widths: tuple[int, int, int, int] = (2048, 512, 512, 512),
        *,
        block: Block = "rrf",
        T: int = 3,
        fusion: Fusion = "conv",
        dropout: float = 0.5,
        init_std: float = 0.05,
    ) -> None:
        super().__init__()
        self.image = Branch(image_dim, widths, block=block, T=T, fusion=fusion, dropout=dropout)
        self.text = Branch(text_dim, widths, block=block, T=T, fusion=fusion, dropout=dropout)
        for layer in self.weighted_layers():
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def weighted_layers(self) -> list[nn.Linear | nn.Conv1d]:
        """The Linear and fusion layers: what is drawn at random, and whose biases are trained apart."""
        return [layer for layer in self.modules() if isinstance(layer, nn.Linear | nn.Conv1d)]

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, image_dim] and [M, text_dim] -> unit rows [B, D] and [M, D]."""
        return self.image(image), self.text(text)
