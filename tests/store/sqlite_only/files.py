"""The bytes of files and the scripts of processes that several tests here need."""

from __future__ import annotations

import os

#: Waits for a line, adds one job and prints its id.
ADD_ONE = """
import sys
from queuectl.db import open_store
from queuectl.jobspec import JobSpec
sys.stdin.readline()
print(*open_store(sys.argv[1]).add([JobSpec("true", "/")]))
"""


def contents(folder):
    """Return the bytes of every file in *folder*, by name."""
    return {entry.name: open_bytes(entry.path) for entry in os.scandir(folder) if entry.is_file()}


def open_bytes(path):
    """Return a file's bytes."""
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path, data):
    """Make the file *path*, and its folder, with these bytes."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
