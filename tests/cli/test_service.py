"""``service``: what the system is told, and that the supervisor tells systemd how it stands."""

from __future__ import annotations

import contextlib
import json
import os
import plistlib
import shutil
import signal
import socket
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from queuectl import service, service_task
from queuectl.cli_commands.service import _failure
from queuectl.config import Config

if sys.platform != "win32":
    import pwd

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd is Linux's service manager")
WINDOWS = pytest.mark.skipif(os.name != "nt", reason="code pages of consoles are Windows's")


@LINUX
def test_show_prints_a_unit_that_finds_the_same_store(cli):
    """It names this store's home, waits for READY=1, lets running jobs finish, and outlives one that is killed."""
    shown = cli("service", "show", "--count", "3", "--queue", "mail").out

    assert "Type=notify" in shown
    assert "KillMode=mixed" in shown
    assert "OOMPolicy=continue" in shown
    assert "worker start --count 3 --queue mail" in shown
    assert f"Environment=QUEUECTL_HOME={os.environ['QUEUECTL_HOME']}" in shown


@pytest.mark.posix
def test_a_service_of_the_system_runs_as_the_stores_owner(cli, home):
    """Root's workers would run whatever that user enqueues; the own service needs no such line."""
    owner = str(os.geteuid() or 61234)
    home.mkdir()
    os.chown(home, int(owner), -1)
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(int(owner)).pw_name
    system = service.Service(1, 1, (), True, None)

    assert f"\nUser={owner}\n" in service._systemd(system, Config({})).text
    assert owner == plistlib.loads(service._launchd(system, Config({})).text.encode())["UserName"]
    assert "\nUser=" not in service._systemd(system._replace(system=False), Config({})).text
    for db in ("postgresql://db/jobs", f"sqlite:///{home}/not/there.db"):
        assert owner == service.runs_as(system._replace(location=db))
    if os.geteuid() == 0:
        assert "" == service.runs_as(system._replace(location="/root/jobs.db"))


@pytest.mark.parametrize(
    "words", [["--queue", "a b"], ["--queue", "-x"], ["--count", "2147483647"]], ids=["blank", "dash", "count"]
)
def test_what_no_worker_could_start_with_is_refused(cli, words):
    """Or the unit would fail for ever, started anew every two seconds."""
    shown = cli("service", "show", *words)

    assert (shown.code, shown.out) == (2, "")
    assert shown == cli("worker", "start", *words)


@LINUX
@pytest.mark.parametrize("location", ["here.db", "sqlite://here.db", "~/here.db"])
def test_a_store_is_named_in_full(cli, home, location):
    """The service runs in another directory, where a relative name would be another file."""
    cli("--db", location, "enqueue", "--", "true", code=0)

    shown = cli("--db", location, "service", "show", code=0).out

    assert f"Environment=QUEUECTL_DB={home.parent / 'here.db'}\n" in shown


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


@pytest.mark.posix("Windows has no such names")
@pytest.mark.parametrize("verb", ["show", "install"])
@pytest.mark.parametrize(
    "name", ["a\nRestart=no", "a\rb", "a\x1bb", "a\udcffb", "a\uffff", "\ufdd0", "a\U0001fffe"], ids=ascii
)
def test_a_name_that_no_unit_can_hold_is_refused(cli, tmp_path, verb, name):
    """A line's end in it would be one of the unit's; nothing is written, nor is a store made."""
    config = tmp_path / "config"
    env = {"QUEUECTL_HOME": str(tmp_path / name), "XDG_CONFIG_HOME": str(config), "HOME": str(tmp_path)}

    by_variable = cli("service", verb, env=env)
    by_option = cli("service", verb, "--db", str(tmp_path / name), env={**env, "QUEUECTL_HOME": str(tmp_path)})

    told = "has a control character, a noncharacter or invalid UTF-8, which a service's file cannot hold: "
    assert by_variable.err.startswith("queuectl: QUEUECTL_HOME " + told)
    assert by_option.err.startswith("queuectl: --db " + told)
    assert ("", 1, 1) == (by_variable.out, by_variable.code, by_variable.err.count("\n"))
    assert not config.exists()
    assert not (tmp_path / name).exists()


def test_a_url_that_no_unit_can_hold_is_refused_without_its_password(cli):
    """Messages end up in logs."""
    refused = cli("service", "show", env={"QUEUECTL_DB": "postgresql://ann:secret@db/jobs\n"})

    assert refused.code == 1
    assert refused.err.startswith("queuectl: QUEUECTL_DB has a control character")
    assert "secret" not in refused.err


@LINUX
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
@pytest.mark.parametrize("name", ["a 100% $HOME", "$$", "${x}", ";"])
def test_systemd_reads_the_names_as_they_are(home, name):
    """In a variable's value $ is a sign like any other; in the command it is not, save in the path to the program."""
    folder = home.parent / name
    folder.mkdir()
    script = folder / "queuectl"
    script.write_text(f"#!{sys.executable}\nfrom queuectl.main import main\nmain()\n")
    script.chmod(0o755)
    env = {**os.environ, "QUEUECTL_HOME": str(folder), "QUEUECTL_DB": str(folder / "store.db")}
    unit = home.parent / "queuectl.service"
    with unit.open("wb") as file:
        subprocess.run([str(script), "service", "show", "--queue", "mail"], stdout=file, env=env, check=True)

    answer = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_LOG_LEVEL": "debug"},
    )  # fmt: skip

    said = [line.strip() for line in (answer.stdout + answer.stderr).splitlines()]
    assert f"Environment: QUEUECTL_HOME={folder}" in said
    assert f"Environment: QUEUECTL_DB={folder / 'store.db'}" in said
    assert not [line for line in said if "is not executable" in line]
    assert answer.returncode == 0


@LINUX
def test_the_unit_runs_what_only_pythonpath_leads_to(home):
    """As ``pip install --target`` and ``--prefix`` leave it: its script, or its module, finds nothing by itself."""
    for parts in (["target"], ["prefix", "site-packages"]):
        root = home.parent.joinpath(*parts)
        shutil.copytree(os.path.dirname(service.__file__), str(root / "queuectl"))
        script = root / "bin" / "queuectl"
        script.parent.mkdir()
        script.write_text(f"#!{sys.executable}\nfrom queuectl.main import main\nmain()\n")
        script.chmod(0o755)
        for words in ([str(script)], [sys.executable, "-m", "queuectl"]):
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(["", str(home / "other"), os.path.relpath(root)])}
            shown = subprocess.run([*words, "service", "show"], stdout=subprocess.PIPE, text=True, env=env, check=True)

            assert f"\nEnvironment=PYTHONPATH={root}\n" in shown.stdout


@LINUX
def test_the_unit_names_an_interpreter_that_does_not_know_its_path():
    """As under another program's name, by ``exec -a``: then ``sys.executable`` is empty."""
    code = "import sys; sys.executable = ''; from queuectl.main import main; main()"

    shown = subprocess.run(
        [sys.executable, "-c", code, "service", "show"], stdout=subprocess.PIPE, text=True, check=True
    )

    assert f"\nExecStart={os.path.realpath(sys.executable)} -m queuectl worker start --count 1\n" in shown.stdout


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
def test_a_relative_place_for_settings_is_ignored(cli, tmp_path, home):
    """As the specification of XDG_CONFIG_HOME has it: systemd would not look there."""
    env = {"XDG_CONFIG_HOME": "settings", "HOME": str(tmp_path)}

    cli("service", "install", "--no-start", env=env, code=0)

    assert (tmp_path / ".config" / "systemd" / "user" / "queuectl.service").exists()


@LINUX
@pytest.mark.parametrize(
    "location", ["missing.db", "postgresql://me@127.0.0.1:1/gone", "postgresql://cannot be read", "mysql://unknown"]
)
def test_a_service_is_looked_at_and_removed_without_its_store(cli, tmp_path, home, location):
    """The store may be away for good, and none is made."""
    env = {"XDG_CONFIG_HOME": str(tmp_path), "PATH": str(tmp_path)}
    cli("service", "install", "--no-start", env=env, code=0)
    shutil.rmtree(str(home))
    env["QUEUECTL_DB"] = location

    document = json.loads(cli("service", "status", "--json", env=env, code=1).out)
    removed = cli("service", "uninstall", env=env, code=0)

    path = tmp_path / "systemd" / "user" / "queuectl.service"
    assert ("Removed the systemd unit queuectl; its jobs are kept.\n", True) == (removed.out, document["installed"])
    assert (False, False, False) == (path.exists(), home.exists(), os.path.exists("missing.db"))


def test_a_look_at_the_unit_makes_no_store_that_was_named(cli):
    """It may be mistyped."""
    shown = cli("service", "show", "--db", "mistyped.db")

    assert (1, "", False) == (shown.code, shown.out, os.path.exists("mistyped.db"))
    assert "there is no store at" in shown.err


@LINUX
def test_nobody_else_can_put_a_unit_beside_it(cli, tmp_path):
    """The system runs what is in that folder as its user: whatever the umask, only that user may write there."""
    mask = os.umask(0)
    try:
        cli("service", "install", "--no-start", env={"XDG_CONFIG_HOME": str(tmp_path / "config")}, code=0)
    finally:
        os.umask(mask)

    made = [path for path in (tmp_path / "config").rglob("*") if path.is_dir()] + [tmp_path / "config"]
    assert ["config", "systemd", "user"] == sorted(path.name for path in made)
    assert [0o755] * 3 == [path.stat().st_mode & 0o777 for path in made]


@LINUX
@pytest.mark.parametrize("before", ["nothing", "a unit", "an unfinished one"])
def test_only_its_user_can_read_the_unit(cli, tmp_path, before):
    """What it says of the store may be a secret; whatever was there, and whatever new files are usually like."""
    path = tmp_path / "systemd" / "user" / "queuectl.service"
    path.parent.mkdir(parents=True)
    if before != "nothing":
        there = path if before == "a unit" else path.with_name(path.name + ".new")
        there.write_text("[Unit]\n")
        there.chmod(0o644)
    mask = os.umask(0)
    try:
        cli("service", "install", "--no-start", env={"XDG_CONFIG_HOME": str(tmp_path)}, code=0)
    finally:
        os.umask(mask)

    assert (0o600, ["queuectl.service"]) == (path.stat().st_mode & 0o777, os.listdir(path.parent))
    assert "[Install]" in path.read_text()


@LINUX
@pytest.mark.parametrize("manager", ["without a bus", "missing"])
def test_where_systemd_cannot_be_asked(cli, tmp_path, manager):
    """What ``install --no-start`` wrote is removed all the same; each command says in queuectl's words what is."""
    env = {"XDG_CONFIG_HOME": str(tmp_path), "PATH": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": None}
    why = "it is not installed"
    if manager == "without a bus":
        why = "Failed to connect to bus: No medium found"
        (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho '{why}.' >&2\nexit 1\n")
        (tmp_path / "systemctl").chmod(0o755)
    path = tmp_path / "systemd" / "user" / "queuectl.service"
    link = path.parent / "default.target.wants" / path.name

    install = cli("service", "install", env=env)
    link.parent.mkdir()
    link.symlink_to(path)
    status = cli("service", "status", env=env)
    document = json.loads(cli("service", "status", "--json", env=env, code=1).out)
    removed = cli("service", "uninstall", env=env)

    expected = {
        "without a bus": f"systemctl cannot be reached here ({why}), so the systemd unit was written but not started. "
        "Log in to the machine itself and run the same command there.",
        "missing": "systemctl is not installed, so nothing was started. "
        "'queuectl worker start' runs under any other service manager too.",
    }
    assert (f"Wrote {path}\n", f"queuectl: {expected[manager]}\n", 1) == install
    live = "'queuectl worker list' shows the live workers."
    assert ("", f"queuectl: systemctl cannot be reached here ({why}). {live}\n", 1) == status
    assert {
        "kind": "systemd unit", "path": str(path), "installed": True, "running": None, "told": why
    } == document  # fmt: skip
    runs = "If the service is running, stop it: queuectl worker stop"
    assert (
        "Removed the systemd unit queuectl; its jobs are kept.\n",
        f"queuectl: systemctl cannot be reached here ({why}). {runs}\n",
        0,
    ) == removed
    assert not path.exists()
    assert not link.is_symlink()


@LINUX
def test_a_systemd_that_answers_is_asked(cli, tmp_path):
    """``--json`` gives what it said as a document; a refusal leaves the file, and says so."""
    (tmp_path / "systemctl").write_text(
        '#!/bin/sh\ncase "$*" in *disable*) echo Access denied; exit 4;; *) echo active;; esac\n'
    )
    (tmp_path / "systemctl").chmod(0o755)
    env = {"XDG_CONFIG_HOME": str(tmp_path), "PATH": str(tmp_path)}
    cli("service", "install", "--no-start", env=env, code=0)

    status = cli("service", "status", env=env, code=0)
    document = json.loads(cli("service", "status", "--json", env=env, code=0).out)
    refused = cli("service", "uninstall", env=env)

    assert ("active\n", True, "active") == (status.out, document["running"], document["told"])
    why = "'systemctl --user disable --now queuectl.service' failed: Access denied. The systemd unit is still there."
    assert (f"queuectl: {why}\n", 1) == (refused.err, refused.code)
    assert (tmp_path / "systemd" / "user" / "queuectl.service").exists()


@LINUX
@pytest.mark.parametrize("is_running", [True, False])
def test_a_running_service_is_not_said_to_be_started(cli, tmp_path, is_running):
    """``enable --now`` starts nothing anew: another ``--count`` would not be in force."""
    (tmp_path / "systemctl").write_text(
        f'#!/bin/sh\ncase "$*" in *status*) exit {0 if is_running else 3};; *) exit 0;; esac\n'
    )
    (tmp_path / "systemctl").chmod(0o755)
    env = {"XDG_CONFIG_HOME": str(tmp_path), "PATH": str(tmp_path)}

    installed = cli("service", "install", "--count", "3", env=env, code=0)

    wrote = f"Wrote {tmp_path}/systemd/user/queuectl.service\n"
    if is_running:
        note = (
            "the service was there already, and workers that it is running go on as they were started. "
            "To start it anew: queuectl service uninstall, and then this command again."
        )
        assert (wrote, f"queuectl: {note}\n") == (installed.out, installed.err)
    else:
        started = "Started the systemd unit queuectl; from now on it starts by itself.\n"
        assert (wrote + started, "") == (installed.out, installed.err)


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


@LINUX
def test_a_watchdog_is_fed_more_often_than_workers_are_looked_after(tmp_path, background, eventually):
    """One of half a second too, once the group is up and rests for two seconds at a time."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = str(tmp_path / "n")
    listener.bind(address)
    listener.settimeout(20)
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "500000"}
    process = background("worker", "start", env=env)
    while "READY=1" not in listener.recv(4096).decode():
        pass
    fed = 0

    def often():
        nonlocal fed
        fed += listener.recv(4096).decode() == "WATCHDOG=1"
        return fed >= 15

    eventually(often, timeout=15)
    process.send(signal.SIGTERM)
    process.wait()
    listener.close()


# -- what other systems are told --------------------------------------------------------------

TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
ODD_HOME = "/a & b/100% <home> $(x) 'y'"


def planned(monkeypatch, make, *more, system=False, **how):
    """Return what a kind of service manager would be told by a user whose home has an odd name."""
    monkeypatch.setenv("QUEUECTL_HOME", ODD_HOME)
    monkeypatch.setenv("USERDOMAIN", "HERE")
    monkeypatch.setenv("USERNAME", "ann")
    return make(service.Service(how.get("workers", 3), 2, ("mail",), system, None), *more)


@pytest.mark.parametrize("system", [False, True])
def test_launchd_reads_the_agent(monkeypatch, system):
    """A property list with keys that launchd knows, each of its type; names with any characters."""
    plan = planned(monkeypatch, service._launchd, Config({}), system=system)
    found = plistlib.loads(plan.text.encode(plan.encoding))

    assert "queuectl" == found.pop("Label")
    assert ["worker", "start", "--count", "3", "--concurrency", "2", "--queue", "mail"] == found.pop(
        "ProgramArguments"
    )[-8:]
    assert os.path.abspath(ODD_HOME) == found.pop("EnvironmentVariables")["QUEUECTL_HOME"]
    assert {
        "RunAtLoad": True, "KeepAlive": {"SuccessfulExit": False}, "ExitTimeOut": 90, "AbandonProcessGroup": True
    } == found  # fmt: skip
    assert ("launchctl", "list", "queuectl") == plan.enable[-1] == plan.status


def test_launchd_waits_as_long_as_a_job_may_run(monkeypatch):
    """As systemd does."""
    plan = planned(monkeypatch, service._launchd, Config({"timeout": "10m", "kill_grace": "20"}))

    assert 630 == plistlib.loads(plan.text.encode())["ExitTimeOut"]


@pytest.mark.parametrize("system", [False, True])
def test_the_task_scheduler_reads_the_task(monkeypatch, system):
    """Elements of the schema, without its defaults that are wrong for workers; schtasks wants UTF-16 with its mark."""
    plan = planned(monkeypatch, service._scheduled_task, system=system)
    data = plan.text.encode(plan.encoding)
    root = ET.fromstring(data)

    def texts(path):
        return [element.text for element in root.findall(path.replace("/", "/" + TASK).replace(".", TASK, 1))]

    trigger = "BootTrigger" if system else "LogonTrigger"
    assert data[:2] in (b"\xff\xfe", b"\xfe\xff")
    assert TASK + "Task" == root.tag
    assert [TASK + part for part in ("RegistrationInfo", "Triggers", "Principals", "Settings", "Actions")] == [
        part.tag for part in root
    ]
    assert [TASK + trigger] == [part.tag for part in root.find(TASK + "Triggers")]
    assert ([] if system else ["HERE\\ann"]) == texts(f".Triggers/{trigger}/UserId")
    assert ["S-1-5-18" if system else "HERE\\ann"] == texts(".Principals/Principal/UserId")
    assert ([] if system else ["InteractiveToken"]) == texts(".Principals/Principal/LogonType")
    assert root.find(f"{TASK}Principals/{TASK}Principal").get("id") == root.find(TASK + "Actions").get("Context")
    assert ["PT0S"] == texts(".Settings/ExecutionTimeLimit")
    assert ["false"] == texts(".Settings/DisallowStartIfOnBatteries") == texts(".Settings/StopIfGoingOnBatteries")
    assert ("schtasks", "/Create", "/F", "/TN", "queuectl", "/XML", plan.path) == plan.enable[0]


def test_the_task_runs_what_it_says(monkeypatch, tmp_path):
    """The scheduler would put variables in place of %NAME% and $(NAME): the command has none, and finds the store."""
    plan = planned(monkeypatch, service._scheduled_task, workers=1)
    found = ET.fromstring(plan.text.encode(plan.encoding)).find(f".//{TASK}Exec/{TASK}Arguments").text
    words = service_task.program(
        [("QUEUECTL_HOME", str(tmp_path / "100% h $(x)"))], ["enqueue", "--command", "echo hi"]
    )
    done = subprocess.run(
        words, cwd=str(tmp_path), env={**os.environ, "PYTHONPATH": ""}, stdout=subprocess.PIPE, check=True
    )

    assert "%" not in found
    assert "$" not in found
    assert found.endswith(" worker start --count 1 --concurrency 2 --queue mail")
    assert b"" == done.stdout or b"job1" in done.stdout  # it has no window to print to, on Windows
    assert (tmp_path / "100% h $(x)" / "jobs.db").exists()


def test_workers_without_an_output_log_into_files(cli, home, tmp_path):
    """As those of a scheduled task are started: there is nothing to print to."""
    cli("enqueue", "--command", "echo hi", code=0)
    words = service_task.program([], ["worker", "start", "--drain"])
    code = "import os, subprocess, sys; os.close(1); sys.exit(subprocess.call(sys.argv[1:], close_fds=False))"
    if os.name == "nt":
        subprocess.run(words, check=True, timeout=60, creationflags=subprocess.DETACHED_PROCESS)
    else:
        subprocess.run([sys.executable, "-c", code, *words], check=True, timeout=60)

    assert "job job1 completed" in (home / "logs" / "worker-0.log").read_text()


@pytest.mark.parametrize("encoding", ["utf-8", pytest.param("oem", marks=WINDOWS)])
def test_what_a_service_manager_says_is_read_in_its_language(encoding):
    """On Windows its programs write in the code page of the console, whichever that is."""
    said = "Accès refusé".encode(encoding, "replace")

    why = _failure([sys.executable, "-c", f"import sys; sys.stdout.buffer.write({said!r} + b'.'); sys.exit(1)"])

    assert said.decode(encoding) == why
