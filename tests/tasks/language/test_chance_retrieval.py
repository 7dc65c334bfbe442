"""Chance on 200 pictures with five captions: what probability says, and nothing where all is equal."""

from __future__ import annotations

import pytest
import torch

from datamodules.specs import CaptionsSpec
from tasks.language.chance_retrieval import ChanceRetrieval
from tasks.language.image_text_retrieval import ImageTextRetrieval

SPEC = CaptionsSpec(dataset="test", captions=5, vocabulary=("a",))


def batch_of(pictures: range) -> dict:
    names = [f"p{picture}" for picture in pictures]
    return {
        "image_id": names,
        "path": [""] * len(names),
        "captions": [["a"] * 5 for _ in names],
        "caption_ids": [[f"{name}#{n}" for n in range(5)] for name in names],
        "id": names,
    }


def scores(method: ChanceRetrieval, pictures: int = 200) -> dict[str, float]:
    judge = ImageTextRetrieval.judge(SPEC)
    for start in range(0, pictures, 50):
        batch = batch_of(range(start, start + 50))
        judge.update(method.predict(batch), batch)
    return judge.compute()


def test_random_is_chance() -> None:
    found = []
    for seed in range(12):
        torch.manual_seed(seed)
        found.append(scores(ChanceRetrieval(SPEC)))
    mean = {name: sum(score[name] for score in found) / len(found) for name in found[0]}
    # 12 x 1,000 captions; 2,400 pictures: three standard errors around 5 % are 0.6 and 1.4 points.
    assert mean["t2i_r10"] == pytest.approx(5.0, abs=0.6)
    assert mean["i2t_r10"] == pytest.approx(5.0, abs=1.4)
    assert mean["t2i_r1"] == pytest.approx(0.5, abs=0.25)
    assert mean["t2i_median"] == pytest.approx(100, abs=6)


def test_the_same_again_and_from_its_checkpoint() -> None:
    torch.manual_seed(1)
    method = ChanceRetrieval(SPEC)
    torch.manual_seed(2)
    other = ChanceRetrieval(SPEC)
    batch = batch_of(range(3))
    first = method.predict(batch)["image"]
    assert not torch.equal(first, other.predict(batch)["image"])
    other.load_state_dict(method.state_dict())
    assert torch.equal(first, other.predict(batch)["image"])
    assert torch.equal(first[1:2], method.predict(batch_of(range(1, 2)))["image"])


def test_constant_finds_nothing() -> None:
    found = scores(ChanceRetrieval(SPEC, kind="constant"))
    assert found["rsum"] == 0.0
    assert found["t2i_median"] == 200.0
