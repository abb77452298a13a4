"""Kept errors: a SQLite file, read before the network runs, written after a pass."""

import json
import math
import sqlite3
import time
import warnings
import zlib
from contextlib import closing, contextmanager, nullcontext, suppress
from numbers import Real
from pathlib import Path

import numpy as np
from filelock import FileLock

from diffusion_sklearn.backbones._conditions import to_dict
from diffusion_sklearn.backbones._fingerprint import digest, unseen
from diffusion_sklearn.engine._losses import TERMS, loss_terms

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
                "bytes": _used_bytes(connection),
                "max_bytes": _max_bytes(connection),
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
            with _transaction(connection) as execute:
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
    """A connection in autocommit mode, for :func:`_transaction`."""
    connection = sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)
    try:
        application_id, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        n_tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if n_tables[0] and application_id != APPLICATION_ID:
            raise _Unreadable("it belongs to another program")
        if n_tables[0] and version > VERSION:
            raise OSError(f"{path} was written by a newer diffusion_sklearn: update it")
        if n_tables[0] and version < VERSION:
            raise _Unreadable("it is of an older format")
        # Readers and one writer at a time; a commit outlives the process.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not n_tables[0]:
            connection.executescript(TABLES)
        if max_bytes is not None:
            connection.execute(
                "INSERT OR REPLACE INTO options VALUES ('max_bytes', ?)", (max_bytes,)
            )
    except BaseException as error:
        connection.close()
        if _is_damage(error):
            raise _Unreadable(str(error)) from error
        raise
    return connection


def _is_damage(error):
    """Whether an error is about the file itself, not about writing or waiting."""
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
def _transaction(connection):
    """All statements or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection.execute
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _max_bytes(connection):
    query = "SELECT value FROM options WHERE name = 'max_bytes'"
    row = connection.execute(query).fetchone()
    return math.inf if row is None else row[0]


def _used_bytes(connection):
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


class ErrorCache:
    """The errors of one plan in an :class:`ErrorStore`.

    Parameters
    ----------
    store : ErrorStore
        The folder.
    plan : Plan
        Model, trials, conditions and settings.
    """

    def __init__(self, store, plan):
        hidden = unseen(plan.backbone.pipeline)
        if hidden:
            raise ValueError(
                f"memory={str(store.folder)!r}, but the model has {hidden}: errors "
                "stored with it and without it could not be told apart. Remove it, or "
                "pass memory=None."
            )
        self.store, self.is_usable = store, True
        self.timesteps = plan.trials.timesteps
        self.terms = loss_terms(plan.loss)
        self.model, self.settings = plan.backbone.name, _settings_digest(plan)
        rows = range(len(plan.conditions))
        digests = [_condition_digest(plan.conditions[[row]]) for row in rows]
        self.conditions = np.array([int(name[:16], 16) for name in digests], np.uint64)
        self.connection = store._connect()

    @classmethod
    def open(cls, store, plan):
        """A context manager: the cache, closed at the end; None without a store."""
        return nullcontext() if store is None else closing(cls(store, plan))

    def close(self):
        """Close the database."""
        self.connection.close()

    def get(self, pixels):
        """Read errors, and make these the images that :meth:`put` writes about.

        Parameters
        ----------
        pixels : ndarray of shape (n_images, 3, size, size)
            The images.

        Returns
        -------
        errors : ndarray of shape (n_images, n_conditions, n_trials), float64
            NaN where nothing is stored.
        """
        self.images = [digest(image) for image in pixels]
        # A prompt may occur twice.
        conditions, inverse = np.unique(self.conditions, return_inverse=True)
        errors = np.full((len(pixels), len(conditions), len(self.timesteps)), np.nan)
        self._run(lambda: self._read(errors, conditions))
        return errors[:, inverse]

    def put(self, triples, terms, losses):
        """Write what a forward pass gave.

        Parameters
        ----------
        triples : ndarray of shape (n, 3), int64
            (image, trial, condition); images as in the last :meth:`get`.
        terms : sequence of str
            Of :data:`~diffusion_sklearn.engine._losses.TERMS`.
        losses : ndarray of shape (n, n_terms)
            Mean over the latent's elements of each term.
        """
        image, trial, condition = triples.T
        records = np.zeros(len(triples), RECORD)
        records["condition"] = self.conditions[condition]
        records["trial"], records["timestep"] = trial, self.timesteps[trial]
        for term in TERMS:
            given = term in terms
            records[term] = losses[:, terms.index(term)] if given else np.nan
        self._run(lambda: self._write(records, image))

    def _run(self, step):
        """Run a step; with a new file if this one is damaged, or not at all.

        A failure to read or write loses what is stored, never what is computed.
        """
        if not self.is_usable:
            return
        try:
            try:
                step()
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self.connection.close()
                self.store._replace_damaged(error)
                self.connection = self.store._connect()
                step()
        except (sqlite3.Error, OSError) as error:
            self.is_usable = False
            warnings.warn(
                f"memory={str(self.store.folder)!r} can't be written ({error}); the "
                "run goes on, and keeps nothing from here on. Free some space, or set "
                "a limit with ErrorStore(folder, max_bytes=...).",
                RuntimeWarning,
                stacklevel=2,
            )

    def _read(self, errors, conditions):
        """Fill in what is stored, in place."""
        with _transaction(self.connection) as execute:
            for image in self.images:
                execute(
                    "INSERT OR REPLACE INTO images VALUES (?, ?)", (image, time.time())
                )
        for row, image in zip(errors, self.images, strict=True):
            records = self._intact_records(image)
            k = np.searchsorted(conditions, records["condition"])
            k = np.minimum(k, len(conditions) - 1)
            j = np.minimum(records["trial"], len(self.timesteps) - 1).astype(int)
            values = sum(records[term] for term in self.terms)
            matches = (
                (conditions[k] == records["condition"])
                & (j == records["trial"])
                & (self.timesteps[j] == records["timestep"])
                & np.isfinite(values)
            )
            row[k[matches], j[matches]] = values[matches]

    def _intact_records(self, image):
        """The records of an image whose checksum is right; others are deleted."""
        rows = self.connection.execute(
            "SELECT rowid, checksum, records FROM errors "
            "WHERE image = ? AND settings = ?",
            (image, self.settings),
        ).fetchall()
        intact = []
        for rowid, checksum, data in rows:
            if checksum == self._checksum(image, data):
                intact.append(data)
                continue
            self.connection.execute("DELETE FROM errors WHERE rowid = ?", (rowid,))
            warnings.warn(
                f"memory={str(self.store.folder)!r} has a damaged entry; it is dropped "
                "and computed anew.",
                RuntimeWarning,
                stacklevel=2,
            )
        return np.frombuffer(b"".join(intact), RECORD)

    def _write(self, records, rows):
        with _transaction(self.connection) as execute:
            name = self.settings, self.model
            execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", name)
            for row in np.unique(rows).tolist():
                image, data = self.images[row], records[rows == row].tobytes()
                execute(
                    "INSERT OR IGNORE INTO images VALUES (?, ?)", (image, time.time())
                )
                execute(
                    "INSERT INTO errors VALUES (?, ?, ?, ?)",
                    (image, self.settings, self._checksum(image, data), data),
                )
        if _used_bytes(self.connection) > _max_bytes(self.connection):
            self._delete_least_recent()

    def _checksum(self, image, data):
        return zlib.crc32(data, zlib.crc32(f"{self.settings}{image}".encode()))

    def _delete_least_recent(self):
        """Delete the images used least recently, to a tenth below the limit."""
        query = "SELECT digest FROM images ORDER BY used"
        rows = self.connection.execute(query).fetchall()
        images = [row for row in rows if row[0] not in self.images]
        step = max(1, len(images) // 20)
        for start in range(0, len(images), step):
            with _transaction(self.connection) as execute:
                for row in images[start : start + step]:
                    execute("DELETE FROM errors WHERE image = ?", row)
                    execute("DELETE FROM images WHERE digest = ?", row)
            if _used_bytes(self.connection) <= 0.9 * _max_bytes(self.connection):
                break


def _condition_digest(row):
    """Names a condition, whatever its device and dtype."""
    tensors = to_dict(row).items()
    names = [(name, digest(x.cpu().double().numpy())) for name, x in tensors]
    return digest(repr(sorted(names)).encode())


def _settings_digest(plan):
    """Names all that an error depends on beside image, condition and trial."""
    backbone = plan.backbone
    schedule = backbone.noise_schedule
    settings = {
        "backbone": f"{type(backbone).__module__}.{type(backbone).__qualname__}",
        "fingerprint": plan.model.fingerprint or backbone.fingerprint(),
        "prediction_type": backbone.prediction_type,
        "schedule": digest(schedule.alpha_t.cpu().numpy()),
        "kind": type(schedule).__name__,
        "target": plan.target,
        "latent": list(plan.latent_shape),
        "seed": plan.trials.seed,
        "guidance": None,
    }
    if plan.null is not None:
        settings["guidance"] = plan.guidance_scale, _condition_digest(plan.null)
    return digest(json.dumps(settings, sort_keys=True, default=str).encode())
