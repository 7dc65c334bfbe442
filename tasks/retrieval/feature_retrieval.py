"""`feature_retrieval`: pictures are ranked by the cosine of a trained network's features.

How CFN is transferred to image retrieval (thesis chapter 2, section 2.4.3, Table 2.6; MMM 2017): the network
trained elsewhere stays as it is and a picture is its feature (CFN-11: the fused g^f, CNN-11: its global
average pooling, 1024 numbers each). Nothing is learnt from the retrieval pictures. The baseline is the plain
network's feature (`:cnn_11`).

Left open by the chapter and chosen here: the likeness is the cosine, which the judge takes of features
brought to unit length; one central crop a picture; no whitening, query expansion or re-ranking. AlexNet's row
of Table 2.6 is a reported number only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.frozen_backbone import FrozenBackbone
from tasks.retrieval.image_retrieval import ImageRetrieval


class FeatureRetrieval(Method):
    """See the module's docstring.

    backbone: "name" or "name:preset" of the method whose `features(batch)` are used; its dataset is named by
    the suite (`needs: {backbone: <dataset>}`).
    """

    name = "feature_retrieval"
    task = ImageRetrieval
    paper = Paper(
        title="On the Exploration of Convolutional Fusion Networks for Visual Recognition",
        venue="MMM 2017; thesis chapter 2, section 2.4.3",
        url="https://doi.org/10.1007/978-3-319-51811-4_23",
    )
    recipe = Recipe(max_steps=0, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {"cnn_11": {"backbone": "cfn:cnn_11"}}
    baselines = ("feature_retrieval:cnn_11", "pixel_retrieval", "pixel_retrieval:histogram")
    claims = (
        Claim(
            method="feature_retrieval",
            over="feature_retrieval:cnn_11",
            measure="map",
            reported="Holidays 80.32 vs 78.33 % (Table 2.6)",
        ),
        Claim(
            method="feature_retrieval",
            over="feature_retrieval:cnn_11",
            measure="ns",
            reported="UKB 3.54 vs 3.47 (Table 2.6)",
        ),
    )

    def __init__(self, spec: Spec, *, backbone: str = "cfn:cfn_11") -> None:
        super().__init__(spec)
        self.backbone = FrozenBackbone(f"{self.name} ({backbone})")

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return (FrozenBackbone.need(options["backbone"]),)

    def adopt(self, role: str, trained: Method) -> None:
        self.backbone.adopt(role, trained)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        return {"feature": self.backbone(batch)}
