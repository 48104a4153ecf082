"""The settings ``on_completed`` and ``on_dead``: commands that are enqueued when a job ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

import queuectl

PACKAGE = Path(queuectl.__file__).resolve().parents[1]
TELL = """
import json, os, subprocess, sys
path, package = sys.argv[1:]
words = [sys.executable, "-m", "queuectl", "show", "--json", os.environ["QUEUECTL_ENDED_ID"]]
shown = subprocess.run(words, stdout=subprocess.PIPE, check=True, env=dict(os.environ, PYTHONPATH=package)).stdout
with open(path, "a") as file:
    print(json.dumps(json.loads(shown)), file=file)
"""


def test_a_hook_tells_of_every_job_that_ended(
    cli: Callable[..., Any],
    add: Callable[..., str],
    drain: Callable[..., Any],
    job: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    """It finds the job in the same store, whatever the directory; --drain waits for it; it has no hook itself."""
    script, told = tmp_path / "tell.py", tmp_path / "told"
    script.write_text(TELL)
    for key in ("on_completed", "on_dead"):
        cli("config", "set", key, f'"{sys.executable}" "{script}" "{told}" "{PACKAGE}"', code=0)
    add("echo fine")
    add("exit 3", "--max-retries", "0", "--queue", "build")

    drain()

    documents = [json.loads(line) for line in told.read_text().splitlines()]
    assert [("job1", "completed"), ("job2", "dead")] == sorted((each["id"], each["state"]) for each in documents)
    listed = [json.loads(line) for line in cli("list", code=0).out.splitlines()]
    hooks = [each for each in listed if each["id"].startswith("hook-")]
    assert [("completed", "build"), ("completed", "default")] == sorted(
        (each["state"], each["queue"]) for each in hooks
    )
    assert 4 == len(listed)
    assert [["on_dead"]] == [each["tags"] for each in hooks if each["queue"] == "build"]


@pytest.mark.posix("its commands are for sh")
def test_the_hook_in_force_is_the_one_that_is_set_now(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], tmp_path: Path
) -> None:
    """Not the one when the job was enqueued; none once it is unset."""
    said = tmp_path / "said"
    add("exit 3", "--max-retries", "0")
    cli("config", "set", "on_dead", f'echo "$QUEUECTL_ENDED_ID $QUEUECTL_ENDED_REASON" >> {said}', code=0)
    drain()
    add("exit 4", "--max-retries", "0")
    cli("config", "set", "on_dead", "none", code=0)
    drain()
    assert "job1 exit 3\n" == said.read_text()


@pytest.mark.posix("its commands are for sh")
def test_a_hook_that_fails_is_retried_and_dies_alone(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]
) -> None:
    """Like any job, with the settings for all of them; its death brings no other hook."""
    cli("config", "set", "on-dead", "exit 9", code=0)
    cli("config", "set", "max_retries", "1", code=0)
    cli("config", "set", "backoff_base", "1", code=0)
    add("exit 3", "--max-retries", "0")
    drain()
    dead = [json.loads(line) for line in cli("dlq", "list", code=0).out.splitlines()]
    assert [("job1", 1), ("hook-1", 2)] == [(each["id"], each["failures"]) for each in dead]


def test_what_may_be_set(cli: Callable[..., Any]) -> None:
    """The command as it was typed; nothing blank, nothing too long for a shell."""
    command = 'echo "$QUEUECTL_ENDED_ID" | mail -s "a job has died" me'
    assert ("OK\n", "", 0) == cli("config", "set", "on_dead", command)
    assert (command + "\n", "", 0) == cli("config", "get", "on_dead")
    for text, got in (("", "''"), (" ", "' '")):
        refused = cli("config", "set", "on_dead", text, code=1)
        assert f"on_dead must be a shell command of up to 131,071 bytes, or none, not {got}.\n" in refused.err
    assert command == json.loads(cli("config", "get", "--json", "on-dead").out)["value"]
    assert "OK\n" == cli("config", "unset", "on_dead").out
    assert "none\n" == cli("config", "get", "on_dead").out
