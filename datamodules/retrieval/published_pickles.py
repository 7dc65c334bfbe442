"""Pickles that datasets publish, read by an unpickler that admits plain containers, text, numbers and NumPy arrays.

Any other global is refused by name, so that nothing in such a file can run.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DataError

_SCALAR = np.float64(0).__reduce__()[0]
_RECONSTRUCT = np.empty(0).__reduce__()[0]
ADMITTED = {
    **{
        (module, "_reconstruct"): _RECONSTRUCT
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
    **{(module, "scalar"): _SCALAR for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # How Python 3 writes bytes in the older protocols.
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, for which a list of pictures has no use"
            ) from None


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """A published pickle that holds a dict with text as keys.

    A `DataError` names the file and what is wrong with it. Text of Python 2 is read as Latin-1.
    """
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a dict with text as keys")
    return content
