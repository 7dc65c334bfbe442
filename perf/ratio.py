"""A measured time beside its baseline's, and how to take such times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """`seconds` of `measured` against `baseline_seconds` of `baseline`; None where there is no baseline."""

    measured: str
    baseline: str
    seconds: float
    baseline_seconds: float | None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        if self.baseline_seconds is None:
            return self.measured, self.baseline, f"{self.seconds:.4g}", "", "", self.note
        ratio = self.seconds / self.baseline_seconds
        return (
            self.measured,
            self.baseline,
            f"{self.seconds:.4g}",
            f"{self.baseline_seconds:.4g}",
            f"{ratio:.3g}",
            self.note,
        )


def alternate(functions: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Best seconds of each function over so many rounds, taken in turns after one round of warm-up, so that
    whatever else the machine does falls on all of them alike."""
    best = dict.fromkeys(functions, float("inf"))
    for number in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            elapsed = time.perf_counter() - began
            if number:
                best[name] = min(best[name], elapsed)
    return best
