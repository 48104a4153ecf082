"""The shape of the code is tested: what may import what, where SQL may stand, and how large things may grow.

``docs/explanation/architecture.md`` draws the same rows; ``test_docs`` compares the two.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

import queuectl

PACKAGE = Path(queuectl.__file__).resolve().parent

#: From the floor up. A module imports only from rows below its own, or from its own package.
ROWS: Tuple[Tuple[str, ...], ...] = (
    ("clock", "errors", "faults", "notify", "records"),
    ("config", "retry"),
    ("job", "jobspec"),
    ("db", "runner", "events"),
    ("console", "journal"),
    ("ahead", "recovery", "execution"),
    ("draining", "membership", "numbering", "output_flow", "pruning", "report", "service_task", "wakeup"),
    ("ends", "forking", "patience", "pidfile"),
    ("control", "copying", "explain", "following", "service", "switches", "worker"),
    ("queue", "launch", "worker_main"),
    ("spares", "render"),
    ("supervisor",),
    ("cli_commands",),
    ("main", "__init__"),
    ("__main__",),
)
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}

MOST_LINES = 450
MOST_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "lib"}

# Modules that Windows does not have, and names of others that it does not have.
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}
POSIX_NAMES = {
    "select.epoll", "select.poll", "select.kqueue", "os.fork", "os.getuid", "os.geteuid", "os.killpg", "os.setsid",
    "os.getpgid", "os.uname", "os.mkfifo", "os.posix_spawn", "os.WNOHANG", "os.wait4", "os.O_NONBLOCK", "os.O_NOFOLLOW",
    "signal.SIGKILL", "signal.SIGHUP", "signal.SIGCHLD", "signal.SIGALRM", "signal.SIGQUIT", "signal.SIGUSR1",
    "signal.SIGUSR2", "signal.SIGSTOP", "signal.SIGCONT", "signal.setitimer", "signal.pthread_sigmask",
    "socket.AF_UNIX",
}  # fmt: skip

# Statements as they stand in this code: the keyword in capitals, at the start or after a word that may precede it.
SQL = re.compile(
    r"\b(SELECT\s+[\w*(:'\"]|INSERT\s+(OR\s+\w+\s+)?INTO\b|UPDATE\s+\w+\s+SET\b|DELETE\s+FROM\b|CREATE\s+TABLE\b|PRAGMA\s+\w+)"
)


class Import(NamedTuple):
    """One import of queuectl's own: by whom, of what, in which line."""

    source: str
    target: str
    line: int


def modules() -> List[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def dotted(path: Path) -> str:
    """Return a file's module name inside the package: ``db.sqlite``; a package's own is ``db.__init__``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@lru_cache(None)
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def own_imports(path: Path) -> Iterator[Import]:
    """Yield every import of queuectl's modules, wherever in the file, also those for type checkers."""
    for node in ast.walk(tree(path)):
        names: List[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "queuectl":
                yield Import(dotted(path), name.partition(".")[2] or "__init__", node.lineno)


def room(name: str) -> str:
    """Return the row's entry that a dotted name below ``queuectl`` belongs to."""
    first = name.split(".")[0]
    return first if first in ROW_OF else "__init__"  # a public name such as __version__


def test_every_module_has_a_place_in_the_rows() -> None:
    """A new module is a decision about its row."""
    rooms = {dotted(path).split(".")[0] for path in modules()}

    assert not rooms - set(ROW_OF)


def test_imports_point_down() -> None:
    """A module imports only from rows below its own, or from its own package."""
    wrong = [
        f"{found.source}:{found.line} imports {found.target}"
        for path in modules()
        if dotted(path) != "__init__"  # the public names point to their homes
        for found in own_imports(path)
        if room(found.source) != room(found.target)
        and not ROW_OF[room(found.target)] < ROW_OF[room(found.source)]
        # The version is a constant: asking for it imports nothing that could point up.
        and found.target != "__version__"
    ]

    assert not wrong


def test_imports_are_absolute() -> None:
    """``from . import x`` hides where a name comes from."""
    wrong = [
        f"{dotted(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]

    assert not wrong


def strings(path: Path) -> Iterator[Tuple[int, str]]:
    """Yield the string constants of a file that are not docstrings, f-strings in pieces, with their lines."""
    parsed = tree(path)
    docstrings: Set[int] = set()
    for node in ast.walk(parsed):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(id(first.value))
    for node in ast.walk(parsed):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_sql_stands_only_in_db() -> None:
    """Everybody else speaks to the store's verbs."""
    found = [
        (dotted(path).split(".")[0] == "db", f"{dotted(path)}:{line}")
        for path in modules()
        for line, text in strings(path)
        if SQL.search(text)
    ]

    assert [place for in_db, place in found if in_db], "the pattern finds no SQL at all"
    assert not [place for in_db, place in found if not in_db]


def test_no_module_has_a_name_that_says_nothing() -> None:
    """What has no name of its own has no purpose of its own."""
    assert not [dotted(path) for path in modules() if set(dotted(path).split(".")) & VAGUE_NAMES]


def test_no_file_is_too_long() -> None:
    """About what one can keep in mind."""
    lengths = {dotted(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}

    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_no_function_is_too_long() -> None:
    """Lines from ``def`` to the last, docstring included."""
    wrong = [
        f"{dotted(path)}:{node.lineno} {node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_FUNCTION_LINES
    ]

    assert not wrong


# -- the standard library alone ---------------------------------------------------------------


def standard_modules() -> Set[str]:
    """Return the names of the standard library's top-level modules."""
    known: Optional[Set[str]] = getattr(sys, "stdlib_module_names", None)  # since Python 3.10
    if known:
        return set(known)
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
    for extensions in (folder / "lib-dynload", folder.parent / "DLLs"):  # the second on Windows
        names |= {path.name.split(".")[0] for path in extensions.glob("*")}
    return (names | set(sys.builtin_module_names)) - {"site-packages"}


#: What an extra brings, and the one place that may ask for it.
EXTRAS = {"psycopg": "db.postgres", "prometheus_client": "cli_commands.metrics"}


def test_the_core_imports_the_standard_library_alone() -> None:
    """An extra's package is asked for in its own module, and never when a module is merely imported."""
    standard = standard_modules() | {"queuectl"}
    # One platform's own, which a list made on another may lack.
    standard |= {"msvcrt", "winreg", "_winapi", "_overlapped", "nt", *POSIX_MODULES}
    wrong = []
    for path in modules():
        for node in ast.walk(tree(path)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top not in standard and not dotted(path).startswith(EXTRAS.get(top, "(nowhere)")):
                    wrong.append(f"{dotted(path)}:{node.lineno} imports {name}")

    assert not wrong


def imported(words: List[str]) -> Set[str]:
    """Return the modules that ``python -m queuectl WORD ...`` imports."""
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", "-c", BOOT, str(PACKAGE.parent), *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


# As ``python -m queuectl`` does, but with -I, so that neither the user's site nor PYTHON* variables add anything.
BOOT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
sys.argv[0] = "queuectl"
from queuectl.main import main
sys.exit(main())
"""

COMMANDS = [
    pytest.param(["--version"], id="version"),
    pytest.param(["enqueue", "--", "true"], id="enqueue"),
    pytest.param(["enqueue", '{"command": "true"}'], id="enqueue-json"),
    pytest.param(["list"], id="list"),
    pytest.param(["status"], id="status"),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_loads_no_third_party_module(words: List[str], home: Path) -> None:
    """Seen from outside: what ``-X importtime`` reports is the standard library and queuectl."""
    bare = {module.split(".")[0] for module in imported_by_nothing()}
    loaded = {module.split(".")[0] for module in imported(words)}

    assert not loaded - bare - standard_modules() - {"queuectl"}


def imported_by_nothing() -> Set[str]:
    """Return what the interpreter itself loads at its start (a site's .pth files too)."""
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", "-c", "pass"], stderr=subprocess.PIPE, text=True, check=True
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


#: What a plain enqueue must not pay for: each costs milliseconds (docs/decisions/0004-own-command-parser.md).
HEAVY = {
    "argparse",
    "subprocess",
    "logging",
    "asyncio",
    "multiprocessing",
    "queuectl.worker",
    "queuectl.supervisor",
}


def test_an_enqueue_loads_nothing_heavy(home: Path) -> None:
    """The hot command imports only what it uses."""
    heavy = imported(["enqueue", "--", "true"]) & HEAVY

    assert not heavy


# -- Windows ----------------------------------------------------------------------------------


def reached_on_import(body: List[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the nodes that run when a module is imported, without what a platform test guards.

    Function bodies do not run; class bodies, defaults and decorators do. An ``if`` on the platform, or a ``try``
    that catches ImportError, shows that its author has thought of it.
    """
    for node in body:
        if isinstance(node, ast.If) and guards_platform(node.test):
            continue  # both branches: each is for one platform
        elif isinstance(node, ast.Try) and any(catches_import_error(handler) for handler in node.handlers):
            continue
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in [*node.decorator_list, *node.args.defaults, *[d for d in node.args.kw_defaults if d]]:
                yield from ast.walk(part)
        elif isinstance(node, ast.ClassDef):
            yield from reached_on_import(node.body)
        elif isinstance(node, (ast.If, ast.With, ast.For, ast.While)):
            yield from reached_on_import([*node.body, *getattr(node, "orelse", [])])
        elif not isinstance(node, ast.AnnAssign):
            yield from ast.walk(node)
        elif node.value is not None:
            yield from ast.walk(node.value)


def guards_platform(test: ast.AST) -> bool:
    text = ast.dump(test)
    return any(
        word in text for word in ("'platform'", "'win32'", "'nt'", "TYPE_CHECKING", "WINDOWS", "POSIX", "hasattr")
    )


def catches_import_error(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and "ImportError" in ast.dump(handler.type)


def test_nothing_posix_only_is_touched_on_import() -> None:
    """On Windows every module but ``runner.posix`` can be imported, whatever it then does."""
    wrong = []
    for path in modules():
        if dotted(path).startswith("runner.posix"):
            continue
        for node in reached_on_import(tree(path).body):
            names: List[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *[f"{node.module}.{alias.name}" for alias in node.names]]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            wrong += [f"{dotted(path)}:{node.lineno} {name}" for name in names if name in POSIX_MODULES | POSIX_NAMES]
            wrong += [
                f"{dotted(path)}:{node.lineno} {name}" for name in names if name.startswith("queuectl.runner.posix")
            ]

    assert not wrong


def test_the_annotations_of_new_syntax_stay_text() -> None:
    """Each module has ``from __future__ import annotations``: Python 3.8 must not evaluate what newer ones can."""
    wrong = []
    for path in modules():
        body = tree(path).body
        annotated = any(isinstance(node, (ast.FunctionDef, ast.AnnAssign, ast.ClassDef)) for node in body)
        has = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in body)
        if annotated and not has:
            wrong.append(dotted(path))

    assert not wrong


def test_the_package_is_where_it_is_expected() -> None:
    """The checks above looked at the package that this checkout holds."""
    assert len(modules()) > 10
    assert os.path.samefile(str(PACKAGE.parent / "queuectl"), str(PACKAGE))


def test_the_architecture_page_shows_these_rows() -> None:
    """The table in the documentation is the one that is tested here."""
    page = PACKAGE.parent / "docs" / "explanation" / "architecture.md"
    if not page.exists():
        pytest.skip("no checkout: an installed package has no docs")
    shown = {
        int(number): tuple(re.findall(r"`(\w+)`", names))
        for number, names in re.findall(r"^\| (\d+) \| ([^|]+) \|", page.read_text(encoding="utf-8"), flags=re.M)
    }

    assert shown == dict(enumerate(ROWS, 1))
