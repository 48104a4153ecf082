"""Asking before something is deleted."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from queuectl.cli_commands.spec import Args


def declined(what: str, args: Args) -> int:
    """Say that *what* was not done, and return the exit code."""
    print(f"{what} cancelled.", file=sys.stderr if args.json or args.quiet else sys.stdout)
    return 1


def confirmed(question: str, args: Args) -> bool:
    """Ask *question* unless ``--yes`` was given; say whether the answer is yes.

    The answer is a line of standard input, terminal or not, so ``echo y | queuectl reset`` works; the end
    of input means no.
    """
    if args.yes:
        return True
    # With --json or -q standard output is for the answer to the command alone.
    stream = sys.stderr if args.json or args.quiet else sys.stdout
    stream.write(question + " (y/N): ")
    stream.flush()
    try:
        answer = sys.stdin.readline() if sys.stdin is not None else ""
    except UnicodeDecodeError:
        answer = "?"  # bytes that are no text say neither
    if not answer or sys.stdin is None or not sys.stdin.isatty():
        stream.write("\n")  # nobody pressed Enter on this screen
        stream.flush()
    return answer.strip().lower() in ("y", "yes")
