"""A linear layer shared by all points, with batch normalisation and leaky ReLU: the 1 x 1 convolution of point nets."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import leaky_relu


class PointMLP(nn.Module):
    """[..., inputs] -> [..., outputs], normalised over all leading axes.

    slope: of the leaky ReLU below 0 (0: ReLU). bias: of the linear layer, which the normalisation cancels. dropout:
    behind the activation.
    """

    def __init__(
        self, inputs: int, outputs: int, *, slope: float = 0.2, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.norm = nn.BatchNorm1d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.slope = slope

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """valid: bool, the leading axes; only these rows count in the statistics, the others answer 0."""
        hidden = self.linear(features)
        if valid is None:
            rows = self.norm(hidden.flatten(0, -2))
            return self.dropout(leaky_relu(rows, self.slope)).view(*features.shape[:-1], -1)
        rows = self.dropout(leaky_relu(self.norm(hidden[valid]), self.slope))
        answer = rows.new_zeros(*features.shape[:-1], rows.shape[-1])
        answer[valid] = rows
        return answer
