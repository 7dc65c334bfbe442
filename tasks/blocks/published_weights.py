"""Weights that a paper's authors publish: read without unpickling code, renamed, and loaded whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
"""Keys under which training scripts commonly put the state dict; the first that is there is taken."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, as it lies there: a dict of tensors, numbers, text and dicts of such.

    A safetensors file or one of `torch.save`. Raises FileNotFoundError, and ValueError where the file is damaged,
    asks for more than tensors and plain values, or holds no dict.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read as weights: {error}\n"
            "It must hold tensors and plain values only, written by torch.save or safetensors; "
            "if it is such a file, fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict with the state")
    return content


def read_published(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, whether it is the whole file or lies under one of `WRAPPERS`.

    The prefix `module.` of DataParallel is taken off. Raises as `read_checkpoint`, and ValueError where no dict
    of tensors is found.
    """
    return state_of(read_checkpoint(path), path)


def state_of(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state dict in what `read_checkpoint` answered; path: for messages."""
    wrapper = next((key for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
    state = checkpoint[wrapper] if wrapper else checkpoint
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        raise ValueError(
            f"{path} holds no state dict of tensors, whole or under {', '.join(WRAPPERS)}; "
            f"not tensors: {', '.join(others[:10]) or 'it is empty'}"
        )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def load_renamed(
    module: nn.Module, state: Mapping[str, Tensor], rename: Mapping[str, str] | Callable[[str], str]
) -> None:
    """Load `state` under the module's own names; nothing is loaded unless all fits.

    rename: published name -> the module's; a name that a mapping lacks is unexpected.
    Raises ValueError that lists every key that is missing, unexpected or of another shape, by published name.
    """
    wanted = module.state_dict()
    own: dict[str, Tensor] = {}
    published: dict[str, str] = {}
    unexpected: list[str] = []
    for name, value in state.items():
        target = rename.get(name) if isinstance(rename, Mapping) else rename(name)
        if target is None or target not in wanted:
            unexpected.append(name)
        elif target in own:
            raise ValueError(f"{name} and {published[target]} are both renamed to {target}")
        else:
            own[target], published[target] = value, name
    called = {target: name for name, target in rename.items()} if isinstance(rename, Mapping) else {}
    missing = [called.get(name, name) for name in wanted if name not in own]
    shapes = [
        f"{published[name]}: {tuple(value.shape)}, expected {tuple(wanted[name].shape)}"
        for name, value in own.items()
        if value.shape != wanted[name].shape
    ]
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise ValueError("the weights don't fit " + type(module).__name__ + "\n  " + "\n  ".join(problems))
    module.load_state_dict(own)
