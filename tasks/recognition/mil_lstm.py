"""LSTMs for multiple instance learning (Wang, Oramas and Tuytelaars, "In Defense of LSTMs for Addressing Multiple
Instance Learning Problems", ACCV 2020; thesis chapter 7).

A bag's pictures are described one by one, an LSTM reads the descriptions in random order, forwards and backwards, and
its final states are the bag's feature. Against attention and other poolings (`pool`), which weigh pictures and add
them up, its memory can hold several witnesses, counts and what differs from the rest.

- Instance description unit: `tasks/blocks/instance_description.py`; set representation encoder and its rivals:
  `tasks/blocks/bag_pooling.py`; prediction unit: dropout and a linear layer with a sigmoid (official code).
- Eq. 7.1, mutual information for description units that are learnt from nothing: `tasks/blocks/deep_infomax.py`.
- Random order in training is the dataset's (`data.shuffle`); the official code fixes each bag's order at its making.
- Sec. 7.4.2: the error over `orders` random orders of the test bags, in the diagnostics (`permuted_error`).
- Sec. 7.4.3: the presets `transferred` and `finetuned` take what was trained on bags of the dataset's own size to
  bags of another size (`data.mean_size`, `data.pairs`), as it is or trained on.
- Sec. 7.5: singletons' features and answers are part of the prediction; the figure `states` is Fig. 7.8.

The chapter is silent about, and here it is so: the two directions' states are joined (official code); of counts the
loss is the squared error, the prediction unit has no dropout, and the answer is rounded and never negative; the whole
loss, of task and mutual information, is taken five times (official code); a picture alone in its bag takes part only
in the prior of Eq. 7.1; which weights are tested is decided by the bag error on validation (the official code adds
the loss).
With `mi=None` mutual information is as in Table 7.1: with the LSTM always, with the others only where the label is
about a mixture of classes (starred there).

The official code's experiment is the outlier one alone, and trains on MNIST bags; its recipe is the default here, the
attention baseline's published one (Adam 1e-4, weight decay 5e-4) that of nuclei.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from datamodules.specs import BagsSpec, Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.bag_pooling import LSTMPooling, Pooling, build_pooling
from tasks.blocks.deep_infomax import DeepInfoMax
from tasks.blocks.instance_description import Describer, DescriptionUnit, build_describer
from tasks.blocks.published_weights import load_renamed, read_published
from tasks.recognition.multiple_instance import MultipleInstance, bags_of, in_the_plane, witness_of

LARGEST_NEGLIGIBLE = 27
"""Side in pixels up to which a colour picture is taken for a nucleus."""


@dataclass(frozen=True, kw_only=True)
class UnitRecipe:
    """What comes with a description unit: lengths of feature and LSTM state, Adam's rate and weight decay."""

    length: int
    lr: float
    weight_decay: float


UNITS: dict[Describer, UnitRecipe] = {
    "lenet": UnitRecipe(length=500, lr=5e-4, weight_decay=1e-4),
    "nucleus": UnitRecipe(length=512, lr=1e-4, weight_decay=5e-4),
}


def bag_loss(raw: Tensor, label: Tensor, *, counting: bool) -> Tensor:
    """Mean over the bags of binary cross-entropy, or of the squared error of a count, float32 scalar.

    raw: [B], logits or counts; label: int64 [B].
    """
    loss = mse_loss if counting else binary_cross_entropy_with_logits
    return loss(raw.float(), label.float())


def bag_answer(raw: Tensor, *, counting: bool) -> tuple[Tensor, Tensor]:
    """Logits or counts [B] -> label int64 [B] (threshold 0.5; rounded, not negative), score float [B]."""
    score = raw.float().clamp(min=0) if counting else raw.float().sigmoid()
    return (score.round() if counting else score >= 0.5).long(), score


class BagNetwork(nn.Module):
    """Description unit, pooling and prediction unit."""

    def __init__(self, describer: DescriptionUnit, pooling: nn.Module, dropout: float) -> None:
        super().__init__()
        self.describer = describer
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(pooling.length, 1)  # type: ignore[arg-type]

    def predict(self, pooled: Tensor) -> Tensor:
        """[B, L] -> logits or counts [B]"""
        return self.head(self.dropout(pooled))[:, 0]


def published_name(name: str) -> str:
    """A parameter name of the official code -> that of `BagNetwork`.

    The code builds on that of the attention baseline, whose names are taken here: `feature_extractor_part1` with the
    convolutions 0 and 3, `feature_extractor_part2.0`, `lstm`, and `classifier` with its linear layer first or behind
    the dropout. That it keeps them has not been verified. A name of none of these comes back as it is.
    """
    for theirs, ours in (
        ("feature_extractor_part1.", "describer.convolutions."),
        ("feature_extractor_part2.", "describer.linear."),
        ("lstm.", "pooling.lstm."),
        ("classifier.0.", "head."),
        ("classifier.1.", "head."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


class MilLSTM(Method):
    """Bags read by an LSTM, or pooled in another way.

    pool: what makes the bag's feature. bidirectional: of the LSTM. mi: whether to add mutual information; None: as in
    Table 7.1. mi_weights: alpha, beta, gamma of Eq. 7.1. mi_input: what the global discriminator sees beside the
    feature. mi_width: factor on the discriminators' layers. unit: the description unit; None: "nucleus" for small
    colour pictures, "lenet" else. width: factor on its filters. length: of its feature and of the LSTM's state; None:
    as the unit has it. attention_hidden: rows of V. dropout: of the prediction
    unit. loss_scale: factor on the loss.
    lr, weight_decay: of Adam; None: as the unit has it. start: from random weights, or from those of the same method
    trained on the dataset as it is by default. orders: random orders of the permutation test. inspected: test bags in
    the figure of states. weights: a checkpoint of the authors (see `load_published_weights`).
    """

    name = "mil_lstm"
    task = MultipleInstance
    paper = Paper(
        title="In Defense of LSTMs for Addressing Multiple Instance Learning Problems",
        venue="ACCV 2020; thesis chapter 7",
        url="https://doi.org/10.1007/978-3-030-69544-6_27",
    )
    recipe = Recipe(batch_size=1, max_epochs=100, selection="best")
    profiles = {
        # A thousandth of the steps: at full weight, the mutual information would be all that is learnt.
        "mini": {
            "width": 0.3,
            "length": 64,
            "attention_hidden": 32,
            "mi_width": 0.0625,
            "mi_weights": (0.05, 0.1, 0.01),
            "lr": 0.002,
            "batch_size": 8,
            "max_epochs": 12,
            "orders": 20,
        },
        "smoke": {
            "width": 0.2,
            "length": 8,
            "attention_hidden": 8,
            "mi_width": 0.03,
            "batch_size": 4,
            "max_steps": 2,
            "orders": 2,
            "inspected": 4,
        },
    }
    presets = {
        "attention": {"pool": "attention"},
        "gated_attention": {"pool": "gated_attention"},
        "dynamic": {"pool": "dynamic"},
        "mean": {"pool": "mean"},
        "max": {"pool": "max"},
        "no_mi": {"mi": False},
        "mi_map": {"mi_input": "map"},
        "unidirectional": {"bidirectional": False},
        "fixed_order": {"data.shuffle": False},
        "transferred": {"start": "trained", "max_steps": 0},
        "finetuned": {"start": "trained", "data.bags": 200},
    }
    baselines = (
        "mil_lstm:attention",
        "mil_lstm:gated_attention",
        "mil_lstm:dynamic",
        "mil_lstm:mean",
        "mil_lstm:max",
        "mil_lstm:no_mi",
        "bag_prior",
    )
    claims = (
        Claim(
            method="mil_lstm",
            over="mil_lstm:attention",
            measure="error",
            reported="3.5 vs 28.5 % on multiple digits, 2.07 vs 37.0 % on outliers; 4.0 vs 2.8 % on single digits "
            "(Table 7.1)",
        ),
        Claim(
            method="mil_lstm",
            over="mil_lstm:dynamic",
            measure="error",
            reported="3.5 vs 28.5 % on multiple digits, 2.07 vs 40.9 % on outliers (Table 7.1)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        pool: Pooling = "lstm",
        bidirectional: bool = True,
        mi: bool | None = None,
        mi_weights: Sequence[float] = (0.5, 1.0, 0.1),
        mi_input: Literal["feature", "map"] = "feature",
        mi_width: float = 1.0,
        unit: Describer | None = None,
        width: float = 1.0,
        length: int | None = None,
        attention_hidden: int = 128,
        dropout: float = 0.5,
        loss_scale: float = 5.0,
        lr: float | None = None,
        weight_decay: float | None = None,
        start: Literal["random", "trained"] = "random",
        orders: int = 100,
        inspected: int = 20,
        weights: str | None = None,
    ) -> None:
        super().__init__(spec)
        bags = bags_of(spec)
        if len(mi_weights) != 3 or orders < 0 or inspected < 0:
            raise ValueError(
                f"mi_weights {mi_weights} must be three numbers, orders {orders} and inspected {inspected} not negative"
            )
        unit = unit or unit_for(bags)
        facts = UNITS[unit]
        length = length or facts.length
        describer = build_describer(unit, spec.channels, bags.image_size, length=length, width=width)
        pooling = build_pooling(pool, length, length, hidden=attention_hidden, bidirectional=bidirectional)
        self.counting = bags.rule == "count"
        self.network = BagNetwork(describer, pooling, 0.0 if self.counting else dropout)
        if mi is None:
            mi = pool == "lstm" or bags.rule == "mixture"
        self.mutual_information = (
            DeepInfoMax(
                describer.map_shape,
                length,
                weights=(mi_weights[0], mi_weights[1], mi_weights[2]),
                global_input=mi_input,
                hidden=(max(1, round(512 * mi_width)), max(1, round(128 * mi_width))),
            )
            if mi
            else None
        )
        self.pool = pool
        self.loss_scale = loss_scale
        self.lr = facts.lr if lr is None else lr
        self.weight_decay = facts.weight_decay if weight_decay is None else weight_decay
        self.orders, self.inspected = orders, inspected
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(bags.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(bags.std)[:, None, None], persistent=False)
        self._permuted = torch.zeros(0)
        self._tested = 0
        self._states: list[dict[str, Tensor]] = []
        self._chance = torch.Generator()
        if weights is not None:
            self.load_published_weights(weights)

    def describe(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Maps [N, C, h, w] and features [N, K] of all pictures of all bags, each by itself."""
        return self.network.describer((batch["instances"] - self.mean) / self.std)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        bags = len(batch["id"])
        maps, features = self.describe(batch)
        raw = self.network.predict(self.network.pooling(features, batch["bag"], bags))
        parts = {"task": bag_loss(raw, batch["label"], counting=self.counting)}
        loss = parts["task"]
        if self.mutual_information is not None:
            information = self.mutual_information(maps, features, batch["bag"], bags)
            loss = loss + information["total"]
            parts |= {f"mi_{name}": value for name, value in information.items()}
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=bags)
        return self.loss_scale * loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def predict(self, batch: Batch) -> Prediction:
        _, features = self.describe(batch)
        raw = self.network.predict(self.network.pooling(features, batch["bag"], len(batch["id"])))
        label, score = bag_answer(raw, counting=self.counting)
        answer = {"label": label, "score": score}
        if self._trainer is not None and (self.trainer.validating or self.trainer.sanity_checking):
            return answer  # weights are chosen by the bags alone
        singletons = torch.arange(len(features), device=features.device)
        alone = self.network.pooling(features, singletons, len(features))
        _, instance_score = bag_answer(self.network.predict(alone), counting=self.counting)
        return {**answer, "instance_feature": alone, "instance_score": instance_score.clamp(max=1)}

    # Permutation test (Sec. 7.4.2) and inspection of states (Sec. 7.5.1)

    def on_test_start(self) -> None:
        self._permuted, self._tested, self._states = torch.zeros(self.orders), 0, []
        self._chance = torch.Generator().manual_seed(0)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        if isinstance(self.network.pooling, LSTMPooling):
            self._inspect(batch)

    def _inspect(self, batch: Batch) -> None:
        """Errors of the batch in `orders` random orders, and the states of the first bags."""
        _, features = self.describe(batch)
        bag, bags = batch["bag"], len(batch["id"])
        self._tested += bags
        for number in range(self.orders):
            chance = torch.rand(len(bag), generator=self._chance, dtype=torch.float64).to(features.device)
            order = (bag + chance).argsort()
            raw = self.network.predict(self.network.pooling(features[order], bag, bags))
            label, _ = bag_answer(raw, counting=self.counting)
            self._permuted[number] += float((label != batch["label"]).sum())
        states = self.network.pooling.states(features, bag, bags)
        for number in range(min(bags, self.inspected - len(self._states))):
            chosen = bag == number
            self._states.append(
                {
                    "state": states[chosen].detach().float().cpu(),
                    "witness": witness_of(batch["instance_label"][chosen], bags_of(self.spec)).cpu(),
                    "positive": (batch["label"][number] > 0).cpu(),
                }
            )

    def diagnostics(self) -> dict[str, float]:
        """`permuted_error`: mean over random orders of the test bags' error (%), with its standard deviation and
        standard error over the orders."""
        if not self._tested or not len(self._permuted):
            return {}
        errors = 100 * self._permuted.double() / self._tested
        deviation = float(errors.std()) if len(errors) > 1 else 0.0
        return {
            "permuted_error": float(errors.mean()),
            "permuted_error_std": deviation,
            "permuted_error_standard_error": deviation / len(errors) ** 0.5,
        }

    def figures(self) -> dict[str, np.ndarray]:
        """`states`: the forward states of some test bags after each picture (Fig. 7.8)."""
        return {"states": _paths(self._states)} if self._states else {}

    # Weights of others

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        """What is transferred is trained on the dataset as it is by default."""
        if options.get("start", "random") != "trained":
            return ()
        shared: tuple[str, ...] = (
            "pool",
            "bidirectional",
            "mi",
            "mi_weights",
            "mi_input",
            "mi_width",
            "unit",
            "width",
            "length",
        )
        shared += ("attention_hidden", "dropout", "loss_scale", "lr", "weight_decay")
        return (
            Need(
                role="trained",
                method="mil_lstm",
                options={key: options[key] for key in shared if key in options},
            ),
        )

    def adopt(self, role: str, trained: Method) -> None:
        if role != "trained":
            super().adopt(role, trained)
        self.load_state_dict(trained.state_dict())

    def load_published_weights(self, path: str | Path) -> None:
        """Load the bag network of a checkpoint of the official code; see `published_name` for its names.

        Discriminators in it (`global_d`, `local_d`, `prior_d`) serve training only and are left out. Raises
        FileNotFoundError, and ValueError that lists every tensor that is missing, left over or of another shape.
        """
        state = {
            name: value
            for name, value in read_published(path).items()
            if not any(part in name.split(".") for part in ("global_d", "local_d", "prior_d"))
        }
        load_renamed(self.network, state, published_name)


def unit_for(spec: BagsSpec) -> Describer:
    """The description unit of the paper's experiment with such pictures."""
    return "nucleus" if spec.channels == 3 and max(spec.image_size) <= LARGEST_NEGLIGIBLE else "lenet"


def _paths(bags: Sequence[Mapping[str, Tensor]]) -> np.ndarray:
    """States of bags in the plane, in the order of reading; red: positive bags, blue: others; rings: witnesses."""
    places = in_the_plane(torch.cat([bag["state"] for bag in bags]))
    figure = Figure(figsize=(4.5, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    first = 0
    for bag in bags:
        path = places[first : first + len(bag["state"])]
        first += len(path)
        colour = "tab:red" if bool(bag["positive"]) else "tab:blue"
        axes.plot(*path.T, color=colour, alpha=0.4, linewidth=0.8, marker=".", markersize=3)
        witness = bag["witness"].numpy()
        axes.scatter(*path[witness].T, s=28, facecolors="none", edgecolors="black", linewidths=0.8)
        axes.scatter(*path[-1], s=20, color=colour, marker="s")
    axes.set(
        xticks=[],
        yticks=[],
        title="states after each picture (t-SNE)\nred: positive; ring: witness; square: last",
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
