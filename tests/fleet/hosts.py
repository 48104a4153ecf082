"""Hosts in namespaces: each with a name, a boot id, processes and a network link of its own. Linux, root.

Nothing is set up in the machine's own network: the switch between the hosts, and the database server at it, are in a
network namespace too, and all of it is gone with the processes that hold the namespaces. The caller reaches the server
by its Unix socket, which no cut link concerns.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from tests.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parent.parent.parent
PORT = 5432
SWITCH = "10.0.0.1"
UP_S = 10.0
#: Ways to cut a host off; all but the first need iptables.
WAYS = ("link down", "packets dropped", "connections reset", "a third of the packets dropped")

#: The first process of a host. It takes in the orphans of the others, and all of them die with it.
INIT = """
import os, signal, socket, subprocess, sys
socket.sethostname(sys.argv[1])
for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
    if os.path.exists(path):
        subprocess.run(["mount", "--bind", sys.argv[2], path], check=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
print("up", flush=True)
while True:
    signal.sigwait([signal.SIGCHLD])
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""


def why_not() -> Optional[str]:
    """Return why there can be no hosts here; None if there can."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    for program in ("ip", "unshare", "nsenter", "mount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "sh", "-c",
         "ip link add name trial type bridge && ip link add name one type veth peer name other"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stdout.decode('utf-8', 'replace').strip()}"


def ways() -> List[str]:
    """Return the ways to cut a host off that this machine has."""
    return list(WAYS if shutil.which("iptables") else WAYS[:1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Switch:
    """The network between the hosts, in a namespace of its own."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )
        self._cuts: Dict[str, List[List[str]]] = {}
        try:
            _until(lambda: os.readlink(f"/proc/{self.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
            self.run("ip", "link", "set", "lo", "up")
            self.run("ip", "link", "add", "br0", "type", "bridge")
            self.run("ip", "addr", "add", f"{SWITCH}/24", "dev", "br0")
            self.run("ip", "link", "set", "br0", "up")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process that holds the namespace."""
        return self._holder.pid

    def run(self, *words: str, check: bool = True) -> None:
        """Run a command in the switch's network."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", *words], check=check, stdout=subprocess.DEVNULL)

    def cut(self, host: Host, way: str) -> None:
        """Cut a host off in one of ``WAYS``."""
        into = ["INPUT", "-s", host.address]
        out = ["OUTPUT", "-d", host.address]
        if way == WAYS[0]:
            self.run("ip", "link", "set", host.link, "down")
            return
        rules = {
            WAYS[1]: [[*into, "-j", "DROP"], [*out, "-j", "DROP"]],
            WAYS[2]: [[*into, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]],
            WAYS[3]: [
                [*chain, "-m", "statistic", "--mode", "random", "--probability", "0.33", "-j", "DROP"]
                for chain in (into, out)
            ],
        }[way]
        for rule in rules:
            self.run("iptables", "-A", *rule)
        self._cuts.setdefault(host.link, []).extend(rules)

    def heal(self, host: Host) -> None:
        """Let the host be reached again, however it was cut off."""
        for rule in self._cuts.pop(host.link, []):
            self.run("iptables", "-D", *rule)
        self.run("ip", "link", "set", host.link, "up")

    def close(self) -> None:
        """End the network."""
        self._holder.kill()
        self._holder.wait()


class FleetServer(PostgresServer):
    """A server at the switch; the caller, outside, reaches it by its socket."""

    def __init__(self, switch: Switch, settings: Sequence[str] = ()) -> None:
        self._network = os.open(f"/proc/{switch.pid}/ns/net", os.O_RDONLY)
        self.port = PORT
        super().__init__([*settings, "listen_addresses=*"])

    def _start_on_a_free_port(self) -> None:
        with open(self.data + "/pg_hba.conf", "a", encoding="ascii") as file:
            file.write("host all all 0.0.0.0/0 trust\n")
        self.start()

    def _become(self) -> None:
        if ctypes.CDLL(None, use_errno=True).setns(self._network, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        super()._become()

    def url(self, schema: str = "queuectl", port: Optional[int] = None, user: str = "postgres") -> str:
        """Return the URL for a caller outside the network."""
        where = self.root.replace("/", "%2F")
        return f"postgresql://{user}@/postgres?host={where}&port={port or self.port}&schema={schema}"

    def _direct(self, database: str = "postgres") -> str:
        return f"host={self.root} port={self.port} user=postgres dbname={database}"

    def url_for_hosts(self, schema: str = "queuectl") -> str:
        """Return the URL for the hosts."""
        return f"postgresql://postgres@{SWITCH}:{PORT}/postgres?schema={schema}"

    def close(self) -> None:
        """Stop the server and remove its files."""
        super().close()
        if self._network >= 0:
            os.close(self._network)
            self._network = -1


class Host:
    """One host: what is started in it sees its processes, its name, its network, and the files of this machine.

    ``crash`` takes the power away: every process of it is gone at once. ``boot`` starts it, with a new boot id.
    """

    def __init__(self, switch: Switch, number: int, folder: Path, store: str) -> None:
        self.name = f"host{number}"
        self.address = f"10.0.0.{10 + number}"
        self.link = f"h{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self._switch = switch
        self._store = store
        self._machine_id = uuid.uuid4().hex
        self._holder: Optional[subprocess.Popen[bytes]] = None
        self._pid = 0
        self._started: List[subprocess.Popen[Any]] = []
        self.boot()

    def boot(self) -> None:
        """Start the host."""
        ids = self.folder / "ids"
        ids.write_text(f"{uuid.uuid4()}\n")
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc",
             sys.executable, "-I", "-S", "-c", INIT, self.name, str(ids)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=_die_with_parent,  # noqa: PLW1509
        )  # fmt: skip
        try:
            assert self._holder.stdout is not None
            assert self._holder.stdout.readline() == b"up\n"
            children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
            self._pid = int(children[0])
            self._switch.run(
                "ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid)
            )
            self._switch.run("ip", "link", "set", self.link, "master", "br0")
            self._switch.run("ip", "link", "set", self.link, "up")
            network = ["nsenter", "-t", str(self._pid), "-n", "ip"]
            for words in (
                ["link", "set", "lo"],
                ["addr", "add", f"{self.address}/24", "dev", "eth0"],
                ["link", "set", "eth0"],
            ):
                subprocess.run([*network, *words, *(["up"] if words[0] == "link" else [])], check=True)
        except BaseException:
            self.crash()
            raise

    def crash(self) -> None:
        """Take the power away."""
        if self._holder is not None:
            try:
                os.kill(self._pid or self._holder.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._holder.kill()
            self._holder.wait()
            if self._holder.stdout is not None:
                self._holder.stdout.close()
        for process in self._started:
            process.wait()
        self._holder, self._pid, self._started = None, 0, []
        self._switch.run("sh", "-c", f"ip link delete {self.link} 2>/dev/null", check=False)

    def start(self, *words: str, out: Optional[str] = None) -> subprocess.Popen[bytes]:
        """Start ``queuectl WORD ...`` on the host; what it prints is appended to the file *out*."""
        with open(self.folder / (out or "out"), "ab") as file:
            process = subprocess.Popen(
                self._inside(words),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environ(),
            )
        self._started.append(process)
        return process

    def open(self, *words: str) -> subprocess.Popen[bytes]:
        """Start any program on the host, with pipes to its input and from its output."""
        process = subprocess.Popen(
            self._enter(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environ()
        )
        self._started.append(process)
        return process

    def call(self, *words: str, timeout: float = 60.0) -> str:
        """Run ``queuectl WORD ...`` on the host to its end and return what it printed."""
        done = subprocess.run(
            self._inside(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self._environ(), timeout=timeout, check=False,
        )  # fmt: skip
        return done.stdout.decode("utf-8", "replace")

    @property
    def running(self) -> bool:
        """Whether all that was started here still runs."""
        return all(process.poll() is None for process in self._started)

    def said(self, out: str = "out") -> str:
        """Return what was printed so far."""
        return (self.folder / out).read_text(errors="replace")

    def _inside(self, words: Sequence[str]) -> List[str]:
        return self._enter([sys.executable, "-m", "queuectl", *words])

    def _enter(self, words: Sequence[str]) -> List[str]:
        # -r: a mount namespace is entered at its own root, which is not this one where the tests run in a chroot.
        enter = ["nsenter", "-t", str(self._pid), "-n", "-p", "-m", "-u", "-r"]
        return [*enter, "env", "-C", str(self.folder), *words]

    def _environ(self) -> Dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("QUEUECTL_")}
        home = str(self.folder / ".queuectl")
        return {**kept, "QUEUECTL_DB": self._store, "QUEUECTL_HOME": home, "PYTHONPATH": str(ROOT)}


class Fleet:
    """A switch, a server at it, and hosts; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path, count: int = 3, settings: Sequence[str] = ()) -> None:
        self.hosts: List[Host] = []
        self._server: Optional[FleetServer] = None
        self.switch = Switch()
        try:
            self._server = self.server = FleetServer(self.switch, settings)
            for number in range(1, count + 1):
                self.hosts.append(Host(self.switch, number, folder, self.server.url_for_hosts()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything."""
        for host in self.hosts:
            host.crash()
        if self._server is not None:
            self._server.close()
        self.switch.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _until(there: Any) -> None:
    deadline = time.monotonic() + UP_S
    while not there():
        if time.monotonic() > deadline:
            raise RuntimeError("a namespace was not made in time")
        time.sleep(0.005)
