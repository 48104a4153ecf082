"""The benchmarks' harness: what is worse is found, what was stopped goes on, the report says what was measured."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [
    pytest.mark.posix("the benchmarks stand beside xargs"),
    pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="no checkout: an installed package has no benchmarks"),
]
if (ROOT / "bench").is_dir():
    from bench import __main__ as bench
    from bench import local_peers, measure, report
    from bench.peer import NotDoneError, Peer, folder, must, running, until
    from bench.plot import Bars, bar_chart

SVG = "{http://www.w3.org/2000/svg}"


# -- comparing --------------------------------------------------------------------------------


def test_a_smaller_share_of_the_floor_is_worse() -> None:
    before = {"true, 2 workers": {"share of xargs": 0.8}, "echo": {"share of xargs": 0.8}}
    after = {"true, 2 workers": {"share of xargs": 0.6}, "echo": {"share of xargs": 0.7}, "new": {"share of xargs": 0}}

    assert list(bench.compare("drain", before, after)) == [
        ("true, 2 workers: share of xargs", 0.6, 0.8, True),
        ("echo: share of xargs", 0.7, 0.8, False),
    ]


def test_a_larger_multiple_is_worse_except_of_what_counts_jobs_a_second() -> None:
    before = {"enqueue / pass": 1.0, "bulk / bare executemany": 0.5, "enqueue, ms": 30}
    after = {"enqueue / pass": 1.3, "bulk / bare executemany": 0.7, "enqueue, ms": 90}

    assert list(bench.compare("startup", before, after)) == [
        ("enqueue / pass", 1.3, 1.0, True),
        ("bulk / bare executemany", 0.7, 0.5, False),
    ]
    assert list(bench.compare("startup", before, {"bulk / bare executemany": 0.3})) == [
        ("bulk / bare executemany", 0.3, 0.5, True)
    ]


def test_only_our_own_rate_counts_among_peers() -> None:
    before = {"queuectl: 2": {"share of xargs": 0.8}, "GNU parallel: 2": {"share of xargs": 0.8}}
    after = {"queuectl: 2": {"share of xargs": 0.5}, "GNU parallel: 2": {"share of xargs": 0.1}}

    assert list(bench.compare("peers", before, after)) == [("queuectl: 2: share of xargs", 0.5, 0.8, True)]


# -- recording --------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> List[str]:
    """Three parts that note that they were measured; the second is stopped the first time."""
    found: List[str] = []

    def part(name: str) -> bench.Part:
        def run(rounds: int, jobs: int) -> Dict[str, Any]:
            found.append(f"{name} {rounds} {jobs}")
            if found == ["drain 2 7", "startup 2 7"]:
                raise KeyboardInterrupt
            return {f"{name} / pass": 1.5, "a / pass": 1.0} if name == "startup" else {name: 1}

        return run

    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(report, "PLOTS", {"startup": report.PLOTS["startup"]})
    monkeypatch.setattr(bench, "PARTS", {name: part(name) for name in ("drain", "startup", "store")})
    return found


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    monkeypatch.setattr(bench.signal, "signal", lambda *_: None)
    return bench.main()


def test_a_run_that_was_stopped_goes_on_as_it_was(
    measured: List[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was measured before the stop is kept and not measured again; once it is over there is nothing to resume."""
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, "--rounds", "2", "--jobs", "7")
    assert {"drain"} == set(measure.load())

    assert 0 == call(monkeypatch, "--resume")

    assert ["drain 2 7", "startup 2 7", "startup 2 7", "store 2 7"] == measured
    assert ["drain", "startup", "store"] == list(measure.load())
    assert {"results.json", "RESULTS.md", "startup.svg"} == {path.name for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit):
        call(monkeypatch, "--resume")


def test_rows_keep_the_order_in_which_they_were_measured(measured: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, "startup")

    assert ["startup / pass", "a / pass"] == list(measure.load()["startup"]["rows"])


# -- peers ------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("xargs"), reason="there is no xargs")
def test_a_peer_that_does_not_do_its_work_has_no_figure() -> None:
    """Beside two that are measured, each for real."""
    peers = {
        "xargs -P": Peer("1", "no queue", 20, lambda jobs, slots: local_peers.xargs("true", jobs, slots)()),
        "queuectl": Peer("1", "synced", 20, local_peers.ours),
        "idler": Peer("1", "nothing", 20, lambda jobs, slots: must(0, jobs) or 0.001),
    }
    failed: Dict[str, str] = {}

    times = {name: [local_peers.timed(name, peer, 2, failed)()] for name, peer in peers.items()}
    rows = {name: local_peers.row(name, peer, times, failed) for name, peer in peers.items()}

    assert {"idler": "0 of 20 jobs ended well"} == failed
    assert "failed: 0 of 20 jobs ended well" == rows["idler"]["share of xargs"]
    assert 1.0 == rows["xargs -P"]["share of xargs"] == rows["queuectl"]["queuectl's rate over it"]
    assert rows["queuectl"]["share of xargs"] > 0


def test_processes_of_a_drain_end_with_it_and_one_that_ends_early_says_why() -> None:
    with folder(), pytest.raises(NotDoneError, match="its last words: no such queue"):
        with running(["sleep", "1000"]) as (sleeper,):
            with running(["sh", "-c", "echo no such queue >&2; exit 1"]) as processes:
                until(lambda: False, processes)

    assert -9 == sleeper.returncode


# -- the report -------------------------------------------------------------------------------


def drawn(svg: str) -> Dict[str, List[int]]:
    """Return the lengths of the bars under the height at which each begins."""
    bars: Dict[str, List[int]] = {}
    for rect in ET.fromstring(svg).iter(f"{SVG}rect"):
        if rect.get("y") and rect.get("height") == "10" and rect.get("width") != "10":
            bars.setdefault(str(rect.get("fill")), []).append(int(rect.get("width", "0")))
    return bars


def test_bars_are_as_long_as_their_figures() -> None:
    """On a ground of their own, so that they can be read on a dark page; names are escaped."""
    svg = bar_chart("a & b", [Bars("<one>", [0.5, 2.0]), Bars("two", [None, 1.0])], ["s", "t"], (1.0, "floor"))

    assert [[100], [400, 200]] == list(drawn(svg).values())
    root = ET.fromstring(svg)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"a & b", "<one>", "two", "0.50", "2.00", "1.00", "-", "floor", "s", "t"} == set(texts)
    ground = next(root.iter(f"{SVG}rect"))
    assert ("#ffffff", root.get("width"), root.get("height")) == tuple(map(ground.get, ("fill", "width", "height")))
    assert "#1a1a1a" == root.get("fill")


def peer_row(share: Any, rate: Any, over: Any) -> Dict[str, Any]:
    about = {"jobs": 10, "version": "1.2", "kept": "synced"}
    return {"share of xargs": share, "jobs a second": rate, "queuectl's rate over it": over, **about}


def test_a_table_of_peers_has_a_row_each_the_fastest_first() -> None:
    rows = {
        "slow: 2": peer_row(0.1, 100.0, 8.0),
        "slow: 16": peer_row("failed: 1 of 10", "-", "-"),
        "other: 2": peer_row(0.05, 50.0, 16.0),
        "other: 16": peer_row(0.06, 60.0, 30.0),
        "queuectl: 2": peer_row(0.8, 800.0, 1.0),
        "queuectl: 16": peer_row(0.75, 750.0, 1.0),
        "absent: -": {**peer_row("missing", "-", "-"), "kept": "not installed: a package"},
    }
    machine = {"cores": 2, "cpu": "a cpu", "system": "Linux", "python": "3", "sqlite": "3", "load": 0.1}
    machine = {**machine, "memory, GiB": 4.0, "file system": "ext4"}

    files = report.rendered({"peers": {"machine": machine, "on": "today", "rows": rows}})

    table = [line for line in files["RESULTS.md"].split("\n") if line.startswith("| ")]
    assert [
        "| | 2 at a time | 16 at a time | queuectl's rate over it | jobs | version | kept |",
        "| queuectl | 800 (0.800) | 750 (0.750) | 1.00 | 10 | 1.2 | synced |",
        "| slow | 100 (0.100) | failed: 1 of 10 | 8.00 | 10 | 1.2 | synced |",
        "| other | 50 (0.050) | 60 (0.060) | 16.00 to 30.00 | 10 | 1.2 | synced |",
        "| absent | - | - | - | 10 | 1.2 | not installed: a package |",
    ] == table
    assert "2 cores (a cpu), 4.0 GiB, Linux, ext4, " in files["RESULTS.md"]
    assert [[320, 40, 20], [300, 24]] == list(drawn(files["peers.svg"]).values())


def test_a_plot_of_growth_has_a_bar_per_size() -> None:
    rows = {
        "1,000,000 pending, 5,000,000 ended: status / in a small store": 1.5,
        "1,000,000 pending, 5,000,000 ended: status in the library, ms": 0.9,
        "100,000 pending, 100,000 ended: status / in a small store": 0.75,
    }

    svg = report.plot_growth(rows)

    assert [[200], [400]] == list(drawn(svg).values())
    assert svg.index(">100,000 pending") < svg.index(">1,000,000 pending")


def test_the_published_report_is_what_the_figures_say() -> None:
    """RESULTS.md and the plots are never written by hand, nor forgotten when their form changes."""
    results = json.loads(measure.RESULTS.read_text(encoding="utf-8"))

    for name, text in report.rendered(results).items():
        assert text == measure.RESULTS.with_name(name).read_text(encoding="utf-8"), "run: python3 -m bench.report"
