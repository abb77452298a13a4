"""The folder of kept errors: a SQLite file, which several processes may share."""

import math
import sqlite3
import time
import warnings
from contextlib import closing, contextmanager, suppress
from numbers import Real
from pathlib import Path

import numpy as np
from filelock import FileLock

from diffusion_sklearn.engine._losses import TERMS

FILE = "errors.sqlite"
APPLICATION_ID, VERSION = 0x64736B6C, 2  # "dskl", and the format of the tables
TIMEOUT = 60  # seconds to wait for another process

RECORD = np.dtype(
    [("condition", "<u8"), ("trial", "<u4"), ("timestep", "<u4")]
    + [(name, "<f8") for name in TERMS]
)
"""An evaluation: digest of its condition, its trial, and all terms of its loss."""

# A row of `errors` holds the evaluations of one image in one forward pass.
TABLES = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
BEGIN;
CREATE TABLE options (name TEXT PRIMARY KEY, value);
CREATE TABLE settings (digest TEXT PRIMARY KEY, model TEXT);
CREATE TABLE images (digest TEXT PRIMARY KEY, used REAL);
CREATE TABLE errors (image TEXT, settings TEXT, checksum INTEGER, records BLOB);
CREATE INDEX errors_of ON errors (image, settings);
COMMIT;
"""


class _Unreadable(Exception):
    """The file is damaged, no database of ours, or of an older format."""


class ErrorStore:
    """A folder that keeps every error computed, with a limit to its size.

    Estimators make one of the folder that is passed as `memory`; make one yourself to
    set the limit, to see what it holds or to clear it.

    Errors are read again in any later fit, process or session, for as long as the
    model's fingerprint (weights, configs, adapters, switches such as FreeU), the
    target, the image's pixels, the prompt or class id, the timestep and the noise are
    the same. One forward pass gives all losses, so
    that another `loss` costs nothing, nor do another `temperature`, other `priors`,
    or fewer trials of an ``"anytime"`` plan.

    The folder holds one SQLite database. Every forward pass is one transaction: a
    process that is killed loses no more than its current pass. Several processes of
    one machine may share it; on a network drive, which SQLite can't lock well, give
    each machine a folder of its own. A file that is damaged or of another program is
    renamed, with a warning, and a new one is made.

    Parameters
    ----------
    folder : str or Path
        Where it is; made when needed.
    max_bytes : int or float, default=None
        Above this size, the images used least recently are deleted. It is stored in
        the folder. None: as it was, at first ``inf``, no limit.

    Raises
    ------
    ValueError
        If `max_bytes` is not a positive number.

    Examples
    --------
    >>> import tempfile
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier, ErrorStore
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = ErrorStore(folder, max_bytes=10**9)
    ...     clf = ConditionalDiffusionClassifier(
    ...         model="fashion-dit", n_trials=4, pruning=None, memory=store
    ...     ).fit(classes=["bag", "sneaker"])
    ...     first = clf.denoising_errors(photos.images[:2]).n_evaluations
    ...     again = clf.denoising_errors(photos.images[:2]).n_evaluations
    ...     n_stored = store.info()["n_evaluations"]
    >>> first.tolist(), again.tolist(), n_stored
    ([8, 8], [0, 0], 16)
    """

    def __init__(self, folder, max_bytes=None):
        if max_bytes is not None and not (
            isinstance(max_bytes, Real) and max_bytes > 0
        ):
            raise ValueError(
                f"max_bytes={max_bytes!r} must be a positive number of bytes, such as "
                "10**10, float('inf') for no limit, or None to leave it as it is."
            )
        self.folder = folder
        self.max_bytes = max_bytes

    def __repr__(self):
        limit = "" if self.max_bytes is None else f", max_bytes={self.max_bytes}"
        return f"ErrorStore({str(self.folder)!r}{limit})"

    @classmethod
    def of(cls, memory):
        """The store of a parameter `memory`, with an absolute folder.

        Parameters
        ----------
        memory : str, Path, ErrorStore or None
            As in the estimators.

        Returns
        -------
        store : ErrorStore or None
        """
        if memory is None:
            return None
        store = memory if isinstance(memory, cls) else cls(memory)
        return cls(Path(store.folder).expanduser().absolute(), store.max_bytes)

    def info(self):
        """What the store holds.

        Returns
        -------
        info : dict
            ``path`` of the database, its size ``bytes`` and ``max_bytes`` (``inf``: no
            limit), ``n_images``, ``n_evaluations`` (network evaluations that are never
            done again), and ``models``, a dict from the name of each model to its
            number of evaluations.

        Raises
        ------
        OSError
            If the folder can't be used.
        """
        with self._errors_named(), closing(self._connect()) as connection:
            counts = connection.execute(
                "SELECT model, SUM(LENGTH(records)) FROM errors "
                "JOIN settings ON digest = settings GROUP BY model"
            ).fetchall()
            models = {model: size // RECORD.itemsize for model, size in counts}
            images = "SELECT COUNT(DISTINCT image) FROM errors"
            return {
                "path": str(self._path()),
                "bytes": used_bytes(connection),
                "max_bytes": size_limit(connection),
                "n_images": connection.execute(images).fetchone()[0],
                "n_evaluations": sum(models.values()),
                "models": models,
            }

    def clear(self):
        """Delete everything, and give the disk space back.

        Raises
        ------
        OSError
            If the folder can't be used.
        """
        with self._errors_named(), closing(self._connect()) as connection:
            with transaction(connection) as execute:
                execute("DELETE FROM errors")
                execute("DELETE FROM images")
            with suppress(sqlite3.OperationalError):  # another process is reading
                connection.execute("VACUUM")

    def _path(self):
        return Path(self.folder).expanduser() / FILE

    def _lock(self):
        """Held by the process that makes or replaces the file."""
        return FileLock(self._path().with_suffix(".lock"), timeout=TIMEOUT)

    def _connect(self):
        """Open the database; make it where it is new or not readable."""
        path = self._path()
        with self._errors_named():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                try:
                    return _open(path, self.max_bytes)
                except _Unreadable as error:
                    _set_aside(path, error)
                return _open(path, self.max_bytes)

    def _replace_damaged(self, error):
        """Set a damaged file aside, unless another process has done so already."""
        path = self._path()
        with self._lock():
            with closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection:
                try:
                    check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                except sqlite3.DatabaseError:
                    check = "damaged"
            if check != "ok":
                _set_aside(path, error)

    @contextmanager
    def _errors_named(self):
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if str(error).startswith("memory="):
                raise
            raise OSError(
                f"memory={str(self.folder)!r} can't be used ({error}); pass a folder "
                "that can be written, on a disk of this machine, or memory=None."
            ) from error


def _open(path, max_bytes):
    """A connection in autocommit mode, for :func:`transaction`."""
    connection = sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)
    try:
        application_id, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        count_tables = "SELECT COUNT(*) FROM sqlite_master"
        is_new = connection.execute(count_tables).fetchone()[0] == 0
        if not is_new and application_id != APPLICATION_ID:
            raise _Unreadable("it belongs to another program")
        if not is_new and version > VERSION:
            raise OSError(f"{path} was written by a newer diffusion_sklearn: update it")
        if not is_new and version < VERSION:
            raise _Unreadable("it is of an older format")
        # Readers and one writer at a time; a commit outlives the process.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if is_new:
            connection.executescript(TABLES)
        if max_bytes is not None:
            connection.execute(
                "INSERT OR REPLACE INTO options VALUES ('max_bytes', ?)", (max_bytes,)
            )
    except BaseException as error:
        connection.close()
        if is_damage(error):
            raise _Unreadable(str(error)) from error
        raise
    return connection


def is_damage(error):
    """Whether an error is about the file itself, not about writing or waiting.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    is_damage : bool
    """
    operational = isinstance(error, sqlite3.OperationalError)
    return isinstance(error, sqlite3.DatabaseError) and not operational


def _set_aside(path, reason):
    """Rename a file that can't be used, with a warning."""
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
    """All statements or none.

    Parameters
    ----------
    connection : sqlite3.Connection

    Yields
    ------
    execute : callable
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
    """Largest size of a database in bytes.

    Parameters
    ----------
    connection : sqlite3.Connection

    Returns
    -------
    max_bytes : int or float
    """
    query = "SELECT value FROM options WHERE name = 'max_bytes'"
    row = connection.execute(query).fetchone()
    return math.inf if row is None else row[0]


def used_bytes(connection):
    """Size of a database in bytes, without the pages that are free.

    Parameters
    ----------
    connection : sqlite3.Connection

    Returns
    -------
    n_bytes : int
    """
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
