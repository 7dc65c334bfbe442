"""Sets of pictures read by an LSTM, for retrieval (Wang, Oramas and Tuytelaars, "In Defense of LSTMs for Addressing
Multiple Instance Learning Problems", ACCV 2020, cross-domain clothing retrieval; thesis chapter 7).

VGG-16 describes each picture (2048 numbers), a bidirectional LSTM of 2048 states reads the descriptions of a set in
random order, and its final states, brought to unit length, are the set's embedding. A catalogue picture goes the same
way as a set of one. Against models of single pictures (`pool="single"`), which compare each picture of the set with the
catalogue (`match`: mean of the distances, the least, or the distance of the mean feature; after DeepFashion and
Arandjelovic and Zisserman, 2012), the set is one vector.

The objective is not in the chapter. Chosen here: a hinge on Euclidean distances of unit vectors with margin 0.3, the
negative being the nearest other catalogue picture of the batch; every set is an anchor, or every picture of it for
models of single pictures. Also chosen: VGG-16's own fc6 and fc7 stand before the layer to 2048, all is trained by Adam
at 1e-5 (random layers at ten times that), sets of eight products and at most eight of their pictures each for 30
epochs; tests see all pictures. Mutual information is not used, since the description unit is pretrained.

`weights` is VGG-16 trained on ImageNet (a torchvision file); without it the network starts from random numbers, for
which the small profiles have batch normalisation (torchvision's vgg16_bn).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.bag_pooling import Pooling, build_pooling
from tasks.blocks.published_weights import read_published
from tasks.blocks.vgg import IMAGENET_MEAN, IMAGENET_STD, WEIGHTS, VGG16Trunk
from tasks.retrieval.set_retrieval import SetRetrieval, sets_of

Match = Literal["ave", "min", "feature"]
POOLED = 7
"""Side of the map before fc6."""


def catalogue_triplet(query: Tensor, catalogue: Tensor, owner: Tensor, margin: float = 0.3) -> Tensor:
    """Mean over queries of max(0, |q - c+| - |q - c-| + margin), c- the nearest catalogue row of another product.

    query: [M, D]; catalogue: [B, D]; owner: int64 [M], the row of each query's product. 0, with a gradient of 0, where
    B = 1. Computed in float32.

    >>> catalogue_triplet(torch.tensor([[0.0]]), torch.tensor([[1.0], [1.5]]), torch.tensor([0]), 1.0)
    tensor(0.5000)
    """
    if query.ndim != 2 or query.shape[1:] != catalogue.shape[1:] or owner.shape != (len(query),):
        raise ValueError(
            f"expected query [M, D], catalogue [B, D] and owner [M], got {tuple(query.shape)}, "
            f"{tuple(catalogue.shape)} and {tuple(owner.shape)}"
        )
    query, catalogue = query.float(), catalogue.float()
    if len(catalogue) < 2:
        return 0.0 * (query.sum() + catalogue.sum())
    with torch.no_grad():
        distance = torch.cdist(query, catalogue).scatter(1, owner[:, None], torch.inf)
        negative = distance.argmin(dim=1)
    right, wrong = (
        ((query - catalogue[index]).square().sum(1) + 1e-12).sqrt() for index in (owner, negative)
    )
    return (right - wrong + margin).relu().mean()


def set_distances(query: Tensor, owner: Tensor, catalogue: Tensor, match: Match) -> Tensor:
    """Distances of sets to catalogue pictures, from rows of single pictures.

    query: [M, D]; owner: int64 [M], 0..Q-1; catalogue: [G, D]. "ave": mean of the rows' distances; "min": the least;
    "feature": of the rows' mean. -> [Q, G]
    """
    sets = int(owner.max()) + 1
    if match == "feature":
        total = query.new_zeros(sets, query.shape[1]).index_add(0, owner, query)
        return torch.cdist(total / torch.bincount(owner, minlength=sets)[:, None], catalogue)
    distance = torch.cdist(query, catalogue)
    empty = distance.new_zeros(sets, len(catalogue))
    how = "mean" if match == "ave" else "amin"
    return empty.scatter_reduce(0, owner[:, None].expand_as(distance), distance, how, include_self=False)


class VGG16Describer(nn.Module):
    """VGG-16 with fc6 and fc7, and a linear layer to `length` numbers instead of the classes.

    width: factor on all layers but the last. grid: side of the map before fc6.
    """

    def __init__(
        self, channels: int, length: int, *, width: float, grid: int, batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.trunk = VGG16Trunk(channels, width, batch_norm)
        hidden = max(1, round(4096 * width))
        self.grid = grid
        self.fc6 = nn.Linear(self.trunk.widths[-1] * grid**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, length)
        self.dropout = nn.Dropout(dropout)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] -> [N, length]"""
        maps = F.max_pool2d(self.trunk((image - self.mean) / self.std)[-1], 2, ceil_mode=True)
        pooled = F.adaptive_avg_pool2d(maps, self.grid).flatten(1)
        hidden = self.dropout(self.fc6(pooled).relu())
        return self.last(self.dropout(self.fc7(hidden).relu()))

    def load_imagenet(self, path: str | Path) -> None:
        """Load the convolutions, fc6 and fc7 of torchvision's vgg16 or vgg16_bn.

        Raises as `VGG16Trunk.load_imagenet`, and ValueError where fc6 or fc7 are missing or of another shape.
        """
        self.trunk.load_imagenet(path)
        state = read_published(path)
        for layer, name in ((self.fc6, "classifier.0"), (self.fc7, "classifier.3")):
            for kind, own in layer.named_parameters():
                given = state.get(f"{name}.{kind}")
                if given is None or given.shape != own.shape:
                    seen = "is missing" if given is None else f"has shape {tuple(given.shape)}"
                    raise ValueError(
                        f"{path}: {name}.{kind} {seen}, expected {tuple(own.shape)}.\nGet {WEIGHTS}"
                    )
                own.data.copy_(given)


class MilLSTMRetrieval(Method):
    """See the module's docstring.

    pool: of a set's descriptions; "single": none, each picture is embedded alone, and `match` says how to compare.
    bidirectional: of the LSTM. length: of a description and of the LSTM's state. width: factor on VGG-16's layers.
    grid: side of the map before fc6. batch_norm: in VGG-16. dropout: behind fc6 and fc7. attention_hidden: rows of V.
    margin: of the hinge. lr: of pretrained layers; new ones have `new_lr` times that. weights: VGG-16 of ImageNet.
    """

    name = "mil_lstm_retrieval"
    task = SetRetrieval
    paper = Paper(
        title="In Defense of LSTMs for Addressing Multiple Instance Learning Problems",
        venue="ACCV 2020; thesis chapter 7",
        url="https://doi.org/10.1007/978-3-030-69544-6_27",
    )
    recipe = Recipe(batch_size=8, max_epochs=30, selection="best", data={"train_pictures": 8})
    presets = {
        "attention": {"pool": "attention"},
        "dynamic": {"pool": "dynamic"},
        "mean": {"pool": "mean"},
        "unidirectional": {"bidirectional": False},
        "fixed_order": {"data.shuffle": False},
        "single_ave": {"pool": "single", "match": "ave"},
        "single_min": {"pool": "single", "match": "min"},
        "single_fea_ave": {"pool": "single", "match": "feature"},
    }
    profiles = {
        "mini": {
            "length": 64,
            "width": 0.125,
            "grid": 1,
            "batch_norm": True,
            "dropout": 0.0,
            "attention_hidden": 32,
            "lr": 0.0003,
            "new_lr": 1.0,
            "max_epochs": 20,
            "selection": "last",
            "validate_every": 0,
            "data.train_pictures": 4,
        },
        "smoke": {
            "length": 8,
            "width": 0.05,
            "grid": 1,
            "batch_norm": True,
            "attention_hidden": 8,
            "max_steps": 2,
            "batch_size": 4,
            "data.train_pictures": 3,
        },
    }
    baselines = (
        "mil_lstm_retrieval:single_min",
        "mil_lstm_retrieval:single_ave",
        "mil_lstm_retrieval:single_fea_ave",
        "mil_lstm_retrieval:attention",
        "mil_lstm_retrieval:dynamic",
        "random_products",
    )
    claims = (
        Claim(
            method="mil_lstm_retrieval",
            over="mil_lstm_retrieval:single_min",
            measure="recall_at_1",
            reported="22.95 vs 22.60 % (Table 7.2), 9.25 vs 5.25 % with occlusion (Table 7.3)",
        ),
        Claim(
            method="mil_lstm_retrieval",
            over="mil_lstm_retrieval:attention",
            measure="recall_at_1",
            reported="22.95 vs 13.75 % (Table 7.2), 9.25 vs 3.55 % with occlusion (Table 7.3)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        pool: Pooling | Literal["single"] = "lstm",
        match: Match = "min",
        bidirectional: bool = True,
        length: int = 2048,
        width: float = 1.0,
        grid: int = POOLED,
        batch_norm: bool = False,
        dropout: float = 0.5,
        attention_hidden: int = 128,
        margin: float = 0.3,
        lr: float = 1e-5,
        new_lr: float = 10.0,
        weight_decay: float = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__(spec)
        sets_of(spec)
        if match not in ("ave", "min", "feature"):
            raise ValueError(f"match {match!r} is none of ave, min, feature")
        self.describer = VGG16Describer(
            spec.channels, length, width=width, grid=grid, batch_norm=batch_norm, dropout=dropout
        )
        self.pooling = (
            None
            if pool == "single"
            else build_pooling(pool, length, length, hidden=attention_hidden, bidirectional=bidirectional)
        )
        self.match: Match = match
        self.margin, self.lr, self.new_lr, self.weight_decay = margin, lr, new_lr, weight_decay
        self.pretrained = weights is not None or batch_norm
        if weights is not None:
            self.describer.load_imagenet(weights)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the sets [M, D], which set each is of [M], and the catalogue's rows [B, D], all of unit length."""
        sets = len(batch["catalogue"])
        described = self.describer(torch.cat([batch["image"], batch["catalogue"]]))
        pictures, catalogue = described.split([len(batch["image"]), sets])
        owner = batch["set"]
        if self.pooling is not None:
            everyone = torch.arange(sets, device=owner.device)
            pictures, owner = self.pooling(pictures, owner, sets), everyone
            catalogue = self.pooling(catalogue, everyone, sets)  # a set of one picture
        return F.normalize(pictures.float(), dim=1), owner, F.normalize(catalogue.float(), dim=1)

    def on_fit_start(self) -> None:
        if not self.pretrained:
            warnings.warn(
                f"{self.name} trains random weights with a recipe made for ImageNet's: they will hardly move. "
                "Pass weights=<VGG-16 file>, or batch_norm=true and a larger lr for training from scratch.",
                stacklevel=2,
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        query, owner, catalogue = self.embed(batch)
        loss = catalogue_triplet(query, catalogue, owner, self.margin)
        self.log("train/loss", loss.detach(), batch_size=len(catalogue))
        return loss

    def configure_optimizers(self) -> Any:
        new = [self.describer.last, *([] if self.pooling is None else [self.pooling])]
        fresh = [parameter for module in new for parameter in module.parameters()]
        known = {id(parameter) for parameter in fresh}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return torch.optim.Adam(
            [{"params": rest, "lr": self.lr}, {"params": fresh, "lr": self.lr * self.new_lr}],
            weight_decay=self.weight_decay,
        )

    def predict(self, batch: Batch) -> Prediction:
        query, owner, catalogue = self.embed(batch)
        return {"query": query, "query_set": owner, "catalogue": catalogue}

    def compare(self, queries: Prediction, gallery: Prediction) -> Tensor | None:
        if self.pooling is not None:
            return None
        return set_distances(queries["query"], queries["query_set"], gallery["catalogue"], self.match)
