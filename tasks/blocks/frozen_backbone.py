"""A trained method's features, frozen, for methods that build on them without changing them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tasks.base import Batch, Method, Need

ROLE = "backbone"


@runtime_checkable
class HasFeatures(Protocol):
    """A method with a transferable feature; it preprocesses the batch's `image` itself."""

    def features(self, batch: Batch) -> Tensor:
        """[B, K]"""
        ...


class FrozenBackbone(nn.Module):
    """Holds at most one adopted method and answers its features, in evaluation mode, without gradients.

    owner: name of the method that holds it, for messages.
    """

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner
        self.trained: Method | None = None

    @staticmethod
    def need(method: str) -> Need:
        """The trial whose weights are adopted; the suite says on which dataset it is trained."""
        return Need(role=ROLE, method=method)

    def adopt(self, role: str, trained: Method) -> None:
        """Take the trained method and freeze it; a `TypeError` for another role or one without features."""
        if role != ROLE:
            raise TypeError(f"{self.owner} needs a {ROLE!r}, no {role!r}")
        if not isinstance(trained, HasFeatures):
            raise TypeError(f"{self.owner}: {trained.name} has no features(batch) to build on")
        self.trained = trained.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stays in evaluation mode: batch statistics and dropout of the backbone must not move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """The features of a batch, float32 [B, K]; a `RuntimeError` where nothing has been adopted."""
        if self.trained is None:
            raise RuntimeError(
                f"{self.owner} has no backbone: call adopt({ROLE!r}, trained) with a trained method that has "
                "features(batch), or let the runner train one (`needs` in the suite names its dataset)"
            )
        features = self.trained.features(batch)  # type: ignore[operator]
        if features.ndim != 2 or len(features) != len(batch["image"]):
            raise ValueError(
                f"{self.owner}: {self.trained.name}.features must be [{len(batch['image'])}, K], "
                f"not {tuple(features.shape)}"
            )
        return features.float()
