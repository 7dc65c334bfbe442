"""Ranks of image-text retrieval in both directions.

Image to text, a picture asks all captions, and the best of its own counts; text to image, a caption asks
all pictures for its one. The rank of a query is 1 plus the number of wrong answers at least as similar as
the best right one, so a tie counts against the method and equal embeddings find nothing. Similarities that
differ by no more than `TIE` are equal: that is the rounding of a float32 dot product of unit vectors.

The first-K hit rates are those of `torchmetrics.retrieval.RetrievalHitRate` wherever nothing ties.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

CHUNK = 256
"""Queries compared at once: bounds the memory to CHUNK x gallery similarities."""
TIE = 1e-6

Similarity = Callable[[Tensor], Tensor]
"""Positions of queries, int64 [Q] -> their similarities to the whole gallery, float [Q, G]."""


def first_right_rank(similarity: Tensor, right: Tensor, tie: float = TIE) -> Tensor:
    """Rank of the best right answer, ties counted against it.

    similarity: float [Q, G], larger is nearer; NaN ranks before everything.
    right: int64 [Q, K], positions of the right answers in the gallery, -1 where a query has fewer than K; each
        query has one at least.
    -> int64 [Q], 1 is the best.

    >>> first_right_rank(torch.tensor([[0.9, 0.5, 0.7, 0.5]]), torch.tensor([[1, -1]]))
    tensor([4])
    >>> first_right_rank(torch.tensor([[0.9, 0.5, 0.7, 0.5]]), torch.tensor([[1, 2]]))
    tensor([2])
    """
    if similarity.ndim != 2 or right.ndim != 2 or len(similarity) != len(right):
        raise ValueError(
            f"expected similarity [Q, G] and right [Q, K], got {tuple(similarity.shape)} and {tuple(right.shape)}"
        )
    known = right >= 0
    if not known.any(dim=1).all():
        raise ValueError("a query has no right answer in the gallery")
    mine = similarity.gather(1, right.clamp(min=0))
    best = mine.masked_fill(~known, -torch.inf).amax(dim=1, keepdim=True)
    behind = (similarity <= best - tie).count_nonzero(dim=1)
    mine_behind = ((mine <= best - tie) & known).count_nonzero(dim=1)
    wrong = similarity.shape[1] - known.count_nonzero(dim=1)
    return 1 + wrong - (behind - mine_behind)


def answers_of(owner: Tensor, owners: int) -> Tensor:
    """Positions of each owner's members: owner int64 [M] in 0..owners-1 -> int64 [owners, K], padded with -1.

    >>> answers_of(torch.tensor([1, 0, 1]), 3)
    tensor([[ 1, -1],
            [ 0,  2],
            [-1, -1]])
    """
    counts = torch.bincount(owner, minlength=owners)
    order = owner.argsort(stable=True)
    place = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
    answers = owner.new_full((owners, max(1, int(counts.max()) if len(counts) else 1)), -1)
    answers[owner[order], place] = order
    return answers


def retrieval_ranks(
    image_to_text: Similarity, text_to_image: Similarity, owner: Tensor, images: int
) -> tuple[Tensor, Tensor]:
    """Ranks of all queries of both directions, `CHUNK` of them at a time.

    image_to_text, text_to_image: similarities of some pictures to all captions and of some captions to all
        pictures; two functions, because a method may weigh the directions differently.
    owner: int64 [M], the picture of each caption; images: how many pictures there are.
    -> int64 ranks of the pictures that have captions, [<= images], and of the captions, [M].
    """
    answers = answers_of(owner, images)
    asking = (answers[:, 0] >= 0).nonzero()[:, 0]
    captions = torch.arange(len(owner), device=owner.device)
    to_text = [first_right_rank(image_to_text(chunk), answers[chunk]) for chunk in asking.split(CHUNK)]
    to_image = [first_right_rank(text_to_image(chunk), owner[chunk, None]) for chunk in captions.split(CHUNK)]
    return torch.cat(to_text), torch.cat(to_image)


def recall_at(ranks: Tensor, k: int) -> float:
    """Share of queries, in %, whose rank is at most k: int64 [Q] -> 0..100.

    >>> recall_at(torch.tensor([1, 3, 7, 2]), 2)
    50.0
    """
    return 100.0 * float((ranks <= k).double().mean())


def median_rank(ranks: Tensor) -> float:
    """The median of int64 [Q]; of an even number, the mean of the middle two."""
    return float(torch.quantile(ranks.double(), 0.5))


def key_of(name: str) -> int:
    """A number for a name, the same in every process: 63 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def keys_of(names: Sequence[str], like: Tensor) -> Tensor:
    """int64 [N] of N names, on the device of `like`."""
    return torch.tensor([key_of(name) for name in names], dtype=torch.long, device=like.device)


class PairedEmbeddings(Metric):
    """Gathers embeddings of pictures and captions over a split.

    Both are known by their names: what comes twice (a distributed sampler pads with repeats) counts once, and
    the order of arrival doesn't matter.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for state in ("images", "image_keys", "texts", "text_keys", "owner_keys"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.images: list[Tensor]
        self.image_keys: list[Tensor]
        self.texts: list[Tensor]
        self.text_keys: list[Tensor]
        self.owner_keys: list[Tensor]

    def update(
        self,
        image: Tensor,
        text: Tensor,
        owner: Tensor,
        image_ids: Sequence[str],
        caption_ids: Sequence[str],
    ) -> None:
        """image float [B, D], text float [M, E], owner int64 [M] in 0..B-1, names of the B pictures and of the M
        captions."""
        if image.ndim != 2 or text.ndim != 2 or owner.shape != (len(text),):
            raise ValueError(
                "expected image [B, D], text [M, E] and owner [M], got "
                f"{tuple(image.shape)}, {tuple(text.shape)} and {tuple(owner.shape)}"
            )
        if len(image_ids) != len(image) or len(caption_ids) != len(text):
            raise ValueError(
                f"{len(image)} pictures and {len(text)} captions are embedded, but the batch names "
                f"{len(image_ids)} and {len(caption_ids)}"
            )
        if len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < len(image):
            raise ValueError(f"owner must be in 0..{len(image) - 1}, is up to {int(owner.max())}")
        if not image.isfinite().all() or not text.isfinite().all():
            raise ValueError("embeddings hold NaN or infinity")
        image_keys = keys_of(image_ids, image)
        self.images.append(image.detach().float())
        self.image_keys.append(image_keys)
        self.texts.append(text.detach().float())
        self.text_keys.append(keys_of(caption_ids, image))
        self.owner_keys.append(image_keys[owner])

    def compute(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """image float [N, D], text float [M, E], owner int64 [M] in 0..N-1, keys of the pictures int64 [N] and of
        the captions int64 [M], both ascending."""
        images, image_keys, texts, text_keys, owner_keys = (
            torch.cat(list(state)) if isinstance(state, list) else state
            for state in (self.images, self.image_keys, self.texts, self.text_keys, self.owner_keys)
        )
        image_order, text_order = _once(image_keys), _once(text_keys)
        image_keys = image_keys[image_order]
        owner = torch.searchsorted(image_keys, owner_keys[text_order])
        return images[image_order], texts[text_order], owner, image_keys, text_keys[text_order]


def _once(keys: Tensor) -> Tensor:
    """Positions of the different keys in ascending order, the first of equal ones."""
    order = keys.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = keys[order][1:] != keys[order][:-1]
    return order[first]
