"""Rendered scenes and their captions: every caption is read back by a reader of its own and must be true."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.base import random_generator
from datamodules.miniature.captioned_scenes import (
    COLOURS,
    RADIUS,
    SHAPES,
    Scene,
    Thing,
    captions,
    draw,
    relation,
    scenes,
    word_vectors,
)
from datamodules.specs import CaptionsSpec

MEANING = {
    **dict.fromkeys(("small", "little", "tiny"), ("size", "small")),
    **dict.fromkeys(("large", "big", "huge"), ("size", "large")),
    **dict.fromkeys(("red", "crimson"), ("colour", "red")),
    **dict.fromkeys(("green", "emerald"), ("colour", "green")),
    **dict.fromkeys(("blue", "navy"), ("colour", "blue")),
    **dict.fromkeys(("yellow", "golden"), ("colour", "yellow")),
    **dict.fromkeys(("purple", "violet"), ("colour", "purple")),
    **dict.fromkeys(("white", "pale"), ("colour", "white")),
    **dict.fromkeys(("disc", "circle"), ("shape", "disc")),
    **dict.fromkeys(("square", "box"), ("shape", "square")),
    **dict.fromkeys(("triangle", "wedge"), ("shape", "triangle")),
    **dict.fromkeys(("star", "asterisk"), ("shape", "star")),
    **dict.fromkeys(("cross", "plus"), ("shape", "cross")),
    **dict.fromkeys(("thing", "object", "shape"), ("shape", None)),
}
WHERE = {
    "left": "left",
    "right": "right",
    "above": "above",
    "over": "above",
    "top": "above",
    "below": "below",
    "under": "below",
    "beneath": "below",
    "bottom": "below",
}


def parsed(sentence: str) -> tuple[list[dict[str, str]], list[tuple[int, str]]]:
    """The things that are named, and where a place was named: (things named before it, which place)."""
    named: list[dict[str, str]] = []
    places: list[tuple[int, str]] = []
    current: dict[str, str] = {}
    for word in CaptionsSpec.words(sentence):
        if word in WHERE:
            places.append((len(named), WHERE[word]))
        elif word in MEANING:
            kind, value = MEANING[word]
            if value is not None:
                current[kind] = value
            if kind == "shape":
                named.append(current)
                current = {}
    return named, places


def fits(thing: Thing, named: dict[str, str]) -> bool:
    return all(getattr(thing, kind) == value for kind, value in named.items())


def holds(sentence: str, scene: Scene) -> bool:
    """Whether some assignment of different things makes the sentence true."""
    named, places = parsed(sentence)

    def true(chosen: list[Thing]) -> bool:
        if len(places) == 2:  # "on the left a, on the right b"
            first, second = places
            return relation(chosen[first[0]], chosen[second[0]]) == first[1]
        return all(relation(chosen[before - 1], chosen[before]) == place for before, place in places)

    def search(chosen: list[Thing]) -> bool:
        if len(chosen) == len(named):
            return true(chosen)
        return any(
            search([*chosen, thing])
            for thing in scene.things
            if thing not in chosen and fits(thing, named[len(chosen)])
        )

    return search([])


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    return scenes(400, "test-world")


def said(scene: Scene, *seed: int | str) -> list[str]:
    return captions(random_generator("said", *seed), scene)


def test_the_reader_of_captions_knows_true_from_false() -> None:
    scene = Scene((Thing("disc", "red", "large", -0.5, 0.0), Thing("square", "blue", "small", 0.5, 0.0)))
    assert holds("A red circle is left of a box .", scene)
    assert holds("On the right a tiny thing , on the left a crimson thing .", scene)
    assert not holds("A red circle is right of a box .", scene)
    assert not holds("On the left a tiny thing , on the right a crimson thing .", scene)
    assert not holds("A blue disc and a square .", scene)
    assert not holds("There is a big red disc and a red thing .", scene)


def test_every_caption_is_true_of_its_picture_and_leaves_something_out(world: list[Scene]) -> None:
    for number, scene in enumerate(world):
        sentences = said(scene, number)
        assert len(set(sentences)) == 5
        for sentence in sentences:
            assert holds(sentence, scene), (sentence, scene)
            named, places = parsed(sentence)
            everything = len(named) == len(scene.things) and all(len(each) == 3 for each in named)
            assert not (everything and places), sentence


def test_half_of_the_scenes_have_a_look_alike_that_words_without_order_cannot_tell(
    world: list[Scene],
) -> None:
    with_twin = [(number, scene) for number, scene in enumerate(world) if scene.twin is not None]
    assert len(with_twin) == len(world) / 2
    kinds = Counter(scene.exchange for _, scene in with_twin)
    assert min(kinds["colours"], kinds["places"]) > 50
    false = 0
    for number, scene in with_twin:
        twin = world[scene.twin]
        assert twin.twin == number
        assert twin.exchange == scene.exchange
        for attribute in ("shape", "colour"):
            assert Counter(getattr(t, attribute) for t in scene.things) == Counter(
                getattr(t, attribute) for t in twin.things
            )
        named = [{(t.shape, t.colour) for t in each.things} for each in (scene, twin)]
        assert (named[0] == named[1]) == (scene.exchange == "places")
        false += sum(not holds(sentence, twin) for sentence in said(scene, number))
    assert false > 2 * len(
        with_twin
    )  # of five captions more than two, on average, aren't true of the look-alike


def test_things_stand_where_their_scene_says_and_have_its_colours(world: list[Scene]) -> None:
    for number, scene in enumerate(world[:60]):
        picture = draw(random_generator("drawn", number), scene.things)
        assert picture.shape == (96, 96, 3)
        assert picture.min() >= 0
        assert picture.max() <= 1
        for thing in scene.things:
            row, column = (round((centre + 1) / 2 * 96 - 0.5) for centre in (thing.y, thing.x))
            seen = picture[row - 1 : row + 2, column - 1 : column + 2].mean((0, 1))
            distances = {name: np.abs(np.array(rgb) * 0.93 - seen).sum() for name, rgb in COLOURS.items()}
            assert min(distances, key=distances.get) == thing.colour


def test_no_two_things_touch_and_each_pair_has_a_clear_relation(world: list[Scene]) -> None:
    for scene in world:
        for i, first in enumerate(scene.things):
            assert max(abs(first.x), abs(first.y)) + RADIUS[first.size] < 1.03
            for second in scene.things[:i]:
                dx, dy = abs(first.x - second.x), abs(first.y - second.y)
                assert np.hypot(dx, dy) > RADIUS[first.size] + RADIUS[second.size]
                assert max(dx, dy) > 0.6
                assert abs(dx - dy) > 0.05


def test_relations() -> None:
    at = [Thing("disc", "red", "small", x, y) for x, y in ((0, 0), (0.5, 0.2), (0.1, 0.9))]
    assert relation(at[0], at[1]) == "left"
    assert relation(at[1], at[0]) == "right"
    assert relation(at[0], at[2]) == "above"
    assert relation(at[2], at[0]) == "below"


def test_the_same_seed_gives_the_same_scenes_and_all_kinds_occur(world: list[Scene]) -> None:
    assert scenes(400, "test-world") == world
    assert scenes(40, "another") != world[:40]
    assert {thing.shape for scene in world for thing in scene.things} == set(SHAPES)
    assert {thing.colour for scene in world for thing in scene.things} == set(COLOURS)
    assert {len(scene.things) for scene in world} == {2, 3}


def test_words_that_are_said_of_the_same_pictures_have_like_vectors(world: list[Scene]) -> None:
    documents = [said(scene, number) for number, scene in enumerate(world)]
    words, vectors = word_vectors(documents, CaptionsSpec.words, 50)
    assert vectors.shape == (len(words), 50)
    frequency = Counter(word for each in documents for s in each for word in CaptionsSpec.words(s))
    assert [frequency[word] for word in words] == sorted(frequency.values(), reverse=True)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    at = {word: unit[i] for i, word in enumerate(words)}
    assert at["red"] @ at["crimson"] > at["red"] @ at["blue"] + 0.2
    assert at["disc"] @ at["circle"] > at["disc"] @ at["square"] + 0.2
    with pytest.raises(ValueError, match="no vectors of 300 dimensions"):
        word_vectors(documents, CaptionsSpec.words, 300)


def test_word_vectors_of_a_tiny_text_factorise_its_mutual_information() -> None:
    """Two pictures, of which 'a b' and 'c d' are said: a goes with b alone, so PPMI(a, b) = ln 4."""
    words, vectors = word_vectors([["a b"], ["c d"]], str.split, 4)
    assert words == ["a", "b", "c", "d"]
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths**2, np.log(4))  # |u sqrt(S)|^2, all singular values being ln 4
