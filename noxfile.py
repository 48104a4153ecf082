"""Sessions for ``nox``: the suite on every Python from 3.8 on, on old releases of SQLite, and the checks.

``nox`` runs the suite on each interpreter that it finds. Those of pyenv are found when they are on the path:
``PATH="$(printf '%s:' "$(pyenv root)"/versions/3.*/bin)$PATH" nox``. Arguments after ``--`` go to pytest.
"""

import nox

PYTHONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]

# Not virtualenv: its newest release has no pip for 3.8.
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["suite"]


@nox.session(python=PYTHONS)
def suite(session: nox.Session) -> None:
    """Run the suite."""
    session.install("-q", "-e", ".[test]")
    session.run("python", "-m", "pytest", "-q", "-n", "auto", *session.posargs)


@nox.session(python=["3.8", "3.13"])
@nox.parametrize("sqlite", ["3.29", "3.33"])
def old_sqlite(session: nox.Session, sqlite: str) -> None:
    """Run the suite against a release of SQLite without RETURNING."""
    session.run("python", "tools/test_old_sqlite.py", "--sqlite", sqlite, *session.posargs)


@nox.session(python=False)
def checks(session: nox.Session) -> None:
    """Run format, lint, types, layers, docs and the checks for Windows."""
    session.run("python3", "tools/check.py", *session.posargs, external=True)


@nox.session(python=False)
def windows(session: nox.Session) -> None:
    """Run the suite on Windows's own Pythons under Wine."""
    session.run("python3", "tools/test_windows.py", *session.posargs, external=True)
