"""One small parser for all commands, over the tables in ``spec``.

Not argparse: that alone costs as much start-up as the rest of an enqueue. The rules: options stand
before, between or after a command's words and arguments; ``--name value`` or ``--name=value``; short
ones are flags and may be joined (``-qv``); hyphens and underscores in names are the same; no
abbreviations; after ``--`` nothing is an option; ``-5`` is a number, ``-`` is a word.
"""

from __future__ import annotations

from queuectl.cli_commands import FLAGS, SHORT, TABLE, VALUED
from queuectl.cli_commands.spec import GLOBAL_OPTIONS, Args
from queuectl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Tuple

    from queuectl.cli_commands.spec import Command, Option, Positional

AFTER_DASHES = "Put a command's words after --: queuectl {} -- ..."


def is_option(token: str) -> bool:
    """Say whether *token* is written as an option."""
    return len(token) > 1 and token[0] == "-" and not (token[1].isdigit() or token[1] == ".")


def long_name(token: str) -> str:
    """Return the canonical name of the long option that *token* gives: no value, hyphens only."""
    return token.partition("=")[0].replace("_", "-")


def locate(argv: Sequence[str]) -> List[int]:
    """Return the indexes of the command's words in *argv*: none, one, or two for a noun and its verb.

    Raises:
        UsageError: An option in front of the command is unknown.
    """
    found: List[int] = []
    at = 0
    while at < len(argv) and argv[at] != "--":
        token = argv[at]
        if not is_option(token):
            found.append(at)
            entry = TABLE.get(argv[found[0]])
            if len(found) == 2 or entry is None or not entry.subcommands:
                break
        elif token.startswith("--"):
            name = long_name(token)
            if name in VALUED:
                at += "=" not in token  # its value is the next word
            elif name not in FLAGS:
                raise _unknown_option(token, sorted(FLAGS | VALUED), "queuectl")
        elif not SHORT.issuperset(token[1:]):  # what follows it, perhaps as its value, is not the command
            raise _unknown_option(token, sorted(FLAGS | VALUED), "queuectl")
        at += 1
    return found


def parse(command: Command, tokens: Sequence[str]) -> Args:
    """Return what *tokens*, the line without the command's own words, say to *command*.

    Raises:
        UsageError: They do not fit the command's tables; the message says how.
    """
    options = {name: option for option in (*GLOBAL_OPTIONS, *command.options) for name in option.names}
    values: Dict[str, Any] = {}
    for option in options.values():
        values[option.dest] = [] if option.repeat else option.default if option.metavar else 0
    values["words"] = None
    plain: List[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token == "--":
            if command.words:
                values["words"] = list(tokens[at:])
            else:
                plain.extend(tokens[at:])
            break
        if not is_option(token):
            plain.append(token)
        elif token.startswith("--"):
            at += _long(command, options, values, token, tokens, at, plain)
        else:
            _short(command, options, values, token, plain)
    if not (values["help"] or values["version"]):
        _place(command, plain, values)
    args = Args()
    args.__dict__.update(values)
    return args


def _long(
    command: Command,
    options: Dict[str, Option],
    values: Dict[str, Any],
    token: str,
    tokens: Sequence[str],
    at: int,
    plain: Sequence[str],
) -> int:
    """Take the option *token*; return how many of the words from *at* on were its value."""
    name = long_name(token)
    option = options.get(name)
    if option is None:
        known = [each for each in options if each.startswith("--")]
        raise _unknown_option(token, known, command.name, _words_hint(command, plain))
    inline = "=" in token
    if not option.metavar:
        if inline:
            raise UsageError(f"option {name} takes no value.")
        values[option.dest] += 1
        return 0
    if inline:
        text = token.partition("=")[2]
    elif at < len(tokens) and not tokens[at].startswith("--") and tokens[at] not in options:
        text = tokens[at]
    else:
        raise UsageError(f"option {name} needs a value: {name} {option.metavar}.")
    value = _converted(option, text)
    if option.once and values[option.dest] is not option.default:
        told = f"option {name} takes one {option.metavar}, but was given twice. Run the command once for each."
        raise UsageError(told)
    if option.repeat:
        values[option.dest].append(value)
    else:
        values[option.dest] = value
    return 0 if inline else 1


def _short(
    command: Command, options: Dict[str, Option], values: Dict[str, Any], token: str, plain: Sequence[str]
) -> None:
    for letter in token[1:]:
        option = options.get("-" + letter)
        if option is None:
            raise _unknown_option(token, list(options), command.name, _words_hint(command, plain))
        values[option.dest] += 1


def _converted(option: Option, text: str) -> Any:
    if option.kind is None:
        return text
    try:
        return option.kind.convert(text)
    except (ValueError, OverflowError):
        raise UsageError(f"option {option.long} must be {option.kind.wanted}, not {_cut(text)!r}.") from None


def _cut(word: str) -> str:
    """Return *word* as a message repeats it: not all of it if it is long."""
    return word if len(word) <= 40 else word[:40] + "..."


def _place(command: Command, plain: List[str], values: Dict[str, Any]) -> None:
    """Give the words that are no options to the positionals, in order."""
    left = plain
    for positional in command.positionals:
        taken = left if positional.most is None else left[: positional.most]
        if len(taken) < positional.least:
            how = usage(command)
            if command.name == "config set" and plain and "=" in plain[0]:  # as git takes it
                how = "queuectl config set " + " ".join(plain[0][:40].split("=", 1))
            raise UsageError(f"{command.name} needs {positional.metavar}: {how}")
        left = left[len(taken) :]
        values[positional.dest] = taken if positional.most is None else taken[0] if taken else None
    if left:
        wants = " ".join(_metavar(positional) for positional in command.positionals) or "no arguments"
        hint = f" {AFTER_DASHES.format(command.name)}" if command.words else ""
        shown = _cut(left[0])
        if any(option.long == "--state" for option in command.options):
            meant = _state_meant(left[0])
            hint = f" {meant}" if meant else hint
        if left[0].isdigit() and any(option.long == "--count" for option in command.options):
            hint = f" Did you mean --count {shown}?"
        if command.name == "copy":
            hint = " The target stands after --to: queuectl copy --to PATH|URL"
        raise UsageError(f"unexpected argument {shown!r}: {command.name} takes {wants}.{hint}")


def usage(command: Command) -> str:
    """Return the command's usage line, without ``Usage:``."""
    if command.usage:
        return f"queuectl {command.name} {command.usage}"
    parts = ["queuectl", command.name]
    if command.options:
        parts.append("[OPTIONS]")
    parts.extend(_metavar(positional) for positional in command.positionals)
    if command.words:
        parts.append("-- " + command.words)
    return " ".join(parts)


def _metavar(positional: Positional) -> str:
    text = positional.metavar if positional.most is not None else positional.metavar + " ..."
    return text if positional.least else f"[{text}]"


def _words_hint(command: Command, plain: Sequence[str]) -> str:
    """Return what to do if *plain* begins a command that lacks its ``--``: its options are not ours, misspelt."""
    begun = command.words and plain and not plain[0].lstrip().startswith(("{", "["))
    return AFTER_DASHES.format(command.name) if begun else ""


def _unknown_option(token: str, known: Sequence[str], where: str, hint: str = "") -> UsageError:
    from queuectl.cli_commands.suggest import OPTIONS, did_you_mean

    name = _cut(token.partition("=")[0])
    elsewhere = {word: option for word, meant in OPTIONS.items() for option in meant[::-1] if option in known}
    hint = hint or _way_instead(where, name, known) or did_you_mean(name.replace("_", "-"), known, "", elsewhere)
    topic = "" if where == "queuectl" else " " + where
    if where == "edit" and not hint:
        from queuectl.jobspec import FIELDS

        field = name.lstrip("-").replace("-", "_")
        if field in FIELDS:
            hint = f"edit takes FIELD=VALUE: queuectl edit job1 {field}=VALUE."
    return UsageError(f"unknown option {name}. {hint or f'See the options: queuectl help{topic}'}")


def _way_instead(where: str, name: str, known: Sequence[str]) -> str:
    """Return how what the option *name* means elsewhere is done here; empty: no way is known."""
    if where == "wait" and name == "--state":
        return "All that have not ended are chosen by --all, --queue Q or --tag T."
    if where == "dlq retry" and name in ("--queue", "--tag"):
        return f"To retry some of the dead jobs: queuectl retry --state dead {name} {name[2].upper()}"
    if "--after" in known and name in ("--depends-on", "--depends", "--dependency"):
        return "Did you mean --after ID? The job then waits until that one has completed."
    return _state_meant(name[2:]) if "--state" in known else ""


def _state_meant(word: str) -> str:
    """Return the option that a *word* stands for which names a state, here or elsewhere; empty: it names none."""
    from queuectl.cli_commands.suggest import STATES as ELSEWHERE
    from queuectl.job import STATES

    state = ELSEWHERE.get(word.lower(), word.lower())
    return f"Did you mean --state {state}?" if state in STATES else ""


def unknown_command(word: str, noun: str = "") -> UsageError:
    """Return the error for a *word* that is no command (of *noun*), with the one that was perhaps meant."""
    from queuectl.cli_commands.suggest import COMMANDS, VERBS, did_you_mean

    shown = _cut(word)
    if noun:
        verbs_here = TABLE[noun].subcommands
        elsewhere = {name: verb for name, meant in VERBS.items() for verb in meant[::-1] if verb in verbs_here}
        if word in VERBS and word not in elsewhere:
            elsewhere = {}  # no slip of the fingers, but something that this noun has no word for
        hint = did_you_mean(word, verbs_here, "There are ", elsewhere)
        return UsageError(f"unknown command {noun} {shown!r}. {hint}")
    verbs = {verb: f"{name} {verb}" for name, entry in TABLE.items() for verb in entry.subcommands}
    hint = did_you_mean(word, [name for name, entry in TABLE.items() if entry.group], "", {**verbs, **COMMANDS})
    return UsageError(f"unknown command {shown!r}. {hint or 'See them all: queuectl help'}")


def split(argv: Sequence[str], found: Sequence[int]) -> Tuple[str, List[str]]:
    """Return the command's name (of a noun that stands alone: the noun), and *argv* without its words.

    Raises:
        UsageError: There is no such command.
    """
    word = argv[found[0]]
    entry = TABLE.get(word)
    if entry is None:
        raise unknown_command(word)
    rest = [token for at, token in enumerate(argv) if at not in found]
    if len(found) < 2:
        return word, rest
    verb = argv[found[1]]
    if verb not in entry.subcommands:
        raise unknown_command(verb, word)
    return f"{word} {verb}", rest
