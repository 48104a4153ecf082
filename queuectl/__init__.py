"""queuectl runs shell commands in the background and does not lose them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from queuectl.errors import (
        InvalidJob,
        InvalidSetting,
        JobExists,
        JobNotFound,
        MissingExtra,
        NotDurable,
        NotInDlq,
        QueuectlError,
        QueueInUse,
        Refused,
        StoreError,
        StoreRefused,
        StoreUnavailable,
        WrongState,
    )
    from queuectl.job import Job, JobFilter, Run, State
    from queuectl.queue import Queue

__version__ = "0.1.0"

__all__ = [
    "InvalidJob",
    "InvalidSetting",
    "Job",
    "JobExists",
    "JobFilter",
    "JobNotFound",
    "MissingExtra",
    "NotDurable",
    "NotInDlq",
    "Queue",
    "QueueInUse",
    "QueuectlError",
    "Refused",
    "Run",
    "State",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "WrongState",
    "__version__",
]

_HOMES = {
    "Queue": "queuectl.queue",
    "Job": "queuectl.job",
    "JobFilter": "queuectl.job",
    "Run": "queuectl.job",
    "State": "queuectl.job",
}


def __dir__() -> List[str]:
    """Return all public names, for ``help`` and completion, whether or not they have been used."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a command pays only for what it needs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES.get(name, "queuectl.errors")), name)
    globals()[name] = value
    return value
