"""What a trial costs: parameters, FLOPs of one forward pass, throughput, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

if TYPE_CHECKING:
    from tasks.base import Method

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
MIB = 2**20


def parameters(method: Method) -> int:
    """Trainable and frozen parameters of the tested model."""
    return sum(parameter.numel() for parameter in method.parameters())


class Operations:
    """Counts the floating-point operations of what runs within it: `with Operations() as operations: ...`.

    By PyTorch's FLOP counter: matrix products and convolutions, a multiply-add as two.
    """

    def __enter__(self) -> Operations:
        from torch.utils.flop_counter import FlopCounterMode

        self._counter = FlopCounterMode(display=False)
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)

    @property
    def total(self) -> int:
        return self._counter.get_total_flops()


class HostMemory:
    """Peak resident memory of this process since `start`, in MiB.

    Linux can reset the high-water mark; elsewhere it is the process's own since it began.
    """

    def start(self) -> None:
        try:
            CLEAR_REFS.write_text("5")
        except OSError:
            return

    def peak(self) -> float:
        if STATUS.is_file():
            for line in STATUS.read_text().splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) / 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def device_peak() -> float | None:
    """Peak memory that tensors took on the device since the trial began, in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else None


class Stopwatch(pl.Callback):
    """Samples and seconds of training and test; validation is left out of training's.

    The first step pays for allocation and warm-up, so the rate leaves it out where more follow. The device
    is waited for at the ends only, never within.
    """

    def __init__(self) -> None:
        self.seconds = {"train": 0.0, "test": 0.0}
        self._samples = {"train": 0, "test": 0}
        self._steps = {"train": 0, "test": 0}
        self._first = {"train": (0, 0.0), "test": (0, 0.0)}
        self._begun = 0.0

    def rate(self, stage: str) -> float | None:
        """Samples per second; None before anything ran."""
        first_samples, first_seconds = self._first[stage] if self._steps[stage] > 1 else (0, 0.0)
        samples, seconds = self._samples[stage] - first_samples, self.seconds[stage] - first_seconds
        return samples / seconds if samples and seconds > 0 else None

    def _resume(self) -> None:
        _synchronise()
        self._begun = time.perf_counter()

    def _pause(self, stage: str) -> None:
        _synchronise()
        self.seconds[stage] += time.perf_counter() - self._begun

    def _step(self, stage: str, batch: Any) -> None:
        self._steps[stage] += 1
        self._samples[stage] += len(batch["id"])
        if self._steps[stage] == 1:
            self._pause(stage)
            self._first[stage] = (self._samples[stage], self.seconds[stage])
            self._resume()

    def on_train_start(self, *_: Any) -> None:
        self._resume()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._step("train", batch)

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit" and self._steps["train"]:
            self._pause("train")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit" and self._steps["train"]:
            self._resume()

    def on_train_end(self, *_: Any) -> None:
        self._pause("train")

    def on_test_start(self, *_: Any) -> None:
        self._resume()

    def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._step("test", batch)

    def on_test_end(self, *_: Any) -> None:
        self._pause("test")


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
