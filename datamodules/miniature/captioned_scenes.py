"""Rendered scenes of two or three coloured shapes, and what people might say of them.

A scene is a set of things: shape (5) x colour (6) x size (2), at places where each pair stands clearly left and
right of, or above and below, one another. The background's texture, its colours, the exact places, the light
and the things' turn are nuisance: no caption speaks of them. Of every four scenes two are *look-alikes*: the
same things with the colours of two of them exchanged, or their places. So the words of their captions, without
their order, are the same, and only what is bound to what tells them apart.

A caption names some of the things by some of their attributes, in one of several words for each and in one of
several orders; it is true of its picture and never says all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from datamodules.base import random_generator
from datamodules.miniature.objects import Array, hsv, mottle, placed, plane, silhouette, texture, two_tones

SIZE = 96
SHAPES = ("disc", "square", "triangle", "star", "cross")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.1, 0.1),
    "green": (0.08, 0.62, 0.18),
    "blue": (0.12, 0.22, 0.88),
    "yellow": (0.96, 0.86, 0.1),
    "purple": (0.62, 0.12, 0.72),
    "white": (0.97, 0.97, 0.97),
}
RADIUS = {"small": 0.2, "large": 0.33}
"""Of a thing, in units of half the picture's side."""
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

Exchange = Literal["colours", "places"]


@dataclass(frozen=True)
class Thing:
    """One thing at x (to the right) and y (down), in [-1, 1]."""

    shape: str
    colour: str
    size: str
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Two or three things; the first two are the pair that a look-alike exchanges.

    twin: position of the look-alike in the list of scenes, if there is one. exchange: what differs in it.
    """

    things: tuple[Thing, ...]
    twin: int | None = None
    exchange: Exchange | None = None


def relation(first: Thing, second: Thing) -> str:
    """Where the first stands as seen from the second, on the axis on which they are further apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def scenes(count: int, *seed: int | str) -> list[Scene]:
    """`count` scenes; the first two of every four are look-alikes."""
    made: list[Scene] = []
    while len(made) < count:
        position = len(made)
        generator = random_generator(*seed, "scene", position)
        kinds = _kinds(generator)
        across, side = bool(generator.integers(2)), int(generator.choice((-1, 1)))
        scene = Scene(_arranged(generator, kinds, across, side))
        if position % 4 or position + 1 == count:
            made.append(scene)
            continue
        first, second, *rest = kinds
        exchange: Exchange = "colours" if generator.integers(2) else "places"
        if exchange == "colours":
            swapped = [replace(first, colour=second.colour), replace(second, colour=first.colour), *rest]
        else:
            swapped = [second, first, *rest]
        twin = Scene(_arranged(generator, swapped, across, side), position, exchange)
        made += [replace(scene, twin=position + 1, exchange=exchange), twin]
    return made


def _kinds(generator: np.random.Generator) -> list[Thing]:
    """Two or three things without places; no two have both shape and colour in common, the first two neither."""
    shapes = [str(shape) for shape in generator.permutation(SHAPES)]
    colours = [str(colour) for colour in generator.permutation(tuple(COLOURS))]
    count = int(generator.integers(2, 4))
    picked = [(shapes[i], colours[i]) for i in range(2)]
    if count == 3:
        picked.append((shapes[int(generator.integers(0, 5))], colours[2]))
    return [Thing(shape, colour, str(generator.choice(tuple(RADIUS)))) for shape, colour in picked]


def _arranged(
    generator: np.random.Generator, kinds: Sequence[Thing], across: bool, side: int
) -> tuple[Thing, ...]:
    """Put the pair beside (across) or above one another and a third thing off to one side of both."""
    shift = 0.3 if len(kinds) == 3 else 0.0
    spots = [(-0.5, -side * shift), (0.5, -side * shift), (0.0, side * 0.58)]
    jitter = generator.uniform(-0.08, 0.08, (3, 2))
    return tuple(
        replace(thing, x=float((u if across else v) + dx), y=float((v if across else u) + dy))
        for thing, (u, v), (dx, dy) in zip(kinds, spots, jitter, strict=False)
    )


def draw(generator: np.random.Generator, things: Sequence[Thing], size: int = SIZE) -> Array:
    """The things before a textured background, float [size, size, 3] in [0, 1]."""
    x, y = plane(size)
    hue = generator.uniform()
    kind = str(generator.choice(("mottle", "stripes", "checks", "waves")))
    if kind == "mottle":
        pattern = mottle(generator, x, y, waves=4)
    else:
        pattern = texture(
            kind, *placed(x, y, (0, 0), 1, generator.uniform(0, np.pi)), generator.uniform(0.2, 0.6)
        )
    dark, light = (
        hsv(hue, 0.2, generator.uniform(0.25, 0.4)),
        hsv(hue + 0.2, 0.2, generator.uniform(0.45, 0.6)),
    )
    picture = two_tones(pattern, dark, light)
    for thing in things:
        _stamp(generator, picture, thing, x, y)
    picture *= generator.uniform(0.88, 1.06)
    picture += 0.02 * generator.standard_normal(picture.shape, dtype=np.float32)
    return picture.clip(0, 1)


def _stamp(generator: np.random.Generator, picture: Array, thing: Thing, x: Array, y: Array) -> None:
    """Paint a thing, in place, with a slight turn and light of its own; only its own window is touched."""
    size, scale = len(picture), RADIUS[thing.size] * generator.uniform(0.93, 1.07)
    row, column = ((centre + 1) / 2 * size for centre in (thing.y, thing.x))
    reach = 0.6 * scale * size + 2
    rows = slice(max(0, int(row - reach)), int(row + reach) + 1)
    columns = slice(max(0, int(column - reach)), int(column + reach) + 1)
    window = (rows, columns)
    u, v = placed(x[window], y[window], (thing.x, thing.y), scale, generator.uniform(-0.2, 0.2))
    coverage = np.clip(0.5 - silhouette(thing.shape, u, v) * scale * size / 2, 0, 1)[..., None]
    colour = np.array(COLOURS[thing.colour]) * generator.uniform(0.9, 1.0)
    picture[window] += coverage * (colour - picture[window])


# What may be said of a scene.

COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "green": ("green", "emerald"),
    "blue": ("blue", "navy"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "white": ("white", "pale"),
}
SHAPE_WORDS = {
    "disc": ("disc", "circle"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "star": ("star", "asterisk"),
    "cross": ("cross", "plus"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
ANY_SHAPE = ("thing", "object", "shape")
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
PLACES = {
    "left": "on the left",
    "right": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}
OPENINGS = ("", "", "there is ", "we see ", "a picture of ", "the scene shows ")
LINKS = ("", "", "is ", "sits ", "lies ")
NAMED = (("size", "colour", "shape"), ("colour", "shape"), ("size", "shape"), ("size", "colour"), ("colour",))
NAMED_SHARES = (0.35, 0.3, 0.12, 0.13, 0.1)


def captions(generator: np.random.Generator, scene: Scene, count: int = 5) -> list[str]:
    """`count` different captions, in the way of Flickr30K: capitalised, words and the full stop spaced out."""
    made: list[str] = []
    while len(made) < count:
        sentence = _caption(generator, scene)
        if sentence not in made:
            made.append(sentence)
    return made


def _caption(generator: np.random.Generator, scene: Scene) -> str:
    things = [scene.things[i] for i in generator.permutation(len(scene.things))]
    listed = generator.uniform() < 0.2
    third = len(things) == 3 and generator.uniform() < 0.5
    shown = things if third else things[:2]
    named = [NAMED[i] for i in generator.choice(len(NAMED), len(shown), p=NAMED_SHARES)]
    if not listed and len(shown) == len(scene.things) and all(len(names) == 3 for names in named):
        named[0] = ("colour", "shape")  # never everything at once
    first, second, *rest = (
        _phrase(generator, thing, names) for thing, names in zip(shown, named, strict=True)
    )
    along = f" and {rest[0]}" if rest else ""
    opening = _pick(generator, OPENINGS)
    if listed:
        sentence = f"{opening}{first} , {second}{along}" if rest else f"{opening}{first} and {second}"
    elif generator.uniform() < 0.25:
        where = relation(*shown[:2])
        sentence = f"{PLACES[where]} {first} , {PLACES[OPPOSITE[where]]} {second}"
    else:
        words = _pick(generator, RELATION_WORDS[relation(*shown[:2])])
        link = "" if opening else _pick(generator, LINKS)
        sentence = f"{opening}{first} {link}{words} {second}{along}"
    return f"{sentence[0].upper()}{sentence[1:]} ."


def _phrase(generator: np.random.Generator, thing: Thing, named: Sequence[str]) -> str:
    words = []
    if "size" in named:
        words.append(_pick(generator, SIZE_WORDS[thing.size]))
    if "colour" in named:
        words.append(_pick(generator, COLOUR_WORDS[thing.colour]))
    words.append(_pick(generator, SHAPE_WORDS[thing.shape] if "shape" in named else ANY_SHAPE))
    return " ".join(["an" if words[0][0] in "aeo" else "a", *words])


def _pick(generator: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(generator.integers(len(choices)))]


def word_vectors(
    documents: Sequence[Sequence[str]], words: Callable[[str], list[str]], size: int
) -> tuple[list[str], Array]:
    """Vectors of all words of some texts: positive mutual information with the words of a document, reduced.

    documents: the sentences on one picture each; words: the tokenisation. Two occurrences count as together if
    they stand in one document, so that words which are said of the same pictures have similar vectors. The
    matrix of positive pointwise mutual information is reduced by a singular value decomposition U S V':
    a word's vector is its row of U sqrt(S) (Levy and Goldberg, NIPS 2014).
    -> words, the most frequent first, and vectors float64 [V, size].
    """
    texts = [[word for sentence in document for word in words(sentence)] for document in documents]
    frequency = Counter(word for text in texts for word in text)
    vocabulary = sorted(frequency, key=lambda word: (-frequency[word], word))
    if len(vocabulary) < size:
        raise ValueError(f"{len(vocabulary)} words have no vectors of {size} dimensions")
    index = {word: i for i, word in enumerate(vocabulary)}
    counts = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        np.add.at(counts[row], [index[word] for word in text], 1.0)
    together = counts.T @ counts - np.diag(counts.sum(0))  # a word isn't its own company
    share = together.sum(1) / together.sum()
    with np.errstate(divide="ignore"):
        information = np.maximum(np.log(together / together.sum() / np.outer(share, share)), 0.0)
    left, values, _ = np.linalg.svd(information)
    vectors = left[:, :size] * np.sqrt(values[:size])
    peaks = vectors[abs(vectors).argmax(0), np.arange(size)]
    return vocabulary, vectors * np.where(peaks < 0, -1.0, 1.0)
