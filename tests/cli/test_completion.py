"""``queuectl completion``: the scripts, and the words that they are given."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

from queuectl.config import SETTINGS
from queuectl.job import STATES


@pytest.fixture
def program(home: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``queuectl`` on the PATH."""
    folder = home.parent / "bin"
    folder.mkdir()
    path = folder / "queuectl"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m queuectl "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Path(path)


def offered(cli: Callable[..., Any], line: str) -> List[str]:
    """Return the words that are offered at the end of *line*."""
    *before, current = line.split(" ")
    result = cli("__complete", "--", *before, "+" + current, code=0)
    assert result.err == ""
    return [word.split("\t")[0] for word in result.out.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("en", ["enqueue"]),
        ("__", []),
        ("worker ", ["start", "stop", "list"]),
        ("worker st", ["start", "stop"]),
        ("dlq retry --", ["--all", "--db", "--json", "--no-color", "--quiet", "--verbose", "--version", "--help"]),
        ("list --state ", list(STATES)),
        ("list --state=p", ["--state=pending", "--state=processing"]),
        ("list --state = p", ["pending", "processing"]),
        ("list --state pending --state c", ["completed", "cancelled"]),
        ("prune --state ", ["completed", "dead", "cancelled"]),
        ("config get ", list(SETTINGS)),
        ("config set kill", ["kill_grace"]),
        ("config set kill_grace ", []),
        ("edit x prio", ["priority="]),
        ("edit x priority=", []),
        ("edit x priority =", []),
        ("edit x priority = m", []),
        ("edit x env.A = http : q", []),
        ("edit x priority = 1 prio", ["priority="]),
        ("--db = x li", ["list"]),
        ("--db postgresql : //host/base config get kill", ["kill_grace"]),
        ("queue limit q n", ["none"]),
        ("help pr", ["prune"]),
        ("help dlq ", ["list", "retry", "purge"]),
        ("help worker st", ["start", "stop"]),
        ("help list ", []),
        ("help dlq list ", []),
        ("completion ", ["bash", "zsh", "fish", "powershell"]),
        ("--db x li", ["list"]),
        ("--state ", []),
        ("enqueue -- ls ", []),
        ("enqueue --file ", []),
        ("nonsense ", []),
        ("dlq nonsense ", []),
        ("show job1 f", []),
        (
            "show job1 ",
            ["--db", "--json", "--no-color", "-q", "--quiet", "-v", "--verbose", "--version", "-h", "--help"],
        ),
        ("worker stop --timeout ", []),
    ],
)
def test_words_from_the_tables(cli: Callable[..., Any], line: str, words: List[str], home: Any) -> None:
    """Nothing is made for them: no store, no message."""
    assert words == offered(cli, line)
    assert not home.exists()


def test_words_from_the_store(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """Ids of jobs that the command can be about, the newest first; queues."""
    add("true", "--queue", "mail")
    add("true", "--id", "mine")
    add("true")
    cli("cancel", "mine", code=0)

    assert ["job2", "mine", "job1"] == offered(cli, "show ")
    assert ["job2", "job1"] == offered(cli, "cancel ")
    assert ["job2"] == offered(cli, "cancel job1 ")
    assert ["mine"] == offered(cli, "retry ")
    assert ["mine"] == offered(cli, "logs -f m")
    assert [] == offered(cli, "dlq retry ")
    assert ["default", "mail"] == offered(cli, "queue pause ")
    assert ["queue=mail"] == offered(cli, "edit job1 queue=m")
    assert ["mail"] == offered(cli, "edit job1 queue = m") == offered(cli, "edit job1 priority = 1 queue = m")
    assert ["default", "mail"] == offered(cli, "edit job1 queue =")
    assert ["mail"] == offered(cli, "worker start --queue m")
    assert ["job2"] == offered(cli, f"--db {home / 'jobs.db'} show job2")
    assert [] == offered(cli, "--db /nowhere/at/all show ")


@pytest.mark.posix("other shells have other quotes")
@pytest.mark.parametrize(
    "typed", ["~/my dir/s.db", "~/my\\ dir/s.db", "'{}/my dir/s.db'", '"$HOME/my dir/s.db"', "${{HOME}}/my dir/s.db"]
)
def test_a_store_is_found_however_its_path_was_typed(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    """In bash, the words of a line come as they stand there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my dir").mkdir()
    cli("enqueue", "--db", str(tmp_path / "my dir" / "s.db"), "--id", "theirs", "--", "true", code=0)

    result = cli("__complete", "--", "--db", typed.format(tmp_path), "show", "+", code=0)

    assert "theirs\tpending: true\n" == result.out


def test_a_job_of_the_store_is_offered_with_its_state(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Beside the id, for shells that show what a word is."""
    add("true")

    assert "job1\tpending: true\n" in cli("__complete", "--", "show", "+job1").out


def test_it_is_silent_about_a_store_that_is_broken(cli: Callable[..., Any], home: Any) -> None:
    """In the middle of a line an error helps nobody."""
    home.mkdir()
    (home / "jobs.db").write_text("not a database, " * 100)

    assert [] == offered(cli, "show ")


BASH = """
source <(queuectl completion bash) || exit 9
complete -p queuectl >/dev/null || exit 8
try() { COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _queuectl; echo "${COMPREPLY[*]}"; }
try queuectl list --state p
try queuectl list --state = p
try queuectl show ""
try queuectl edit job1 queue = d
try queuectl edit job1 queue =
try queuectl edit job1 queue = default max_retries = m
try queuectl enqueue --file ""
try "~/bin/queuectl" list --state p
"""


@pytest.mark.posix
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash(program: Path, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The script is loaded and asked as bash would, which hands over a ~ as it was typed."""
    add("echo 'a b'")
    monkeypatch.setenv("HOME", str(program.parent.parent))

    done = subprocess.run(["bash", "-c", BASH], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)

    expected = b"pending processing\npending processing\njob1\ndefault\ndefault\n\n\npending processing\n"
    assert (0, expected) == (done.returncode, done.stdout)


@pytest.mark.posix
@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish(program: Path, add: Callable[..., str]) -> None:
    """With the descriptions beside the words."""
    add("echo 'a b'")
    script = "queuectl completion fish | source; complete -C 'queuectl list --state p'; complete -C 'queuectl show '"
    script += "; complete -C 'queuectl edit job1 queue=d'"

    done = subprocess.run(["fish", "--no-config", "-c", script], stdout=subprocess.PIPE, check=False)

    assert done.stdout.decode() == "pending\nprocessing\njob1\tpending: echo 'a b'\nqueue=default\n"


@pytest.mark.posix
@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_finds_the_program_that_was_typed(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a ~ too; where there is none, no error of the shell comes into the middle of the line."""
    monkeypatch.setenv("HOME", str(program.parent.parent))
    script = "queuectl completion fish | source; complete -C '~/bin/queuectl list --state p'; complete -C '%s li'"

    done = subprocess.run(
        ["fish", "--no-config", "-c", script % "~/gone/queuectl"], capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("pending\nprocessing\n", "")


@pytest.mark.posix
@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_reads_its_script(program: Path) -> None:
    """Loaded as .zshrc would load it."""
    script = "autoload -Uz compinit && compinit -u -D && source <(queuectl completion zsh) && print $_comps[queuectl]"

    done = subprocess.run(["zsh", "-f", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)

    assert (done.returncode, done.stdout) == (0, b"_queuectl\n")


# The first TAB has the function loaded from the folder, as a system's package installs it.
ZSH_KEYS = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= PROMPT=; fpath=($PWD/functions $fpath); autoload -Uz compinit; compinit -u -D; print RE''ADY"
zpty -r -m shell line '*READY*'
zpty -w -n shell $'queuectl list --state pend\t'
zpty -r -m shell line '*pending*' && print -r -- "${line##*queuectl}"
zpty -w -n shell $'\025~/bin/queuectl list --state dea\t'
zpty -r -m shell line '*dead*' && print -r -- "${line##*queuectl}"
zpty -d shell
"""


@pytest.mark.posix
@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_completes_with_a_file_of_its_functions(
    program: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the very first TAB, which loads it; and for a program that was typed with a ~."""
    monkeypatch.setenv("HOME", str(program.parent.parent))
    Path("functions").mkdir()
    Path("functions", "_queuectl").write_text(cli("completion", "zsh", code=0).out)

    done = subprocess.run(["zsh", "-f", "-c", ZSH_KEYS], stdout=subprocess.PIPE, check=False, timeout=30)

    assert b"list --state pending" in done.stdout
    assert b"list --state dead" in done.stdout


def test_powershell_has_a_script(cli: Callable[..., Any]) -> None:
    """Registered for the program, with and without its ending."""
    assert (
        "Register-ArgumentCompleter -Native -CommandName queuectl, queuectl.exe" in cli("completion", "powershell").out
    )
