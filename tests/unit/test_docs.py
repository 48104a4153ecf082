"""The documentation is tested: it names everything there is, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Set

import pytest

import queuectl
from queuectl import config, errors, jobspec
from queuectl.cli_commands import TABLE, all_commands, commands_of
from queuectl.cli_commands.help import EXIT_CODES
from queuectl.cli_commands.parser import locate, parse, split
from queuectl.cli_commands.spec import GLOBAL_OPTIONS
from queuectl.errors import QueuectlError, UsageError
from queuectl.job import STATES, Outcome

PACKAGE = Path(queuectl.__file__).resolve().parent
ROOT = PACKAGE.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="no checkout: an installed package has no docs")


def text_of(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def in_code(text: str) -> Set[str]:
    """Return what stands in backquotes on a page."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)))


# -- the reference is complete ----------------------------------------------------------------


def test_the_generated_pages_are_up_to_date() -> None:
    """``make docs`` was run after the last change of a table."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_and_option_is_in_the_reference() -> None:
    """Held against the page itself, so that a generator that forgets something is noticed."""
    page = text_of("cli.md")
    missing = [command.name for command in all_commands() if f"\n### {command.name}\n" not in page]
    for command in all_commands():
        section = page.partition(f"\n### {command.name}\n")[2].partition("\n### ")[0]
        missing += [f"{command.name} {option.long}" for option in command.options if option.long not in section]
    missing += [option.long for option in GLOBAL_OPTIONS if option.long not in page]

    assert not missing


def test_every_setting_is_in_the_reference() -> None:
    """With its aliases."""
    assert not (set(config.SETTINGS) | set(config.ALIASES)) - in_code(text_of("settings.md"))


def test_every_exit_code_is_in_the_reference() -> None:
    """The general ones, those of single commands, and the one of a reader that has gone."""
    codes = {code for code, _ in EXIT_CODES} | {141}
    for command in all_commands():
        codes |= {code for code, _ in command.exit_codes if isinstance(code, int)}
    in_page = {int(number) for number in re.findall(r"\| (\d+)", text_of("exit-codes.md"))}

    assert not codes - in_page


def test_every_error_is_in_the_reference() -> None:
    """What a Python program may have to catch is named."""
    family = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, QueuectlError) and value.__module__ == errors.__name__
    }

    assert not family - in_code(text_of("python-api.md"))


def test_every_public_name_is_in_the_reference() -> None:
    """And every public method of ``Queue``."""
    named = {name.partition("(")[0] for name in in_code(text_of("python-api.md"))}
    methods = {name for name in vars(queuectl.Queue) if not name.startswith("_")}

    assert not (set(queuectl.__all__) | methods) - named


def test_every_job_field_is_in_the_reference() -> None:
    """What may be given, and what queuectl sets itself."""
    assert not set(jobspec.FIELDS) - in_code(text_of("job-fields.md"))


def test_every_state_and_outcome_is_in_the_reference() -> None:
    """Jobs have states, runs have outcomes."""
    assert not (set(STATES) | {outcome.value for outcome in Outcome}) - in_code(text_of("json.md"))


def keys_in_source(path: str, function: str) -> Set[str]:
    """Return the keys of the dictionary that a function of the package writes out."""
    source = (PACKAGE / path).read_text(encoding="utf-8")
    body = re.split(r"\n(?:def|class) ", source.partition(f"def {function}(")[2])[0]
    return set(re.findall(r'^\s+"(\w+)":', body, flags=re.M))


def test_every_json_key_is_in_the_reference() -> None:
    """The objects of ``list``, ``show``, ``status`` and ``worker list``."""
    keys = keys_in_source("job.py", "job_json") | keys_in_source("cli_commands/jobs.py", "run_json")
    keys |= keys_in_source("cli_commands/status.py", "worker_json")
    keys |= keys_in_source("cli_commands/status.py", "_print_status")

    assert len(keys) > 30, "the functions that write JSON have moved"
    assert not keys - in_code(text_of("json.md"))


def test_every_count_of_jobs_chosen_by_filters_is_in_the_reference() -> None:
    """The object that ``cancel`` and ``retry`` print then, instead of a list of jobs."""
    moves = (PACKAGE / "cli_commands" / "moves.py").read_text(encoding="utf-8")
    keys = set(re.findall(r'_tell_count\(count, "(\w+)"', moves))

    assert {"cancelled", "retried"} == keys
    assert not [key for key in keys if f"with filters, an object with `{key}`" not in text_of("json.md")]


def test_every_environment_variable_is_in_the_reference() -> None:
    """What the package reads or sets, found by name in its source."""
    found: Set[str] = {"NO_COLOR"}
    for path in PACKAGE.rglob("*.py"):
        found |= set(re.findall(r"\bQUEUECTL_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))

    assert not found - in_code(text_of("environment.md"))


def test_every_decision_is_listed() -> None:
    """The list of decisions has every page, and no other."""
    folder = ROOT / "docs" / "decisions"
    pages = {path.name for path in folder.glob("[0-9]*.md")}
    listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))

    assert pages == listed


def test_every_test_that_a_page_names_exists() -> None:
    """A table that says which test shows something must not outlive the test."""
    there: Set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^\s*def (test_\w+)", path.read_text(encoding="utf-8"), flags=re.M))
    named = {name for page in PAGES for name in in_code(page.read_text(encoding="utf-8")) if name.startswith("test_")}

    assert len(named) > 40, "the tables of reliability.md have moved"
    assert not named - there


# -- links ------------------------------------------------------------------------------------


def anchors(path: Path) -> Set[str]:
    """Return the anchors of a page's headings, as the usual renderers make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_relative_links_resolve(page: Path) -> None:
    """The file is there, and so is the heading."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)

    assert not broken


def test_every_page_of_the_docs_can_be_reached_from_the_readme() -> None:
    """By links, in any number of steps."""
    reached: Set[Path] = set()
    open_pages = [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                open_pages.append((page.parent / target).resolve())

    assert not [str(path.relative_to(ROOT)) for path in PAGES if path not in reached]


# -- commands ---------------------------------------------------------------------------------


class Shown(NamedTuple):
    """A command line that a page shows."""

    page: str
    line: str


SHELLS = ("bash", "sh", "console", "powershell", "bat", "text")


def block_commands(path: Path) -> Iterator[Shown]:
    """Yield the ``queuectl`` lines of a page's code blocks."""
    name = str(path.relative_to(ROOT))
    for language, block in re.findall(r"^ *```(\w+)\n(.*?)^ *```", path.read_text(encoding="utf-8"), flags=re.S | re.M):
        if language not in SHELLS:
            continue
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            tidy = re.sub(r"^(\$|PS>|>) ", "", line.strip())
            if tidy.startswith(("queuectl ", "python3 -m queuectl ")) and not (
                language == "text" and tidy == line.strip()
            ):
                yield Shown(name, tidy)


def inline_commands(path: Path) -> Iterator[Shown]:
    """Yield the ``queuectl`` lines that a page has between its words."""
    for code in sorted(in_code(path.read_text(encoding="utf-8"))):
        if code.startswith("queuectl "):
            yield Shown(str(path.relative_to(ROOT)), code.replace("\\|", "|"))


def simple_commands(line: str) -> Iterator[List[str]]:
    """Yield the words of each ``queuectl`` command of a shell line: pipes, lists and comments are taken apart."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "[]{}$%:@^,!+\\"
    words: List[str] = []
    skip = False
    for token in [*lexer, ";"]:
        if set(token) <= set("|&;"):
            while words and words[0] != "queuectl":
                words.pop(0)
            if words:
                yield words[1:]
            words = []
        elif set(token) <= set("<>"):
            skip = True  # the file that follows is no word of the command
        elif skip:
            skip = False
        else:
            words.append(token)


def check(words: List[str]) -> None:
    """Parse a command line as the program does; raises UsageError."""
    found = locate(words)
    if not found:
        known = {name for option in GLOBAL_OPTIONS for name in option.names}
        if not set(words) <= known:
            raise UsageError(f"no command in {words}")
        return
    name, rest = split(words, found)
    entry = TABLE[words[found[0]]]
    if entry.subcommands and name == entry.name:
        if not set(rest) <= {"--help", "-h"}:
            raise UsageError(f"{name} alone")
        return
    parse(commands_of(entry.name)[name], rest)


BLOCKS = [shown for page in PAGES for shown in block_commands(page)]
INLINE = [shown for page in PAGES for shown in inline_commands(page)]


@pytest.mark.parametrize("shown", BLOCKS, ids=lambda shown: f"{shown.page}-{shown.line[:40]}")
def test_a_shown_command_parses(shown: Shown) -> None:
    """What a reader copies from a code block is accepted."""
    commands = list(simple_commands(shown.line))

    assert commands
    for words in commands:
        check(words)


@pytest.mark.parametrize("shown", INLINE, ids=lambda shown: f"{shown.page}-{shown.line[:40]}")
def test_a_mentioned_command_exists(shown: Shown) -> None:
    """In the README it parses; elsewhere it may have placeholders (``ID``, ``...``), and then it has to exist."""
    placeholder = re.search(r"\.\.\.|\b[A-Z]{1,}\b", shown.line) is not None
    for words in simple_commands(shown.line):
        if placeholder and shown.page != "README.md":
            found = locate(words)
            assert not found or words[0].startswith("[") or split(words, found)
        else:
            check(words)


ORIGINAL = """
queuectl --help
queuectl enqueue '{"command":"echo hello"}'
queuectl enqueue '{"command":"echo Hello World"}'
queuectl status
queuectl list
queuectl list --state pending
queuectl dlq list
queuectl dlq retry job1
queuectl config set backoff_base 2
queuectl reset
queuectl worker start --count 3
queuectl worker start --count 3 --daemon
queuectl worker stop
queuectl enqueue '{"command":"echo another job"}'
queuectl enqueue '{"command":"echo Job test"}'
"""


@pytest.mark.parametrize("line", ORIGINAL.strip().splitlines())
def test_a_command_of_the_first_description_still_parses(line: str) -> None:
    """The commands that queuectl was first described with keep their form for ever."""
    for words in simple_commands(line):
        check(words)


# -- Python -----------------------------------------------------------------------------------


def python_blocks() -> Iterator[Shown]:
    """Yield the Python programs that the pages show."""
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M):
            yield Shown(str(page.relative_to(ROOT)), block)


PYTHON_BLOCKS = list(python_blocks())


@pytest.mark.posix
@pytest.mark.parametrize("shown", PYTHON_BLOCKS, ids=[f"{n}-{shown.page}" for n, shown in enumerate(PYTHON_BLOCKS)])
def test_a_shown_program_runs(
    shown: Shown, home: Path, cli: Callable[..., Any], background: Callable[..., Any]
) -> None:
    """With a worker there and a job that has completed, each program of the documentation ends well."""
    for name in ("report.sh", "render.sh", "a.sh", "b.sh", "c.sh"):
        Path(name).write_text("#!/bin/sh\necho done\n")
        Path(name).chmod(0o755)
    cli("config", "set", "backoff_max", "0", code=0)
    cli("enqueue", "--", "echo", "hi", code=0)
    with background("worker", "start", "--concurrency", "50"):
        cli("wait", "job1", code=0)
        done = subprocess.run(
            [sys.executable, "-c", shown.line], capture_output=True, text=True, timeout=60, check=False
        )
        cli("worker", "stop", code=0)  # also what the program has left running

    assert done.returncode == 0, done.stderr
