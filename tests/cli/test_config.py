"""``queuectl config``: settings, checked."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest

from queuectl.config import SETTINGS


def test_set_get_unset(cli: Callable[..., Any]) -> None:
    """The bare value as it was typed; unset, the default."""
    assert ("3\n", "", 0) == cli("config", "get", "max_retries")
    assert ("OK\n", "", 0) == cli("config", "set", "max_retries", "5")
    assert ("5\n", "", 0) == cli("config", "get", "max_retries")
    assert ("OK\n", "", 0) == cli("config", "unset", "max_retries")
    assert ("3\n", "", 0) == cli("config", "get", "max_retries")


@pytest.mark.parametrize("key", ["max-retries", "default_max_retries", "MAX_RETRIES", "default-max-retries"])
def test_other_spellings(cli: Callable[..., Any], key: str) -> None:
    """All mean the same setting."""
    cli("config", "set", key, "7", code=0)

    assert "7\n" == cli("config", "get", "max_retries").out
    assert "7\n" == cli("config", "get", key).out


def test_a_setting_without_default(cli: Callable[..., Any]) -> None:
    """``none`` is printed, and may be set."""
    assert "none\n" == cli("config", "get", "timeout").out
    cli("config", "set", "timeout", "90s", code=0)
    assert "90s\n" == cli("config", "get", "timeout").out
    cli("config", "set", "timeout", "none", code=0)
    assert "none\n" == cli("config", "get", "timeout").out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["set", "max_retries", "-1"], 1, "max_retries must be a whole number from 0 to 2147483647, not '-1'."),
        (["set", "max_retries", "2147483648"], 1, "from 0 to 2147483647, not '2147483648'."),
        (["set", "max_lost", "0"], 1, "max_lost must be a whole number from 1 to 2147483647, not '0'."),
        (["set", "timeout", "0"], 1, "timeout must be more than 0: seconds or a duration such as"),
        (["set", "kill_grace", "101000d"], 1, ", up to 100 years, not '101000d'."),
        (["set", "output_limit", "10TB"], 1, "such as 65536, 64k or 1 MiB, from 2 bytes to 1 GiB, not '10TB'."),
        (["set", "max_retries", "three"], 1, "max_retries must be"),
        (["set", "max_retries", ""], 1, "max_retries must be"),
        (["set", "backoff_base", "0.5"], 1, "backoff_base must be a number of at least 1"),
        (["set", "backoff_base", "-1"], 1, "backoff_base must be a number of at least 1"),
        (["set", "backoff_base", "inf"], 1, "backoff_base must be"),
        (["set", "lease", "1"], 1, "lease must be"),
        (["set", "bakoff_base", "2"], 1, "unknown setting 'bakoff_base'. Did you mean backoff_base?"),
        (["set", "on_failure", "mail me"], 1, "unknown setting 'on_failure'. Did you mean on_dead?"),
        (["get", "bogus"], 1, "unknown setting 'bogus'. 'queuectl config list' shows them all."),
        (["unset", "bogus"], 1, "unknown setting 'bogus'."),
        (["set", "max_retries"], 2, "config set needs V: queuectl config set K V"),
        (["get"], 2, "config get needs K: queuectl config get K"),
        (["set", "max_retries", "1", "2"], 2, "unexpected argument '2'"),
    ],
)
def test_what_is_refused(cli: Callable[..., Any], words: Any, code: int, message: str) -> None:
    """The setting is as it was."""
    result = cli("config", *words)

    assert (result.out, result.code) == ("", code)
    assert message in result.err
    assert "3\n" == cli("config", "get", "max_retries").out


def test_a_number_without_a_unit_may_have_been_meant_as_days(cli: Callable[..., Any]) -> None:
    """Where jobs are deleted by it, it is told what it means, before the workers have done it."""
    result = cli("config", "set", "keep-dead", "7", code=0)

    assert result.out == "OK\n"
    assert result.err == (
        "queuectl: keep_dead is 7 s, as a number without a unit is seconds: workers delete dead jobs this long after "
        "they died. Days are written 7d.\n"
    )
    for words in (["keep_dead", "7d"], ["keep_dead", "none"], ["-q", "keep_dead", "7"], ["kill_grace", "7"]):
        assert cli("config", "set", *words, code=0).err == ""


def test_list(cli: Callable[..., Any]) -> None:
    """A table with default and meaning, wherever it goes."""
    cli("config", "set", "kill_grace", "10", code=0)

    lines = cli("config", "list", code=0).out.splitlines()
    documents = {found["key"]: found for found in json.loads(cli("config", "list", "--json", code=0).out)}

    assert ["SETTING", "VALUE", "DEFAULT", "MEANING"] == lines[0].split()
    assert list(SETTINGS) == [line.split()[0] for line in lines[1:]]
    assert any(line.split()[:3] == ["kill_grace", "10", "5"] for line in lines)
    assert (documents["kill_grace"]["value"], documents["kill_grace"]["set"]) == ("10", True)
    assert (documents["timeout"]["value"], documents["timeout"]["set"]) == (None, False)


def test_max_retries_is_settled_at_enqueue(
    cli: Callable[..., Any], add: Callable[..., str], job: Callable[[str], Any]
) -> None:
    """A later change does not reach a job that is there."""
    cli("config", "set", "max_retries", "1", code=0)
    add("true")
    cli("config", "set", "max_retries", "8", code=0)

    assert 1 == job("job1")["max_retries"]


def test_quiet_and_json(cli: Callable[..., Any]) -> None:
    """No OK where nobody asked; the setting where a document was asked for."""
    assert ("", "", 0) == cli("config", "set", "-q", "max_lost", "4")
    assert "4" == json.loads(cli("config", "get", "--json", "max_lost").out)["value"]
    assert "5" == json.loads(cli("config", "set", "--json", "max_lost", "5").out)["value"]
