"""Build the wheel and the source archive into ``dist/`` and look whether all is in them: ``python3 tools/dist.py``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile

from environment import ROOT, python_with


def main() -> int:
    """Build both archives; return 1 if a file of the package is missing from one."""
    dist = ROOT / "dist"
    shutil.rmtree(str(dist), ignore_errors=True)
    command = [python_with("test", "check"), "-m", "build", "--outdir", str(dist), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "queuectl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wheel = next(dist.glob("*.whl"))
    source = next(dist.glob("*.tar.gz"))
    with zipfile.ZipFile(str(wheel)) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(str(source)) as archive_:
        in_source = {name.partition("/")[2] for name in archive_.getnames()}
    missing = [(wheel.name, name) for name in sorted(package - in_wheel)]
    missing += [(source.name, name) for name in sorted(package - in_source)]
    for archive_name, name in missing:
        print(f"{archive_name} lacks {name}")
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes; {source.name}: {source.stat().st_size:,} bytes")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
