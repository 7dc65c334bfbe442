"""word2vec's text and binary format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.base import DataError
from datamodules.language.word_vectors import read_word_vectors, write_word_vectors

WORDS = ["the", "été", "of", "dog"]
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) / 4 - 1


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.bin"])
def test_both_formats_give_back_what_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_word_vectors(path, WORDS, VECTORS)
    vectors = read_word_vectors(path)
    assert list(vectors) == WORDS
    np.testing.assert_array_equal(np.stack(list(vectors.values())), VECTORS)
    assert vectors["dog"].dtype == np.float32
    assert list(read_word_vectors(path, ["dog", "cat", "the"])) == ["the", "dog"]


def test_binary_without_newlines_between_the_records_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    # 0x0a0a0a0a: numbers whose bytes are newlines, and spaces (0x20) within the numbers
    rows = [np.frombuffer(b"\n\n\n\n    ", "<f4"), np.array([1.0, 2.0], "<f4")]
    path.write_bytes(
        b"2 2\n" + b"".join(w + b" " + r.tobytes() for w, r in zip((b"a", b"b"), rows, strict=True))
    )
    vectors = read_word_vectors(path)
    np.testing.assert_array_equal(vectors["a"], rows[0])
    np.testing.assert_array_equal(vectors["b"], [1.0, 2.0])


def test_a_word_that_stands_twice_keeps_its_first_vector(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("2 1\na 1\na 2\n")
    assert read_word_vectors(path)["a"] == 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.txt", b"the 0.1 0.2\n", "expected word2vec's"),
        ("v.txt", b"", "expected word2vec's"),
        ("v.txt", b"3 2\na 1 2\nb 3 4\n", "ends after 2 of 3 words"),
        ("v.txt", b"1 2\na 1 2 3\n", "'a' has 3 numbers, expected 2"),
        ("v.txt", b"1 2\na 1 x\n", "vector of 'a' holds no number"),
        ("v.txt", b"1 2\na 1 nan\n", "aren't finite"),
        ("v.bin", b"2 2\na " + bytes(8) + b"\nb " + bytes(5), "ends after 1 of 2 words"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_word_vectors(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_where_vectors_come_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="GoogleNews"):
        read_word_vectors(tmp_path / "none.bin")
