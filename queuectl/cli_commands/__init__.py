"""The commands: a small table that names each, and the modules that hold them.

The table is all that the root's help, a did-you-mean and the search for a command's words
need. A command's own module is imported when that command runs, and no other: one
``queuectl enqueue`` must not pay for thirty commands.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

    from queuectl.cli_commands.spec import Command


class Entry:
    """A word that may stand after ``queuectl``: where its code lives and what it is for."""

    __slots__ = ("group", "module", "name", "subcommands", "summary")

    def __init__(self, name: str, module: str, group: str, summary: str, subcommands: Tuple[str, ...] = ()) -> None:
        self.name = name
        self.module = module  # below queuectl.cli_commands
        self.group = group  # heading in the root's help; empty: hidden
        self.summary = summary
        self.subcommands = subcommands  # empty: the word is a command itself


TABLE: Dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("enqueue", "enqueue", "Jobs", "Add a job, or a file of jobs"),
        Entry("run", "follow", "Jobs", "Add a job, show its output, exit with its status"),
        Entry("list", "jobs", "Jobs", "List jobs, oldest first"),
        Entry("show", "jobs", "Jobs", "Show everything about a job"),
        Entry("logs", "follow", "Jobs", "Print a run's output, byte for byte"),
        Entry("explain", "jobs", "Jobs", "Explain why a job is in its state, and what comes next"),
        Entry("wait", "waiting", "Jobs", "Wait for jobs to end"),
        Entry("cancel", "moves", "Jobs", "Cancel waiting or running jobs"),
        Entry("retry", "moves", "Jobs", "Run jobs again"),
        Entry("edit", "moves", "Jobs", "Change a waiting job"),
        Entry("dlq", "dlq", "Jobs", "Manage the dead letter queue: jobs that kept failing", ("list", "retry", "purge")),
        Entry("worker", "workers", "Workers", "Manage workers, the processes that run jobs", ("start", "stop", "list")),
        Entry(
            "service", "service", "Workers", "Have the system run workers", ("install", "uninstall", "status", "show")
        ),
        Entry("status", "status", "Workers", "Show job counts, workers and rates"),
        Entry("metrics", "metrics", "Workers", "Print figures for Prometheus, or serve them"),
        Entry("queue", "queues", "Queues", "Pause and limit queues", ("list", "pause", "resume", "limit")),
        Entry("config", "settings", "Store", "Read and change settings", ("set", "get", "list", "unset")),
        Entry("copy", "copy", "Store", "Copy the whole store to another file or database"),
        Entry("prune", "cleanup", "Store", "Delete jobs that have ended"),
        Entry("reset", "cleanup", "Store", "Stop all workers and delete everything"),
        Entry("doctor", "doctor", "Store", "Check the store and the workers for problems"),
        Entry("demo", "demo", "More", "Watch a queue at work, in a temporary store"),
        Entry("completion", "completion", "More", "Print a shell completion script"),
        Entry("help", "help", "More", "Show help for a command"),
        Entry("__complete", "completion", "", "Print what may follow on a command line"),
    )
}

# Options in front of a command are read before that command's own table is known, so which
# options take a value is said here too; a test holds these sets against the tables. An option
# means the same with every command: a value, or none.
FLAGS = frozenset((
    "--all", "--all-hosts", "--daemon", "--drain", "--follow", "--help", "--json", "--lines", "--no-color",
    "--no-start", "--now", "--quiet", "--stop", "--system", "--table", "--verbose", "--version", "--yes",
))  # fmt: skip
SHORT = frozenset("fhqvy")  # the letters of flags
VALUED = frozenset((
    "--after", "--at", "--backoff-base", "--command", "--concurrency", "--count", "--cwd", "--db", "--delay", "--env",
    "--file", "--host", "--id", "--limit", "--listen", "--max-retries", "--older-than", "--priority", "--queue",
    "--run", "--sort", "--state", "--tag", "--tail", "--timeout", "--to",
))  # fmt: skip


def commands_of(word: str) -> Dict[str, Command]:
    """Return the commands that begin with *word*, by full name: ``{"dlq list": ..., "dlq retry": ...}``."""
    name = "queuectl.cli_commands." + TABLE[word].module
    __import__(name)  # as importlib does, whose own import takes as long as all of these tables
    found: Tuple[Command, ...] = sys.modules[name].COMMANDS
    return {command.name: command for command in found if command.name.partition(" ")[0] == word}


def all_commands(hidden: bool = False) -> List[Command]:
    """Return every command in the order of the root's help: for completion and the reference."""
    return [command for word, entry in TABLE.items() if entry.group or hidden for command in commands_of(word).values()]
