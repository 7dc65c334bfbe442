"""Ends what a killed sweep leaves behind: `python -m bench.reaper VARIABLE=VALUE`, started by the sweep's driver.

Ray's processes watch each other and mostly follow their driver, but a helper of Ray's that was still starting may
stay. This process waits until its standard input closes, which the kernel does when the driver ends in whatever
way, then kills every process whose environment carries the mark. Linux only; elsewhere nothing is marked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROC = Path("/proc")
GRACE_SECONDS = 1.0
ROUNDS = 10


@contextmanager
def marked(variable: str = "PARAGONE_SWEEP") -> Iterator[None]:
    """What is started within carries a mark of its own, and ends when this process does."""
    if not (PROC / "self" / "environ").is_file():
        yield
        return
    mark = f"{os.getpid()}-{os.urandom(8).hex()}"
    # The pipe's other end stays open as long as this process lives; no child inherits it.
    read_end, _ = os.pipe()
    subprocess.Popen(
        [sys.executable, "-m", "bench.reaper", f"{variable}={mark}"], stdin=read_end, start_new_session=True
    )
    os.close(read_end)
    os.environ[variable] = mark
    try:
        yield
    finally:
        del os.environ[variable]


def reap(mark: bytes) -> None:
    """Kill the processes that carry the mark, until a round finds none."""
    for _ in range(ROUNDS):
        found = [pid for pid in _processes() if mark in _environment(pid)]
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not found:
            return
        time.sleep(GRACE_SECONDS / 2)


def _processes() -> list[int]:
    return [
        int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()
    ]


def _environment(pid: int) -> list[bytes]:
    """The environment a process was started with; empty if it is gone or another user's."""
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def main(mark: str) -> None:
    """Wait for the driver's end, give Ray a moment to leave by itself, and end the rest."""
    for interrupt in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(interrupt, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    time.sleep(GRACE_SECONDS)
    reap(mark.encode())


if __name__ == "__main__":
    main(sys.argv[1])
