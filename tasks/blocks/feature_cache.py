"""Features on disk, found by id, for several processes at once.

A folder holds shards: safetensors files with one tensor `features` [n, D] and the ids of its rows in the
metadata. A shard is named by what it holds, written beside its place, synced and renamed, and never changed. So
two processes may write the same one, and one that is killed leaves nothing half done. Shards are mapped into memory
and read row by row.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

KEY = "features"


class FeatureCache:
    """Rows of length `length` by id, float32 on the CPU. folder: of the shards; None: kept in memory alone."""

    def __init__(self, length: int, folder: Path | None = None) -> None:
        self.length = length
        self.folder = folder
        self._shards: list[Tensor] = []
        self._rows: dict[str, tuple[int, int]] = {}
        self._opened: set[str] = set()
        if folder is not None:
            self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Open the shards that have come to the folder since."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._opened:
                ids, features = self._read(path)
                self._take(ids, features)
                self._opened.add(path.name)

    def add(self, ids: Sequence[str], features: Tensor) -> None:
        """Keep the features, [n, D], of some ids, on disk where there is a folder."""
        if features.shape != (len(ids), self.length):
            raise ValueError(f"features must be [{len(ids)}, {self.length}], got {tuple(features.shape)}")
        features = features.detach().float().cpu().contiguous()
        if self.folder is not None:
            self._opened.add(self._write(list(ids), features))
        self._take(ids, features)

    def __getitem__(self, ids: Sequence[str]) -> Tensor:
        """The rows of some ids, [n, D]; a `KeyError` names one that isn't there."""
        places = torch.tensor([self._rows[key] for key in ids], dtype=torch.long).view(-1, 2)
        found = torch.empty(len(ids), self.length)
        for shard in places[:, 0].unique().tolist():
            mine = places[:, 0] == shard
            found[mine] = self._shards[shard][places[mine, 1]]
        return found

    def _take(self, ids: Sequence[str], features: Tensor) -> None:
        self._rows.update((key, (len(self._shards), row)) for row, key in enumerate(ids))
        self._shards.append(features)

    def _read(self, path: Path) -> tuple[list[str], Tensor]:
        try:
            with safe_open(path, framework="pt") as file:
                ids = json.loads((file.metadata() or {})["ids"])
                features = file.get_tensor(KEY)
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ValueError(f"{path} is no shard of features ({error}); delete it") from None
        if features.shape != (len(ids), self.length):
            raise ValueError(
                f"{path}: {KEY!r} has shape {tuple(features.shape)}, expected {(len(ids), self.length)}; delete it"
            )
        return ids, features

    def _write(self, ids: list[str], features: Tensor) -> str:
        assert self.folder is not None
        listed = json.dumps(ids)
        name = f"{hashlib.sha256(listed.encode()).hexdigest()[:20]}.safetensors"
        write_atomically(self.folder / name, save({KEY: features}, metadata={"ids": listed}))
        return name


def cached(
    cache: FeatureCache, ids: Sequence[str], encode: Callable[[list[int]], Tensor], chunk: int
) -> Tensor:
    """The features [n, D] of some ids; those that aren't cached are encoded, `chunk` at a time, and kept.

    encode: positions in `ids` -> their features [m, D].
    """
    missing: dict[str, int] = {}
    for position, key in enumerate(ids):
        if key not in cache:
            missing.setdefault(key, position)
    names, positions = list(missing), list(missing.values())
    for start in range(0, len(names), chunk):
        part = slice(start, start + chunk)
        cache.add(names[part], encode(positions[part]))
    return cache[ids]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).chmod(0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
