"""``queuectl edit``: change a job that waits."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest


def test_every_field_but_the_id(
    cli: Callable[..., Any], add: Callable[..., str], job: Callable[[str], Dict[str, Any]], home: Any
) -> None:
    """Typed as the field is; hyphens are underscores; values may hold ``=``."""
    add("a", "--env", "OLD=1")

    result = cli(
        "edit", "job1", "command=echo a=b", "queue=mail", "priority=-5", "max-retries=9", "backoff_base=1.5",
        "timeout=1h", "run_at=2099-01-01T00:00:00Z", "cwd=sub", "env.NEW=x=y", "tags=a, b",
    )  # fmt: skip

    found = job("job1")
    assert ("Edited job1\n", "", 0) == result
    assert (found["command"], found["queue"], found["priority"]) == ("echo a=b", "mail", -5)
    assert (found["max_retries"], found["backoff_base"], found["timeout"]) == (9, 1.5, 3600.0)
    assert (found["run_at"], found["cwd"]) == ("2099-01-01T00:00:00.000Z", str(home.parent / "sub"))
    assert (found["env"], found["tags"]) == ({"OLD": "1", "NEW": "x=y"}, ["a", "b"])


def test_none_takes_a_value_away(
    cli: Callable[..., Any], add: Callable[..., str], job: Callable[[str], Dict[str, Any]]
) -> None:
    """As if it had not been given; and a delay counts from now."""
    add(
        "a",
        "--timeout",
        "5",
        "--backoff-base",
        "3",
        "--env",
        "A=1",
        "--tag",
        "t",
        "--max-retries",
        "9",
        "--delay",
        "1h",
    )

    document = json.loads(
        cli("edit", "--json", "job1", "timeout=none", "backoff_base=none", "env=none", "tags=none",
            "max_retries=none", "delay=0", code=0).out
    )  # fmt: skip

    assert (document["timeout"], document["backoff_base"], document["env"], document["tags"]) == (None, None, {}, [])
    assert document["max_retries"] == 3
    assert document["run_at"] <= document["updated_at"]
    assert {name: value for name, value in job("job1").items() if name in document} == document


def test_none_is_the_default_where_a_job_has_one(
    cli: Callable[..., Any], add: Callable[..., str], job: Callable[[str], Dict[str, Any]]
) -> None:
    """The queue, the priority and the time too; in a variable it is a text like any other."""
    words = ("a", "--queue", "mail", "--priority", "5", "--delay", "1h")
    for field in ("run_at=none", "at=NONE", "delay=none"):
        job_id = add(*words)

        cli("edit", job_id, "queue=none", "priority=none", field, "env.LEVEL=none", code=0)

        found = job(job_id)
        assert (found["queue"], found["priority"], found["env"]) == ("default", 0, {"LEVEL": "none"})
        assert found["run_at"] <= found["updated_at"]
    assert ["default"] == cli("queue", "list", "-q", code=0).out.split()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["job1"], 2, "edit needs FIELD=VALUE"),
        (["job1", "priority"], 2, "edit takes FIELD=VALUE, not 'priority'"),
        (["job1", "=5"], 2, "edit takes FIELD=VALUE"),
        (["job1", "priority=1", "priority=2"], 2, "field priority is given twice"),
        (["job1", "priority=high"], 1, "job field 'priority' must be a whole number"),
        (["job1", "priority=٣"], 1, "job field 'priority' must be a whole number"),
        (["job1", "priorty=1"], 1, "unknown job field 'priorty'. Did you mean 'priority'?"),
        (["job1", "state=dead"], 1, "'state' is set by queuectl itself"),
        (["job1", "id=other"], 1, "'id' cannot be changed"),
        (["job1", "command="], 1, "'command' must be a command that is not blank"),
        (["job1", "env={x"], 1, "not a JSON object"),
        (["job1", "env=A=1"], 2, "not 'env=A=1': queuectl edit job1 env.A=1."),
        (["job1", "env=x"], 2, "edit takes env.NAME=VALUE for a variable"),
        (["job1", "env.=x"], 2, "edit takes env.NAME=VALUE, not 'env.=x'"),
        (["job1", "cwd=none"], 1, "job field 'cwd' cannot be removed"),
        (["job1", "run_at=2099-01-01", "delay=1"], 1, "'run_at' and 'delay' are both given"),
        (["job9", "priority=1"], 1, "Job not found: job9."),
    ],
)
def test_what_is_refused_changes_nothing(
    cli: Callable[..., Any],
    add: Callable[..., str],
    jobs: Callable[..., List[Any]],
    words: List[str],
    code: int,
    message: str,
) -> None:
    """One sentence that names the field."""
    add("a")
    before = jobs()

    result = cli("edit", *words)

    assert (result.out, result.code) == ("", code)
    assert message in result.err
    assert before == jobs()


def test_only_a_job_that_waits(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """What is over stays as it was; the message says how it can be changed all the same."""
    add("a")
    cli("cancel", "job1", code=0)

    refused = cli("edit", "job1", "priority=1")

    told = "cannot edit job1: it is cancelled, not pending or failed. Start it over first: queuectl retry job1"
    assert ("", f"queuectl: {told}\n", 1) == refused
    cli("retry", "job1", code=0)
    assert cli("edit", "job1", "priority=1").code == 0
