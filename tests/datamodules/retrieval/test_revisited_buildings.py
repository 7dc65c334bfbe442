"""ROxford5k and RParis6k: the pickled ground truth, crops of queries, broken files, the miniatures."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import DataError, Dataset
from datamodules.retrieval.published_pickles import read_plain_pickle
from datamodules.retrieval.revisited_buildings import ROxford5k, RParis6k

ENTRY = {"bbx": [10.0, 4.0, 30.0, 14.0], "easy": [1], "hard": np.array([2]), "junk": []}


def write(root: Path, **changes: object) -> None:
    content = {"imlist": ["a", "b", "c"], "qimlist": ["q"], "gnd": [ENTRY], **changes}
    (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    (tmp_path / "jpg").mkdir()
    for number, name in enumerate("abcq"):
        pixels = np.full((20, 40, 3), 50 * number, np.uint8)
        if name == "q":
            pixels[4:14, 10:30] = 255
        Image.fromarray(pixels).save(tmp_path / "jpg" / f"{name}.jpg", quality=100)
    write(tmp_path)
    return tmp_path


def test_gallery_then_queries_cut_out_and_scaled_as_their_pictures(fake: Path) -> None:
    data = ROxford5k(fake, "real", image_size=20, train_size=8)
    data.prepare_data()
    test = data.split("test")
    assert [sample["id"] for sample in (test[0], test[3])] == ["gallery/a", "query/q"]
    assert test[0]["image"].shape == (3, 10, 20)
    query = test[3]
    assert query["image"].shape == (3, 5, 10)  # half of 10 x 20, as the whole picture becomes half as large
    assert query["image"].min() > 0.9  # the white box alone
    assert query["relevance"].tolist() == [[3, 1, 1], [3, 2, 2]]
    assert (query["is_query"], query["index"]) == (True, 3)
    assert len(test[1]["relevance"]) == 0
    larger = ROxford5k(fake, "real", image_size=1024).split("test")
    assert larger[0]["image"].shape == (3, 20, 40)  # never enlarged
    train = data.split("train")
    assert len(train) == 3
    assert train.labels is None
    assert train[0]["image"].shape == (3, 8, 8)
    assert len(data.split("val")) == 0


def test_batches_gather_the_relevance(fake: Path) -> None:
    data = ROxford5k(fake, "real", image_size=20, test_batch_size=3)
    first, second = data.test_dataloader()
    assert first["image"].shape == (3, 3, 10, 20)
    assert first["relevance"].shape == (0, 3)
    assert second["relevance"].shape == (2, 3)
    with pytest.raises(DataError, match="use a batch size of 1"):
        next(iter(ROxford5k(fake, "real", image_size=20, test_batch_size=4).test_dataloader()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imlist": "abc"}, "'imlist' must be a list, got str"),
        ({"qimlist": ["q", "r"]}, "2 names in 'qimlist', but 1 entries"),
        ({"gnd": [{**ENTRY, "bbx": [1, 2]}]}, r"query 0 has 'bbx' \[1, 2\]"),
        ({"gnd": [{**ENTRY, "bbx": [5, 5, 5, 9]}]}, "query 0 has the box .* of no extent"),
        ({"gnd": [{**ENTRY, "easy": [3]}]}, r"query 0 has easy picture 3, not 0 \.\. 2"),
        ({"gnd": [{**ENTRY, "junk": [1]}]}, "query 0 has picture 1 in two of"),
        ({"gnd": [{"bbx": ENTRY["bbx"], "easy": []}]}, "query 0 has no 'hard'"),
    ],
)
def test_broken_ground_truth_is_named(fake: Path, changes: dict[str, object], message: str) -> None:
    write(fake, **changes)
    with pytest.raises(DataError, match=rf"gnd_roxford5k\.pkl: {message}"):
        ROxford5k(fake, "real").split("test")


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run by a pickle",)


def test_a_pickle_that_wants_to_run_something_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps({"imlist": Harmful()}))
    with pytest.raises(DataError, match=r"gnd\.pkl cannot be read: it asks for builtins\.print"):
        read_plain_pickle(path)
    assert "run by" not in capsys.readouterr().out
    path.write_bytes(b"no pickle")
    with pytest.raises(DataError, match=r"gnd\.pkl cannot be read"):
        read_plain_pickle(path)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="holds a list, expected a dict"):
        read_plain_pickle(path)
    with pytest.raises(DataError, match="is missing"):
        read_plain_pickle(tmp_path / "none.pkl")
    numbers = {"a": np.arange(3), "b": np.float64(2.5), "c": [1, "x", (None, True)]}
    path.write_bytes(pickle.dumps(numbers, protocol=2))
    read = read_plain_pickle(path)
    assert read["a"].tolist() == [0, 1, 2]
    assert (read["b"], read["c"]) == (2.5, [1, "x", (None, True)])


def test_broken_pictures_and_missing_files_are_named(fake: Path) -> None:
    (fake / "jpg" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.jpg: cannot be read as a picture"):
        ROxford5k(fake, "real").split("test")[1]
    (fake / "gnd_roxford5k.pkl").unlink()
    with pytest.raises(DataError, match=r"gnd_roxford5k\.pkl"):
        ROxford5k(fake, "real").prepare_data()


@pytest.mark.parametrize(
    ("cls", "gallery", "queries", "right"), [(ROxford5k, 144, 24, 6), (RParis6k, 150, 24, 16)]
)
def test_miniatures(cls: type[Dataset], gallery: int, queries: int, right: int, cache: Path) -> None:
    data = cls(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    test = data.split("test")
    assert len(test) == gallery + queries
    for picture in test.pictures[gallery:]:
        grades = [grade for _, grade in picture.relevance]
        assert sum(grade in (1, 2) for grade in grades) == right
        number = picture.id.split("_")[1]
        names = {test.pictures[place].id.split("/")[1][:11] for place, _ in picture.relevance}
        assert names == {f"landmark_{number}"}
    height, width = test[gallery]["image"].shape[1:]
    assert min(height, width) > 20


def test_the_miniature_is_always_the_same(cache: Path, tmp_path: Path) -> None:
    first, again = ROxford5k(cache=cache), ROxford5k(cache=tmp_path)
    for data in (first, again):
        data.prepare_data()
    assert (first.root / "manifest.json").read_text() == (again.root / "manifest.json").read_text()
