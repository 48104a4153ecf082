"""A mount that the kernel knows as ``fuse.sshfs``, served by the few answers that looking at its root needs.

The kernel of a test machine may lack NFS and SMB; FUSE it has, and what queuectl reads is the kind of the mount.
Written from the kernel's ``include/uapi/linux/fuse.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
from pathlib import Path
from typing import List, Optional

import pytest

LOOKUP, GETATTR, MKNOD, MKDIR, FORGET, INIT, INTERRUPT, CREATE, BATCH_FORGET = 1, 3, 8, 9, 2, 26, 36, 35, 42
NAMES = {LOOKUP: "lookup", GETATTR: "getattr", MKNOD: "mknod", MKDIR: "mkdir", CREATE: "create"}
ROOT, FILE = 1, 2


class NetworkMount:
    """The mount for the length of a ``with`` block: an empty folder, or one with a *file* that cannot be opened."""

    def __init__(self, path: Path, file: Optional[str] = None) -> None:
        self.path = path
        self.asked: List[str] = []
        self._file = file

    def __enter__(self) -> NetworkMount:
        self.path.mkdir()
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            pytest.skip(f"no FUSE here: {error}")
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0"
        # Not by the command, whose newer releases leave out the part behind the point.
        if ctypes.CDLL(None, use_errno=True).mount(
            b"host:", os.fsencode(self.path), b"fuse.sshfs", 0, options.encode()
        ):
            raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)
        self._thread.join()
        os.close(self._device)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 20)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                return  # ENODEV: it is unmounted
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            self.asked.append(NAMES.get(opcode, str(opcode)))
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            answer = self._answer(opcode, node, request[40:])
            failed = -errno.ENOENT if answer is None else 0
            os.write(self._device, struct.pack("<IiQ", 16 + len(answer or b""), failed, unique) + (answer or b""))

    def _answer(self, opcode: int, node: int, body: bytes) -> Optional[bytes]:
        if opcode == INIT:
            # Version 7.31, and otherwise what is the default: no flags, 4 KiB writes.
            return struct.pack("<IIIIHHIIHH", 7, 31, 65536, 0, 12, 9, 4096, 1, 0, 0) + bytes(32)
        if opcode == GETATTR:
            return struct.pack("<QII", 60, 0, 0) + _attributes(node)
        if opcode == LOOKUP and self._file is not None and body.rstrip(b"\0") == self._file.encode():
            return struct.pack("<QQQQII", FILE, 0, 60, 60, 0, 0) + _attributes(FILE)
        return None


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o600
    return struct.pack("<QQQQQQIIIIIIIIII", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 2, 0, 0, 0, 4096, 0)
