"""``service``: what the system is told, and that the supervisor tells systemd how it stands."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd is Linux's service manager")


@LINUX
def test_show_prints_a_unit_that_finds_the_same_store(cli):
    """It names this store's home, waits for READY=1 and lets running jobs finish."""
    shown = cli("service", "show", "--count", "3", "--queue", "mail").out

    assert "Type=notify" in shown
    assert "KillMode=mixed" in shown
    assert "worker start --count 3 --queue mail" in shown
    assert f"Environment=QUEUECTL_HOME={os.environ['QUEUECTL_HOME']}" in shown


@LINUX
def test_the_stop_time_follows_the_timeout_setting(cli):
    """A stop waits as long as a job may run, the grace before KILL, and a little more."""
    cli("config", "set", "timeout", "10m")

    shown = cli("service", "show").out

    assert "TimeoutStopSec=615" in shown


@LINUX
def test_a_path_with_blanks_and_percents_is_quoted(cli, tmp_path):
    """Systemd reads the very path back: blanks within quotes, % doubled."""
    home = tmp_path / "a 100% home"

    shown = cli("service", "show", env={"QUEUECTL_HOME": str(home)}).out

    assert f'Environment="QUEUECTL_HOME={str(home).replace("%", "%%")}"' in shown


@LINUX
def test_systemd_accepts_the_unit(cli, tmp_path):
    """``systemd-analyze verify`` has nothing to say about it."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    unit = tmp_path / "queuectl.service"
    unit.write_text(cli("service", "show", "--system").out)

    answer = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)

    assert (0, "") == (answer.returncode, "\n".join(line for line in answer.stderr.splitlines() if "queuectl" in line))


@LINUX
def test_install_writes_the_file_and_uninstall_without_one_says_so(cli, tmp_path):
    """``--no-start`` writes the unit into the user's own folder and says how to start it."""
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = tmp_path / "systemd" / "user" / "queuectl.service"

    installed = cli("service", "install", "--no-start", env=env)
    path_was_there = path.exists()
    path.unlink()
    missing = cli("service", "uninstall", env=env)

    assert path_was_there
    assert installed.out.startswith(f"Wrote {path}\nTo start it: systemctl --user daemon-reload;")
    assert 1 == missing.code
    assert f"queuectl: there is no systemd unit at {path}. Nothing was changed.\n" == missing.err


@LINUX
def test_the_supervisor_tells_systemd_when_it_is_up_alive_and_stopping(tmp_path, background):
    """READY=1 after the workers registered, WATCHDOG=1 in time, STOPPING=1 at the stop."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = str(tmp_path / "n")
    listener.bind(address)
    listener.settimeout(20)
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
    process = background("worker", "start", "--count", "2", env=env)

    def heard(word):
        while word not in (message := listener.recv(4096).decode()):
            pass
        return message

    ready = heard("READY=1")
    heard("WATCHDOG=1")
    process.send(signal.SIGTERM)
    heard("STOPPING=1")
    process.wait()
    listener.close()

    assert "STATUS=2 workers" in ready
