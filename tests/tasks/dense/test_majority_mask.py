from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.dense.pascal_voc import PascalVOC
from datamodules.specs import PixelClassesSpec
from tasks.dense.majority_mask import MajorityMask


def test_predicts_the_most_frequent_label_and_ignores_void() -> None:
    method = MajorityMask(PixelClassesSpec(dataset="none", classes=("a", "b", "c")))
    method.training_step({"mask": torch.tensor([[[0, 1, 1], [255, 255, 255]]])}, 0)
    method.training_step({"mask": torch.tensor([[[2, 1, 1], [0, 255, 255]]])}, 1)
    assert method.counts.tolist() == [2, 4, 1]
    logits = method.predict({"image": torch.zeros(2, 3, 4, 5)})["logits"]
    assert logits.shape == (2, 3, 4, 5)
    assert (logits.argmax(1) == 1).all()
    assert logits.exp().sum(1).allclose(torch.ones(2, 4, 5))
    reloaded = MajorityMask(method.spec)
    reloaded.load_state_dict(method.state_dict())
    assert reloaded.counts.tolist() == [2, 4, 1]


def test_scores_on_the_miniature(cache: Path) -> None:
    data = PascalVOC(cache=cache, batch_size=8)
    data.prepare_data()
    method = MajorityMask(data.spec)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, data)
    (scores,) = trainer.test(method, data, verbose=False)
    assert method.counts.argmax() == 0
    assert 10 < scores["test/miou"] < 16, "background only: its IoU over six classes"
    assert scores["test/miou_foreground"] == 0
    assert scores["test/miou"] == pytest.approx(scores["test/iou/background"] / 6, rel=1e-4)
