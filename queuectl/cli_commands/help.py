"""Help texts, made from the tables: the root's, a noun's, a command's; and the ``help`` command."""

from __future__ import annotations

import sys

from queuectl.cli_commands import TABLE, commands_of
from queuectl.cli_commands.parser import unknown_command, usage
from queuectl.cli_commands.spec import GLOBAL_OPTIONS, Command, Positional
from queuectl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence, Tuple

    from queuectl.cli_commands.spec import Args, Option

EXIT_CODES = ((0, "done"), (1, "failed: not found, wrong state, invalid job, store unreachable ..."),
              (2, "wrong usage"), (130, "interrupted"))  # fmt: skip

ROOT_HEAD = """\
Usage: queuectl [OPTIONS] COMMAND ...

A durable job queue for shell commands.

Get started:
  queuectl enqueue '{"command":"echo hello"}'   add a job
  queuectl worker start                         run jobs until Ctrl-C
  queuectl status                               see how they are doing
"""

ENVIRONMENT = (
    ("QUEUECTL_HOME", "the directory of the store, pids and logs (default: ~/.queuectl)"),
    ("QUEUECTL_DB", "the store, if --db does not name one"),
    ("NO_COLOR", "no colours, if set"),
)
ROOT_TAIL = """\
'queuectl help COMMAND' shows details and examples. Options may come before or after the command.
"""


def root_text() -> str:
    """Return what ``queuectl --help`` prints; needs no command's module."""
    lines = [ROOT_HEAD]
    group = ""
    for entry in TABLE.values():
        if not entry.group:
            continue
        if entry.group != group:
            if group:
                lines.append("")
            group = entry.group
            lines.append(group + ":")
        lines.append(f"  {entry.name:<11} {entry.summary}")
        if entry.subcommands:
            lines.append(f"  {'':<11} ({', '.join(entry.subcommands)})")
    lines += ["", "Options:", *_option_lines(GLOBAL_OPTIONS), "", "Environment:", *_pairs(ENVIRONMENT)]
    lines += ["", *_exit_lines(()), "", *_prose(ROOT_TAIL)]
    return "\n".join(lines).rstrip()


def noun_text(noun: str) -> str:
    """Return the help of a word that needs another: its commands."""
    entry = TABLE[noun]
    lines = [f"Usage: queuectl {noun} {'|'.join(entry.subcommands)} ...", "", entry.summary + ".", "", "Commands:"]
    lines += _pairs([(name, command.summary) for name, command in commands_of(noun).items()])
    lines += ["", f"'queuectl help {noun} COMMAND' shows details and examples."]
    return "\n".join(lines)


def command_text(command: Command) -> str:
    """Return the help of one command: usage, summary, examples, arguments, options, exit codes."""
    lines = [f"Usage: {usage(command)}", "", command.summary + "."]
    if command.details:
        lines += ["", *_prose(command.details)]
    if command.examples:
        lines += ["", "Examples:"]
        for example, meaning in command.examples:
            lines += [f"  # {meaning}", f"  {example}"] if meaning else [f"  {example}"]
    if command.positionals:
        lines += ["", "Arguments:", *_pairs([(place.metavar, place.help) for place in command.positionals])]
    if command.options:
        lines += ["", "Options:", *_option_lines(command.options)]
    lines += ["", "Global options:", *_option_lines(GLOBAL_OPTIONS)]
    if command.exit_codes:
        lines += ["", *_exit_lines(command.exit_codes)]
    return "\n".join(lines)


def option_label(option: Option) -> str:
    """Return how an option is written: ``-q, --quiet``, ``--queue Q``."""
    label = ", ".join(option.names)
    return f"{label} {option.metavar}" if option.metavar else label


def _option_lines(options: Sequence[Option]) -> List[str]:
    return _pairs([(option_label(option), option.help + " (repeatable)" * option.repeat) for option in options])


def _pairs(pairs: Sequence[Tuple[str, str]]) -> List[str]:
    column = min(max(len(left) for left, _ in pairs), 24)
    lines = []
    for left, right in pairs:
        first, *more = _wrapped(right, column + 4)
        lines += [f"  {left:<{column}}  {first}", *(" " * (column + 4) + line for line in more)]
    return lines


def _prose(text: str) -> List[str]:
    """Return *text* as it is written, or wrapped where the terminal is too narrow for that."""
    lines = text.split("\n")
    return lines if all(len(_wrapped(line, 0)) == 1 for line in lines) else _wrapped(" ".join(lines), 0)


def _wrapped(text: str, before: int) -> List[str]:
    """Return the lines that *text* takes on the terminal, right of so many columns; elsewhere it is one."""
    try:
        if not sys.stdout.isatty():
            return [text]
    except (AttributeError, ValueError):
        return [text]
    from queuectl.render import terminal_width

    room = max(terminal_width() - before, 20)
    if len(text) <= room:
        return [text]
    import textwrap

    return textwrap.wrap(text, room, break_on_hyphens=False)


def _exit_lines(special: Sequence[Tuple[int, str]]) -> List[str]:
    codes = dict(EXIT_CODES)
    codes.update(special)
    return ["Exit codes:", *_pairs([(str(code), meaning) for code, meaning in sorted(codes.items())])]


def print_root() -> int:
    """Print the root's help."""
    print(root_text())
    return 0


def print_noun(noun: str) -> int:
    """Print the help of *noun*."""
    print(noun_text(noun))
    return 0


def print_command(command: Command) -> int:
    """Print the help of *command*."""
    print(command_text(command))
    return 0


def show_help(args: Args) -> int:
    """``help [COMMAND [VERB]]``."""
    if not args.topic:
        return print_root()
    word = args.topic[0]
    entry = TABLE.get(word)
    if entry is None or not entry.group:
        raise unknown_command(word)
    if len(args.topic) > (2 if entry.subcommands else 1):
        known = " ".join(args.topic[:2] if entry.subcommands else args.topic[:1])
        raise UsageError(f"unexpected argument {args.topic[-1][:40]!r}. Did you mean queuectl help {known}?")
    if entry.subcommands and len(args.topic) == 1:
        return print_noun(word)
    if entry.subcommands:
        if args.topic[1] not in entry.subcommands:
            raise unknown_command(args.topic[1], word)
        word += " " + args.topic[1]
    return print_command(commands_of(entry.name)[word])


COMMANDS = (
    Command(
        "help",
        show_help,
        positionals=[Positional("topic", "COMMAND", "the command, such as enqueue or dlq list", 0, None, "commands")],
        examples=[("queuectl help enqueue", ""), ("queuectl help dlq list", "")],
    ),
)
