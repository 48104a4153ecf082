"""One SQLite file: open it, refuse what is not a queuectl store, run transactions that wait their turn."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import time
from _thread import allocate_lock

from queuectl import db
from queuectl.db import doorbell, sqlite_make
from queuectl.db.file_identity import FileIdentity, holder_of
from queuectl.db.migrate import NEWEST, TABLES, UNFINISHED
from queuectl.db.run_folder import RunFolder
from queuectl.errors import NotDurable, QueueInUse, StoreRefused, StoreUnavailable, why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, List, NoReturn, Optional, Sequence, Tuple

OLDEST_SQLITE = (3, 24, 0)
# How long a call waits for other writers before it gives up; then, how long if it is in a hurry.
PATIENCE_S = 30.0
HURRIED_S = 1.0
# A command may leave a WAL up to this size to the next process, which reads it in a fraction of a millisecond.
SHORT_WAL_BYTES = 256 * 1024
WAL_LIMIT_BYTES = 64 * 1024 * 1024
HEAR_STEPS = 200_000  # steps of a long statement, 20 ms or so, after which Python can act on a Ctrl-C
# The byte of the shared memory that a writer locks in WAL mode (sqlite.org/walformat.html).
WRITE_LOCK = 120


class SqliteFile:
    """A connection to a store's file; the base of ``SqliteStore``."""

    in_a_hurry: bool = False
    meanwhile: Optional[Callable[[], None]] = None

    def __init__(self, path: str, create: bool = True, unfinished: bool = False) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreRefused(
                f"SQLite {sqlite3.sqlite_version} is too old: queuectl needs 3.24 or newer. Use a newer Python."
            )
        self.path = self.location = path
        # SQLite follows links and puts the WAL beside the real file; the run folder goes there too.
        self._real_path = os.path.realpath(path)
        found = self._existing(path, create)
        self.run_folder = RunFolder(self._real_path + "-run", self._real_path)
        self._wal_path = self._real_path + "-wal"
        self.identity = FileIdentity(path, self._wal_path, found)
        self._closed = False
        self.at_rest, self.gate = False, allocate_lock()
        self._ring_after, self._sync_after = False, True
        self.rings = 0  # how many writes of this object have left jobs to claim, and so woken workers
        self._wal: Optional[int] = None  # descriptor of the WAL, to sync it
        self._opening = allocate_lock()  # guards _wal: a worker syncs in a thread, and sometimes in its loop
        self.syncs = os.environ.get("QUEUECTL_SYNCHRONOUS", "").lower() != "normal"
        self._db = self._connect(path)
        self._write = _Write(self)
        try:
            self._tune()
            self._verify(create, unfinished)
            self.identity.note_log()
        except BaseException:
            self._db.close()
            raise
        self._seen_version = -1

    # -- making and opening -------------------------------------------------------------------

    def _existing(self, path: str, create: bool) -> Tuple[int, int]:
        """Return the file's (device, inode), making the store first if it is missing."""
        try:
            try:
                found = sqlite_make.look(path)
            except FileNotFoundError:
                if not create:
                    raise StoreRefused(f"there is no store at {path}. 'queuectl enqueue' creates one.") from None
                sqlite_make.make(path)
                found = sqlite_make.look(path)
            if stat.S_ISDIR(found.st_mode):
                raise StoreRefused(
                    f"{path} is a directory, not a store. Name a file in it: {os.path.join(path, 'jobs.db')}"
                )
            if not stat.S_ISREG(found.st_mode):
                raise StoreRefused(
                    f"{path} is a device or a pipe, not a store. Choose another path with --db or QUEUECTL_DB."
                )
            if sys.platform == "linux":
                sqlite_make.refuse_mounted_alone(self._real_path)
                if os.major(found.st_dev) == 0:  # not on a disk: find out what file system it is
                    sqlite_make.refuse_network(os.path.dirname(self._real_path))
        except OSError as error:
            raise StoreUnavailable(f"cannot open the store {path}: {why(error)}.") from None
        return found.st_dev, found.st_ino

    def _connect(self, path: str) -> sqlite3.Connection:
        try:
            # timeout=0, as SQLite's own waiting starves those who wait long; _begin waits with jitter instead.
            return sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        except sqlite3.Error as error:
            self._fail(error)

    def _tune(self) -> None:
        """Set up the connection; this may have to wait for a process that closes the store and holds a lock."""
        # NORMAL: a commit is visible at once, and ``sync`` makes it durable after the write lock was
        # released. FULL would hold the lock while it waits for the disk. See docs/decisions.
        self._rows("PRAGMA synchronous = NORMAL")
        self._rows("PRAGMA wal_autocheckpoint = %d" % sqlite_make.log_pages(self._real_path))
        self._rows("PRAGMA journal_size_limit = %d" % WAL_LIMIT_BYTES)
        if db.process_ends_soon:  # else not: a program's own signal handler may raise, which sqlite3 would swallow
            self._db.set_progress_handler(lambda: 0, HEAR_STEPS)

    def _verify(self, create: bool, unfinished: bool) -> None:
        """Refuse a file that is not a queuectl store, or a newer release's; upgrade an older one's; read the id."""
        application = self._rows("PRAGMA application_id")[0][0]
        if application == 0 and create:
            if self._is_blank():
                self._make_in_place()
            application = self._rows("PRAGMA application_id")[0][0]  # of the store made here or by another process
        version = self._rows("PRAGMA user_version")[0][0]
        if application == 0 and not create and self._is_blank():
            raise StoreRefused(f"there is no store in {self.path}: it is empty. 'queuectl enqueue' creates one.")
        if application != sqlite_make.APPLICATION_ID or version < 1:
            raise StoreRefused(
                f"{self.path} is another program's database, not a queuectl store; it was left untouched. "
                "Choose another path with --db or QUEUECTL_DB."
            )
        if version > NEWEST and version == UNFINISHED:
            from queuectl.db.transfer import refuse_release, refuse_unfinished

            if not unfinished:
                raise refuse_unfinished(self.path)
            if self._rows("SELECT max(n) FROM schema_version WHERE n < ?", (UNFINISHED,)) != [(NEWEST,)]:
                raise refuse_release(self.path)
            version = NEWEST
        self._refuse_newer(version)
        if version < NEWEST:
            from queuectl.db.migrate import upgrade_file

            upgrade_file(self, version)
        rows = self._rows(
            f"""
            SELECT store_id,
                   (SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN {TABLES})
              FROM store
            """
        )
        if not rows or rows[0][1] != len(TABLES):
            raise StoreRefused(
                f"{self.path} is not a complete queuectl store; it was left untouched. "
                "Stop the workers and put a backup in its place."
            )
        self.store_id: str = rows[0][0]

    def _refuse_newer(self, version: int) -> None:
        if version > NEWEST:
            raise StoreRefused(
                f"{self.path} was written by a newer queuectl (schema {version}; this one knows {NEWEST}). "
                "Install the newer release."
            )

    def _is_blank(self) -> bool:
        """Return whether the file is empty, or a database without any table: not yet made, or being made."""
        # SQLite also takes a few stray bytes for an empty database, but they may matter to the user. Only the size is
        # checked: to open and close the file would drop the locks of all connections of this process.
        if 0 < os.stat(self.path).st_size < 512:
            return False
        return not self._rows("SELECT 1 FROM sqlite_master LIMIT 1")

    def _make_in_place(self) -> None:
        """Turn an empty file into a store; if another process is faster, its store stays.

        The file is not replaced by a new one, since by then it might be the store of that other process.
        """
        sqlite_make.refuse_network(os.path.dirname(self._real_path))
        deadline = None
        while True:
            try:
                os.chmod(self.path, 0o600)
                return sqlite_make.fill(self.path)
            except sqlite3.Error as error:
                if not _is_busy(error):
                    self._fail(error)
                deadline = self._wait_turn(deadline)
            except OSError as error:
                raise StoreUnavailable(f"cannot create the store {self.path}: {why(error)}.") from error

    def close(self) -> None:
        """Close the connection; calling it twice is allowed.

        The last connection to close copies the WAL into the database and removes it, which takes four syncs of
        the disk. So a command that is about to end leaves a short WAL to the next process.
        """
        if not self._closed:
            self._closed = True
            if db.process_ends_soon and self._has_short_wal():
                return
            if not self._write.is_amid():  # else a signal's handler calls, amid a call that does the rest
                self.leave()

    def leave(self) -> None:
        """See ``Store.leave``. In a forked child, the locks are the parent's and stay, and so does the WAL."""
        self._closed = True
        if self._wal is not None:
            os.close(self._wal)  # first: the last connection removes the WAL, and Windows cannot remove an open file
            self._wal = None
        self._db.close()

    def _has_short_wal(self) -> bool:
        try:
            return os.path.getsize(self._wal_path) <= SHORT_WAL_BYTES
        except OSError:
            return False

    def sync(self) -> None:
        """Make all commits so far, of all processes, survive a loss of power.

        The descriptor of the WAL stays valid: only the last connection to close removes the WAL, and this one is open.
        """
        if not self.syncs:
            return
        try:
            wal = self._wal
            if wal is None:
                with self._opening:
                    wal = self._wal = self.identity.open_log() if self._wal is None else self._wal
            _fdatasync(wal)
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self.path} to disk: {why(error)}.") from error

    def tidy(self) -> None:
        """Shorten a long WAL: if there are readers all the time, commits alone never start it over."""
        try:
            if os.path.getsize(self._wal_path) <= WAL_LIMIT_BYTES:
                return
        except OSError:
            return
        try:
            sqlite_make.shorten_log(self._db)
        except sqlite3.Error as error:
            if not _is_busy(error):
                self._fail(error)

    # -- statements ---------------------------------------------------------------------------

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> List[Any]:
        """Run one reading statement and return all rows; an open cursor would keep the WAL from being started over."""
        deadline = None
        while True:
            try:
                return self._db.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                if not _is_busy(error):
                    self._fail(error)
                deadline = self._wait_turn(deadline)

    def _begin(self) -> None:
        """Take SQLite's one write lock.

        By BEGIN IMMEDIATE and not DEFERRED: a transaction that reads first and then writes gets SQLITE_BUSY at once
        if another process has written in between.
        """
        if self._closed:
            raise StoreUnavailable(f"the store {self.path} is closed.")
        self.identity.check()
        deadline = None
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.Error as error:
                if self._db.in_transaction:  # left open: a signal handler raised in the one place not covered below
                    self._write._roll_back()
                    continue
                if not _is_busy(error):
                    self._fail(error)
                deadline = self._wait_turn(deadline)

    def _wait_turn(self, deadline: Optional[float]) -> float:
        """Sleep for a short random time, as fair to new waiters as to old ones; return the deadline for the next call.

        The lock is usually held for a tenth of a millisecond, so the first sleeps are short: a worker that slept for
        milliseconds here would leave its slot empty. Later sleeps are longer, as many waiters would try too often.
        """
        now = time.monotonic()
        deadline = deadline or now + PATIENCE_S
        waited_s = now - (deadline - PATIENCE_S)
        if now > deadline or (self.in_a_hurry and waited_s > HURRIED_S):
            holder = self.lock_holder()
            who = "" if holder is None else f": process {holder} has held its lock"
            raise StoreUnavailable(f"the store {self.path} was busy for {waited_s:.0f} s{who}. Try again.")
        if self.meanwhile is not None and waited_s > 0.02:
            self.meanwhile()
        longest_s = 0.0003 if waited_s < 0.002 else 0.002 if waited_s < 0.02 else 0.01
        part = 0.1 + 0.9 * os.urandom(1)[0] / 255  # the import of random takes 5 ms and 1 MB
        self.at_rest = True
        try:
            time.sleep(longest_s * part)
        finally:
            with self.gate:  # held by a thread that forks, for the time of the fork
                self.at_rest = False
        return deadline

    def lock_holder(self) -> Optional[int]:
        """Return the pid of the process that holds SQLite's write lock; None if none does, or it is not known."""
        return holder_of(self._real_path + "-shm", WRITE_LOCK)

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        """Raise the QueuectlError that explains *error* to the user."""
        text = str(error)
        if text == "interrupted":
            raise KeyboardInterrupt from error
        if isinstance(error, sqlite3.ProgrammingError) and self._closed:
            raise StoreUnavailable(f"the store {self.path} is closed.") from error
        if "not a database" in text or "malformed" in text or "encrypted" in text:
            raise StoreRefused(
                f"{self.path} is damaged or not a SQLite database ({text}); it was left untouched. "
                "'queuectl doctor' says more; restore a backup, or move the file away to start again."
            ) from error
        if sqlite_make.is_full(text, self._real_path):
            self._make_room()
            raise StoreUnavailable(
                f"the disk of {self.path} is full; nothing was changed. Free some space and try again."
            ) from error
        if "readonly" in text:
            raise StoreUnavailable(f"cannot write to {sqlite_make.unwritable(self.path, self._real_path)}") from error
        hindrance = sqlite_make.hindrance(text, self._real_path)
        if hindrance or "unable to open" in text:
            told = f": {hindrance}" if hindrance else ". Check its directory and permissions."
            raise StoreUnavailable(f"cannot open the store {self.path}{told}") from error
        if any(words in text for words in ("no such table", "no such column", "has no column")):
            self._refuse_newer(self._rows("PRAGMA user_version")[0][0])  # it was upgraded while it was open
            raise StoreRefused(
                f"{self.path} is not a complete queuectl store ({text}); it was left untouched."
            ) from error
        raise StoreUnavailable(f"the store {self.path} failed: {text}.") from error

    def _make_room(self) -> None:
        """Copy the WAL into the database and cut it off, for the next write.

        Otherwise commits alone do that. If the WAL has taken the rest of the disk, there are none any more.
        """
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            pass  # no room for that either

    def changed(self) -> bool:
        """See ``Store.changed``. A file that was deleted or replaced is an error, as it would never have news."""
        before, self._seen_version = self._seen_version, self._rows("PRAGMA data_version")[0][0]
        self.identity.check()
        return bool(self._seen_version != before)


_fdatasync = getattr(os, "fdatasync", os.fsync)


class _Write:
    """One write transaction, ``with self._write as db``: commits, or rolls back and raises an error that says why."""

    __slots__ = ("_commits", "_file", "_frame")

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._frame: Optional[FrameType] = None  # the function that writes
        self._commits = False  # whether the last transaction has come to its COMMIT

    def is_amid(self) -> bool:
        """Return whether the function that writes is one that this thread will return to."""
        if self._frame is None:
            return False
        from queuectl.db.amid import is_running

        return is_running(self._frame)

    def take(self, frame: FrameType) -> None:
        """Note that the function of *frame* is going to write; refuse it amid another one."""
        if self.is_amid():
            raise QueueInUse
        self._frame = frame

    def give_back(self) -> None:
        """Note that the function has written; close the file if that was asked for meanwhile."""
        self._frame = None
        if self._file._closed:
            self._file.leave()

    def __enter__(self) -> sqlite3.Connection:
        self.take(sys._getframe(1))
        self._commits = False
        try:
            self._file._begin()
            self._file._ring_after, self._file._sync_after = False, True
            return self._file._db
        except BaseException:  # a signal handler may have raised, and the program may go on: do not keep the lock
            self._roll_back()
            self.give_back()
            raise

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        try:
            self._end(error)
        finally:
            self.give_back()

    def _end(self, error: Optional[BaseException]) -> None:
        file = self._file
        if error is None:
            try:
                self._commits = True
                file._db.execute("COMMIT")
            except sqlite3.Error as trouble:
                self._roll_back()
                file._fail(trouble)
            if file._ring_after:
                file.rings += 1
                doorbell.ring(file.run_folder.at_hand())
            if file._sync_after:
                try:
                    file.sync()
                except StoreUnavailable as trouble:
                    raise NotDurable(str(trouble)) from trouble  # the write was committed, so it was not refused
            return
        self._roll_back()
        if isinstance(error, sqlite3.IntegrityError):
            sqlite_make.refuse_copied_into(error, file.path)
        elif isinstance(error, sqlite3.Error):
            file._fail(error)

    def is_done(self) -> bool:
        """Return whether the last transaction was committed, even if an interrupt came right behind that."""
        return self._commits and not self._file._db.in_transaction

    def _roll_back(self) -> None:
        self._commits = False
        try:
            if self._file._db.in_transaction:  # a full disk or an I/O error may have ended it already
                self._file._db.execute("ROLLBACK")
        except sqlite3.Error:
            pass


def _is_busy(error: sqlite3.Error) -> bool:
    return any(word in str(error) for word in ("locked", "busy"))
