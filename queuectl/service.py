"""Having the system start workers: what a systemd unit, a launchd agent or a scheduled task must say.

Each kind has a file and the commands that switch it on and off and show how it stands. The texts are made here, with
comments that explain them; only ``install`` writes them anywhere.
"""

from __future__ import annotations

import os
import sys

from queuectl import clock
from queuectl.errors import QueuectlError, StoreRefused, shown
from queuectl.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple

    from queuectl.config import Config

LABEL = "queuectl"
# How long a stop may take where jobs have no timeout: then systemd kills, and the jobs run again later.
PATIENCE_S = 90.0


class Plan(NamedTuple):
    """What ``install`` does and ``uninstall`` undoes."""

    kind: str
    path: Optional[str]  # the file to write; None: the commands say it all
    text: str
    enable: Tuple[Tuple[str, ...], ...]  # commands, in order
    disable: Tuple[Tuple[str, ...], ...]
    status: Tuple[str, ...]
    ask: Tuple[str, ...]  # fails where the service manager cannot be asked at all
    encoding: str = "utf-8"  # of the file
    links: Tuple[str, ...] = ()  # what the manager made of the file, and ``uninstall`` removes if it cannot be asked


class Service(NamedTuple):
    """What the user wants to have started."""

    workers: int
    concurrency: int
    queues: Sequence[str]
    system: bool  # a system service instead of the user's own
    location: Optional[str]  # --db


def plan(service: Service, config: Config) -> Plan:
    """Return what this system's service manager is to be told.

    Raises:
        QueuectlError: There is no service manager that queuectl knows.
    """
    if os.name == "nt":
        return _scheduled_task(service)
    if sys.platform == "darwin":
        return _launchd(service, config)
    if sys.platform.startswith("linux"):
        return _systemd(service, config)
    raise QueuectlError(
        f"no service manager is known for {sys.platform}. Set up 'queuectl worker start' with the system's own means."
    )


def words(service: Service) -> List[str]:
    """Return the command that the service manager runs: this interpreter, this code."""
    script = os.path.abspath(sys.argv[0])
    # Python does not know its own path where it was started under another program's name, as by "exec -a".
    python = sys.executable or os.path.realpath("/proc/self/exe")
    if os.path.basename(script) in ("queuectl", "queuectl.exe") and os.access(script, os.X_OK):
        found = [script]
    elif script.endswith(".pyz"):
        found = [python, script]
    else:
        found = [python, "-m", "queuectl"]
    return found + arguments(service)


def arguments(service: Service) -> List[str]:
    """Return the words after ``queuectl``."""
    found = ["worker", "start", "--count", str(service.workers)]
    if service.concurrency > 1:
        found += ["--concurrency", str(service.concurrency)]
    for queue in service.queues:
        found += ["--queue", queue]
    return found


def settings(service: Service) -> List[Tuple[str, str]]:
    """Return the variables that the workers must see to find the same store as this command."""
    from queuectl.db import home, located

    found = [("QUEUECTL_HOME", home())]
    location = service.location or os.environ.get("QUEUECTL_DB")
    if location:
        try:
            location = located(location)
        except StoreRefused:  # a service can be looked at and removed all the same
            pass
        found.append(("QUEUECTL_DB", location))
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    is_checkout = words(service)[1:3] == ["-m", "queuectl"] and "site-packages" not in root
    # What "pip install --target" and "--prefix" made is found by the variable alone, even by its own script.
    if is_checkout or root in map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))):
        found.append(("PYTHONPATH", root))
    return found


def runs_as(service: Service) -> str:
    """Return as which user a service of the system runs: the store's owner; empty for root, and for a user's own.

    Root's workers would run whatever that owner enqueues.
    """
    if not service.system or sys.platform == "win32":
        return ""
    import pwd

    found = dict(settings(service))
    path = found.get("QUEUECTL_DB", "")
    if not path or "://" in path:
        path = found["QUEUECTL_HOME"]
    while not os.path.exists(path):
        path = os.path.dirname(path)
    uid = os.stat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name if uid else ""
    except KeyError:
        return str(uid)


def check(service: Service) -> None:
    """Refuse what no file of a service manager can hold: systemd would read a new line as another setting.

    Raises:
        QueuectlError: It names the variable or option, and its value.
    """
    values = [("--db" if name == "QUEUECTL_DB" and service.location else name, value)
              for name, value in settings(service)]  # fmt: skip
    for name, value in [*values, *(("the command's path", word) for word in words(service))]:
        if not _is_writable(value):
            told = (
                f"{name} has a control character, a noncharacter or invalid UTF-8, which a service's file cannot hold"
            )
            if "://" in value:  # it may hold a password
                raise QueuectlError(f"{told}. Use a URL without any.")
            raise QueuectlError(f"{told}: {shown(value)}. Use a path without any.")


def _is_writable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a name on POSIX is of any bytes
        return False
    return not any((character < " " and character != "\t") or _is_noncharacter(ord(character)) for character in value)


def _is_noncharacter(code: int) -> bool:
    """Say whether Unicode has set *code* aside for ever: systemd ignores a file with it, and XML cannot hold some."""
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


def holds_password(service: Service) -> bool:
    """Say whether what is written for *service* holds the password of a database.

    Raises:
        StoreRefused: The URL cannot be read.
    """
    location = dict(settings(service)).get("QUEUECTL_DB", "")
    if not location.startswith(("postgresql://", "postgres://")):
        return False
    from queuectl.db.postgres import parse_url

    return "password" in parse_url(location).parameters


def _stop_s(config: Config) -> float:
    """Return how long a stop lets running jobs go on, and what then ends them, in seconds."""
    return PATIENCE_S if config.timeout is None else config.timeout + config.kill_grace + 10


def _systemd(service: Service, config: Config) -> Plan:
    stop_s = _stop_s(config)
    target = "multi-user" if service.system else "default"
    user = runs_as(service)
    lines = [
        "[Unit]",
        "Description=queuectl workers",
        "",
        "[Service]",
        "# The service counts as started once its workers have registered.",
        "Type=notify",
        "NotifyAccess=main",
        *(("# The store's owner, who decides what runs.", f"User={user}") if user else ()),
        f"ExecStart={_systemd_command(words(service))}",
        *(f"Environment={_systemd_word(f'{name}={value}')}" for name, value in settings(service)),
        "# On stop, running jobs finish: only the supervisor is signalled, and it stops its workers.",
        "KillMode=mixed",
        f"# Jobs still running after {clock.format_duration(stop_s)} are killed, and run again at the next start.",
        f"TimeoutStopSec={stop_s:.0f}",
        "# A supervisor that hangs or dies is replaced. Its workers and their jobs are killed, and the jobs run again.",
        "WatchdogSec=60",
        "Restart=on-failure",
        "RestartSec=2",
        "# A job that the kernel kills for want of memory has failed; the others go on (systemd 243 or newer).",
        "OOMPolicy=continue",
        "",
        "[Install]",
        f"WantedBy={target}.target",
    ]
    scope: Tuple[str, ...] = () if service.system else ("--user",)
    folder = "/etc/systemd/system" if service.system else os.path.join(_config_home(), "systemd", "user")
    control = ("systemctl", *scope)
    return Plan(
        "systemd unit", os.path.join(folder, f"{LABEL}.service"), "\n".join(lines) + "\n",
        ((*control, "daemon-reload"), (*control, "enable", "--now", f"{LABEL}.service")),
        ((*control, "disable", "--now", f"{LABEL}.service"),),
        (*control, "status", "--no-pager", f"{LABEL}.service"),
        (*control, "show", "--property=Version"),
        links=(os.path.join(folder, f"{target}.target.wants", f"{LABEL}.service"),),
    )  # fmt: skip


def _config_home() -> str:
    given = os.environ.get("XDG_CONFIG_HOME", "")
    # As the specification of the variable has it, a relative path is to be ignored.
    return given if os.path.isabs(given) else os.path.expanduser("~/.config")


def _systemd_word(word: str) -> str:
    """Quote *word* as systemd.syntax(7) wants it: % doubled, quotes and blanks within double quotes."""
    tidy = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{tidy}"' if any(character in word for character in " \t'\"\\;") or not word else tidy


def _systemd_command(command: Sequence[str]) -> str:
    """Quote a command: in its words, as not in a variable's value, a $ is special and must be doubled.

    It is not in the path to the program, which is also the first word: "@" keeps the two apart.
    """
    quoted = [_systemd_word(word.replace("$", "$$")) for word in command]
    return " ".join(quoted if "$" not in command[0] else [_systemd_word("@" + command[0]), *quoted])


def _launchd(service: Service, config: Config) -> Plan:
    from xml.sax.saxutils import escape

    arguments = "\n".join(f"    <string>{escape(word)}</string>" for word in words(service))
    variables = "\n".join(
        f"    <key>{escape(name)}</key><string>{escape(value)}</string>" for name, value in settings(service)
    )
    user = runs_as(service)
    owner = (
        f"  <!-- The store's owner, who decides what runs. -->\n  <key>UserName</key><string>{escape(user)}</string>\n"
    )
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}
  </array>
  <key>EnvironmentVariables</key>
  <dict>
{variables}
  </dict>
{owner if user else ""}  <!-- Starts at login, and again if it ends with an error. -->
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <!-- On stop, running jobs have this many seconds to finish. -->
  <key>ExitTimeOut</key><integer>{_stop_s(config):.0f}</integer>
  <!-- If the supervisor dies, its workers finish their jobs and exit. -->
  <key>AbandonProcessGroup</key><true/>
</dict>
</plist>
"""
    folder = "/Library/LaunchDaemons" if service.system else os.path.expanduser("~/Library/LaunchAgents")
    path = os.path.join(folder, f"{LABEL}.plist")
    return Plan(
        "launchd agent", path, text,
        # load says it when it failed, but exits with 0; list does not.
        (("launchctl", "load", "-w", path), ("launchctl", "list", LABEL)),
        (("launchctl", "unload", "-w", path),),
        ("launchctl", "list", LABEL),
        ("launchctl", "list"),
    )  # fmt: skip


def _scheduled_task(service: Service) -> Plan:
    from queuectl import service_task
    from queuectl.db import home

    variables = [setting for setting in settings(service) if setting[0] != "PYTHONPATH"]
    text = service_task.task(service_task.program(variables, arguments(service)), service.system)
    path = os.path.join(home(), "service.xml")
    return Plan(
        "scheduled task", path, text,
        (("schtasks", "/Create", "/F", "/TN", LABEL, "/XML", path), ("schtasks", "/Run", "/TN", LABEL)),
        (("schtasks", "/End", "/TN", LABEL), ("schtasks", "/Delete", "/F", "/TN", LABEL)),
        ("schtasks", "/Query", "/TN", LABEL, "/V", "/FO", "LIST"), ("schtasks", "/Query"), "utf-16",
    )  # fmt: skip
