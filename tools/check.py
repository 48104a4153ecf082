"""Check what tests do not: ``python3 tools/check.py [--fix] [CHECK ...]``.

The checks are format, lint, types, platforms, layers and docs; without a name, all of them. Each runs whatever the
others found; the exit code says whether all passed. ``--fix`` writes what format, lint and docs can mend by themselves.
"""

from __future__ import annotations

import subprocess
import sys

from environment import ROOT, python_with

PATHS = [name for name in ("queuectl", "tests", "tools", "bench", "docs") if (ROOT / name).is_dir()]


def commands(fix: bool, python: str) -> dict[str, list[list[str]]]:
    """Return the commands of each check, as arguments of the interpreter."""
    reference = ["tools/reference.py"] if fix else ["tools/reference.py", "--check"]
    return {
        "format": [["-m", "ruff", "format", *([] if fix else ["--check", "--diff"]), *PATHS]],
        "lint": [["-m", "ruff", "check", *(["--fix"] if fix else []), *PATHS]],
        "types": [["-m", "mypy"]],
        # What Windows, macOS and Python 3.8 do not have. mypy knows no 3.8 any more; pyright and vermin do.
        "platforms": [
            ["-m", "mypy", "--platform", "win32", "queuectl"],
            ["-m", "mypy", "--platform", "darwin", "queuectl"],
            ["-m", "pyright", "--pythonpath", python],
            ["-c", "from vermin import main; main()", "-q", "-t=3.8-", "--no-tips", "--violations", "queuectl"],
        ],
        "layers": [["-m", "pytest", "-q", "tests/unit/test_layers.py"]],
        "docs": [reference, ["-m", "pytest", "-q", "tests/unit/test_docs.py"]],
    }


def main() -> int:
    """Run the checks named on the command line and say which failed."""
    names = [argument for argument in sys.argv[1:] if argument != "--fix"]
    python = python_with("test", "check")
    known = commands("--fix" in sys.argv[1:], python)
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no check is called {unknown[0]!r}. There are: {', '.join(known)}.")
    failed = []
    for name in names or list(known):
        print(f"-- {name}", flush=True)
        results = [subprocess.run([python, *command], cwd=str(ROOT), check=False) for command in known[name]]
        if any(result.returncode for result in results):
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
