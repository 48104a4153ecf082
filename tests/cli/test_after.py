"""``--after``: jobs that wait for others, as people see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest


@pytest.mark.posix("its commands are for sh")
def test_jobs_run_one_after_another(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], job: Callable[..., Any], tmp_path: Path
) -> None:
    """In the order of what they need, whatever their priorities; a failure that is retried holds the rest."""
    said = tmp_path / "said"
    add(f'[ "$QUEUECTL_ATTEMPT" -gt 1 ] && echo first >> "{said}"', "--backoff-base", "1")
    add(f'echo second >> "{said}"', "--after", "job1", "--priority", "9")
    add(f'echo third >> "{said}"', "--after", "job2,job1", "--priority", "99")

    drain("--count", "2")

    assert ["first", "second", "third"] == said.read_text().split()
    assert (["job2", "job1"], False, "completed") == tuple(job("job3")[name] for name in ("after", "held", "state"))


def test_a_held_job_says_so(cli: Callable[..., Any], add: Callable[..., str], job: Callable[..., Any]) -> None:
    """In the list, on its own page, as JSON, and with -v when it is enqueued."""
    add("true")
    add("true", "--id", "build")
    add("true", "--after", "job1")
    told = cli("enqueue", "-v", "--after", "job1", "--after", "build", "--delay", "1h", "--", "true", code=0).err

    lines = [line.split(maxsplit=5)[5].split() for line in cli("list", "--table", code=0).out.splitlines()]
    assert [["after", "job1", "true"], ["after", "2", "jobs", "true"]] == lines[3:]
    shown = cli("show", "job3", code=0).out
    assert "after:       job1 (pending), build (pending)\n" in shown
    assert "\nruns at:     when these have completed, at " in shown
    assert "runs at:     when these have completed\n" in cli("show", "job2", code=0).out
    assert ("pending", ["job1"], True) == tuple(job("job2")[name] for name in ("state", "after", "held"))
    assert ", but after job1, build, directory " in told


def test_explain_says_what_is_missing(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]
) -> None:
    """What has still to complete, what stands in its way, what to type; and who waits for the other."""
    add("true")
    add("exit 3", "--max-retries", "0")
    add("true", "--after", "job1", "--after", "job2")
    assert cli("explain", "job3", code=0).out.splitlines() == [
        "job3 is pending, and held until job1 (pending) and job2 (pending) have completed.",
        "To run it without waiting for them: queuectl edit job3 after=none",
    ]
    assert "\njob3 waits for it to complete.\n" in cli("explain", "job1", code=0).out

    drain()

    assert cli("explain", "job3", code=0).out.splitlines() == [
        "job3 is pending, and held until job2 (dead) has completed.",
        "job2 is dead, so job3 cannot run until that has run again and completed: queuectl retry job2",
        "To run it without waiting for them: queuectl edit job3 after=none",
    ]
    assert cli("explain", "job1", code=0).out.endswith("Run it again: queuectl retry job1\n")
    cli("dlq", "purge", "--yes", code=0)
    assert cli("explain", "job3", code=0).out.splitlines()[:2] == [
        "job3 is pending, and held until a job that was deleted has completed.",
        "A job that has to complete before it was deleted, so job3 cannot run as it is.",
    ]
    assert "after:       job1 (completed), job2 (deleted)\n" in cli("show", "job3", code=0).out


def test_many_names_are_cut(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """A sentence stays one that can be read."""
    names = [add("true") for _ in range(8)]
    add("true", *(word for name in names for word in ("--after", name)))
    for _ in range(7):
        add("true", "--after", "job1")

    assert cli("explain", "job9", code=0).out.startswith(
        "job9 is pending, and held until job1 (pending), job2 (pending), job3 (pending), job4 (pending), "
        "job5 (pending) and 3 more have completed.\n"
    )
    assert cli("explain", "job1", code=0).out.endswith(
        "\njob9, job10, job11, job12, job13 and others wait for it to complete.\n"
    )


@pytest.mark.posix("its commands are for sh")
def test_the_dead_one_is_retried_and_the_rest_follows(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], tmp_path: Path
) -> None:
    """One command after the cause is mended."""
    add(f'[ -e "{tmp_path / "mended"}" ]', "--max-retries", "0")
    add("true", "--after", "job1")
    add("true", "--after", "job2")
    drain()
    waited = "waits for job1, which is dead"
    assert (f"job1 dead (exit 1)\njob2 pending ({waited})\njob3 pending ({waited})\n", "", 1) == cli(
        "wait", "job1", "job2", "job3"
    )
    assert ("", "", 1) == cli("wait", "-q", "--all")

    (tmp_path / "mended").touch()
    cli("dlq", "retry", "job1", code=0)
    drain()

    assert ("job3 completed\n", "", 0) == cli("wait", "job3")


def test_run_waits_for_the_others_too(
    cli: Callable[..., Any],
    add: Callable[..., str],
    drain: Callable[..., Any],
    background: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """It says for what; and again once that is dead."""
    add("exit 3", "--max-retries", "0")
    running = background("run", "--after", "job1", "--", "echo", "hi")
    eventually(lambda: "job2 is waiting for job1 to complete." in running.err)

    drain()
    eventually(lambda: "job1 is dead, so job2 cannot run until that has run again and completed" in running.err)
    cli("edit", "job2", "after=none", code=0)
    drain()

    result = running.wait()
    assert (0, "hi\n") == (result.code, result.out)


def test_an_edit_of_what_is_needed(cli: Callable[..., Any], add: Callable[..., str], job: Callable[..., Any]) -> None:
    """Several with commas; none of it; nothing that would go in a circle."""
    for _ in range(3):
        add("true")
    cli("edit", "job3", "after=job1, job2", code=0)
    assert (["job1", "job2"], True) == (job("job3")["after"], job("job3")["held"])

    assert cli("edit", "job1", "after=job3") == (
        "", "queuectl: job1 would wait for itself: a job that it is to run after waits for job1.\n", 1,
    )  # fmt: skip
    cli("edit", "job3", "after=none", code=0)

    assert ([], False) == (job("job3")["after"], job("job3")["held"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--after", "job9", "--", "true"], "job field 'after' names job9, but there is no such job."),
        (
            ["--after", "9", "--", "true"],
            "job field 'after' names 9, but there is no such job. The ids of jobs are such as job9.",
        ),
        (
            ["--after", "10m", "--", "true"],
            "job field 'after' names 10m, but there is no such job. To wait for a time, give 'delay' or 'run_at'.",
        ),
        (
            ["--after", "a b", "--", "true"],
            """job field 'after' must be the id of a job, or a list of them such as ["job1", "job2"], not 'a b'.""",
        ),
        (
            ['{"command":"true","after":[7]}'],
            """job field 'after' must be the id of a job, or a list of them such as ["job1", "job2"], not 7.""",
        ),
        (['{"command":"true","depends-on":["job1"]}'], "unknown job field 'depends-on'. Did you mean 'after'?"),
        (['{"command":"true","held":true}'], "job field 'held' is set by queuectl itself. Leave it out."),
    ],
)
def test_what_cannot_be_waited_for(cli: Callable[..., Any], words: Any, told: str) -> None:
    """A sentence, and no id is used up."""
    assert ("", f"queuectl: {told}\n", 1) == cli("enqueue", *words)

    assert ("Enqueued job job1\n", "", 0) == cli("enqueue", "--", "true")


def test_a_file_of_jobs_that_wait_for_each_other(
    cli: Callable[..., Any], drain: Callable[..., Any], jobs: Callable[..., Any], tmp_path: Path
) -> None:
    """By ids of their own, each only for one before it; the wrong line is named, and nothing is stored."""
    lines = [
        {"command": "true", "id": "a"}, {"command": "true", "after": "a"}, {"command": "true", "after": ["a", "job1"]},
    ]  # fmt: skip
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert (
        "", "queuectl: line 3: job field 'after' names job1, but there is no such job. Nothing was enqueued.\n", 1,
    ) == cli("enqueue", "--file", str(file))  # fmt: skip
    file.write_text("\n\n".join(map(json.dumps, lines[:2])))

    cli("enqueue", "--file", str(file), code=0)
    cli("enqueue", "--file", str(file), "--after", "job1", code=1)
    drain()

    assert [("a", "completed"), ("job1", "completed")] == [(each["id"], each["state"]) for each in jobs()]
