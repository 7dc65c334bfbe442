"""Published weights: the layouts that are read, and every way they can be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.blocks.published_weights import load_renamed, read_checkpoint, read_published

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
NAMES = {"a": "weight", "b": "bias"}


@pytest.mark.parametrize("wrap", ["model", "state_dict", "net", None])
@pytest.mark.parametrize("parallel", [False, True])
def test_every_layout_gives_the_same_state(wrap: str | None, parallel: bool, tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in STATE.items()} if parallel else STATE
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "w.pth")
    found = read_published(tmp_path / "w.pth")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def test_safetensors_and_what_lies_beside_the_state(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert torch.equal(read_published(tmp_path / "w.safetensors")["a"], STATE["a"])
    torch.save({"model": STATE, "nb_iter": 3}, tmp_path / "w.tar")
    assert read_checkpoint(tmp_path / "w.tar")["nb_iter"] == 3


class Trap:
    """What runs code where a pickle is believed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_published(tmp_path / "none.pth")
    for name, content in (
        ("cut.pth", b"PK\x03\x04 and then nothing"),
        ("empty.pth", b""),
        ("trap.pth", pickle.dumps({"model": Trap(tmp_path / "sprung")}, protocol=2)),
        ("odd.safetensors", b"\x00" * 20),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_published(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        read_published(tmp_path / "list.pth")
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "plain.pth")
    with pytest.raises(ValueError, match=r"no state dict of tensors.*epoch, loss"):
        read_published(tmp_path / "plain.pth")
    torch.save({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="it is empty"):
        read_published(tmp_path / "bare.pth")


@pytest.mark.parametrize("rename", [NAMES, NAMES.get, lambda name: NAMES[name]])
def test_renamed_weights_are_loaded(rename: object) -> None:
    module = nn.Linear(3, 2)
    load_renamed(module, STATE, rename)
    assert torch.equal(module.weight, STATE["a"])
    assert torch.equal(module.bias, STATE["b"])


def test_all_that_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    with pytest.raises(ValueError, match="don't fit Linear") as caught:
        load_renamed(module, {"a": torch.zeros(3, 2), "c": torch.zeros(1)}, NAMES)
    message = str(caught.value)
    assert "missing: b\n" in message
    assert "unexpected: c\n" in message
    assert "of another shape: a: (3, 2), expected (2, 3)" in message
    assert torch.equal(module.weight, before)
    with pytest.raises(ValueError, match="both renamed to weight"):
        load_renamed(module, STATE, lambda name: "weight")
