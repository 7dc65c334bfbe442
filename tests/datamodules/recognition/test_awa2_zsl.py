"""AwA2 for zero-shot learning: its two matrices, unknown strengths, disagreeing files, the miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.base import DataError
from datamodules.recognition.awa2_zsl import AwA2ZeroShot
from datamodules.recognition.zero_shot_images import ProposedSplit, write_proposed_split

PROPOSED = ProposedSplit(("ox", "grizzly+bear"), (), np.zeros(0, np.int64), {})


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    base = tmp_path / "Animals_with_Attributes2"
    for picture in ("ox/ox_10001.jpg", "grizzly+bear/grizzly+bear_10001.jpg"):
        path = base / "JPEGImages" / picture
        path.parent.mkdir(parents=True)
        path.touch()
    (base / "classes.txt").write_text("     1\tgrizzly+bear\n     2\tox\n")
    (base / "predicates.txt").write_text("     1\tblack\n     2\tfierce\n")
    (base / "predicate-matrix-continuous.txt").write_text("39.25  -1.00\n83.40  64.79\n")
    (base / "predicate-matrix-binary.txt").write_text("0 1\n1 0\n")
    write_proposed_split(
        tmp_path / "xlsa17/data/AWA2",
        names=["ox", "grizzly+bear"],
        files=[f"/x//JPEGImages/{name}/{name}_10001.jpg" for name in ("ox", "grizzly+bear")],
        labels=np.array([0, 1]),
        unseen=np.array([1]),
        held_out=np.array([0]),
        values=np.ones((2, 2)),
    )
    return tmp_path


def test_matrices_follow_the_splits_order(fake: Path) -> None:
    data = AwA2ZeroShot(fake, "real")
    names = data.semantics(PROPOSED)
    assert names.attributes == ("black", "fierce")
    np.testing.assert_allclose(names.values, [[0.834, 0.6479], [0.3925, 0.0]])
    assert names.present is not None
    assert names.present.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("predicate-matrix-continuous.txt", "1 2 3\n", "expected 2 classes x 2"),
        ("predicate-matrix-binary.txt", "0 2\n1 1\n", "other numbers than 0 and 1"),
        ("classes.txt", "1 grizzly+bear\n2 oxen\n", "classes.txt has no 'ox'"),
    ],
)
def test_wrong_files_are_named(fake: Path, file: str, text: str, message: str) -> None:
    (fake / "Animals_with_Attributes2" / file).write_text(text)
    with pytest.raises(DataError, match=message):
        AwA2ZeroShot(fake, "real").semantics(PROPOSED)


def test_miniature(cache: Path) -> None:
    data = AwA2ZeroShot(cache=cache)
    spec = data.spec
    assert data.verify() == []
    assert (spec.seen, len(spec.classes), len(spec.attributes), spec.parts) == (8, 12, 24, ())
    assert {sum(row) for row in spec.present} == {6}
    assert data.split("test")[0]["image"].shape == (3, 56, 56)
    assert "clicks" not in data.split("test")[0]
    assert len(data.split("test")) == 48
