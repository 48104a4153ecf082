"""Did-you-mean: what somebody may have meant by a word that is none of the known ones."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping, Optional


# What other tools call it.
COMMANDS = {
    "add": "enqueue", "submit": "enqueue", "push": "enqueue", "exec": "run", "ls": "list", "ps": "list", "jobs": "list",
    "top": "status", "watch": "status", "requeue": "retry", "priority": "edit",
    "log": "logs", "tail": "logs -f", "follow": "logs -f", "output": "logs", "info": "show", "why": "explain",
    "kill": "cancel", "rm": "cancel", "remove": "cancel", "restart": "retry", "rerun": "retry", "delete": "prune",
    "clean": "prune", "clear": "reset", "workers": "worker list", "daemon": "worker start --daemon",
    "queues": "queue list", "dead": "dlq list", "settings": "config list", "backup": "copy", "version": "--version",
}  # fmt: skip
# The same for the word after a noun (``queue stop``); of several, the first that is a command of that noun is meant.
VERBS = {
    "ls": ("list",), "ps": ("list",), "show": ("list",), "status": ("list",), "run": ("start",), "launch": ("start",),
    "start": ("resume", "install"), "stop": ("pause", "uninstall"), "kill": ("stop",), "hold": ("pause",),
    "unpause": ("resume",), "release": ("resume",), "restart": ("retry",), "requeue": ("retry",), "rerun": ("retry",),
    "add": ("set",), "enable": ("install",), "disable": ("uninstall",), "rm": ("purge", "unset", "uninstall"),
    "remove": ("purge", "unset", "uninstall"), "delete": ("purge", "unset", "uninstall"), "clear": ("purge", "unset"),
    "clean": ("purge",), "prune": ("purge",), "reset": ("unset",),
}  # fmt: skip
STATES = {
    "queued": "pending", "waiting": "pending", "ready": "pending", "running": "processing", "active": "processing",
    "retrying": "failed", "done": "completed", "success": "completed", "succeeded": "completed",
    "killed": "cancelled", "canceled": "cancelled", "dlq": "dead",
}  # fmt: skip
# The same for options: of several, the first that the command has is meant.
OPTIONS = {
    "--cmd": ("--command",), "--shell": ("--command",), "--name": ("--id",), "--retries": ("--max-retries",),
    "--tries": ("--max-retries",), "--attempts": ("--max-retries",), "--max-attempts": ("--max-retries",),
    "--dir": ("--cwd",), "--workdir": ("--cwd",), "--chdir": ("--cwd",), "-C": ("--cwd",), "-e": ("--env",),
    "--environment": ("--env",), "--when": ("--at",), "--label": ("--tag",),
    "--workers": ("--count",), "--jobs": ("--count",), "--procs": ("--count",), "--parallel": ("--count",),
    "-j": ("--count",), "-P": ("--count",), "--background": ("--daemon",), "--detach": ("--daemon",),
    "-d": ("--daemon",), "--once": ("--drain",), "--burst": ("--drain",), "--force": ("--yes", "--now"),
    "-V": ("--version",), "-n": ("--limit", "--count", "--tail"), "--order": ("--sort",), "--order-by": ("--sort",),
    "--format": ("--json",), "--output": ("--json",), "-o": ("--json",),
    "--watch": ("--follow",), "-a": ("--after", "--all"),
}  # fmt: skip

# From how alike two words are on (1: the same) one is taken for the other. A wrong guess is worse than none.
LIKENESS = 0.65


def did_you_mean(
    word: str, known: Iterable[str], otherwise: str = "", elsewhere: Optional[Mapping[str, str]] = None
) -> str:
    """Return ``Did you mean X?``, or without a near one *otherwise* and all of *known*.

    Args:
        word: What was typed.
        known: What might have been.
        otherwise: What comes before all of *known*; empty: an empty string is returned instead of the list.
        elsewhere: What is meant by words that other tools have for it.
    """
    if elsewhere and word in elsewhere:
        return f"Did you mean {elsewhere[word]}?"
    from difflib import get_close_matches  # costs several ms: only wrong input pays

    names = list(known)
    # Hyphens in front, which all options have, make none of them like another.
    bare = {name.lstrip("-"): name for name in (*(elsewhere or ()), *names)}
    start = word.lstrip("-")[:60]
    near = get_close_matches(start, bare, 1, LIKENESS)
    if not near and len(start) > 1:  # the start of one name alone
        begun = [name for name in names if name.lstrip("-").startswith(start)]
        near = [begun[0].lstrip("-")] if len(begun) == 1 else []
    if near:
        name = bare[near[0]]
        return f"Did you mean {name if name in names else (elsewhere or {})[name]}?"
    return otherwise + ", ".join(names) + "." if otherwise else ""
