"""Ranking losses of two-branch embeddings with the hardest negatives of the batch.

Rows of the two embeddings belong together: (x_i, y_i) is a pair. Both have unit rows, so a dot product is
their cosine similarity S. All is matrix products and a top-k: no pair is looped over, and choosing
negatives passes no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def other_items(item: Tensor) -> Tensor:
    """Who may be whose negative: item int64 [B], what each pair belongs to -> bool [B, B], True where it differs.

    >>> other_items(torch.tensor([4, 4, 7]))
    tensor([[False, False,  True],
            [False, False,  True],
            [ True,  True, False]])
    """
    return item[:, None] != item[None, :]


def hardest_negatives(
    similarity: Tensor, allowed: Tensor, margin: float, negatives: int
) -> tuple[Tensor, Tensor]:
    """The most similar of the allowed items that violate the margin, for each row.

    similarity: float [B, B], the pairs on the diagonal; allowed: bool [B, B].
    -> index int64 [B, K] with K = min(negatives, B), hardest first; chosen bool [B, K]: False where fewer than K
    violate S_ii - S_ij >= margin.
    """
    with torch.no_grad():
        violates = allowed & (margin - similarity.diagonal()[:, None] + similarity > 0)
        hardness = similarity.masked_fill(~violates, -torch.inf)
        top = hardness.topk(min(negatives, similarity.shape[1]), dim=1)
        return top.indices, top.values > -torch.inf


def bi_rank_loss(
    image: Tensor,
    text: Tensor,
    item: Tensor,
    *,
    margin: float = 0.1,
    negatives: int = 50,
    weights: tuple[float, float, float, float] = (1.0, 0.5, 2.0, 1.0),
) -> Tensor:
    """Hinges that keep a pair nearer than its negatives across and within modalities (RRF-Net, eqs. 5.8-5.10).

        1 / (N B) sum_i { sum_{j in Neg_t(i)} w1 [m - S(x_i,y_i) + S(x_i,y_j)]_+ + w2 [m - S(x_i,y_i) + S(y_i,y_j)]_+
                        + sum_{j in Neg_v(i)} w3 [m - S(x_i,y_i) + S(x_j,y_i)]_+ + w4 [m - S(x_i,y_i) + S(x_i,x_j)]_+ }

    Neg_t(i): the up to N captions of other items that violate the margin across modalities most; Neg_v(i): such
    pictures. The terms within a modality reuse the sets. The divisor is N B however many violate.

    image, text: unit rows [B, D]; item: int64 [B], the picture each pair belongs to. -> scalar float32, computed in
    float32 under mixed precision too.
    """
    if image.shape != text.shape or image.ndim != 2 or item.shape != (len(image),):
        raise ValueError(
            "expected image and text [B, D] and item [B], got "
            f"{tuple(image.shape)}, {tuple(text.shape)} and {tuple(item.shape)}"
        )
    with torch.autocast(image.device.type, enabled=False):
        image, text = image.float(), text.float()
        across, allowed = image @ text.T, other_items(item)
        image_to_text = _direction(across, text, allowed, margin, negatives, *weights[:2])
        text_to_image = _direction(across.T, image, allowed, margin, negatives, *weights[2:])
        return (image_to_text + text_to_image) / (negatives * max(1, len(image)))


def _direction(
    across: Tensor,
    found: Tensor,
    allowed: Tensor,
    margin: float,
    negatives: int,
    cross_weight: float,
    within_weight: float,
) -> Tensor:
    """The summed hinges of one direction; across: [B, B], queries in rows; found: [B, D], what is searched."""
    if cross_weight == 0 and within_weight == 0:
        return across.new_zeros(())
    pair = across.diagonal()[:, None]
    index, chosen = hardest_negatives(across, allowed, margin, negatives)
    hinge = cross_weight * (margin - pair + across.gather(1, index)).clamp(min=0)
    if within_weight != 0:
        within = (found @ found.T).gather(1, index)
        hinge = hinge + within_weight * (margin - pair + within).clamp(min=0)
    return (hinge * chosen).sum()


def bidirectional_loss(
    image: Tensor, text: Tensor, item: Tensor, *, margin: float = 0.1, negatives: int = 50, alpha: float = 2.0
) -> Tensor:
    """The hinges across modalities alone, text to image weighing alpha: `bi_rank_loss` with (1, 0, alpha, 0).

    For any two aligned embeddings (a feature and its reconstruction, say): the first asks with weight 1, the
    second with alpha.
    """
    return bi_rank_loss(image, text, item, margin=margin, negatives=negatives, weights=(1.0, 0.0, alpha, 0.0))
