"""Ends what a killed sweep leaves behind: `python -m bench.reaper PID`, started by the sweep's driver.

Ray's processes watch each other and mostly follow their driver, but a helper of Ray's that was still starting may
stay. This process waits until its standard input closes, which the kernel does when the driver ends in whatever
way, then kills every process that has a file of the driver's Ray session open: the folder of a session is named
after its driver's process id, and all of its processes write their logs there. Linux only.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

PROC = Path("/proc")
PAUSE_SECONDS = 0.5
QUIET_ROUNDS = 4
"""Rounds without a find after which nothing more is expected."""


def watch() -> None:
    """Start a reaper for this process."""
    if not (PROC / "self" / "fd").is_dir():
        return
    # The pipe's other end stays open as long as this process lives; no child inherits it.
    read_end, _ = os.pipe()
    subprocess.Popen(
        [sys.executable, "-m", "bench.reaper", str(os.getpid())],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_end)


def reap(driver: int) -> None:
    """Kill the processes of the driver's Ray session, until some rounds in a row find none."""
    session = re.compile(rf"/session_[0-9_-]+_{driver}/")
    quiet = 0
    while quiet < QUIET_ROUNDS:
        found = [pid for pid in _processes() if any(session.search(path) for path in _open_files(pid))]
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        quiet = 0 if found else quiet + 1
        time.sleep(PAUSE_SECONDS)


def _processes() -> list[int]:
    return [
        int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()
    ]


def _open_files(pid: int) -> list[str]:
    """Paths of a process's open files; none if it is gone or another user's."""
    paths = []
    try:
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            paths.append(os.readlink(descriptor))
    except OSError:
        return paths
    return paths


def main(driver: int) -> None:
    """Wait for the driver's end, give Ray a moment to leave by itself, and end the rest."""
    for interrupt in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(interrupt, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    time.sleep(PAUSE_SECONDS)
    reap(driver)


if __name__ == "__main__":
    main(int(sys.argv[1]))
