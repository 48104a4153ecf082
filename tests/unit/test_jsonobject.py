"""Reading the JSON of a job with the scanner alone, without the rest of the json module."""

from __future__ import annotations

import pytest

from queuectl.cli_commands.jsonobject import make_reader
from queuectl.errors import InvalidJob

_json = pytest.importorskip("_json", reason="only CPython has the scanner by itself")


def test_a_scanner_that_asks_for_more_than_it_is_told_is_done_without(monkeypatch):
    """Python 3.15's asks for one thing more than earlier ones; some later one may do so again."""
    monkeypatch.setattr(_json, "make_scanner", lambda rules: rules.what_only_a_later_python_knows)

    read = make_reader()

    assert {"command": "echo hi", "tags": ["a"]} == read('{"command": "echo hi", "tags": ["a"]}')
    with pytest.raises(InvalidJob):
        read('{"command": ')
