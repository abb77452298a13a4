"""One SQLite file for the kept errors: opened, checked, replaced when it is damaged."""

import math
import sqlite3
import time
import warnings
from contextlib import closing, contextmanager, suppress

from filelock import FileLock

FILE, LOCK = "errors.sqlite", "errors.lock"
APPLICATION, VERSION = 0x64736B6C, 1  # "dskl", and the format of its tables
PATIENCE = 60  # seconds to wait for another process

TABLES = """
CREATE TABLE options (name TEXT PRIMARY KEY, value);
CREATE TABLE settings (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT UNIQUE, model TEXT);
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT UNIQUE, used REAL);
CREATE TABLE errors (image INTEGER, settings INTEGER, checksum INTEGER, records BLOB);
CREATE INDEX errors_of ON errors (image, settings);
"""
"""A row of errors is what one forward pass found out about one image."""


class Unreadable(Exception):
    """The database is damaged, no database at all, or of an old format."""


def is_damage(error):
    """Whether an error is about the file itself, not about writing or waiting.

    Parameters
    ----------
    error : sqlite3.Error

    Returns
    -------
    damage : bool
    """
    operational = isinstance(error, sqlite3.OperationalError)
    return isinstance(error, sqlite3.DatabaseError) and not operational


def open_database(path, max_bytes=None):
    """Open the database, and make its tables if it is new.

    Parameters
    ----------
    path : Path
        Of the file.
    max_bytes : int or float, default=None
        A new limit to its size; None: as it was.

    Returns
    -------
    connection : sqlite3.Connection
        In autocommit mode, for :func:`transaction`.

    Raises
    ------
    Unreadable
        If it must be put aside.
    OSError
        If it belongs to another program or to a newer version.
    sqlite3.OperationalError
        If it can't be opened or written.
    """
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        application, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION:
            raise OSError(f"{path} belongs to another program")
        if tables and version > VERSION:
            raise OSError(f"{path} was written by a newer diffusion_sklearn: update it")
        if tables and version < VERSION:
            raise Unreadable("it is of an older format")
        # Readers and one writer at a time; a commit outlives the process.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            connection.executescript(
                f"PRAGMA application_id = {APPLICATION};"
                f"PRAGMA user_version = {VERSION};"
                f"BEGIN; {TABLES} COMMIT;"
            )
        if max_bytes is not None:
            connection.execute(
                "INSERT OR REPLACE INTO options VALUES ('max_bytes', ?)", (max_bytes,)
            )
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise Unreadable(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def replace_damaged(path, error):
    """Put a damaged database aside, unless another process has done so already.

    Parameters
    ----------
    path : Path
        Of the file.
    error : sqlite3.Error
        What showed the damage, for the warning.
    """
    with FileLock(path.with_name(LOCK), timeout=PATIENCE):
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            try:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                sound = found == "ok"
            except sqlite3.DatabaseError:
                sound = False
        if not sound:
            set_aside(path, error)


def set_aside(path, reason):
    """Rename a database that can't be used, with a warning.

    Parameters
    ----------
    path : Path
        Of the file.
    reason : object
        For the warning.
    """
    aside = f"{path.name}.unusable-{time.time_ns()}"
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(path.with_name(aside + suffix))
    warnings.warn(
        f"{path} can't be used ({reason}); it is now {aside}, and a new one is begun. "
        "Delete the old one when you are done with it.",
        RuntimeWarning,
        stacklevel=2,
    )


@contextmanager
def transaction(connection):
    """All or nothing.

    Parameters
    ----------
    connection : sqlite3.Connection

    Yields
    ------
    execute : callable
        Executes a statement.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection.execute
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def size_limit(connection):
    """The size in bytes above which old images are forgotten.

    Parameters
    ----------
    connection : sqlite3.Connection

    Returns
    -------
    limit : int or float
        inf: none.
    """
    query = "SELECT value FROM options WHERE name = 'max_bytes'"
    row = connection.execute(query).fetchone()
    return math.inf if row is None else row[0]


def used_bytes(connection):
    """The size in bytes of what the database holds, free pages not counted.

    Parameters
    ----------
    connection : sqlite3.Connection

    Returns
    -------
    size : int
    """
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
