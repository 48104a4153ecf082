"""What a command line is made of: options, positionals, commands. Data only.

The parser reads these tables, and so do the help, the completion and the reference in
the docs: what is said here is said once.
"""

from __future__ import annotations

from queuectl.clock import DURATION_HELP, parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence, Tuple


class Kind:
    """What an option's value must look like: *convert* raises ValueError for anything else."""

    __slots__ = ("convert", "wanted")

    def __init__(self, convert: Callable[[str], Any], wanted: str) -> None:
        self.convert = convert
        self.wanted = wanted


class Option:
    """An option; without *metavar* a flag.

    Args:
        names: Its names, the long one last: ``"-f --follow"``.
        help: One line for people.
        metavar: What the value is called; empty: a flag, which counts how often it is given.
        kind: How the value's text is read; None: it stays text.
        repeat: Whether it may be given several times; its value is then a list.
        default: What it is when it is not given.
        complete: What a completion offers: ``states``, ``queues``, ``tags``, ``jobs``, ``files`` ...
        once: Whether a second one is refused; without it, and without *repeat*, the last one holds.
    """

    __slots__ = ("complete", "default", "dest", "help", "kind", "metavar", "names", "once", "repeat")

    def __init__(
        self,
        names: str,
        help: str,
        metavar: str = "",
        kind: Optional[Kind] = None,
        repeat: bool = False,
        default: Any = None,
        complete: str = "",
        once: bool = False,
    ) -> None:
        self.once = once
        self.names: Tuple[str, ...] = tuple(names.split())
        self.help = help
        self.metavar = metavar
        self.kind = kind
        self.repeat = repeat
        self.default = default
        self.complete = complete
        self.dest = self.names[-1][2:].replace("-", "_")

    @property
    def long(self) -> str:
        """The name that messages use."""
        return self.names[-1]


class Positional:
    """An argument that is known by its place; *most* None: any number (only the last may have that)."""

    __slots__ = ("complete", "dest", "help", "least", "metavar", "most")

    def __init__(
        self, dest: str, metavar: str, help: str, least: int = 1, most: Optional[int] = 1, complete: str = ""
    ) -> None:
        self.dest = dest
        self.metavar = metavar
        self.help = help
        self.least = least
        self.most = most
        self.complete = complete


class Command:
    """A command: its words, its arguments, what runs it, and what its help says.

    Args:
        name: Its words: ``"enqueue"``, ``"dlq list"``.
        run: What is called with the parsed line; returns the exit code.
        summary: One line; for a command of one word the table in ``cli_commands`` has it.
        positionals, options: Its own arguments; the global options come by themselves.
        words: What words after ``--`` are (``"CMD ARG ..."``), if they are a command of their own.
        examples: (command line, what it does), the most useful first.
        details: Further lines for the help.
        exit_codes: (code, meaning) where they are more than 0, 1 and 2.
        usage: The usage line after the name, where the generated one says too little.
    """

    __slots__ = (
        "_summary", "details", "examples", "exit_codes", "name", "options", "positionals", "run", "usage", "words",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        run: Callable[[Args], int],
        summary: str = "",
        positionals: Sequence[Positional] = (),
        options: Sequence[Option] = (),
        words: str = "",
        examples: Sequence[Tuple[str, str]] = (),
        details: str = "",
        exit_codes: Sequence[Tuple[int, str]] = (),
        usage: str = "",
    ) -> None:
        self.name = name
        self.run = run
        self._summary = summary
        self.positionals = positionals
        self.options = options
        self.words = words
        self.examples = examples
        self.details = details
        self.exit_codes = exit_codes
        self.usage = usage

    @property
    def summary(self) -> str:
        """What the command is for, in one line without a full stop."""
        if self._summary:
            return self._summary
        from queuectl.cli_commands import TABLE

        return TABLE[self.name].summary


class Args:
    """A parsed command line: an attribute for each option and positional of its command."""

    db: Optional[str]
    json: int
    no_color: int
    quiet: int
    verbose: int
    words: Optional[List[str]]  # what stood after "--", where that is a command of its own

    @property
    def may_make_store(self) -> bool:
        """Whether a command that only reads or changes jobs may make the store if there is none.

        It may make the usual store, but not one that was named: a mistyped path would look like an empty queue.
        """
        return not self.db

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def _given(text: str) -> str:
    """Return *text* as it is, unless it is empty: a shell's empty variable does not mean the default store."""
    if not text:
        raise ValueError(text)
    return text


GLOBAL_OPTIONS = (
    Option("--db", "the store: a path, or postgresql://... (also QUEUECTL_DB; default: ~/.queuectl/jobs.db)",
           "PATH|URL", Kind(_given, "a path or a URL"), complete="files"),
    Option("--json", "print one JSON document"),
    Option("--no-color", "no colours (also NO_COLOR)"),
    Option("-q --quiet", "print only the result, such as an id or a value"),
    Option("-v --verbose", "explain decisions on standard error"),
    Option("--version", "print the version"),
    Option("-h --help", "show help"),
)  # fmt: skip


def whole_from(least: int) -> Kind:
    """Return the kind of whole numbers from *least* to 2**31-1."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) < 2**31):
            raise ValueError(text)
        return int(text)

    return Kind(convert, f"a whole number from {least} to {2**31 - 1}")


def _state(text: str) -> str:
    from queuectl.cli_commands import suggest
    from queuectl.errors import UsageError
    from queuectl.job import STATES

    name = text.lower()
    if name not in STATES:
        several = name.split(",")
        if len(several) > 1 and all(each in STATES for each in several):
            options = " ".join(f"--state {each}" for each in dict.fromkeys(several))
            raise UsageError(f"option --state takes one state, not {text[:60]!r}. Give it once for each: {options}.")
        hint = suggest.did_you_mean(name, STATES, "The states are ", suggest.STATES)
        raise UsageError(f"unknown state {text[:40]!r}. {hint}")
    return name


def _name_of(what: str) -> Kind:
    """Return the kind of names by which jobs are chosen; what can be no name is a slip, such as an empty variable."""

    def convert(text: str) -> str:
        from queuectl.errors import UsageError
        from queuectl.jobspec import NAME_RULE, is_name

        if not is_name(text):
            raise UsageError(f"{what} must be {NAME_RULE}, not {text[:40]!r}.")
        return text

    return Kind(convert, "a name")


DURATION = Kind(parse_duration, DURATION_HELP)
STATE = Kind(_state, "a state")

JOB = Positional("id", "ID", "the job's id", complete="jobs")

STATE_OPTION = Option("--state", "only jobs in this state", "S", STATE, repeat=True, complete="states")
QUEUE_OPTION = Option(
    "--queue", "only jobs in this queue", "Q", _name_of("a queue's name"), repeat=True, complete="queues"
)
TAG_OPTION = Option("--tag", "only jobs with this tag", "T", _name_of("a tag"), repeat=True)
YES_OPTION = Option("-y --yes", "do not ask for confirmation")
TABLE_OPTION = Option("--table", "print a table even if standard output is not a terminal")
