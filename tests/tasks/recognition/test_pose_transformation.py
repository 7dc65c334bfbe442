"""The pose transformation's judge: what counts, what doesn't, and what the trivial predictors earn."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.recognition.ilab20m import ILab20M
from datamodules.specs import PosesSpec, Spec
from tasks.recognition.pose_guess import PoseGuess
from tasks.recognition.pose_transformation import PoseTransformation, poses_of, seen_table

SPEC = PosesSpec(
    dataset="toys", classes=("a", "b"), image_size=(8, 8), yaws=3, pitches=1, seen=((0, 1, 2), (1,))
)


def batch_of() -> dict:
    torch.manual_seed(0)
    mask = torch.zeros(4, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 2:6] = True
    return {
        "image": torch.rand(4, 3, 8, 8),
        "target_image": torch.full((4, 3, 8, 8), 0.5),
        "pose": torch.tensor([[1.0, 1.0]] * 4),
        "pose_class": torch.zeros(4, dtype=torch.long),
        "target_pose": torch.tensor([[2.0, 1.0], [3.0, 1.0], [2.0, 1.0], [3.0, 1.0]]),
        "target_class": torch.tensor([1, 2, 1, 2]),
        "label": torch.tensor([0, 0, 1, 1]),
        "scene": torch.tensor([5, 5, 6, 7]),
        "paired": torch.tensor([True, True, True, True]),
        "mask": mask,
        "id": list("abcd"),
    }


def scores(made: torch.Tensor, batch: dict) -> dict[str, float]:
    judge = PoseTransformation.judge(SPEC)
    judge.update({"image": made}, batch)
    return judge.compute()


def test_measures_by_hand() -> None:
    batch = batch_of()
    made = batch["target_image"].clone()
    made[0] += 0.1 * batch["mask"][0]  # 25.5 off: 20 dB
    made[2] += 0.01 * batch["mask"][2]  # 40 dB
    made[3, :, 0, 0] = 0  # background: no matter in the foreground
    found = scores(made, batch)
    assert found["mse_foreground"] == pytest.approx((25.5**2 / 2 + 2.55**2 + 0) / 3, rel=1e-3)
    assert found["psnr_foreground"] == pytest.approx(((20 + 100) / 2 + 40 + 100) / 3, rel=1e-3)
    assert found["psnr_unseen"] == pytest.approx(100.0)  # only the last: class b lacks pose 3
    assert found["psnr"] < found["psnr_foreground"] + 10


def test_pictures_without_a_pair_are_not_judged_and_wrong_shapes_are_refused() -> None:
    batch = batch_of()
    batch["paired"] = torch.tensor([False, True, False, False])
    made = batch["target_image"].clone()
    made[0] = 0
    found = scores(made, batch)
    assert found["psnr_foreground"] == 100.0
    assert "psnr_unseen" not in found
    with pytest.raises(ValueError, match="image must be"):
        scores(made[:, :, :4], batch)
    with pytest.raises(TypeError, match="needs a PosesSpec"):
        poses_of(Spec(dataset="x"))
    assert seen_table(SPEC).tolist() == [[True, True, True], [False, True, False]]


def test_without_a_mask_the_judge_segments() -> None:
    batch = batch_of()
    true = torch.full((4, 3, 32, 32), 0.3)
    true[:, :, 8:24, 8:24] = 0.9
    batch |= {"target_image": true, "image": true}
    del batch["mask"]
    made = true.clone()
    made[:, :, 0:4] = 0  # the border alone is wrong
    assert scores(made, batch)["psnr_foreground"] > 90
    assert scores(true.flip(1) * 0.5, batch)["psnr_foreground"] < 20


def test_pictures_are_drawn() -> None:
    batch = batch_of()
    sheets = PoseTransformation.draw({"image": batch["image"]}, batch, SPEC, limit=3)
    assert len(sheets) == 3
    assert all(sheet.shape == (178, 640, 3) for sheet in sheets)


@pytest.mark.parametrize("answer", ["copy_input", "mean_pose_image"])
def test_trivial_predictors(cache: Path, answer: str) -> None:
    data = ILab20M(cache=cache, batch_size=32)
    data.prepare_data()
    method = PoseGuess(data.spec, answer=answer)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(method, data)
    found = trainer.test(method, data, verbose=False)[0]
    batch = next(iter(data.test_dataloader()))
    made = method.predict(batch)["image"]
    if answer == "copy_input":
        torch.testing.assert_close(made, batch["image"])
    else:
        wanted = torch.stack(
            [s["image"] for s in data.split("train") if s["pose_class"] == batch["target_class"][0]]
        )
        torch.testing.assert_close(made[0], wanted.mean(0), atol=1e-5, rtol=1e-4)
    # Copying the background earns more on the whole picture than where the object is.
    assert found["test/psnr"] > found["test/psnr_foreground"] + 3
    assert found["test/psnr_foreground"] < 18
