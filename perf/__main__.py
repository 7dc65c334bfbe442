"""Runs the measurements named on the command line, or all of them."""

from __future__ import annotations

import importlib
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from perf.ratio import Ratio

PARTS = (
    "sweep",
    "spatially_adaptive",
    "edge_matching",
    "transport",
    "sparse_convolution",
    "voxelisation",
    "shape_descriptor",
    "reid_ranking",
    "text_ranks",
    "leaderboards",
)
WIDTH = 160
"""Of the table in characters, where it goes to a file or a pipe."""


def main(names: list[str]) -> int:
    """Print a table of ratios: smaller than 1 means faster than the baseline."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    table = Table("measured", "baseline", "seconds", "baseline seconds", "ratio", "note")
    for name in names or PARTS:
        began = time.perf_counter()
        with console.status(f"measuring {name}"):
            ratios: list[Ratio] = importlib.import_module(f"perf.{name}").measure()
        for ratio in ratios:
            table.add_row(*ratio.cells())
        console.print(f"{name}: measured in {time.perf_counter() - began:.0f} s", highlight=False)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
