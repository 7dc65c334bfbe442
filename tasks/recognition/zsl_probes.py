"""What a frozen encoder's features hold: parts in their places, information, attributes (ICLR 2020, Sec. 4.4.2-4.4.4).

Three things are fitted to the training pictures, none of which moves the encoder: a linear probe for each part on
every local feature (appendix A.6), a statistics network that bounds the mutual information of global and local
features (MINE, Eq. 4.4.1), and vectors of attributes that should add up to the representation (appendix A.8). Chance
comes from generators of their own, so that the same weights and pictures give the same probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import pearsonr
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from tasks.blocks.mutual_information import PairScores, donsker_varadhan, pair_loss
from tasks.metrics.tree_reconstruction import fit_attribute_vectors


@dataclass(frozen=True)
class Gathered:
    """Features of pictures on the CPU.

    representation [N, D] (float16 for the head) and label int64 [N] of all; of n <= N of them, where probes want them,
    vector [n, D], local float16 [n, C, h, w], parts bool [n, P, h, w] (None too where there are no clicks).
    """

    representation: Tensor
    label: Tensor
    vector: Tensor | None
    local: Tensor | None
    parts: Tensor | None


class Probes(nn.Module):
    """The three probes.

    length: of the global vector. channels: of local features. parts: how many; 0 or 1: no probe for them.
    attributes: bool [R, C, A], the true ones and random ones. representation: length of what they should make.
    """

    def __init__(
        self, length: int, channels: int, parts: int, attributes: Tensor, *, representation: int, units: int
    ) -> None:
        super().__init__()
        self.parts = nn.Conv2d(channels, parts, 1) if parts > 1 else None
        self.statistics = PairScores(length, channels, units)
        self.attributes: Tensor
        self.register_buffer("attributes", attributes, persistent=False)
        self.attribute_vectors: Tensor
        self.register_buffer(
            "attribute_vectors", torch.zeros(attributes.shape[0], attributes.shape[2], representation)
        )

    def fit(
        self,
        gathered: Gathered,
        *,
        part_steps: int,
        part_rate: float,
        mine_steps: int,
        mine_rate: float,
        tree_steps: int,
        batch_size: int = 64,
    ) -> None:
        """Fit all three anew to training pictures."""
        device = self.attributes.device
        if self.parts is not None and gathered.parts is not None:
            fit_parts(self.parts, gathered, part_steps, part_rate, batch_size)
        fit_statistics(self.statistics, gathered, mine_steps, mine_rate, batch_size)
        self.attribute_vectors = fit_attribute_vectors(
            gathered.representation.to(device),
            gathered.label.to(device),
            self.attributes,
            generator=torch.Generator().manual_seed(0),
            steps=tree_steps,
        )

    @torch.no_grad()
    def information_maps(self, vector: Tensor, local: Tensor) -> Tensor:
        """Pointwise mutual information of global vectors [B, D] with the local features [B, C, h, w] of as many
        pictures, pair by pair, relative to the other places of a picture: softmax over them, float32 [B, h, w]."""
        whole = self.statistics.whole(vector.float())
        places = self.statistics.embed_local(local.float())
        scores = (places @ whole[..., None]).squeeze(2).float() * self.statistics.scale
        return scores.softmax(dim=1).unflatten(1, local.shape[2:])


def minibatches(count: int, size: int, steps: int) -> Iterator[Tensor]:
    """Index batches int64 [size] of `count` items in a fixed shuffled order, round after round; all of them where
    there are fewer. A batch may span two rounds."""
    generator = torch.Generator().manual_seed(0)
    size, order = min(size, count), torch.zeros(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:size]
        order = order[size:]


def _descend(
    module: nn.Module, rate: float, batches: Iterator[Tensor], loss: Callable[[Tensor], Tensor]
) -> None:
    """Adam on a module's weights, drawn anew from a fixed seed, in training mode; then back to evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for child in module.modules():
            if hasattr(child, "reset_parameters"):
                child.reset_parameters()
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=rate)
    with torch.enable_grad():
        for batch in batches:
            optimiser.zero_grad()
            loss(batch).backward()
            optimiser.step()
    module.eval()


def fit_parts(probe: nn.Conv2d, gathered: Gathered, steps: int, rate: float, batch_size: int) -> None:
    """Binary cross-entropy of each part at each place (appendix A.6)."""
    device, local, parts = probe.weight.device, gathered.local, gathered.parts
    assert local is not None
    assert parts is not None

    def loss(batch: Tensor) -> Tensor:
        logits = probe(local[batch].to(device).float())
        return F.binary_cross_entropy_with_logits(logits, parts[batch].to(device).float())

    _descend(probe, rate, minibatches(len(parts), batch_size, steps), loss)


def fit_statistics(
    statistics: PairScores, gathered: Gathered, steps: int, rate: float, batch_size: int
) -> None:
    """MINE: the bound of Eq. 4.4.1, joint pairs of one picture, marginal ones of two pictures of a batch."""
    device, vector, local = statistics.local.norm.weight.device, gathered.vector, gathered.local
    assert vector is not None
    assert local is not None

    def loss(batch: Tensor) -> Tensor:
        scores = statistics(vector[batch].to(device), local[batch].to(device).float())
        return pair_loss(scores, ~torch.eye(len(batch), dtype=torch.bool, device=device), "dv")

    _descend(statistics, rate, minibatches(len(vector), batch_size, steps), loss)


def parts_ratio(maps: Tensor, parts: Tensor) -> Tensor:
    """Share of a map's mass in places with any part (Sec. 4.5.2): [B, h, w] >= 0, bool [B, P, h, w] -> [B]."""
    inside = (maps * parts.any(dim=1)).flatten(1).sum(1)
    return inside / maps.flatten(1).sum(1)


@torch.no_grad()
def information_report(
    probes: Probes,
    vector: Tensor,
    local: Tensor,
    parts: Tensor | None,
    image: Tensor,
    semantics: Tensor,
    *,
    pairs: int,
    chunk: int = 256,
) -> dict[str, float]:
    """Numbers on pairs of test pictures (A's global vector over B's local features), at random with a fixed seed.

    vector [N, D], local [N, C, h, w], parts bool [N, P, h, w] or None, image uint8 [N, 3, H, W], all on the CPU;
    semantics [N, A], attributes of each picture's class at unit length.
    -> mutual_information: the bound in nats. Where there are parts: parts_ratio, its mean over pairs;
    parts_ratio_attributes and parts_ratio_ssim, its Pearson correlation with the cosine of the classes' attributes
    and with the structural similarity of the pictures (Fig. A.4); parts_area: what an even map would have.
    """
    count, device = len(vector), probes.attribute_vectors.device
    numbers: dict[str, float] = {}
    if count < 2:
        return numbers
    some = torch.randperm(count, generator=torch.Generator().manual_seed(1))[:chunk]
    scores = probes.statistics(vector[some].to(device), local[some].to(device).float())
    joint = scores.diagonal(dim1=0, dim2=1)
    apart = ~torch.eye(len(some), dtype=torch.bool, device=device)
    numbers["mutual_information"] = float(donsker_varadhan(joint, scores[apart]))
    if parts is None:
        return numbers
    generator = torch.Generator().manual_seed(2)
    first = torch.randint(count, (pairs,), generator=generator)
    second = (first + torch.randint(1, count, (pairs,), generator=generator)) % count
    ratio, similar = [], []
    for a, b in zip(first.split(chunk), second.split(chunk), strict=True):
        maps = probes.information_maps(vector[a].to(device), local[b].to(device))
        ratio.append(parts_ratio(maps.cpu(), parts[b]))
        pictures = [image[i].to(device).float() / 255 for i in (a, b)]
        similar.append(structural_similarity_index_measure(*pictures, data_range=1.0, reduction="none").cpu())  # type: ignore[arg-type]
    ratios = torch.cat(ratio).double().numpy()
    numbers["parts_ratio"] = float(ratios.mean())
    numbers["parts_area"] = float(parts.any(dim=1).float().mean())
    compared = {
        "parts_ratio_attributes": (semantics[first] * semantics[second]).sum(1).double().numpy(),
        "parts_ratio_ssim": torch.cat(similar).double().numpy(),
    }
    for name, values in compared.items():
        if np.ptp(values) > 0 and np.ptp(ratios) > 0:
            numbers[name] = float(pearsonr(ratios, values).statistic)
    return numbers


def information_figure(probes: Probes, tested: dict[str, Tensor], shown: int = 5) -> np.ndarray:
    """Below pictures B of several classes, the map of the first picture's global vector over them, uint8 [H, W, 3].

    The first column is that picture itself; brighter places score higher. tested: vector, local, image, label.
    """
    order = torch.linspace(0, len(tested["label"]) - 1, min(shown, len(tested["label"]))).long()
    device = probes.attribute_vectors.device
    vector = tested["vector"][order[:1]].expand(len(order), -1).to(device)
    maps = probes.information_maps(vector, tested["local"][order].to(device)).cpu()
    figure = Figure(figsize=(2 * len(order), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(order), squeeze=False)
    for column, index in enumerate(order.tolist()):
        picture = tested["image"][index].permute(1, 2, 0).numpy()
        height, width = picture.shape[:2]
        axes[0, column].imshow(picture)
        title = "global vector of" if column == 0 else f"class {int(tested['label'][index])}"
        axes[0, column].set_title(title, fontsize=9)
        axes[1, column].imshow(picture)
        axes[1, column].imshow(
            maps[column].numpy(), alpha=0.65, extent=(0, width, height, 0), interpolation="nearest"
        )
        for row in range(2):
            axes[row, column].set_axis_off()
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]
