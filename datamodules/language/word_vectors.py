"""word2vec's two file formats, read for the words that are asked for.

Both begin with one line, `<words> <dimensions>`. Text: one line a word, `<word> <number> ...`, separated by
single spaces. Binary: a word, one space, its numbers as little-endian float32 and, from some writers, a
newline. A name that ends in `.bin` is binary, any other is text.

The vectors of Mikolov et al. (NIPS 2013), 3,000,000 words, 300-d, are the ones that captioning papers use:
`GoogleNews-vectors-negative300.bin` from https://code.google.com/archive/p/word2vec/ (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.base import DataError

SOURCE = (
    "word2vec vectors, such as GoogleNews-vectors-negative300.bin from "
    "https://code.google.com/archive/p/word2vec/ (Apache-2.0)"
)
CHUNK = 1 << 24


def read_word_vectors(path: str | Path, words: Iterable[str] | None = None) -> dict[str, NDArray[np.float32]]:
    """The vectors, float32 [D], of those of `words` (None: of all) that the file holds, in the file's order.

    A word that stands in the file twice keeps its first vector. Raises `DataError` where the file is missing,
    cut short or has lines of another length.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path} is missing. It should hold {SOURCE}.")
    wanted = None if words is None else frozenset(words)
    rows = _binary(path) if path.suffix == ".bin" else _text(path)
    vectors: dict[str, NDArray[np.float32]] = {}
    for word, vector in rows:
        if (wanted is None or word in wanted) and word not in vectors:
            vectors[word] = vector()
    return vectors


def write_word_vectors(path: Path, words: Sequence[str], vectors: NDArray[np.floating]) -> None:
    """Write [N, D] as word2vec text or, where the name ends in `.bin`, as word2vec binary."""
    if vectors.ndim != 2 or len(words) != len(vectors):
        raise ValueError(f"{len(words)} words need as many vectors, got {vectors.shape}")
    header = f"{len(words)} {vectors.shape[1]}\n"
    if path.suffix == ".bin":
        records = (
            word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n"
            for word, vector in zip(words, vectors, strict=True)
        )
        path.write_bytes(header.encode() + b"".join(records))
        return
    lines = [
        f"{word} {' '.join(f'{value:.6f}' for value in vector)}\n"
        for word, vector in zip(words, vectors, strict=True)
    ]
    path.write_text(header + "".join(lines), encoding="utf-8")


class _Floats:
    """A vector that is decoded when it is called for: most words of a large file aren't wanted."""

    __slots__ = ("path", "raw", "size", "word")

    def __init__(self, raw: str | bytes, size: int, path: Path, word: str) -> None:
        self.raw, self.size, self.path, self.word = raw, size, path, word

    def __call__(self) -> NDArray[np.float32]:
        try:
            vector = (
                np.frombuffer(self.raw, "<f4").astype(np.float32)
                if isinstance(self.raw, bytes)
                else np.array(self.raw.split(), dtype=np.float32)
            )
        except ValueError as error:
            raise DataError(f"{self.path}: the vector of {self.word!r} holds no number ({error})") from None
        if vector.shape != (self.size,):
            raise DataError(
                f"{self.path}: the vector of {self.word!r} has {len(vector)} numbers, expected {self.size}; "
                "fetch the file again"
            )
        if not np.isfinite(vector).all():
            raise DataError(f"{self.path}: the vector of {self.word!r} holds numbers that aren't finite")
        return vector


def _header(path: Path, line: bytes) -> tuple[int, int]:
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[1]) < 1:
        raise DataError(
            f"{path}: begins with {line[:60]!r}, expected word2vec's '<words> <dimensions>'; it should hold "
            f"{SOURCE}"
        )
    return int(fields[0]), int(fields[1])


def _text(path: Path) -> Iterator[tuple[str, _Floats]]:
    with path.open("rb") as file:
        count, size = _header(path, file.readline())
        for row in range(count):
            word, _, numbers = file.readline().decode("utf-8", errors="replace").rstrip("\n").partition(" ")
            if not numbers:
                raise DataError(f"{path}: ends after {row} of {count} words; fetch the file again")
            yield word, _Floats(numbers, size, path, word)


def _binary(path: Path) -> Iterator[tuple[str, _Floats]]:
    with path.open("rb") as file:
        count, size = _header(path, file.readline())
        held, start, length = b"", 0, 4 * size
        for row in range(count):
            space = held.find(b" ", start)
            while space < 0 or len(held) < space + 1 + length:
                more = file.read(CHUNK)
                if not more:
                    raise DataError(f"{path}: ends after {row} of {count} words; fetch the file again")
                held, start = held[start:] + more, 0
                space = held.find(b" ", start)
            word = held[start:space].lstrip(b"\n").decode("utf-8", errors="replace")
            start = space + 1 + length
            yield word, _Floats(held[space + 1 : start], size, path, word)
