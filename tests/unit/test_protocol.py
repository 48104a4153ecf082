"""The model of the protocol: it holds as it is, and breaks where a protection is taken out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import queuectl

PATH = Path(queuectl.__file__).resolve().parent.parent / "docs" / "explanation" / "protocol" / "explorer.py"

pytestmark = pytest.mark.skipif(not PATH.exists(), reason="no checkout: an installed package has no docs")

#: Small enough for a test: every history is explored all the same.
SMALL = {"lease": 2, "lives": 1}


@pytest.fixture(scope="module")
def explorer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protocol_explorer", str(PATH))
    module = importlib.util.module_from_spec(spec)
    sys.modules["protocol_explorer"] = module
    spec.loader.exec_module(module)
    return module


def test_no_history_breaks_a_promise(explorer: ModuleType) -> None:
    """All states of the small size, to the last: no overlap, no stale end."""
    result = explorer.explore(explorer.Rules(**SMALL))

    assert ("", []) == (result.broken, result.history)
    assert result.states > 10_000
    assert result.depth > 30


def test_no_history_leaves_the_job_stuck(explorer: ModuleType) -> None:
    """From every state the job comes to an end once all is well."""
    assert explorer.stuck(explorer.Rules(**SMALL))[1] is None


@pytest.mark.parametrize(
    ("without", "breaks"),
    [
        ("fence", "stale"),
        ("self_fence", "overlap"),
        ("look_before_start", "overlap"),
        ("from_begin", "overlap"),
        ("same_rate", "overlap"),
    ],
)
def test_each_protection_is_needed(explorer: ModuleType, without: str, breaks: str) -> None:
    """Without it there is a history that breaks the promise, and it is told step by step."""
    result = explorer.explore(explorer.Rules(**{**SMALL, without: False}))

    assert result.broken == breaks
    assert len(result.history) == result.depth
    assert result.history[0].startswith(("0: ", "tick"))


@pytest.mark.parametrize("change", [{"margin": 1}, {"pause": 2}, {"pause": 0}])
def test_the_margin_bounds_how_long_a_worker_may_be_paused(explorer: ModuleType, change: dict) -> None:
    """A host that hangs for longer than that may have a second copy beside its own; its end is refused even so."""
    rules = explorer.Rules(**{**SMALL, **change})

    assert explorer.explore(rules).broken == "overlap"
    assert explorer.explore(rules, ["stale"]).broken == ""


def test_a_worker_has_to_ask_again_what_it_owns(explorer: ModuleType) -> None:
    """A claim that arrives after the first question belongs to a worker that knows nothing of it."""
    found = explorer.stuck(explorer.Rules(**{**SMALL, "ask_again": False}))[1]

    assert found is not None
    assert (found.job, found.workers[0].at) == (explorer.PROCESSING, explorer.IDLE)


def test_the_command_line_tells_the_history(explorer: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and the steps where a promise is broken, 0 and the size of the search where none is."""
    assert explorer.main(["--lease", "2", "--lives", "1", "--no-self-fence"]) == 1
    assert "broken: overlap" in capsys.readouterr().out
    assert explorer.main(["--lease", "1", "--lives", "1", "--most", "5000"]) == 0
    assert "no overlap, no stale" in capsys.readouterr().out
