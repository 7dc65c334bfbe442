"""The small image encoder: its averages, and what a short training gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.language.scene_attributes import SceneAttributes
from datamodules.specs import ImageClassesSpec
from tasks.recognition.scene_encoder import SceneEncoder, averages

SPEC = ImageClassesSpec(dataset="d", classes=("a", "b", "c"), image_size=(48, 48))


def test_averages_by_hand() -> None:
    """One cell of a 2 x 4 map is 8: the mean is 1; its place is x = 0.75, y = -0.5."""
    maps = torch.zeros(1, 2, 2, 4)
    maps[0, :, 0, 3] = 8.0
    assert averages(maps).tolist() == [[1.0, 1.0, 0.75, -0.5]]


def test_any_size_gives_one_feature_and_the_moments_tell_places() -> None:
    torch.manual_seed(0)
    method = SceneEncoder(SPEC).eval()
    assert (
        sum(p.numel() for p in method.parameters()) == 60_883
    )  # 60,336 weights, 352 of the norms, 195 of the classifier
    picture = torch.full((1, 3, 96, 112), 0.5)
    picture[..., 30:60, 80:105] = torch.rand(3, 30, 25)
    with torch.no_grad():
        assert method.features({"image": torch.rand(2, 3, 50, 70)}).shape == (2, 128)
        seen, mirrored = (method.network(p) for p in (picture, picture.flip(3)))
        assert not torch.allclose(averages(seen), averages(mirrored))
        assert method.predict({"image": picture})["logits"].shape == (1, 3)
    with pytest.raises(ValueError, match="must be even"):
        SceneEncoder(SPEC, last=5)


def test_things_add_up() -> None:
    """What the network says of a picture is the sum of what it says of its parts, where these are far apart."""
    torch.manual_seed(0)
    method = SceneEncoder(SPEC).eval()
    blank = torch.full((1, 3, 160, 160), 0.5)
    left, right, both = blank.clone(), blank.clone(), blank.clone()
    thing, other = torch.rand(3, 20, 20), torch.rand(3, 20, 20)
    left[..., 20:40, 20:40] = both[..., 20:40, 20:40] = thing
    right[..., 110:130, 120:140] = both[..., 110:130, 120:140] = other
    with torch.no_grad():
        none, one, two, all_of_it = (method.features({"image": p}) for p in (blank, left, right, both))
    torch.testing.assert_close(one + two - none, all_of_it, atol=1e-5, rtol=1e-4)


def test_it_learns_and_beats_the_largest_class(cache: Path) -> None:
    pl.seed_everything(3, verbose=False)
    data = SceneAttributes(cache=cache, batch_size=32, seed=3)
    data.prepare_data()
    method = SceneEncoder(data.spec, width=8, last=32)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=100,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.test(method, data, verbose=False)
    before = method.scores["test"]["error"]
    trainer.fit(method, data)
    trainer.test(method, data, verbose=False)
    after = method.scores["test"]["error"]
    assert before > 90
    assert after < 85  # the largest class of sixty: 98.3
