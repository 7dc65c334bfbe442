"""Frozen features of pictures and sentences: fitted to training sentences alone, cached, restored anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.language.flickr30k import Flickr30K
from datamodules.specs import CaptionsSpec, ImageClassesSpec
from tasks.blocks.frozen_features import FrozenPairFeatures
from tasks.recognition.scene_encoder import SceneEncoder

SMALL: dict[str, Any] = {"image_encoder": "adopted", "word_dim": 50, "centres": 3, "text_pca": 32}


@pytest.fixture(scope="module")
def pixels(cache: Path) -> Path:
    """The miniature's folder, rendered in the session's cache."""
    data = Flickr30K(cache=cache)
    data.prepare_data()
    return data.root


@pytest.fixture
def data(pixels: Path, tmp_path: Path) -> Flickr30K:
    """The first 60 training pictures, with a cache of its own for features."""
    (tmp_path / pixels.name).symlink_to(pixels)
    return Flickr30K(cache=tmp_path, batch_size=20, train_pictures=60)


@pytest.fixture(scope="module")
def encoder() -> SceneEncoder:
    torch.manual_seed(0)
    return SceneEncoder(ImageClassesSpec(dataset="d", classes=("a", "b"), image_size=(48, 48)), width=4)


def built(data: Flickr30K, encoder: SceneEncoder, **options: Any) -> FrozenPairFeatures:
    features = FrozenPairFeatures(data.spec, **{**SMALL, **options})
    features.adopt("image_encoder", encoder)
    return features


def first(data: Flickr30K, split: str = "test") -> dict[str, Any]:
    return next(iter(data.in_order(split)))


@pytest.mark.parametrize(("text_encoder", "length"), [("hglmm", 32), ("gmm_fv", 32), ("mean_w2v", 50)])
def test_features_have_their_stated_lengths_and_are_restored_elsewhere(
    data: Flickr30K, encoder: SceneEncoder, text_encoder: str, length: int
) -> None:
    features = built(data, encoder, text_encoder=text_encoder)
    assert (features.image_dim, features.text_dim) == (128, length)
    features.fit(data)
    batch = first(data)
    images, texts = features.images(batch), features.texts(batch)
    assert images.shape == (50, 128)
    assert texts.shape == (250, length)
    assert images.dtype == texts.dtype == torch.float32
    assert not images.requires_grad
    assert not texts.requires_grad
    assert images.std(0).mean() > 0
    assert texts.std(0).min() > 0
    restored = built(data, encoder, text_encoder=text_encoder)
    restored.load_state_dict(features.state_dict())
    torch.testing.assert_close(restored.images(batch), images, rtol=0, atol=0)
    torch.testing.assert_close(restored.texts(batch), texts, rtol=0, atol=0)
    with torch.inference_mode():
        assert restored.texts(first(data, "val")).shape == (250, length)


def test_paper_sizes_follow_from_the_encoders() -> None:
    spec = CaptionsSpec(dataset="d", captions=5, vocabulary=("a",))
    sizes = {}
    with torch.device("meta"):
        for image in ("resnet152", "vgg19"):
            for text in ("hglmm", "gmm_fv", "mean_w2v"):
                features = FrozenPairFeatures(spec, image_encoder=image, text_encoder=text)
                sizes[image, text] = (features.image_dim, features.text_dim)
        axes = FrozenPairFeatures(spec).get_buffer("pca_axes")
        assert FrozenPairFeatures(spec, text_pca=0).text_dim == 18000
    assert axes.shape == (6000, 300 * 30 * 2)
    assert sizes["resnet152", "hglmm"] == (2048, 6000)
    assert sizes["vgg19", "gmm_fv"] == (4096, 6000)
    assert sizes["vgg19", "mean_w2v"] == (4096, 300)


def test_no_sentence_of_another_split_enters_the_fit(
    data: Flickr30K, encoder: SceneEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statistics are the same if all captions of validation and test are exchanged for others."""
    features = built(data, encoder)
    features.fit(data)
    for split in ("val", "test"):
        for sample_set in (data.split(split),):
            nonsense = [
                type(p)(p.id, p.path, tuple("the the red" for _ in p.sentences), p.sentence_ids)
                for p in sample_set.listing  # type: ignore[attr-defined]
            ]
            monkeypatch.setattr(sample_set, "listing", nonsense)
    monkeypatch.setattr(data, "data_version", lambda: "changed")  # no statistics from the cache
    again = built(data, encoder)
    again.fit(data)
    for name, value in features.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    few = Flickr30K(cache=data.cache, train_pictures=20)
    other = built(few, encoder)
    other.fit(few)
    assert not torch.allclose(other.get_buffer("pca_mean"), features.get_buffer("pca_mean"))


def test_training_never_runs_the_encoders_and_a_second_trial_finds_all_cached(
    data: Flickr30K, encoder: SceneEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = built(data, encoder)
    features.fit(data)
    features.images(first(data))
    features.texts(first(data))

    def refuse(*_: object) -> None:
        raise AssertionError("an encoder was run")

    for name in ("_encode_pictures", "_encode_sentences", "_fit_pca"):
        monkeypatch.setattr(FrozenPairFeatures, name, refuse)
    for batch in data.train_dataloader():
        assert features.images(batch).shape == (20, 128)
        assert features.texts(batch).shape == (20, 32)
    second = built(data, encoder)
    second.fit(data)
    torch.testing.assert_close(second.texts(first(data)), features.texts(first(data)), rtol=0, atol=0)
    assert second.images(first(data, "val")).shape == (50, 128)


def test_another_encoder_never_meets_the_features_of_the_first(
    data: Flickr30K, encoder: SceneEncoder
) -> None:
    torch.manual_seed(1)
    other = SceneEncoder(ImageClassesSpec(dataset="d", classes=("a", "b"), image_size=(48, 48)), width=4)
    seen = []
    for each in (encoder, other):
        features = built(data, each)
        features.fit(data)
        seen.append(features.images(first(data)))
    assert not torch.allclose(*seen)
    folder = data.cache / "features" / "flickr30k-miniature-1"
    assert len(list(folder.glob("adopted-*"))) == 2
    assert len(list(folder.glob("hglmm-*"))) == 1


def test_mean_word_vectors_by_hand(data: Flickr30K, encoder: SceneEncoder) -> None:
    features = built(data, encoder, text_encoder="mean_w2v")
    features.fit(data)
    vectors = data.word_vectors_of(data.spec.vocabulary)
    batch = {
        "captions": [["A red , RED disc !", "zebra"], ["left"]],
        "caption_ids": [["x", "y"], ["z"]],
    }
    wanted = (vectors["a"] + 2 * vectors["red"] + vectors["disc"]) / 4
    seen = features.texts(batch).numpy()
    np.testing.assert_allclose(seen[0], wanted, rtol=1e-5)
    assert not seen[1].any()  # no word of it has a vector
    np.testing.assert_allclose(seen[2], vectors["left"], rtol=1e-6)


def test_sentences_of_the_same_words_have_the_same_fisher_vector(
    data: Flickr30K, encoder: SceneEncoder
) -> None:
    """Why a look-alike cannot be told from its words alone."""
    features = built(data, encoder)
    features.fit(data)
    pair = ["A red disc left of a blue box .", "A blue disc left of a red box .", "A red disc above a box ."]
    one, two, three = features.texts({"captions": [pair], "caption_ids": [["1", "2", "3"]]})
    torch.testing.assert_close(one, two)
    assert not torch.allclose(one, three, atol=1e-2)


def test_pictures_of_several_sizes_may_stand_in_one_batch(
    data: Flickr30K, encoder: SceneEncoder, tmp_path: Path
) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    paths = []
    for number, size in enumerate([(60, 48), (48, 60), (60, 48)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(paths[-1])
    features = built(data, encoder)
    batch = {"image_id": ["0", "1", "2"], "path": paths}
    seen = features.images(batch)
    for row, path in enumerate(paths):
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            torch.testing.assert_close(
                seen[row], encoder.eval().features({"image": pixels})[0], atol=1e-6, rtol=1e-5
            )


class Sentences:
    """Stands for a method that encodes sentences."""

    name = "sentences"

    def requires_grad_(self, _: bool) -> Sentences:
        return self

    def eval(self) -> Sentences:
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(s)), 1.0] for s in sentences])


def test_an_adopted_text_encoder_encodes_sentences(data: Flickr30K, encoder: SceneEncoder) -> None:
    needs = FrozenPairFeatures.needs("adopted", "adopted", text_method="bilstm")
    assert [(need.role, need.method) for need in needs] == [
        ("image_encoder", "scene_encoder"),
        ("text_encoder", "bilstm"),
    ]
    assert FrozenPairFeatures.needs("resnet152") == []
    features = built(data, encoder, text_encoder="adopted", adopted_text_dim=2)
    object.__setattr__(features, "text_method", None)
    features.__dict__["text_method"] = Sentences()
    assert features.texts({"captions": [["abc", "d"]], "caption_ids": [["1", "2"]]}).tolist() == [
        [3, 1],
        [1, 1],
    ]


def test_misuse_is_told(data: Flickr30K, encoder: SceneEncoder) -> None:
    with pytest.raises(RuntimeError, match="isn't fitted"):
        built(data, encoder).texts(first(data))
    with pytest.raises(RuntimeError, match="there is no 'image_encoder'"):
        FrozenPairFeatures(data.spec, **SMALL).images(first(data))
    with pytest.raises(ValueError, match=r"gave \(50, 128\), expected \(50, 7\)"):
        built(data, encoder, adopted_image_dim=7).images(first(data))
    with pytest.raises(ValueError, match="have \\[50\\] dimensions, expected word_dim=300"):
        built(data, encoder, word_dim=300).fit(data)
    with pytest.raises(ValueError, match="text_pca must be in"):
        FrozenPairFeatures(data.spec, **{**SMALL, "text_pca": 301})
    with pytest.raises(TypeError, match="no CaptionsSpec"):
        FrozenPairFeatures(encoder.spec)
    with pytest.raises(TypeError, match="no 'text_encoder' is needed"):
        built(data, encoder).adopt("text_encoder", encoder)
    with pytest.raises(TypeError, match="has no sentence_features"):
        FrozenPairFeatures(data.spec, **SMALL, text_encoder="adopted").adopt("text_encoder", encoder)
    with pytest.raises(FileNotFoundError, match="resnet152-394f9c45"):
        FrozenPairFeatures(data.spec, **{**SMALL, "image_encoder": "resnet152"}).images(first(data))
    with pytest.raises(ValueError, match="2 captions need as many"):
        built(data, encoder).texts({"captions": [["a", "b"]], "caption_ids": [["1"]]})
