"""Did-you-mean: what somebody may have meant by a word that is none of the known ones."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``Did you mean X?``, or without a near one *otherwise* and all of *known*.

    An empty *otherwise* returns an empty string instead of the list.
    """
    from difflib import get_close_matches  # costs several ms: only wrong input pays

    names = list(known)
    near = get_close_matches(word[:60], names, 1)
    if near:
        return f"Did you mean {near[0]}?"
    return otherwise + ", ".join(names) + "." if otherwise else ""
