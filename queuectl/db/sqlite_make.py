"""Making a new store's file, so that no process ever meets a half-made one."""

from __future__ import annotations

import os
import sqlite3
import sys
import time

from queuectl import faults
from queuectl.db import folders
from queuectl.errors import StoreRefused, StoreUnavailable, why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

# "queu": in the header of each store, so that another program's database is told at once.
APPLICATION_ID = 0x71756575
# For how long, and at what intervals, to try to shorten a WAL that other processes are using.
TIDY_S = 0.5
LOOK_S = 0.0005
# For how long a file may not be looked at because it is being put in place.
PLACING_S = 2.0
# How much disk SQLite needs to open a store that no process has open: the size of its shared memory.
ROOM_BYTES = 32768
# What a store may need beyond the size of its files. If fewer bytes are allowed, an I/O error is taken to come of it.
LEAST_ROOM_BYTES = 128 * 1024
# SQLite takes paths of 504 bytes. A new store has a longer name for a moment.
LONGEST_PATH_BYTES = 480
# What SQLite answers to those who write to a store that is being copied into.
COPIED_INTO = "this store is an unfinished copy"
# How long a maker waits for another that fills the same file.
PATIENCE_S = 30.0
# Where the WAL starts over, in pages: SQLite's default, or at a sixteenth of what is free.
MOST_LOG_PAGES, FEWEST_LOG_PAGES, LOG_SHARE = 1000, 16, 16 * 4096


def look(path: str) -> os.stat_result:
    """Return what ``os.stat`` does; on Windows a file cannot be looked at in the moment in which it is put in place."""
    deadline = time.monotonic() + PLACING_S
    while True:
        try:
            return os.stat(path)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)


def make(path: str) -> None:
    """Make a new store at *path*; if another process is first, its store stands.

    The file is made complete under another name and linked into place, so that no process
    ever sees a half-made store, whenever this one is killed.
    """
    folder = os.path.dirname(path)
    hidden = f"{path}.new-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        _make_folder(folder)
        made = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        folders.give(made, folder)
        os.close(made)
        fill(hidden)
        _set_leftovers_aside(path)
        faults.point("making")
        _put_in_place(hidden, path)
        faults.point("made")
    except sqlite3.Error as error:
        told = "its disk is full. Free some space and try again." if is_full(str(error), path) else ""
        told = told or hindrance(str(error), path) or f"{error}. Check the disk and permissions."
        raise StoreUnavailable(f"cannot create the store {path}: {told}") from error
    except OSError as error:
        raise StoreUnavailable(f"cannot create the store {path}: {why(error)}.") from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            try:
                os.unlink(hidden + suffix)
            except OSError:
                pass


def fill(path: str) -> None:
    """Make the empty database *path* a store, in one transaction, unless it is one by now."""
    from queuectl.db.migrate import upgrade_sqlite

    db = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            return
        db.execute("PRAGMA application_id = %d" % APPLICATION_ID)
        now = time.time()
        upgrade_sqlite(db, now)
        db.execute("INSERT INTO store (one, store_id, created_at) VALUES (1, ?, ?)", (os.urandom(8).hex(), now))
        db.execute("INSERT INTO queues (name) VALUES ('default')")
        db.execute("COMMIT")
        # To close the connection does that too, but keeps an error to itself: the file would stand without its log.
        db.execute("PRAGMA wal_checkpoint").fetchall()
    finally:
        db.close()


def _set_leftovers_aside(path: str) -> None:
    """Move the WAL of a store that was deleted out of the way: SQLite would read it into the new store.

    A maker that sees leftovers takes a lock, and moves only the very files it saw: as long as they are there
    every other maker sees them too and waits, so nobody takes the WAL of a store just made. The
    WAL goes last for the same reason.
    """
    leftovers = [(path + suffix, _inode(path + suffix)) for suffix in ("-shm", "-wal")]
    if not any(inode for _, inode in leftovers):
        return
    with _MakersLock(path):
        for name, inode in leftovers:
            if inode and _inode(name) == inode and not os.path.exists(path):
                os.replace(name, f"{name}.left-over")


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


class _MakersLock:
    """One maker at a time, among those that found leftovers."""

    def __init__(self, path: str) -> None:
        self._path = path + ".making"

    def __enter__(self) -> None:
        while True:
            self._file = open(self._path, "w", encoding="ascii")
            if sys.platform == "win32":  # there a file in use cannot be renamed: that is lock enough
                return
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX)
            if _inode(self._path) == os.fstat(self._file.fileno()).st_ino:
                return
            self._file.close()  # its holder removed it meanwhile: this lock holds nobody off

    def __exit__(self, *what: object) -> None:
        if sys.platform == "win32":  # there a file that is open cannot be removed; the last to close it does so
            self._file.close()
        try:
            os.unlink(self._path)
        except OSError:
            pass
        self._file.close()


def _put_in_place(hidden: str, path: str) -> None:
    try:
        os.link(hidden, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links (FAT, some mounts)
        if os.path.exists(path):
            return
        os.rename(hidden, path)
    _sync_folder(os.path.dirname(path))


def _make_folder(folder: str) -> None:
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        if not os.path.isdir(parent):
            folders.make(parent, 0o755)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return
        folders.give_folder(folder)
        _sync_folder(parent)
    refuse_network(folder)


def _sync_folder(folder: str) -> None:
    """Make a new name in *folder* survive a loss of power; Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Several kernels have the same files under their hands, and SQLite's WAL needs memory that all its users share.
NETWORK_FILE_SYSTEMS = frozenset(
    (
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "lustre", "gpfs", "beegfs", "gfs2",
        "ocfs2", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.rclone", "fuse.s3fs",
    )
)  # fmt: skip
# A folder of a virtual machine's host. Also with one user in one machine: what is written there through a mapping and
# by calls does not always come together, and a WAL is damaged. Not virtiofs: whole machines and containers have their
# root on it, used by one kernel alone, where it behaves; a folder of a desktop's host is not told from that.
HOST_SHARES = frozenset(("vboxsf", "fuse.vmhgfs-fuse", "fuse.grpcfuse", "fuse.osxfs"))
# How the kernel writes what would end a word of the table of mounts; the backslash last, for it begins the others.
ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


def _mounts() -> List[Tuple[str, str]]:
    """Return where file systems are mounted, and of which kind each is; nothing where no table tells it."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = os.fsdecode(file.read()).rstrip("\n").split("\n")  # other ends of lines may be in a name
    except OSError:
        return []
    found = []
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split(" ", 5)[4]
        for escape, character in ESCAPES if "\\" in mount else ():
            mount = mount.replace(escape, character)
        found.append((mount, after.partition(" ")[0]))
    return found


def network_file_system(folder: str) -> Optional[str]:
    """Return the kind of network file system or host's share that holds *folder*, None if it is none or unknown."""
    real = os.path.realpath(folder)
    best, kind = "", ""
    for mount, its_kind in _mounts():
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, its_kind
    return kind if kind in NETWORK_FILE_SYSTEMS or kind in HOST_SHARES else None


def refuse_mounted_alone(path: str) -> None:
    """Refuse the file *path* if it was mounted without its folder, as ``docker run -v jobs.db:...`` does.

    SQLite puts the log beside the name by which it opens the file: who comes by the folder, and each other container,
    has a log of its own, and what one of them writes the others lose.
    """
    if any(mount == path for mount, _ in _mounts()):
        raise StoreRefused(
            f"{path} was mounted as a single file, without its log. Mount the directory that holds both."
        )


def refuse_network(folder: str) -> None:
    """Refuse to put a store where SQLite's locks cannot be trusted."""
    kind = network_file_system(folder)
    if kind:
        what = "a virtual machine's share of its host's files" if kind in HOST_SHARES else "a network file system"
        raise StoreRefused(
            f"{folder} is on {what} ({kind}), where SQLite's locks cannot be trusted. "
            "Set QUEUECTL_HOME to a local directory, or share a queue through PostgreSQL."
        )


def log_pages(path: str, most: int = MOST_LOG_PAGES) -> int:
    """Return how long the WAL may get, in pages, before a commit copies it: it must not take all of a small disk."""
    if sys.platform == "win32":
        return most
    try:
        disk = os.statvfs(path)
    except OSError:  # a file system that does not tell
        return most
    return max(FEWEST_LOG_PAGES, min(most, disk.f_bavail * disk.f_frsize // LOG_SHARE))


def has_no_room(path: str) -> bool:
    """Return whether the disk of *path* is full: SQLite reports an I/O error if it cannot make its shared memory."""
    from shutil import disk_usage

    try:
        return disk_usage(os.path.dirname(path)).free < ROOM_BYTES
    except OSError:
        return False


def is_full(text: str, path: str) -> bool:
    """Return whether SQLite's message *text* means that the disk of *path* is full."""
    return "full" in text or ("I/O error" in text and has_no_room(path))


def hindrance(text: str, path: str) -> str:
    """Return what keeps SQLite from the store's file *path*, and what to do, where its message *text* names neither.

    Nothing if that is not known.
    """
    if sys.platform == "win32":
        return ""
    if "I/O error" in text:
        import resource

        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        longest = max([0, *(os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end))])
        if most != resource.RLIM_INFINITY and longest + LEAST_ROOM_BYTES > most:
            return f"here no file may be larger than {most // 1024} KiB (ulimit -f). Raise that limit."
    if "unable to open" in text:
        length = len(os.fsencode(path))
        if length > LONGEST_PATH_BYTES:
            advice = f"Choose one of {LONGEST_PATH_BYTES} at most, with QUEUECTL_HOME or --db."
            return f"its path has {length} bytes, which is too long for SQLite. {advice}"
        try:
            disk = os.statvfs(os.path.dirname(path))
            if disk.f_files and disk.f_favail == 0:
                return "its disk has no inode left for another file. Delete some files there and try again."
            os.close(os.open("/", os.O_RDONLY))
        except OSError as error:
            return f"{why(error)}."
    return ""


def unwritable(path: str, real_path: str) -> str:
    """Return which of a store's files cannot be written, and why; a WAL may have a mode that the store had."""
    files = [path, *(real_path + suffix for suffix in ("-wal", "-shm"))]
    file = next((file for file in files if os.path.exists(file) and not os.access(file, os.W_OK)), "")
    folder = os.path.dirname(real_path)
    if sys.platform != "win32":
        mounted_so = os.statvfs(folder).f_flag & os.ST_RDONLY
        if mounted_so or (not file and os.access(folder, os.W_OK)):  # after an error the kernel may leave the flag out
            return f"{path}: its disk is read-only. The kernel's log (dmesg) tells if an error has made it so."
    return f"{file or path}: it is read-only for this user."


def shorten_log(db: sqlite3.Connection) -> None:
    """Copy the WAL into the database and cut it off, unless others use it all the time."""
    deadline = time.monotonic() + TIDY_S
    try:
        # This needs three locks: first that of checkpoints, which each commit to a long WAL takes for a moment, and
        # for which SQLite does not wait; then those of writers and readers, for which it waits.
        db.execute("PRAGMA busy_timeout = 250")
        while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] and time.monotonic() < deadline:
            time.sleep(LOOK_S)
    finally:
        db.execute("PRAGMA busy_timeout = 0")


def refuse_copied_into(error: sqlite3.IntegrityError, path: str) -> None:
    """Say so if *error* comes of a write to the store at *path*, which is being copied into."""
    if str(error) == COPIED_INTO:
        from queuectl.db.transfer import refuse_unfinished

        raise refuse_unfinished(path) from error
