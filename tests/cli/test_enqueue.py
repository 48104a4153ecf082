"""``queuectl enqueue``: one job, in every way it can be said, and everything that is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

POSIX = pytest.mark.posix


def test_a_json_object_becomes_a_job(cli: Callable[..., Any]) -> None:
    """The first command of the README, to the letter."""
    result = cli("enqueue", '{"command":"echo hi"}')

    assert ("Enqueued job job1\n", "", 0) == result


def test_ids_count_up_and_a_refused_job_takes_none(cli: Callable[..., Any]) -> None:
    """job1, job2: what was refused in between left no gap."""
    first = cli("enqueue", '{"command":"a"}', code=0).out
    cli("enqueue", '{"command":""}', code=1)
    cli("enqueue", '{"command":"x","id":"job1"}', code=1)
    second = cli("enqueue", '{"command":"b"}', code=0).out

    assert ("Enqueued job job1\n", "Enqueued job job2\n") == (first, second)


def test_quiet_prints_the_id_alone(cli: Callable[..., Any]) -> None:
    """For ``id=$(queuectl enqueue -q ...)``."""
    assert ("job1\n", "", 0) == cli("-q", "enqueue", "--", "true")


def test_json_prints_the_job_as_one_document(cli: Callable[..., Any], home: Any) -> None:
    """All fields, defaults settled."""
    document = json.loads(cli("enqueue", "--json", "--priority", "-5", "--command", "echo hi", code=0).out)

    times = {name: document.pop(name) for name in ("run_at", "created_at", "updated_at")}
    assert all(text.endswith("Z") for text in times.values())
    assert {
        "id": "job1", "state": "pending", "command": "echo hi", "queue": "default", "priority": -5, "attempts": 0,
        "failures": 0, "losses": 0, "max_retries": 3, "backoff_base": None, "timeout": None, "cwd": str(home.parent),
        "env": {}, "tags": [], "after": [], "held": False, "cancel_requested": False, "ended_at": None, "reason": None,
    } == document  # fmt: skip


@pytest.mark.posix("the quotes are a POSIX shell's")
def test_a_line_for_the_shell_after_the_dashes_is_doubted(
    cli: Callable[..., Any], job: Callable[[str], Dict[str, Any]]
) -> None:
    """It arrives as typed, one word; who is used to other tools learns at once that this is no line for the shell."""
    said = "queuectl: a single word after -- is the name of a program, and there is none of this name. "
    assert cli("enqueue", "--", "sleep 1; echo hi") == (
        "Enqueued job job1\n", f"{said}For a shell command: queuectl enqueue --command 'sleep 1; echo hi'\n", 0,
    )  # fmt: skip
    assert "'sleep 1; echo hi'" == job("job1")["command"]
    with open("my program", "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod("my program", 0o700)

    for words in (["-q", "--", "echo hi"], ["--", "./my program"], ["--", "echo", "a b"], ["--command", "echo hi"]):
        assert ("", 0) == cli("enqueue", *words)[1:]


def test_every_field_has_an_option(cli: Callable[..., Any], job: Callable[[str], Dict[str, Any]], home: Any) -> None:
    """For shells in which JSON is hard to quote."""
    cli(
        "enqueue", "--command", "make all", "--id", "build.1", "--queue", "ci", "--priority", "7", "--max-retries", "0",
        "--backoff-base", "1.5", "--timeout", "2h30m", "--at", "2099-01-02T03:04:05Z", "--cwd", "sub",
        "--env", "A=1=2", "--env", "B=", "--tag", "x", "--tag", "y", code=0,
    )  # fmt: skip

    found = job("build.1")

    assert found["command"] == "make all"
    assert (found["queue"], found["priority"], found["max_retries"]) == ("ci", 7, 0)
    assert (found["backoff_base"], found["timeout"]) == (1.5, 9000.0)
    assert found["run_at"] == "2099-01-02T03:04:05.000Z"
    assert found["cwd"] == str(home.parent / "sub")
    assert (found["env"], found["tags"]) == ({"A": "1=2", "B": ""}, ["x", "y"])


def test_options_override_the_json(cli: Callable[..., Any], job: Callable[[str], Dict[str, Any]]) -> None:
    """Also a field that the JSON spells with hyphens; ``--env`` adds, and a time replaces a delay."""
    text = json.dumps(
        {"command": "a", "max-retries": 1, "delay": "1h", "env": {"A": "json", "B": "json"}, "tags": ["t"]}
    )
    cli(
        "enqueue", text, "--max-retries", "9", "--at", "2099-01-01T00:00:00Z", "--env", "A=option", "--command", "b",
        "--tag", "u", code=0,
    )  # fmt: skip

    found = job("job1")

    assert (found["command"], found["max_retries"], found["tags"]) == ("b", 9, ["u"])
    assert found["env"] == {"A": "option", "B": "json"}
    assert found["run_at"] == "2099-01-01T00:00:00.000Z"


def test_options_stand_anywhere_and_underscores_are_hyphens(
    cli: Callable[..., Any], job: Callable[[str], Dict[str, Any]]
) -> None:
    """In front of the command, behind it, with ``=`` or without."""
    cli("--max_retries=8", "--queue", "q", "enqueue", '{"command":"a"}', "--backoff_base", "3", code=0)

    found = job("job1")

    assert (found["max_retries"], found["queue"], found["backoff_base"]) == (8, "q", 3.0)


@POSIX
@pytest.mark.parametrize(
    "words",
    [
        ["plain"],
        ["two words", ""],
        ["it's", '"quoted"', "$HOME", "`id`", "a\\b"],
        ["*", "?", "~", "#", "!", "a=b", "-n", "--flag"],
        ["line\nbreak", "tab\there", "\u00fc\u4e2d\U0001f600"],
        ["&&", "|", ";", "<", ">", "(", ")"],
    ],
)
def test_words_arrive_as_they_were_typed(
    cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]], words: List[str]
) -> None:
    """The shell takes the stored command apart into exactly these words."""
    program = "import sys, json; print(json.dumps(sys.argv[1:]))"
    cli("enqueue", "--", sys.executable, "-c", program, *words, code=0)

    shell = subprocess.run(["/bin/sh", "-c", jobs()[0]["command"]], stdout=subprocess.PIPE, check=True)

    assert words == json.loads(shell.stdout)


@pytest.mark.posix("about quoting for a POSIX shell; test_windows_quote has cmd's")
def test_a_single_word_is_still_a_word(cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]]) -> None:
    """``enqueue -- 'a b'`` names the program "a b"; a command line is for ``--command``."""
    cli("enqueue", "--", "a b", code=0)
    cli("enqueue", "--command", "a b", code=0)

    assert ["'a b'", "a b"] == [job["command"] for job in jobs()]


def test_the_directory_is_where_enqueue_was_called(
    cli: Callable[..., Any], job: Callable[[str], Dict[str, Any]], home: Any
) -> None:
    """And a relative one counts from there."""
    folder = home.parent / "work"
    folder.mkdir()
    cli("enqueue", '{"command":"a"}', cwd=folder, code=0)
    cli("enqueue", '{"command":"a","cwd":".."}', cwd=folder, code=0)

    assert (str(folder), str(home.parent)) == (job("job1")["cwd"], job("job2")["cwd"])


def test_verbose_says_what_was_settled(cli: Callable[..., Any], home: Any) -> None:
    """On standard error; standard output stays as it is."""
    result = cli("enqueue", "-v", "--", "true", code=0)

    assert result.out == "Enqueued job job1\n"
    assert f"queuectl: the store is {home / 'jobs.db'} (QUEUECTL_HOME).\n" in result.err
    assert "queuectl: job1: queue default, priority 0, due now" in result.err


@pytest.mark.parametrize(
    ("word", "name"), [("-", "-"), ("@-", "-"), ("jobs.jsonl", "jobs.jsonl"), ("@my jobs", "'my jobs'")]
)
@pytest.mark.posix("its file is quoted for a POSIX shell")
def test_a_file_in_the_place_of_a_job_is_told_how_to_be_given(cli: Callable[..., Any], word: str, name: str) -> None:
    """It is no plain command, as which it would be enqueued if one followed that advice."""
    for file in ("jobs.jsonl", "my jobs"):
        Path(file).write_text('{"command":"true"}\n')

    told = f"queuectl: not a JSON object: '{word}'. For a file, one job per line: queuectl enqueue --file {name}\n"
    assert ("", told, 1) == cli("enqueue", word)
    assert "For a plain command: queuectl run" in cli("run", word).err


BAD_JOBS = [
    ("", "not a JSON object"),
    ("{", "not a JSON object: Expecting property name"),
    ("[]", "a job must be a JSON object"),
    ("null", "a job must be a JSON object"),
    ("echo hi", "For a plain command: queuectl enqueue -- COMMAND ARG ..."),
    ("{command:echo hi}", "the shell removed the double quotes"),
    ("{ 'command': 'echo hi'}", "JSON needs double quotes, not single ones."),
    ("{command:it's}", "the shell removed the double quotes"),
    ("{}", "job field 'command' is missing"),
    ('{"command":["echo"]}', "'command' must be a string, not [\"echo\"]"),
    ('{"command":"  \\t "}', "'command' must be a command that is not blank"),
    ('{"command":"a\\u0000b"}', "'command' must be text without NUL"),
    ('{"command":"\\ud800"}', "'command' must be valid Unicode"),
    ('{"command":"a","comand":"b"}', "unknown job field 'comand'. Did you mean 'command'?"),
    ('{"command":"a","state":"completed"}', "'state' is set by queuectl itself"),
    ('{"command":"a","attempts":0}', "'attempts' is set by queuectl itself"),
    ('{"command":"a","created-at":"x"}', "is set by queuectl itself"),
    ('{"command":"a","command":"b"}', "has the name 'command' twice"),
    ('{"command":"a","max_retries":1,"max-retries":2}', "'max_retries' is given twice"),
    ('{"command":"a","id":""}', "'id' must be 1-128 of"),
    ('{"command":"a","id":"../x"}', "'id' must be 1-128 of"),
    ('{"command":"a","id":"a\\nb"}', "'id' must be 1-128 of"),
    ('{"command":"a","id":"-x"}', "'id' must be 1-128 of"),
    ('{"command":"a","id":7}', "'id' must be 1-128 of"),
    ('{"command":"a","queue":"no spaces"}', "'queue' must be 1-128 of"),
    ('{"command":"a","priority":1.5}', "'priority' must be a whole number"),
    ('{"command":"a","priority":true}', "'priority' must be a whole number within +-2147483647, not true."),
    ('{"command":null}', "'command' must be a string, not null."),
    ('{"command":"a","env":[true,null]}', ", not [true, null]."),
    ('{"command":"a\tb"}', "not a JSON object: Invalid control character at character 14: "),
    ('{"command":"a', "not a JSON object: Unterminated string starting at character 12: "),
    ("[true]", 'a job must be a JSON object such as {"command": "echo hi"}, not [true].'),
    ('{"command":"a","priority":"1"}', "'priority' must be a whole number"),
    ('{"command":"a","priority":2147483648}', "'priority' must be a whole number"),
    ('{"command":"a","priority":%s}' % ("9" * 400), "'priority' must be a whole number"),
    ('{"command":"a","max_retries":-1}', "'max_retries' must be a whole number from 0"),
    ('{"command":"a","backoff_base":0.5}', "'backoff_base' must be a number of at least 1"),
    ('{"command":"a","backoff_base":1e999}', "'backoff_base' must be a number of at least 1"),
    ('{"command":"a","backoff_base":NaN}', "'backoff_base' must be a number of at least 1"),
    ('{"command":"a","timeout":0}', "'timeout' must be more than 0"),
    ('{"command":"a","timeout":"soon"}', "'timeout' must be"),
    ('{"command":"a","run_at":12}', "'run_at' must be a time"),
    ('{"command":"a","run_at":"tomorrow"}', "'run_at' must be a time"),
    ('{"command":"a","run_at":"2099-01-01","delay":1}', "'run_at' and 'delay' are both given"),
    ('{"command":"a","delay":-1}', "'delay' must be"),
    ('{"command":"a","delay":1e300}', "up to 100 years, not 1e+300."),
    ('{"command":"a","run_at":"2200-01-01"}', "from 1970 to 2199 (UTC), not '2200-01-01'."),
    ('{"command":"a","run_at":"1970-01-01T00:00+01:00"}', "from 1970 to 2199 (UTC), not '1970-01-01T00:00+01:00'."),
    ('{"command":"a","env":[]}', "'env' must be an object of strings"),
    ('{"command":"a","env":{"A":1}}', "'env' must be an object of strings"),
    ('{"command":"a","env":{"A=B":"x"}}', "'env' must be"),
    ('{"command":"a","tags":"x"}', "'tags' must be a list of strings"),
    ('{"command":"a","tags":[1]}', "'tags' must be a list of tags"),
    ('{"command":"a","tags":["a b"]}', "'tags' must be a list of tags"),
    ('{"command":"%s"}' % ("x" * 1_000_000), None),
    ("[" * 100_000, "not a JSON object"),
]


@pytest.mark.parametrize(("text", "message"), BAD_JOBS)
def test_a_bad_job_is_refused_without_a_trace(cli: Callable[..., Any], text: str, message: Any, home: Any) -> None:
    """One sentence, exit code 1, no traceback, nothing stored, no id used up."""
    if len(text.encode()) > 100_000:  # more than the system hands over as one argument
        result = cli("enqueue", "--file", "-", input=text)
    else:
        result = cli("enqueue", text)

    assert (result.out, result.code) == ("", 1)
    assert result.err.startswith("queuectl: ")
    assert result.err.count("\n") == 1
    assert message is None or message in result.err
    assert cli("enqueue", '{"command":"a"}').out == "Enqueued job job1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "enqueue needs a job"),
        (["--"], "enqueue needs a command after --"),
        (["--", ""], "enqueue needs a command after --"),
        (["--", "", "x"], "enqueue needs a command after --"),
        (["{}", "more"], "unexpected argument 'more'"),
        (["echo", "hi"], "Put a command's words after --: queuectl enqueue -- ..."),
        (["ls", "-la"], "unknown option -la. Put a command's words after --: queuectl enqueue -- ..."),
        (["cc", "a.c", "--name=x"], "unknown option --name. Put a command's words after --: queuectl enqueue -- ..."),
        (["{}", "--name=x"], "unknown option --name. Did you mean --id?"),
        (["{}", "--", "a"], "was given JSON and words after --"),
        (["--command", "a", "--", "b"], "was given --command and words after --"),
        (["--command"], "option --command needs a value: --command CMD."),
        (["--priority", "--", "a"], "option --priority needs a value"),
        (["--prio", "1", "--", "a"], "unknown option --prio"),
        (["--env", "novalue", "--", "a"], "option --env must be NAME=VALUE, not 'novalue'"),
        (["--lines", "--", "a"], "option --lines needs --file"),
        (["--lines=yes", "--file", "x"], "option --lines takes no value"),
        (["-x", "--", "a"], "unknown option -x"),
    ],
)
def test_wrong_usage_exits_with_2(cli: Callable[..., Any], words: List[str], message: str) -> None:
    """What is wrong with the command line is told apart from what is wrong with the job."""
    result = cli("enqueue", *words)

    assert (result.out, result.code) == ("", 2)
    assert message in result.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--priority", "high"), ("--priority", "1_000"), ("--max-retries", "-1"), ("--max-retries", "9" * 5000),
        ("--backoff-base", "nan"), ("--backoff-base", "inf"), ("--timeout", "0"), ("--delay", "later"),
        ("--at", "noon"), ("--id", "a/b"), ("--queue", ""), ("--tag", "a b"),
    ],
)  # fmt: skip
def test_a_bad_field_in_an_option_is_a_bad_job(cli: Callable[..., Any], option: str, value: str) -> None:
    """The same check, the same words and the same exit code as in JSON."""
    result = cli("enqueue", option, value, "--", "true")

    assert (result.out, result.code) == ("", 1)
    assert result.err.startswith("queuectl: job field ")


@POSIX
@pytest.mark.parametrize(
    "words",
    [
        [b"enqueue", b"--", b"echo", b"\xff\xfe"],
        [b"enqueue", b"--command", b"caf\xe9"],
        [b"enqueue", b'{"command":"caf\xe9"}'],
        [b"enqueue", b"--env", b"A=\xff", b"--", b"a"],
        [b"enqueue", b"--env", b"\xff=a", b"--", b"a"],
        [b"enqueue", b"--id", b"\xff", b"--", b"a"],
        [b"enqueue", b"--cwd", b"/tmp/\xff", b"--", b"a"],
    ],
)
def test_bytes_that_are_no_utf8_are_refused(cli: Callable[..., Any], words: List[bytes]) -> None:
    """Nobody could read them back; the id is not used up."""
    result = cli(*words)

    assert (result.out, result.code) == ("", 1)
    assert result.err.startswith("queuectl: job field ")
    assert cli("enqueue", "--", "a").out == "Enqueued job job1\n"


def test_a_directory_that_is_gone_is_named(cli: Callable[..., Any], home: Any) -> None:
    """A job needs a directory to run in."""
    program = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone');"
        "from queuectl.main import main; sys.exit(main(sys.argv[1:]))"
    )
    if sys.platform == "win32":
        pytest.skip("Windows keeps a directory that is in use")

    def enqueue(*words: str) -> Any:
        return subprocess.run([sys.executable, "-c", program, "enqueue", *words], stderr=subprocess.PIPE, check=False)

    one, elsewhere = home.parent / "one", home.parent / "elsewhere"
    one.write_text('{"command":"true"}\n')
    elsewhere.write_text('{"command":"true","cwd":"/"}\n')
    refused = [enqueue("--", "true"), enqueue("--file", str(one))]
    accepted = [
        enqueue("--cwd", str(home.parent), "--", "true"),
        enqueue("--cwd", str(home.parent), "--file", str(one)),
        enqueue("--file", str(elsewhere)),
    ]

    assert [1, 1, 0, 0, 0] == [done.returncode for done in (*refused, *accepted)]
    assert [b"or give --cwd DIR.\n", b"or give the job a cwd. Nothing was enqueued.\n"] == [
        done.stderr.partition(b"the current directory no longer exists. Change to another, ")[2] for done in refused
    ]


@POSIX
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("enqueue -- true", "job1"),
        ("run -- true", "job1"),
        ("enqueue --lines --file lines", "2000 jobs (job1 .. job2000)"),
    ],
)
def test_a_ctrl_c_behind_the_commit_names_what_is_stored(
    cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]], home: Any, words: str, told: str
) -> None:
    """Whoever takes it for not enqueued runs it twice; one that comes sooner leaves nothing."""
    Path("lines").write_text("true\n" * 2000)

    sooner = cli(*words.split(), env={"QUEUECTL_FAULT": "adding:INT"})
    before = len(jobs())
    later = cli(*words.split(), env={"QUEUECTL_FAULT": "added:INT"})

    assert ("queuectl: interrupted.\n", 130, 0) == (sooner.err, sooner.code, before)
    assert (f"queuectl: interrupted. The store has {told} all the same.\n", 130) == (later.err, later.code)
    assert jobs()


def test_a_taken_id_is_refused(cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]]) -> None:
    """And the job that has it is as it was."""
    cli("enqueue", '{"command":"first","id":"mine"}', code=0)

    result = cli("enqueue", '{"command":"second","id":"mine"}')

    assert result == ("", "queuectl: the id mine is taken. Give another id, or none to get the next one.\n", 1)
    assert ["first"] == [job["command"] for job in jobs()]
