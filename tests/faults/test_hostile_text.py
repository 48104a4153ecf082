"""Text that means to be more than text: to a terminal, a database, a shell, a file system."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from queuectl import Queue
from queuectl.main import main
from tests.conftest import Result
from tests.process.scene import Scene

pytestmark = pytest.mark.posix

ESCAPES = {
    "a title": "\x1b]0;owned\x07",
    "a clear screen": "\x1b[2J\x1b[H",
    "a line of its own": "\nEnqueued job job999\r",
    "a backspace": "rm -rf /\b\b\b\b\b\b\b\becho ok",
    "an 8-bit control sequence": "\x9b31m",
    "a text turned round": "\u202e txt.exe\u2066",
    "a byte order mark": "\ufeff\u200b\u2028",
    "a delete": "\x7f\x85\x0b\x0c",
    "a query that the terminal answers": "\x1b[6n\x1bP$q\x1b\\",
}
ALL = " ".join(ESCAPES.values())


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run ``queuectl WORD ...`` in this process, for there are hundreds of them."""

    def run(*words: str) -> Result:
        capsys.readouterr()
        code = main(words)
        shown = capsys.readouterr()
        return Result(shown.out, shown.err, code)

    return run


def is_harmless(text: str) -> bool:
    """Say whether a terminal would only show this."""
    return all(char == "\n" or char.isprintable() for char in text)


@pytest.fixture
def evil(scene: Scene) -> Dict[str, str]:
    """Jobs with such text wherever text may be, in each state; their ids by state."""
    folder = scene.folder / "dir \x1b[31m\n'; rm"
    folder.mkdir()
    fields: Dict[str, Any] = {"cwd": str(folder), "env": {"EVIL": ALL}}
    ids = {
        "completed": scene.queue.enqueue(f": '{ALL}'", **fields).id,
        "dead": scene.queue.enqueue(f"exit 3 # {ALL}", max_retries=0, **fields).id,
        "failed": scene.queue.enqueue(f"exit 3 # {ALL}", backoff_base=3600, **fields).id,
        "nowhere": scene.queue.enqueue("true", cwd=str(folder) + ALL.replace("/", ""), max_retries=0).id,
    }
    group = scene.start()
    for job_id in ids.values():
        scene.until(job_id, "completed", "dead", "failed")
    done = group.stop()
    assert is_harmless(done.out + done.err)
    ids["pending"] = scene.queue.enqueue(f"echo {ALL}", delay=3600, **fields).id
    ids["cancelled"] = scene.queue.enqueue(f"echo {ALL}", delay=3600, **fields).id
    scene.queue.cancel(ids["cancelled"])
    return ids


def test_nothing_that_is_shown_moves_the_cursor(
    scene: Scene, evil: Dict[str, str], call: Callable[..., Result]
) -> None:
    """Every command that shows jobs shows such text escaped, on standard output and on standard error."""
    looks: List[List[str]] = [
        ["list", "--table"], ["list"], ["list", "--json"], ["status"], ["status", "--json"], ["dlq", "list"],
        ["dlq", "list", "--table"], ["queue", "list", "--table"], ["config", "list"], ["doctor"],
        ["worker", "list", "--table"],
    ]  # fmt: skip
    for job_id in evil.values():
        looks += [["show", job_id], ["show", job_id, "--json"], ["explain", job_id]]
        looks += [["retry", job_id], ["cancel", job_id], ["wait", job_id, "--timeout", "0"]]
    for words in looks:
        done = call(*words)
        assert is_harmless(done.out + done.err), (words, done)
        if "--json" in words:
            json.loads(done.out)


@pytest.mark.parametrize("name", list(ESCAPES))
def test_what_is_typed_comes_back_escaped(call: Callable[..., Result], name: str) -> None:
    """An error that quotes what it got, a did-you-mean, the answer to a wrong job: none of them is a way in."""
    text = ESCAPES[name]
    Queue().close()
    for words in (
        [text], ["show", text], ["enqueue", text], ["enqueue", json.dumps({"command": "x", text: 1})],
        ["enqueue", json.dumps({"command": "x", "id": text})], ["enqueue", "--queue", text, "--", "x"],
        ["list", "--state", text], ["list", "--sort", text], ["config", "get", text], ["config", "set", "lease", text],
        ["--db", text, "status"], ["wait", text], ["queue", "pause", text], ["worker", "start", "--queue", text],
        ["enqueue", "--delay", text, "--", "x"], ["edit", "job1", text], ["logs", text], ["completion", text],
        ["enqueue", "--cwd", text, "--", "true"], ["enqueue", "--file", text],
    ):  # fmt: skip
        done = call(*words)
        assert is_harmless(done.out + done.err), (words, done)
        assert "Traceback" not in done.err


SQL = ["'; DROP TABLE jobs; --", '" OR 1=1 --', "%", "_", "' UNION SELECT * FROM settings --", "job1' OR 'a'='a"]


@pytest.mark.parametrize("text", SQL)
def test_a_statement_is_only_text(scene: Scene, call: Callable[..., Result], text: str) -> None:
    """Neither an id nor a filter, a name, an order or a command is ever part of a statement."""
    scene.queue.enqueue("true", id="mine", delay=3600)
    stored = scene.queue.enqueue(text, delay=3600, env={"A": text}).id
    before = [(job.id, job.state) for job in scene.queue.jobs()]

    for words in (
        ["show", text], ["cancel", text], ["retry", text], ["logs", text], ["wait", text, "--timeout", "0"],
        ["edit", text, "priority=1"], ["list", "--queue", text], ["list", "--tag", text], ["list", "--sort", text],
        ["prune", "--queue", text, "--yes"], ["dlq", "retry", text], ["queue", "pause", text],
        ["config", "set", text, "1"],
    ):  # fmt: skip
        call(*words)

    assert before == [(job.id, job.state) for job in scene.queue.jobs()]
    assert (text, {"A": text}) == (scene.queue.get(stored).command, scene.queue.get(stored).env)
    assert [] == scene.queue.store.check()


WORDS = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "| touch pwned",
    "&& touch pwned",
    "> pwned",
    "'; touch pwned; '",
]


def test_words_arrive_as_they_were_typed(scene: Scene, cli: Callable[..., Any]) -> None:
    """After ``--`` nothing means anything to the shell that runs the command."""
    job_id = cli("enqueue", "-q", "--", "printf", "%s\\n", *WORDS, "*", "~", "a\nb").out.strip()

    scene.drain()

    assert "".join(f"{word}\n" for word in [*WORDS, "*", "~", "a\nb"]) == scene.output(job_id)
    assert not (scene.folder / "pwned").exists()


NAMES = ["../../pwned", "/tmp/pwned", "a/b", "..", ".", "-rf", "a b", "a\0b", "", "x" * 129, "con\n", "é"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_anywhere(scene: Scene, call: Callable[..., Result], name: str) -> None:
    """Ids, queues and tags that could be paths, options or lines are refused; no file is named after any of them."""
    for field in ("id", "queue", "tags"):
        value: Any = [name] if field == "tags" else name
        refused = call("enqueue", json.dumps({"command": "true", field: value}))
        assert ("", 1) == (refused.out, refused.code)
    assert [] == list(scene.queue.jobs())


def test_the_files_are_known(scene: Scene, evil: Dict[str, str], cli: Callable[..., Any], home: Path) -> None:
    """Whatever jobs are called and do, the home has the files that the reference names, and the world sees none."""
    assert 0 == cli("worker", "start", "--daemon", "--queue", "a.b-c_d").code
    names = {os.path.relpath(os.path.join(folder, name), home) for folder, _, files in os.walk(home) for name in files}
    assert 0 == cli("worker", "stop").code

    known = r"jobs\.db(-wal|-shm)?|pids\.(json|known)|jobs\.db-run/[0-9a-f]+\.(bell(\.new)?|runs|ahead)"
    known += r"|logs/(worker-\d+\.log|supervisor\.log|numbers)"
    assert [] == [name for name in names if not re.fullmatch(known, name)]
    assert 0 == home.stat().st_mode & 0o077
