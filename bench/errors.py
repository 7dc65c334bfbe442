"""Errors that a user can mend: the command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A name, key or value that doesn't fit; the message names it, the nearest valid one and where it stands."""


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UsageError:
    """The error for a name that isn't there, with the nearest names that are."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names) or 'none'}"
    return UsageError(f"{where + ': ' if where else ''}unknown {kind} {name!r}{hint}")
