"""Build ``queuectl.pyz``: the whole program in one file that any Python from 3.8 on runs.

``python3 tools/pyz.py [FILE]`` writes it, to ``dist/queuectl.pyz`` unless told otherwise. Equal sources make equal
bytes: the names are sorted, every date is the same, and nothing is compressed, so that no release of zlib shows.
Uncompressed it is also quicker to start, and smaller than many a picture.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
FIRST_LINE = b"#!/usr/bin/env python3\n"
# The earliest date that a zip file can hold.
DATE = (1980, 1, 1, 0, 0, 0)
MAIN = """\
import sys

if sys.version_info < (3, 8):
    sys.exit("queuectl: it needs Python 3.8 or newer; this is %d.%d." % sys.version_info[:2])

from queuectl.main import main

sys.exit(main())
"""


def package_files(root: Path = ROOT) -> List[str]:
    """Return the files of the package below *root*, relative to it, with slashes, sorted."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in (root / "queuectl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def build_pyz(target: Path, root: Path = ROOT) -> None:
    """Write *target* from the sources below *root*, whole or not at all."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [
            ("__main__.py", MAIN.encode()),
            *((name, _read(root / name)) for name in package_files(root)),
        ]:
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system = 3  # Unix, wherever it is built
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f"{target.name}.{os.getpid()}")
    hidden.write_bytes(FIRST_LINE + memory.getvalue())
    hidden.chmod(0o755)
    os.replace(str(hidden), str(target))


def _read(path: Path) -> bytes:
    """Read a source; a checkout on Windows may have given it other line ends."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def main() -> int:
    """Build the file that the command line names and say how large it is."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "queuectl.pyz"
    build_pyz(target)
    print(f"{target.name}: {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
