"""`instance_classifier`: fully supervised upper bound for bags (Wang et al., ACCV 2020; thesis Table 7.6).

The description unit of `mil_lstm` with a linear layer, trained by cross-entropy on the hidden classes of the pictures,
as far as the bag's label can tell them apart (`BagsSpec.groups`). Bags are then answered by the rule itself:

    presence  score: the least over the witness classes of the largest probability in the bag
    count     score: sum of the witness's probabilities; label: the pictures for which it is the likeliest class
    mixture   score: 1 - max_c prod_i p_ic, the probability that not all are of one class

The paper trains one for nuclei only and gives no recipe; it has that of `mil_lstm` here, without mutual information.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datamodules.specs import BagsSpec, Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.instance_description import Describer, build_describer
from tasks.recognition.multiple_instance import MultipleInstance, bags_of

UNITS: dict[Describer, tuple[int, float, float]] = {"lenet": (500, 5e-4, 1e-4), "nucleus": (512, 1e-4, 5e-4)}
"""Length of the feature, Adam's rate and weight decay."""


def answer_by_rule(log_probability: Tensor, bag: Tensor, bags: int, spec: BagsSpec) -> tuple[Tensor, Tensor]:
    """Bag labels int64 [B] and scores float [B] from log probabilities of the groups [N, G] of all pictures."""
    groups = log_probability.shape[1]
    if spec.rule == "mixture":
        total = log_probability.new_zeros(bags, groups).index_add(0, bag, log_probability)
        score = 1 - total.max(dim=1).values.exp()
        return (score >= 0.5).long(), score
    probability = log_probability.exp()
    if spec.rule == "count":
        score = probability.new_zeros(bags).index_add(0, bag, probability[:, 1])
        found = (log_probability.argmax(dim=1) == 1).long()
        return found.new_zeros(bags).index_add(0, bag, found), score
    index = bag[:, None].expand_as(probability)
    largest = probability.new_zeros(bags, groups).scatter_reduce(0, index, probability, "amax")
    score = largest[:, 1:].min(dim=1).values
    return (score >= 0.5).long(), score


class InstanceClassifier(Method):
    """See the module's docstring.

    unit: the description unit; None: "nucleus" for small colour pictures, "lenet" else. width: factor on its filters.
    length: of its feature. lr, weight_decay: of Adam; None: as the unit has it.
    """

    name = "instance_classifier"
    task = MultipleInstance
    paper = Paper(
        title="In Defense of LSTMs for Addressing Multiple Instance Learning Problems (supervised upper bound)",
        venue="ACCV 2020; thesis chapter 7",
    )
    recipe = Recipe(batch_size=1, max_epochs=100, selection="best")
    profiles = {
        "mini": {
            "width": 0.3,
            "length": 64,
            "lr": 0.002,
            "batch_size": 8,
            "max_epochs": 12,
        },
        "smoke": {"width": 0.2, "length": 8, "batch_size": 4, "max_steps": 2},
    }

    def __init__(
        self,
        spec: Spec,
        *,
        unit: Describer | None = None,
        width: float = 1.0,
        length: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__(spec)
        self.bags = bags_of(spec)
        unit = unit or ("nucleus" if spec.channels == 3 and max(self.bags.image_size) <= 27 else "lenet")
        usual, rate, decay = UNITS[unit]
        length = length or usual
        self.describer = build_describer(
            unit, spec.channels, self.bags.image_size, length=length, width=width
        )
        self.head = nn.Linear(length, max(self.bags.groups()) + 1)
        self.lr = rate if lr is None else lr
        self.weight_decay = decay if weight_decay is None else weight_decay
        self.groups: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("groups", torch.tensor(self.bags.groups()), persistent=False)
        self.register_buffer("mean", torch.tensor(self.bags.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(self.bags.std)[:, None, None], persistent=False)

    def describe(self, batch: Batch) -> Tensor:
        """Features [N, K] of all pictures."""
        _, features = self.describer((batch["instances"] - self.mean) / self.std)
        return features

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.head(self.describe(batch)), self.groups[batch["instance_label"]])
        self.log("train/loss", loss.detach(), batch_size=len(batch["id"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def predict(self, batch: Batch) -> Prediction:
        features = self.describe(batch)
        log_probability = self.head(features).float().log_softmax(dim=1)
        label, score = answer_by_rule(log_probability, batch["bag"], len(batch["id"]), self.bags)
        answer = {"label": label, "score": score}
        if self._trainer is not None and (self.trainer.validating or self.trainer.sanity_checking):
            return answer
        answer["instance_feature"] = features
        if len(self.bags.witnesses) == 1:
            answer["instance_score"] = log_probability[:, 1].exp()
        return answer
