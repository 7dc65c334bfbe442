"""Enlargement without learning: by hand, on published pairs, on the miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.restoration.celeba import CelebA
from datamodules.restoration.set5 import Set5, Set5x3, Set5x4
from datamodules.specs import SuperResolutionSpec
from tasks.restoration.upscaling import Upscaling

SPEC = SuperResolutionSpec(dataset="test", image_size=(8, 8), factor=2, exemplars=2)


def test_answers_by_hand() -> None:
    batch = {"low": torch.full((1, 3, 4, 4), 0.5), "exemplars": torch.zeros(1, 2, 3, 8, 8)}
    batch["exemplars"][:, 1] = 0.6
    answers = {
        answer: Upscaling(SPEC, answer=answer).predict(batch)["image"]
        for answer in ("bicubic", "first_exemplar", "mean_exemplar", "exemplar_base")
    }
    for answer, value in (
        ("bicubic", 0.5),
        ("first_exemplar", 0.0),
        ("mean_exemplar", 0.3),
        ("exemplar_base", 0.5),
    ):
        torch.testing.assert_close(answers[answer], torch.full((1, 3, 8, 8), value))


def test_without_exemplars_answers_bicubic() -> None:
    batch = {"low": torch.rand(2, 3, 4, 4), "exemplars": torch.zeros(2, 0, 3, 8, 8)}
    wanted = Upscaling(SPEC).predict(batch)["image"]
    torch.testing.assert_close(Upscaling(SPEC, answer="mean_exemplar").predict(batch)["image"], wanted)


def test_a_mean_face_needs_one_size() -> None:
    with pytest.raises(ValueError, match="one size"):
        Upscaling(SuperResolutionSpec(dataset="mixed", image_size=(0, 0), factor=2), answer="mean_face")


def test_mean_face_is_the_mean_of_training(cache: Path) -> None:
    data = CelebA(cache=cache, size=16, factor=4, exemplars=0, test_batch_size=100)
    data.prepare_data()
    method = Upscaling(data.spec, answer="mean_face")
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_test_batches=1,
    )
    trainer.test(method, data, verbose=False)
    everything = torch.stack([sample["high"] for sample in data.split("train")])
    torch.testing.assert_close(method.mean, everything.mean(dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dataset", "published"), [(Set5, 33.66), (Set5x3, 30.39), (Set5x4, 28.42)])
def test_bicubic_gives_the_published_psnr_on_set5(real_data: Path, dataset: type, published: float) -> None:
    data = dataset(real_data, "real")
    data.prepare_data()
    method = Upscaling(data.spec)
    judge = method.task.judge(data.spec)
    for batch in data.test_dataloader():
        judge.update(method.predict(batch), batch)
    assert judge.compute()["psnr_y"] == pytest.approx(published, abs=0.1)
