"""Frozen features of pictures and sentences, for methods that match the two.

Pictures: an ImageNet network used fully convolutionally (`deep_image_features`), or an adopted method's `features`.
Sentences: a Fisher vector of their words' vectors, hybrid Gaussian-Laplacian or Gaussian (`fisher_vectors`), reduced
by PCA; the mean word vector; or an adopted method's `sentence_features`.

What is fitted (the mixture, the PCA) is fitted to the training sentences that the trial sees and to nothing else,
and stands in buffers of fixed shape with the word vectors, so a checkpoint restores it anywhere. Features are cached
on disk by picture or sentence id, in a folder that the encoder's hash names: its weights or statistics, its settings
and its code. So training never runs an encoder, and another trial with the same one finds the work done.

Chosen here: words in lower case; a word has a vector if a training sentence holds it and the file of word vectors
knows it, other words are passed over, and a sentence without any is the zero vector before PCA.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from datamodules.specs import CaptionsSpec, Spec
from tasks.base import Batch, Method, Need
from tasks.blocks import deep_image_features, fisher_vectors
from tasks.blocks.deep_image_features import LENGTHS, DeepImageFeatures
from tasks.blocks.feature_cache import FeatureCache, cached, write_atomically
from tasks.blocks.fisher_vectors import HGLMMFisher, Mixture, principal_components
from tasks.blocks.frozen_backbone import HasFeatures

ImageEncoder = Literal["resnet152", "vgg19", "adopted"]
TextEncoder = Literal["hglmm", "gmm_fv", "mean_w2v", "adopted"]
IMAGE_ROLE, TEXT_ROLE = "image_encoder", "text_encoder"
SENTENCE_CHUNK, PICTURE_CHUNK, SHARD = 512, 64, 8192


@runtime_checkable
class HasSentenceFeatures(Protocol):
    """A method with a transferable feature of sentences."""

    def sentence_features(self, sentences: Sequence[str]) -> Tensor:
        """[N, K]"""
        ...


class FrozenPairFeatures(nn.Module):
    """Pictures and sentences as vectors that don't train; see the module's docstring.

    image_encoder, text_encoder: which. image_weights: file of the ImageNet weights. adopted_image_dim,
    adopted_text_dim: length of the adopted methods' features. word_dim: of the word vectors. centres: of the mixture.
    text_pca: length after the PCA; 0: none (`mean_w2v` has none). seed: of the mixture's start.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        image_encoder: ImageEncoder = "resnet152",
        text_encoder: TextEncoder = "hglmm",
        image_weights: str | None = None,
        adopted_image_dim: int = 128,
        adopted_text_dim: int = 128,
        word_dim: int = 300,
        centres: int = 30,
        text_pca: int = 6000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(spec, CaptionsSpec):
            raise TypeError(
                f"captions are needed: {spec.dataset} has a {type(spec).__name__}, no CaptionsSpec"
            )
        fisher_length = 2 * centres * word_dim
        if text_encoder in ("hglmm", "gmm_fv") and not 0 <= text_pca <= fisher_length:
            raise ValueError(
                f"text_pca must be in 0..{fisher_length} (2 x centres x word_dim), got {text_pca}"
            )
        self.spec = spec
        self.image_encoder: ImageEncoder = image_encoder
        self.text_encoder: TextEncoder = text_encoder
        self.image_weights = image_weights
        self.word_dim, self.centres, self.text_pca, self.seed = word_dim, centres, text_pca, seed
        self.fisher = text_encoder in ("hglmm", "gmm_fv")
        self.image_dim: int = adopted_image_dim if image_encoder == "adopted" else LENGTHS[image_encoder]
        self.text_dim: int = (
            (text_pca or fisher_length)
            if self.fisher
            else word_dim
            if text_encoder == "mean_w2v"
            else adopted_text_dim
        )
        self.image_method: Method | None = None
        self.text_method: Method | None = None
        self.index = {word: i for i, word in enumerate(spec.vocabulary)}
        self._network: list[DeepImageFeatures] = []  # no child: its weights belong in no checkpoint
        self._caches: dict[str, FeatureCache] = {}
        self._folder: Path | None = None
        self._register(len(spec.vocabulary), fisher_length)

    def _register(self, words: int, fisher_length: int) -> None:
        self.device_of: Tensor
        self.register_buffer("device_of", torch.zeros(()), persistent=False)
        if self.text_encoder == "adopted":
            return
        self.fitted: Tensor
        self.known: Tensor
        self.vectors: Tensor
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("known", torch.zeros(words, dtype=torch.bool))
        self.register_buffer("vectors", torch.zeros(words, self.word_dim))
        if self.fisher:
            shape = self.centres, self.word_dim
            self.register_buffer("mixture_weight", torch.full((self.centres,), 1 / self.centres).double())
            self.register_buffer("mixture_location", torch.zeros(shape).double())
            self.register_buffer("mixture_scale", torch.ones(shape).double())
            self.register_buffer("mixture_laplacian", torch.zeros(shape, dtype=torch.bool))
            if self.text_pca:
                self.register_buffer("pca_mean", torch.zeros(fisher_length))
                self.register_buffer("pca_axes", torch.zeros(self.text_pca, fisher_length))

    @staticmethod
    def needs(
        image_encoder: str,
        text_encoder: str = "hglmm",
        *,
        image_method: str = "scene_encoder",
        text_method: str = "",
    ) -> Sequence[Need]:
        """The trials whose weights encode; the suite says on which dataset each is trained."""
        roles = [(image_encoder, IMAGE_ROLE, image_method), (text_encoder, TEXT_ROLE, text_method)]
        return [Need(role=role, method=method) for encoder, role, method in roles if encoder == "adopted"]

    def adopt(self, role: str, trained: Method) -> None:
        """Take a trained encoder and freeze it; a `TypeError` for a role that isn't asked for or a method that
        encodes nothing."""
        wanted = {IMAGE_ROLE: self.image_encoder, TEXT_ROLE: self.text_encoder}
        if wanted.get(role) != "adopted":
            raise TypeError(f"no {role!r} is needed with encoders {self.image_encoder}, {self.text_encoder}")
        protocol = HasFeatures if role == IMAGE_ROLE else HasSentenceFeatures
        if not isinstance(trained, protocol):
            verb = "features(batch)" if role == IMAGE_ROLE else "sentence_features(sentences)"
            raise TypeError(f"{trained.name} has no {verb} to serve as {role!r}")
        frozen = trained.requires_grad_(False).eval()
        if role == IMAGE_ROLE:
            self.image_method = frozen
        else:
            self.text_method = frozen
        self._caches.clear()

    def train(self, mode: bool = True) -> FrozenPairFeatures:
        """Stays in evaluation mode."""
        return super().train(False)

    # Fitting.

    @torch.no_grad()
    def fit(self, datamodule: Any) -> None:
        """Fit the text encoder to the training sentences, then encode and cache the training and validation splits.

        datamodule: a dataset of captioned pictures. Statistics of the very same sentences, vectors and settings are
        read from the cache.
        """
        training = list(datamodule.in_order("train"))
        if self.text_encoder != "adopted":
            sentences = [sentence for batch in training for one in batch["captions"] for sentence in one]
            self._fit_text(sentences, datamodule)
        self.open_cache(datamodule)
        for batches in (training, datamodule.in_order("val")):
            self._encode_all(batches)

    def open_cache(self, datamodule: Any) -> None:
        """Keep features under the dataset's cache folder from now on."""
        self._folder = _cache_folder(datamodule)
        self._caches.clear()

    def _fit_text(self, sentences: Sequence[str], datamodule: Any) -> None:
        found = datamodule.word_vectors_of(self.spec.vocabulary)
        lengths = {len(vector) for vector in found.values()}
        if lengths != {self.word_dim}:
            raise ValueError(
                f"word vectors of {datamodule.name} have {sorted(lengths)} dimensions, "
                f"expected word_dim={self.word_dim}"
            )
        vectors, known = torch.zeros(self.vectors.shape), torch.zeros(len(self.index), dtype=torch.bool)
        for word, vector in found.items():
            vectors[self.index[word]] = torch.from_numpy(np.asarray(vector, dtype=np.float32))
            known[self.index[word]] = True
        self.vectors.copy_(vectors)
        self.known.copy_(known)
        if self.fisher:
            self._fit_fisher(sentences, _cache_folder(datamodule))
        self.fitted.fill_(True)

    def _fit_fisher(self, sentences: Sequence[str], folder: Path) -> None:
        names = [
            name for name, _ in self.named_buffers(recurse=False) if name.startswith(("mixture_", "pca_"))
        ]
        settings = (self.text_encoder, self.centres, self.text_pca, self.seed, *self._code(), *sentences)
        path = (
            folder / f"fitted-{self.text_encoder}-{_digest(settings, [self.vectors, self.known])}.safetensors"
        )
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                for name in names:
                    self.get_buffer(name).copy_(file.get_tensor(name))
            return
        counts = Counter(i for indices in self._indices(sentences) for i in indices)
        if not counts:
            raise ValueError("no word of the training sentences has a vector")
        words = torch.tensor(sorted(counts), device=self.vectors.device)
        weight = torch.tensor([counts[i] for i in sorted(counts)], dtype=torch.float64)
        kind: fisher_vectors.Kind = "hglmm" if self.text_encoder == "hglmm" else "gmm"
        fitted = HGLMMFisher(self.centres, kind=kind, seed=self.seed).fit(self.vectors[words], weight).mixture
        assert fitted is not None
        for name in ("weight", "location", "scale", "laplacian"):
            self.get_buffer(f"mixture_{name}").copy_(getattr(fitted, name))
        if self.text_pca:
            self._fit_pca(sentences)
        content = {name: self.get_buffer(name).cpu().contiguous() for name in names}
        write_atomically(path, save(content))

    def _fit_pca(self, sentences: Sequence[str]) -> None:
        length = len(self.get_buffer("pca_mean"))
        device = self.vectors.device
        total = torch.zeros(length, dtype=torch.float64, device=device)
        scatter = torch.zeros(length, length, dtype=torch.float64, device=device)
        for start in range(0, len(sentences), SENTENCE_CHUNK):
            rows = self._fisher(sentences[start : start + SENTENCE_CHUNK])
            total += rows.double().sum(0)
            scatter += (rows.T @ rows).double()
        mean, axes = principal_components(total, scatter, len(sentences), self.text_pca)
        self.get_buffer("pca_mean").copy_(mean)
        self.get_buffer("pca_axes").copy_(axes)

    # Features.

    def images(self, batch: Batch) -> Tensor:
        """The batch's pictures, float32 [B, image_dim] on this module's device. Reads `image_id` and `path`."""
        ids, paths = list(batch["image_id"]), list(batch["path"])
        rows = cached(
            self._cache(IMAGE_ROLE),
            ids,
            lambda at: self._encode_pictures([paths[i] for i in at]),
            PICTURE_CHUNK,
        )
        return rows.to(self.device_of.device)

    def texts(self, batch: Batch) -> Tensor:
        """All of the batch's sentences, picture by picture, float32 [sum of their numbers, text_dim]. Reads
        `caption_ids` and `captions`."""
        ids = [key for keys in batch["caption_ids"] for key in keys]
        sentences = [sentence for one in batch["captions"] for sentence in one]
        if len(ids) != len(sentences):
            raise ValueError(f"{len(sentences)} captions need as many caption_ids, got {len(ids)}")
        rows = cached(
            self._cache(TEXT_ROLE),
            ids,
            lambda at: self._encode_sentences([sentences[i] for i in at]),
            SENTENCE_CHUNK,
        )
        return rows.to(self.device_of.device)

    def _encode_all(self, batches: Iterable[Batch]) -> None:
        """Encode and cache what isn't cached yet, in large shards."""
        pictures: dict[str, str] = {}
        sentences: dict[str, str] = {}
        for batch in batches:
            pictures.update(zip(batch["image_id"], batch["path"], strict=True))
            for ids, said in zip(batch["caption_ids"], batch["captions"], strict=True):
                sentences.update(zip(ids, said, strict=True))
        work = ((IMAGE_ROLE, pictures, self._encode_pictures), (TEXT_ROLE, sentences, self._encode_sentences))
        for role, items, encode in work:
            cache = self._cache(role)
            missing = [key for key in items if key not in cache]
            for start in range(0, len(missing), SHARD):
                ids = missing[start : start + SHARD]
                cache.add(ids, encode([items[key] for key in ids]))

    @torch.no_grad()
    def _encode_pictures(self, paths: Sequence[str]) -> Tensor:
        """Files to features [n, image_dim]; pictures of one size go together, at most `PICTURE_CHUNK` at once."""
        features = torch.empty(len(paths), self.image_dim)
        for start in range(0, len(paths), PICTURE_CHUNK):
            opened = [_open(path) for path in paths[start : start + PICTURE_CHUNK]]
            by_size: dict[tuple[int, ...], list[int]] = {}
            for i, picture in enumerate(opened):
                by_size.setdefault(picture.shape, []).append(i)
            for rows in by_size.values():
                stacked = torch.stack([opened[i] for i in rows]).permute(0, 3, 1, 2)
                places = torch.tensor(rows) + start
                features[places] = self._encode_stack(stacked.to(self.device_of.device).float() / 255).cpu()
        return features

    def _encode_stack(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            if self.image_encoder == "adopted":
                encoded = self._adopted(IMAGE_ROLE).features({"image": image})  # type: ignore[operator]
            else:  # at a shorter side of 512 pixels one at a time fills a device
                encoded = torch.cat([self._deep()(one) for one in image.split(1)])
        if encoded.shape != (len(image), self.image_dim):
            raise ValueError(
                f"the image encoder gave {tuple(encoded.shape)}, expected {(len(image), self.image_dim)}: set the "
                "length of the adopted features"
            )
        return encoded.float()

    @torch.no_grad()
    def _encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Sentences to features [n, text_dim]."""
        with torch.autocast(self.device_of.device.type, enabled=False):
            parts = [
                self._encode_chunk(sentences[start : start + SENTENCE_CHUNK]).float().cpu()
                for start in range(0, len(sentences), SENTENCE_CHUNK)
            ]
        encoded = torch.cat(parts) if parts else torch.empty(0, self.text_dim)
        if encoded.shape != (len(sentences), self.text_dim):
            raise ValueError(
                f"the text encoder gave {tuple(encoded.shape)}, expected {(len(sentences), self.text_dim)}: set the "
                "length of the adopted features"
            )
        return encoded

    def _encode_chunk(self, sentences: Sequence[str]) -> Tensor:
        if self.text_encoder == "adopted":
            return self._adopted(TEXT_ROLE).sentence_features(sentences)  # type: ignore[operator]
        if not self.fitted:
            raise RuntimeError(
                "the text encoder isn't fitted: call fit(datamodule) in on_fit_start, or restore it"
            )
        if self.fisher:
            vectors = self._fisher(sentences)
            if not self.text_pca:
                return vectors
            return (vectors - self.get_buffer("pca_mean")) @ self.get_buffer("pca_axes").T
        words, sets = self._sets(sentences)
        return (sets / sets.sum(1, keepdim=True).clamp(min=1)) @ self.vectors[words]

    def _fisher(self, sentences: Sequence[str]) -> Tensor:
        """Fisher vectors [n, 2 x centres x word_dim], float32."""
        words, sets = self._sets(sentences)
        mixture = Mixture(
            *(self.get_buffer(f"mixture_{name}") for name in ("weight", "location", "scale", "laplacian"))
        )
        return fisher_vectors.fisher_vectors(mixture, self.vectors[words], sets)

    def _sets(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The different words of some sentences, indices [P], and how often each stands in each, [n, P]."""
        told = self._indices(sentences)
        words = sorted({i for indices in told for i in indices})
        column = {word: i for i, word in enumerate(words)}
        sets = torch.zeros(len(sentences), len(words))
        rows = [row for row, indices in enumerate(told) for _ in indices]
        columns = [column[i] for indices in told for i in indices]
        sets.index_put_(
            (torch.tensor(rows).long(), torch.tensor(columns).long()), torch.ones(len(rows)), True
        )
        device = self.device_of.device
        return torch.tensor(words, device=device).long(), sets.to(device)

    def _indices(self, sentences: Sequence[str]) -> list[list[int]]:
        """The vocabulary's indices of those words of each sentence that have a vector."""
        known = self.known.tolist()
        told = ((self.index.get(word, -1) for word in CaptionsSpec.words(sentence)) for sentence in sentences)
        return [[i for i in indices if i >= 0 and known[i]] for indices in told]

    # Caches.

    def _cache(self, role: str) -> FeatureCache:
        if role not in self._caches:
            length = self.image_dim if role == IMAGE_ROLE else self.text_dim
            folder = None
            if self._folder is not None:
                encoder = self.image_encoder if role == IMAGE_ROLE else self.text_encoder
                folder = self._folder / f"{encoder}-{self.encoder_hash(role)}"
            self._caches[role] = FeatureCache(length, folder)
        return self._caches[role]

    def encoder_hash(self, role: str) -> str:
        """Digest of all that an encoder's features depend on: weights or statistics, settings and code."""
        if role == IMAGE_ROLE:
            if self.image_encoder == "adopted":
                return _method_digest(self._adopted(role))
            return _digest((self.image_encoder, *self._code()), self._deep().state_dict().values())
        if self.text_encoder == "adopted":
            return _method_digest(self._adopted(role))
        buffers = [value for name, value in self.named_buffers(recurse=False) if name != "device_of"]
        return _digest((self.text_encoder, *self.spec.vocabulary, *self._code()), buffers)

    @staticmethod
    def _code() -> tuple[str, ...]:
        return tuple(inspect.getsource(module) for module in (fisher_vectors, deep_image_features))

    def _adopted(self, role: str) -> Method:
        trained = self.image_method if role == IMAGE_ROLE else self.text_method
        if trained is None:
            raise RuntimeError(
                f"there is no {role!r}: call adopt({role!r}, trained), or let the runner train one (`needs` in "
                "the suite names its dataset)"
            )
        return trained

    def _deep(self) -> DeepImageFeatures:
        """The ImageNet network, read when it is first needed: cached features don't need it."""
        if not self._network:
            if self.image_weights is None:
                raise FileNotFoundError(
                    f"{self.image_encoder} needs a file of ImageNet weights (option image_weights). Get "
                    f"{deep_image_features.SOURCES[self.image_encoder]}"
                )
            assert self.image_encoder != "adopted"
            self._network.append(DeepImageFeatures(self.image_encoder, self.image_weights))
        return self._network[0].to(self.device_of.device)


def _cache_folder(datamodule: Any) -> Path:
    """Under the dataset's cache, never among its files."""
    return Path(datamodule.cache) / "features" / f"{datamodule.name}-{datamodule.data_version()}"


def _open(path: str) -> Tensor:
    """RGB, uint8 [H, W, 3]."""
    try:
        with Image.open(path) as file:
            return torch.from_numpy(np.array(file.convert("RGB")))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None


def _method_digest(method: Method) -> str:
    source = inspect.getsourcefile(type(method))
    code = Path(source).read_text() if source else ""
    return _digest((method.name, code), method.state_dict().values())


def _digest(settings: Iterable[object], tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for setting in settings:
        digest.update(repr(setting).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
