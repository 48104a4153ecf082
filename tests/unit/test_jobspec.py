"""What a caller may say about a job, and how everything else is refused."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl import jobspec
from queuectl.errors import InvalidJob

CWD = os.path.abspath(os.sep + "somewhere")
INT_MAX = 2**31 - 1


def deep(depth, leaf=None):
    """Return lists nested *depth* times."""
    nested = leaf
    for _ in range(depth):
        nested = [nested]
    return nested


def deep_object(depth):
    """Return objects nested *depth* times."""
    nested = {}
    for _ in range(depth):
        nested = {"a": nested}
    return nested


def spec(**fields):
    """Return the checked job of *fields*, with a command if they have none."""
    return jobspec.from_fields({"command": "true", **fields}, CWD)


def refusal(fields):
    """Return the message with which *fields* are refused."""
    with pytest.raises(InvalidJob) as refused:
        jobspec.from_fields(fields, CWD)
    return str(refused.value)


# -- what is accepted -------------------------------------------------------------------------


def test_a_command_is_enough():
    """Everything but the command has a default: the queue default, priority 0, due now, the caller's directory."""
    actual = jobspec.from_fields({"command": "echo hi"}, CWD)

    assert ("echo hi", CWD, "default", 0) == (actual.command, actual.cwd, actual.queue, actual.priority)
    assert 8 * [None] == [
        actual.id, actual.max_retries, actual.backoff_base, actual.timeout_s,
        actual.run_at, actual.delay_s, actual.env, actual.tags,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("command", " echo hi\n", "command", " echo hi\n"),
        ("command", "é 漢 😀", "command", "é 漢 😀"),
        ("command", "x" * (128 * 1024 - 1), "command", "x" * (128 * 1024 - 1)),
        ("id", "a", "id", "a"),
        ("id", "_" + "9" * 127, "id", "_" + "9" * 127),
        ("id", "Build.2030-01_x", "id", "Build.2030-01_x"),
        ("id", None, "id", None),
        ("queue", "mail.fast", "queue", "mail.fast"),
        ("queue", None, "queue", "default"),
        ("priority", -INT_MAX, "priority", -INT_MAX),
        ("priority", INT_MAX, "priority", INT_MAX),
        ("priority", None, "priority", 0),
        ("max_retries", 0, "max_retries", 0),
        ("max_retries", INT_MAX, "max_retries", INT_MAX),
        ("backoff_base", 1, "backoff_base", 1.0),
        ("backoff_base", 1e300, "backoff_base", 1e300),
        ("timeout", 0.001, "timeout_s", 0.001),
        ("timeout", "1.5h", "timeout_s", 5400.0),
        ("timeout", None, "timeout_s", None),
        ("delay", 0, "delay_s", 0.0),
        ("delay", "2h30m", "delay_s", 9000.0),
        ("run_at", "2030-01-31T08:00:00Z", "run_at", 1896076800.0),
        ("run_at", "2030-01-31T08:00:00+00:00", "run_at", 1896076800.0),
        ("run_at", datetime(2030, 1, 31, 9, 0, 0, 250000, timezone(timedelta(hours=1))), "run_at", 1896076800.25),
        ("run_at", datetime(2030, 1, 31, 8), "run_at", datetime(2030, 1, 31, 8).timestamp()),
        ("delay", timedelta(minutes=2), "delay_s", 120.0),
        ("timeout", timedelta(milliseconds=1500), "timeout_s", 1.5),
        ("env", {}, "env", {}),
        ("env", {"A": "", "B_1": "x=y"}, "env", {"A": "", "B_1": "x=y"}),
        ("tags", [], "tags", []),
        ("tags", ["b", "a", "b"], "tags", ["b", "a"]),
    ],
)  # fmt: skip
def test_a_valid_field_is_taken(field, value, attribute, expected):
    """Each field takes its documented values, at its bounds too; null is as if it were not given."""
    actual = spec(**{field: value})

    assert expected == getattr(actual, attribute)


def test_a_path_object_is_a_directory():
    """As ``pathlib`` has it; on Windows one without a drive is on that of the current directory."""
    path = PurePath("/srv/data")

    # Not of "/srv/data": Wine takes that for a path of the system below it.
    assert os.path.abspath(str(path)) == spec(cwd=path).cwd


@pytest.mark.parametrize("name", ["max_retries", "max-retries"])
def test_hyphens_are_underscores(name):
    """A field may be written either way."""
    assert 7 == spec(**{name: 7}).max_retries


def test_a_relative_directory_is_made_absolute(monkeypatch, tmp_path):
    """The worker runs elsewhere, so ``cwd`` is fixed where the job is described; ``~`` is the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    actual = [spec(cwd=cwd).cwd for cwd in ("sub", ".", "~")]

    here = os.getcwd()
    assert [os.path.join(here, "sub"), here, str(tmp_path)] == actual


def test_a_time_without_a_zone_is_local_time():
    """``run_at`` without zone means the clock on the caller's wall."""
    actual_at = spec(run_at="2030-07-01T08:00").run_at

    assert (2030, 7, 1, 8, 0, 0) == time.localtime(actual_at)[:6]


# -- what is refused --------------------------------------------------------------------------

BAD = [
    *[("command", value) for value in (None, 5, True, [], {}, "", " \t\n", "a\0b", "\ud800", "x" * 128 * 1024)],
    *[("id", value) for value in (5, True, "", "-a", ".a", "a b", "a/b", "é", "x" * 129, "a\n", "\ud800", "٣")],
    *[("queue", value) for value in (5, "", "-q", "a b", "q\0", "x" * 129)],
    *[("priority", value) for value in (1.0, "1", True, INT_MAX + 1, -INT_MAX - 1, 10**5000, float("nan"))],
    *[("max_retries", value) for value in (-1, 1.5, "3", False, INT_MAX + 1, 10**5000, [3])],
    *[("backoff_base", value) for value in (0.99, 0, -2, "2", True, float("nan"), float("inf"), 10**400)],
    *[("timeout", value) for value in (0, -1, "0", "soon", True, float("nan"), float("inf"), 1e300, 10**400, [])],
    *[("delay", value) for value in (-0.1, "-5", "x", True, float("nan"), float("inf"), 10**5000, {})],
    *[("run_at", value) for value in (1896076800, "tomorrow", "", "1960-01-01T00:00", "2030-01-31T08:00\0", "\ud800")],
    ("delay", timedelta(seconds=-1)), ("timeout", timedelta(0)), ("run_at", datetime(1960, 1, 1)),
    *[("cwd", value) for value in (5, "", "a\0b", "\ud800", [])],
    *[
        ("env", value)
        for value in (
            [], "A=1", 5, {"A": 1}, {"A": None}, {"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0"}, {"A": "\ud800"},
            {"\ud800": "x"}, {5: "x"}, {"A": "x" * 128 * 1024}, {"QUEUECTL_RUN_ID": "7"}, {"QUEUECTL_STORE_ID": "x"},
        )
    ],
    *[
        ("tags", value)
        for value in ("nightly", 5, {}, [5], [""], ["-x"], ["a b"], ["a\0"], [None], ["x" * 129], [["a"]],
                      [f"t{number}" for number in range(101)])
    ],
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{field}-{at}" for at, (field, _) in enumerate(BAD)])
def test_a_bad_value_is_refused_naming_the_field(field, value):
    """The message names the field, fits on one line of printable ASCII, and does not repeat a huge value."""
    message = refusal({"command": "true", field: value})

    assert f"job field {field!r} " in message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 260


@pytest.mark.parametrize("field", jobspec.FIELDS)
@pytest.mark.parametrize("value", [deep(100_000), deep_object(100_000)], ids=["lists", "objects"])
def test_a_hopelessly_deep_value_is_refused_like_any_other(field, value):
    """Nesting of 100,000 levels is a wrong type, not a crash."""
    message = refusal({"command": "true", field: value})

    assert f"job field {field!r} " in message


@pytest.mark.parametrize("field", jobspec.STATE_FIELDS)
def test_a_state_field_is_refused(field):
    """Nobody but queuectl itself says how a job stands."""
    message = refusal({"command": "true", field: 1})

    assert f"job field {field!r} is set by queuectl itself. Leave it out." == message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("comand", "Did you mean 'command'?"),
        ("maxretries", "Did you mean 'max_retries'?"),
        ("Priority", "Did you mean 'priority'?"),
        ("cmd", "Did you mean 'command'?"),
        ("name", "Did you mean 'id'?"),
        ("at", "Did you mean 'run_at'?"),
        ("max-attempts", "Did you mean 'max_retries'?"),
        ("zzz", "The fields are command, id, queue,"),
        ("\x1b[31m\ud800", "The fields are command, id, queue,"),
        ("x" * 10000, "The fields are command, id, queue,"),
    ],
)
def test_an_unknown_field_gets_a_hint(name, hint):
    """A misspelt field is never ignored; the nearest one is suggested."""
    message = refusal({"command": "true", name: 1})

    assert message.startswith("unknown job field ")
    assert hint in message
    assert message.isprintable()
    assert len(message) < 260


def test_a_field_name_that_is_no_string_is_refused():
    """A mapping from Python may have any key; it is refused like any bad field."""
    assert "a job field's name must be a string, not 5." == refusal({"command": "true", 5: 1})


def test_a_missing_command_is_refused():
    """There is no job without a command."""
    assert 'job field \'command\' is missing. Give at least {"command": "..."}.' == refusal({"id": "a"})


def test_one_field_under_two_names_is_refused():
    """Hyphen and underscore name one field, so both together are a contradiction, null or not."""
    for second in (5, None):
        message = refusal({"command": "true", "max-retries": 3, "max_retries": second})

        assert "job field 'max_retries' is given twice." == message


def test_a_time_and_a_delay_together_are_refused():
    """Both say when; only one may."""
    message = refusal({"command": "true", "run_at": "2030-01-31T08:00Z", "delay": 5})

    assert "job fields 'run_at' and 'delay' are both given. Give only one of them." == message


def test_a_null_beside_its_rival_is_no_contradiction():
    """A null is as if the field were not given."""
    assert 5.0 == spec(run_at=None, delay=5).delay_s


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**320)
    | st.floats()
    | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
RIGHT_TYPES = {
    "command": str, "cwd": str, "id": (str, type(None)), "queue": str, "priority": int,
    "max_retries": (int, type(None)), "backoff_base": (float, type(None)), "timeout_s": (float, type(None)),
    "run_at": (float, type(None)), "delay_s": (float, type(None)), "env": (dict, type(None)),
    "tags": (list, type(None)),
}  # fmt: skip


@given(st.sampled_from(jobspec.FIELDS), json_values)
def test_any_json_value_is_taken_with_the_right_type_or_refused_by_name(field, value):
    """No JSON value in any field raises another exception, and none slips through with a wrong type."""
    try:
        actual = spec(**{field: value})
    except InvalidJob as error:
        assert f"job field {field!r} " in str(error)
        assert str(error).isprintable()
    else:
        for attribute, kind in RIGHT_TYPES.items():
            assert isinstance(getattr(actual, attribute), kind)


@given(st.dictionaries(st.one_of(st.sampled_from(jobspec.FIELDS + jobspec.STATE_FIELDS), st.text()), json_values))
def test_any_object_is_a_job_or_refused(fields):
    """Whatever an object holds, it describes a job or raises InvalidJob."""
    try:
        actual = jobspec.from_fields(fields, CWD).command
    except InvalidJob:
        actual = "refused"

    assert actual.strip()


# -- JSON text --------------------------------------------------------------------------------


@given(st.dictionaries(st.text(st.characters(blacklist_categories=["Cs"])), json_values, max_size=5))
def test_json_text_reads_back(fields):
    """The fields of a JSON object are what the object says (NaN apart, which equals nothing)."""
    text = json.dumps(fields)

    actual = jobspec.fields_from_json(text)

    assert text == json.dumps(actual)


@given(st.one_of(st.text(max_size=60), st.text('{}[]":,\\ \t0123456789.-+eEnultrfasNIy', max_size=40)))
def test_any_text_is_an_object_or_refused(text):
    """No text makes the reader fail in another way, and the message has no control characters."""
    try:
        actual = jobspec.fields_from_json(text)
    except InvalidJob as error:
        assert str(error).isprintable()
    else:
        assert isinstance(actual, dict)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "For a plain command: queuectl enqueue -- COMMAND ARG"),
        ("echo hi", "For a plain command: queuectl enqueue -- COMMAND ARG"),
        ("{command:echo hi}", "the shell removed the double quotes"),
        ('{"command": "a"', "at character 16"),
        ('{"command": "a",}', "at character 1"),
        ('{"command": "a"} {}', "at character 18"),
        ('["a"]', "a job must be a JSON object"),
        ('"a"', "a job must be a JSON object"),
        ("5", "a job must be a JSON object"),
        ("null", "a job must be a JSON object"),
        ('{"command": "a", "command": "b"}', "the JSON has the name 'command' twice."),
        ('{"command": "a", "env": {"A": "1", "B": "2", "A": "3"}}', "the JSON has the name 'A' twice."),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("\ufeff{}", "not a JSON object"),
    ],
)  # fmt: skip
def test_text_that_is_no_json_object_is_refused_with_advice(text, part):
    """The message says where it goes wrong, or what the caller probably meant."""
    with pytest.raises(InvalidJob) as refused:
        jobspec.fields_from_json(text)

    assert part in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_number_of_thousands_of_digits_is_refused():
    """Such a number is refused while reading or as a value, whatever the Python."""
    with pytest.raises(InvalidJob):
        jobspec.from_fields(jobspec.fields_from_json('{"command": "a", "priority": ' + "9" * 5000 + "}"), CWD)


def test_the_last_of_a_hundred_thousand_names_may_be_the_twin():
    """A repeated name is found without comparing all pairs."""
    names = [f"n{number}" for number in range(100_000)] + ["n99999"]
    text = "{" + ",".join(f'"{name}":1' for name in names) + "}"

    with pytest.raises(InvalidJob, match="the JSON has the name 'n99999' twice"):
        jobspec.fields_from_json(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", True), ("A.b_c-9", True), ("_", True), ("x" * 128, True), ("9", True),
     ("", False), ("-a", False), (".a", False), ("x" * 129, False), ("a b", False), ("é", False), ("a\n", False)],
)  # fmt: skip
def test_names_have_one_rule(text, expected):
    """Ids, queues and tags are 1-128 of A-Z a-z 0-9 . _ -, not starting with - or a point."""
    assert expected is jobspec.is_name(text)
