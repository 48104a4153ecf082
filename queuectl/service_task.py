"""Workers as a task of Windows's Task Scheduler: the XML that ``schtasks /Create`` reads.

Not its options: they take a command of 261 characters, end what runs for three days, start nothing on batteries,
and a task at log-on made with them is everybody's, which needs an administrator.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence, Tuple

# Who the task is of, where it is the system's: its SID, since its name depends on the language.
SYSTEM = "S-1-5-18"


def program(settings: Sequence[Tuple[str, str]], words: Sequence[str]) -> List[str]:
    """Return the command that runs ``queuectl WORD ...`` with these variables set, in no window.

    A task has no environment of its own. ``cmd`` could set one, but it opens a window and reads the line anew.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = (
        f"import os, sys; os.environ.update({dict(settings)!r}); root = {root!r}; "
        "sys.path[:1] = [] if root in sys.path else [root]; "
        "from queuectl.main import main; sys.exit(main(sys.argv[1:]))"
    )
    # The scheduler puts values of variables in place of %NAME% and $(NAME).
    code = code.replace("%", r"\x25").replace("$", r"\x24")
    return [_windowless(sys.executable), "-c", code, *words]


def _windowless(python: str) -> str:
    """Return the interpreter that opens no console, if it is there."""
    folder, name = os.path.split(python)
    other = os.path.join(folder, name.lower().replace("python", "pythonw", 1))
    return other if name.lower().startswith("python") and os.path.exists(other) else python


def user() -> str:
    """Return who is asking, as the scheduler knows users."""
    domain, name = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
    return f"{domain}\\{name}" if domain and name else name


def task(command: Sequence[str], system: bool) -> str:
    """Return the task that starts *command* at each start of the system, or when its user logs on."""
    import subprocess
    from xml.sax.saxutils import escape

    owner = escape(SYSTEM if system else user())
    trigger = "BootTrigger" if system else "LogonTrigger"
    of_user = "" if system or not owner else f"<UserId>{owner}</UserId>"
    who = f"      <UserId>{owner}</UserId>\n" if owner else ""
    # Of the system's account there is one kind of log-on, which is not named.
    how = "" if system else "      <LogonType>InteractiveToken</LogonType>\n"
    level = "HighestAvailable" if system else "LeastPrivilege"
    return f"""<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>queuectl workers</Description>
  </RegistrationInfo>
  <Triggers>
    <{trigger}><Enabled>true</Enabled>{of_user}</{trigger}>
  </Triggers>
  <Principals>
    <Principal id="Owner">
{who}{how}      <RunLevel>{level}</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <!-- Do not start it twice. -->
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <!-- No time limit; the default is three days. -->
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <!-- The normal priority of programs; the default is below it. -->
    <Priority>6</Priority>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>255</Count>
    </RestartOnFailure>
  </Settings>
  <Actions Context="Owner">
    <Exec>
      <Command>{escape(command[0])}</Command>
      <Arguments>{escape(subprocess.list2cmdline(command[1:]))}</Arguments>
    </Exec>
  </Actions>
</Task>
"""
