"""``demo``: a queue's whole life in a scratch store, told with the commands as a user types them.

Jobs are added, three workers run them, one job fails, is retried with growing delays, lands in the
DLQ, and is brought back from there once its cause is gone. Nothing outside the scratch directory is
touched, whatever store the user has.
"""

from __future__ import annotations

import os
import subprocess

from queuectl.cli_commands.spec import Command
from queuectl.errors import QueuectlError
from queuectl.render import paint, wants_colour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

    from queuectl.cli_commands.spec import Args

# The delays before the retries are 1.3, 1.7 and 2.2 s: they grow visibly, and nobody waits for minutes.
BACKOFF_BASE = "1.3"
NO_READER = 141  # what a command exits with when nobody reads its output any more
RESULT = "All figures are fine."


class Stage:
    """The scratch directory, and the commands that are run in it."""

    def __init__(self, folder: str, colour: bool) -> None:
        from queuectl.launch import environment, python_command

        self.folder = folder
        self.colour = colour
        self._program = python_command()
        self._environment: Dict[str, str] = environment(None)
        self._environment.pop("QUEUECTL_DB", None)
        self._environment["QUEUECTL_HOME"] = os.path.join(folder, "home")
        if not colour:
            self._environment["NO_COLOR"] = "1"  # --no-color is for the commands too

    def tell(self, text: str) -> None:
        """Say what comes next."""
        print("\n" + paint("# " + text, "completed", self.colour), flush=True)

    def _type(self, line: str) -> None:
        print("$ " + line, flush=True)

    def do(self, line: str, words: List[str], code: int = 0, quiet: bool = False) -> None:
        """Run ``queuectl`` with *words*, which a user types as *line*, and insist on its exit code."""
        if not quiet:
            self._type(line)
        done = subprocess.run(
            [*self._program, *words],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            check=False,
        )
        if done.returncode == NO_READER and not quiet:
            raise BrokenPipeError  # such as 'head', which has seen enough
        if done.returncode != code and not quiet:
            raise QueuectlError(f"the demo went wrong: '{line}' ended with exit code {done.returncode}, not {code}.")

    def start_workers(self, line: str, words: List[str]) -> subprocess.Popen[bytes]:
        """Start workers that go on while other commands run; their lines appear between those of the commands."""
        self._type(line + " &")
        return subprocess.Popen(
            [*self._program, *words], cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL
        )

    def write(self, name: str, text: str) -> None:
        """Make a file, which a user does with ``echo``."""
        self._type(f"echo '{text}' > {name}")
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text + "\n")


def commands() -> Tuple[str, str]:
    """Return a command that takes a second, and one that fails until ``report.txt`` exists."""
    if os.name == "nt":
        return "ping -n 2 127.0.0.1 >nul & echo slept a second", "type report.txt"
    return "sleep 1; echo slept a second", "cat report.txt"


def demo(args: Args) -> int:
    """``demo``."""
    import shutil
    import signal
    import tempfile

    for name in ("SIGTERM", "SIGHUP"):  # otherwise the workers, and the folder, would be left for ever
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="queuectl-demo-")
    workers = None
    stage = Stage(folder, wants_colour(args.no_color))
    try:
        print(f"This demo uses a temporary queue in {folder}, and removes it at the end.", flush=True)
        _enqueue(stage)
        stage.tell("Three workers run the jobs in parallel. The last job fails: its file is missing.")
        workers = stage.start_workers("queuectl worker start --count 3", ["worker", "start", "--count", "3"])
        _fail(stage)
        _repair(stage)
        stage.tell("Stop the workers: each finishes its job and exits.")
        stage.do("queuectl worker stop", ["worker", "stop"])
        workers.wait()
        stage.tell("That's all. Next, try 'queuectl enqueue' and 'queuectl worker start' yourself.")
    finally:
        if workers is not None and workers.poll() is None:
            stage.do("", ["worker", "stop", "--now", "--timeout", "15"], quiet=True)
            workers.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _enqueue(stage: Stage) -> None:
    slow, failing = commands()
    stage.tell("Jobs are shell commands. Each is safely on disk before 'enqueue' returns.")
    stage.do(f"queuectl config set backoff_base {BACKOFF_BASE}", ["config", "set", "backoff_base", BACKOFF_BASE])
    stage.do("""queuectl enqueue '{"command":"echo hello"}'""", ["enqueue", '{"command":"echo hello"}'])
    stage.do(f"queuectl enqueue --command '{slow}'", ["enqueue", "--command", slow])
    stage.do("queuectl enqueue --priority 5 -- echo urgent", ["enqueue", "--priority", "5", "--", "echo", "urgent"])
    stage.do(
        f"queuectl enqueue --max-retries 3 -- {failing}", ["enqueue", "--max-retries", "3", "--", *failing.split()]
    )
    stage.do("queuectl list", ["list", "--table"])


def _fail(stage: Stage) -> None:
    stage.do("queuectl wait job1 job2 job3", ["wait", "job1", "job2", "job3"])
    stage.tell("job4 is retried with growing delays, until its three retries are used up.")
    stage.do("queuectl wait job4", ["wait", "job4"], code=1)
    stage.tell("Now it is in the dead letter queue (DLQ), with its history and output.")
    stage.do("queuectl status", ["status"])
    stage.do("queuectl dlq list", ["dlq", "list", "--table"])
    stage.do("queuectl show job4", ["show", "job4"])


def _repair(stage: Stage) -> None:
    stage.tell("Fix the cause, and run the job again.")
    stage.write("report.txt", RESULT)
    stage.do("queuectl dlq retry job4", ["dlq", "retry", "job4"])
    stage.do("queuectl wait job4", ["wait", "job4"])
    stage.do("queuectl logs job4", ["logs", "job4"])


COMMANDS = (
    Command(
        "demo",
        demo,
        examples=[("queuectl demo", "")],
        details=(
            "Adds jobs to a temporary store and starts three workers. One job fails, is retried, dies and comes\n"
            "back from the DLQ. Prints each command as you would type it. Takes about ten seconds and leaves nothing\n"
            "behind."
        ),
    ),
)
