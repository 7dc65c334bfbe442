"""The numbers that papers print (`reported/*.csv`), beside the leaderboards generated from committed results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

REPORTED = Path(__file__).parent / "reported"
COLUMNS = ("task", "dataset", "split", "metric", "method", "value", "unit", "source", "table")


def reported() -> pd.DataFrame:
    """All reported rows; raises `ValueError` naming a file whose header isn't `COLUMNS`."""
    import pandas as pd

    frames = [pd.DataFrame(columns=list(COLUMNS), dtype=object)]
    for path in sorted(REPORTED.glob("*.csv")):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if tuple(frame.columns) != COLUMNS:
            raise ValueError(f"{path}: the header must be {','.join(COLUMNS)}, not {','.join(frame.columns)}")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
