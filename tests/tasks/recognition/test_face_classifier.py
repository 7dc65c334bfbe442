"""The network that compares faces: shapes, sizes, shifts, better than chance after a short training."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch

from datamodules.restoration.celeba import CelebAIdentities
from datamodules.specs import ImageClassesSpec
from tasks.recognition.face_classifier import FaceClassifier, _pooled, _shifted

SPEC = ImageClassesSpec(dataset="faces", classes=("a", "b", "c"), image_size=(32, 32))


def test_layers_feature_and_logits() -> None:
    method = FaceClassifier(SPEC, widths=(4, 6, 8), embedding=5).eval()
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert [tuple(each.shape) for each in method.feature_maps(image)] == [
        (2, 4, 16, 16),
        (2, 6, 8, 8),
        (2, 8, 4, 4),
    ]
    feature = method.features({"image": image})
    assert feature.shape == (2, 5)
    feature.sum().backward()
    assert float(image.grad.abs().sum()) > 0  # others train through it
    logits = method.predict({"image": image})["logits"]
    assert logits.shape == (2, 3)
    assert float(logits.abs().max()) <= 16.0 + 1e-4  # cosines times the scale


def test_pictures_of_another_size_are_brought_to_the_trained_one() -> None:
    method = FaceClassifier(SPEC, widths=(4,), embedding=5).eval()
    big = torch.rand(1, 3, 64, 64)
    small = torch.nn.functional.interpolate(big, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(method.features({"image": big}), method.features({"image": small}))


def test_pooling_to_four_by_four() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8)
    torch.testing.assert_close(_pooled(x), torch.nn.functional.adaptive_avg_pool2d(x, 4))
    assert _pooled(torch.zeros(1, 2, 3, 5)).shape == (1, 2, 4, 4)


def test_shifts_move_whole_pictures_and_repeat_the_border() -> None:
    torch.manual_seed(0)
    image = torch.arange(25.0).view(1, 1, 5, 5).repeat(40, 1, 1, 1)
    moved = _shifted(image, 2)
    assert torch.equal(_shifted(image, 0), image)
    assert len({tuple(each.flatten().tolist()) for each in moved}) > 10
    rows = moved[:, 0, 2, 2] // 5
    columns = moved[:, 0, 2, 2] % 5
    for picture, row, column in zip(moved[:, 0], rows, columns, strict=True):
        index = lambda centre: (torch.arange(5) - 2 + int(centre)).clamp(0, 4)  # noqa: E731
        assert torch.equal(picture, image[0, 0][index(row)][:, index(column)])


def test_a_short_training_is_better_than_chance(cache: Path) -> None:
    data = CelebAIdentities(cache=cache, batch_size=32, size=32)
    data.prepare_data()
    pl.seed_everything(0, verbose=False)
    method = FaceClassifier(data.spec, widths=(8, 16, 32), embedding=32, lr=5e-3)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=120, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, data)
    (scores,) = trainer.test(method, data, verbose=False)
    assert scores["test/error_top5"] < 85  # chance: 100 - 5 / 120
