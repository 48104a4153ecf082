"""The kinds of store that the suite in this directory holds to the contract.

An engine is one entry here: a context manager that is given a scratch folder, makes room for one
fresh, empty store and yields its location, as ``queuectl.db.open_store`` takes it. Whatever it made
outside the folder it takes away again. If it is told that the store may be there already, one may have been made.
"""

from __future__ import annotations

from contextlib import contextmanager

from tests.postgres_server import empty_store, fresh_schema, shared_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Callable, ContextManager, Dict, Iterator


@contextmanager
def sqlite(folder: Path, made: bool = False) -> Iterator[str]:
    """A file that the first opening makes."""
    yield str(folder / "jobs.db")


@contextmanager
def postgres(folder: Path, made: bool = False) -> Iterator[str]:
    """A schema of its own on the server of this test process."""
    with empty_store() if made else fresh_schema(shared_server()) as url:
        yield url


ENGINES: Dict[str, Callable[..., ContextManager[str]]] = {"postgres": postgres, "sqlite": sqlite}
