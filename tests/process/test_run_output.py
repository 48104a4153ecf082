"""What a run printed is kept as it was: in order, byte for byte, up to the limit."""

from __future__ import annotations

import os
from typing import Callable, Dict

import pytest

from tests.conftest import Result
from tests.process.scene import Scene

pytestmark = pytest.mark.posix


def test_stdout_and_stderr_in_order_of_arrival(scene: Scene) -> None:
    """The two streams are kept together, as a terminal would have shown them."""
    lines = [f"{stream} {number}" for number in range(50) for stream in ("out", "err")]
    command = "; ".join(f"echo {line}" + (" >&2" if line.startswith("err") else "") for line in lines)
    job_id = scene.queue.enqueue(command).id

    scene.drain()

    assert lines == scene.output(job_id).splitlines()


def test_every_byte(scene: Scene, cli: Callable[..., Result]) -> None:
    """NUL, invalid UTF-8, carriage returns, no newline at the end: ``logs`` gives back exactly what came."""
    data = bytes(range(256)) * 40 + b"\xff\xfe\r\n\0\x1b[31m no newline at the end"
    (scene.folder / "data").write_bytes(data)
    job_id = scene.queue.enqueue("cat data; head -c 10 data >&2").id

    scene.drain()

    assert data + data[:10] == cli("logs", job_id, binary=True, code=0).out


@pytest.mark.parametrize("size", [0, 1, 4095, 65536, 65537, 1 << 20])
def test_every_size_up_to_the_limit(scene: Scene, size: int) -> None:
    """Up to the limit nothing is cut, however the pieces fall."""
    data = os.urandom(size)
    (scene.folder / "data").write_bytes(data)
    job_id = scene.queue.enqueue("cat data").id

    scene.drain()

    assert data == scene.queue.output(job_id)


def test_beyond_the_limit_head_and_tail_stay(scene: Scene) -> None:
    """Of a long output the first and the last half of the limit are kept, and the cut is marked with its size."""
    scene.queue.set_setting("output_limit", "1000")
    data = "".join(f"{number:04}\n" for number in range(2000)).encode()
    (scene.folder / "data").write_bytes(data)
    job_id = scene.queue.enqueue("cat data").id

    scene.drain()

    assert data[:500] + b"\n[queuectl: 9000 bytes were cut here]\n" + data[-500:] == scene.queue.output(job_id)


def test_the_limit_is_per_run(scene: Scene, cli: Callable[..., Result]) -> None:
    """Each run's output is kept by itself, the failed one's too."""
    body = 'echo "run $QUEUECTL_ATTEMPT"; [ "$QUEUECTL_ATTEMPT" = 2 ]'
    job_id = scene.queue.enqueue(body, backoff_base=1).id

    scene.drain()

    assert "run 1\n" == cli("logs", job_id, "--run", "1", code=0).out
    assert "run 2\n" == cli("logs", job_id, "--run", "2", code=0).out == cli("logs", job_id, code=0).out


def sizes(scene: Scene) -> Dict[str, int]:
    """Return the size of each of the store's files."""
    return {path.name: path.stat().st_size for path in (scene.folder / ".queuectl").iterdir() if path.is_file()}


def memory_kib(pid: int, what: str = "VmHWM") -> int:
    """Return a figure of a process's memory, by default the most it has had."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_command_that_prints_for_ever(scene: Scene, cli: Callable[..., Result]) -> None:
    """Some seconds of ``yes``, gigabytes: neither the worker's memory nor the store grows with it."""
    job_id = scene.queue.enqueue("exec yes", max_retries=0, timeout=5).id
    cli("worker", "start", "--daemon", code=0)  # in the foreground it would show the gigabytes
    (pid,) = (worker.pid for worker in scene.queue.workers())
    before = memory_kib(pid)
    most: Dict[str, int] = {}

    def ended() -> bool:
        for name, size in sizes(scene).items():
            most[name] = max(size, most.get(name, 0))
        return scene.state(job_id) == "dead"

    scene.eventually(ended, timeout=60)
    grown = memory_kib(pid) - before
    output = scene.queue.output(job_id)
    cli("worker", "stop", code=0)

    assert grown < 16 * 1024, f"the worker grew by {grown} KiB"
    assert most["jobs.db"] < 8 << 20
    # The log of changes is turned over at 4 MiB and by whoever is idle.
    assert most["jobs.db-wal"] < 64 << 20
    assert 1 << 20 <= len(output) <= (1 << 20) + 100
    assert output.startswith(b"y\ny\n")
    assert b"bytes were cut here]\n" in output


def test_a_foreground_worker_shows_the_output(scene: Scene) -> None:
    """Its own lines begin at the start of a line, also after output that does not end in one."""
    scene.queue.enqueue("echo one; printf two >&2")
    scene.queue.enqueue("true")

    out = scene.start("--drain", wait=False).wait().out.splitlines()

    begin = out.index("[worker 0] picked job job1: echo one; printf two >&2")
    assert ["one", "two", "[worker 0] job job1 completed", "[worker 0] picked job job2: true"] == out[begin + 1 :][:4]


def test_control_characters_of_a_command_are_shown_escaped(scene: Scene) -> None:
    """A worker's line is one line, whatever the command is; the output passes through as it is."""
    scene.queue.enqueue("printf 'a\tb\n'\necho '\x1b[31mred'")

    out = scene.start("--drain", wait=False).wait().out

    assert "[worker 0] picked job job1: printf 'a\\tb\\n'\\necho '\\x1b[31mred'\n" in out
    assert "\na\tb\n\x1b[31mred\n" in out


def test_a_foreground_worker_shows_all_of_what_comes_quickly(scene: Scene) -> None:
    """Into a file there is always room for more, so nothing is left out on the way there."""
    lines = 1_500_000
    scene.queue.enqueue(f"yes words | head -n {lines}")

    group = scene.start("--drain", wait=False)
    assert 0 == group.wait(120).code

    assert lines == group.out.splitlines().count("words")
    assert "left out" not in group.out
