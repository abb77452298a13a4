"""The kept errors: what was computed once is read from disk afterwards."""

import json
import sqlite3
import time
import warnings
import zlib
from contextlib import closing, contextmanager, suppress
from numbers import Real
from pathlib import Path

import numpy as np
from filelock import FileLock

from diffusion_sklearn._database import (
    FILE,
    LOCK,
    PATIENCE,
    Unreadable,
    is_damage,
    open_database,
    replace_damaged,
    set_aside,
    size_limit,
    transaction,
    used_bytes,
)
from diffusion_sklearn._digest import digest
from diffusion_sklearn._errors import TERMS, loss_terms

RECORD = np.dtype(
    [("condition", "<u8"), ("trial", "<u4"), ("timestep", "<u4")]
    + [(name, "<f8") for name in TERMS]
)


class ErrorStore:
    """A folder that keeps every error computed, with a limit to its size.

    Estimators make one of the folder that is passed as `memory`; make one yourself to
    set the limit, to look inside or to clear it.

    Errors are found again in any later fit, process or session, for as long as the
    weights and configs, the dtype, the target, the image's pixels, the prompt or class
    id, the timestep and the noise are the same. One forward pass gives all losses, so
    that another `loss` costs nothing, nor do another `temperature`, other `priors`,
    or fewer trials of an ``"anytime"`` plan.

    The folder holds one SQLite database. Every forward pass is one transaction: a
    process that is killed loses no more than the pass it was in. Several processes of
    one machine may share it; on a network drive, which SQLite can't lock well, give
    each machine a folder of its own.

    Parameters
    ----------
    folder : str or Path
        Where it is; made when needed.
    max_bytes : int or float, default=None
        Above this size, the images that were not asked for longest are forgotten. It
        is remembered with the folder. None: as it was, at first ``inf``, no limit.

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
    ...     n_kept = store.info()["n_evaluations"]
    >>> first.tolist(), again.tolist(), n_kept
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
        """The store that a parameter `memory` stands for, wherever it is opened.

        Parameters
        ----------
        memory : str, Path, ErrorStore or None
            As in the estimators.

        Returns
        -------
        store : ErrorStore or None
            With an absolute folder.
        """
        if memory is None:
            return None
        store = memory if isinstance(memory, cls) else cls(memory)
        return cls(Path(store.folder).expanduser().absolute(), store.max_bytes)

    def info(self):
        """What is kept.

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
        with self._connected() as connection:
            counts = connection.execute(
                "SELECT model, SUM(LENGTH(records)) FROM errors "
                "JOIN settings ON settings.id = settings GROUP BY model"
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
        """Forget everything, and give the disk space back.

        Raises
        ------
        OSError
            If the folder can't be used.
        """
        with self._connected() as connection:
            with transaction(connection) as do:
                do("DELETE FROM errors")
                do("DELETE FROM images")
            with suppress(sqlite3.OperationalError):  # another process is reading
                connection.execute("VACUUM")

    def _path(self):
        return Path(self.folder).expanduser() / FILE

    def _connect(self):
        """Open the database; make it when it is new, or damaged, or of an old format.

        Only one process at a time may be at this.
        """
        path = self._path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(LOCK), timeout=PATIENCE):
                try:
                    connection = open_database(path, self.max_bytes)
                except Unreadable as error:
                    set_aside(path, error)
                    connection = open_database(path, self.max_bytes)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        return connection

    @contextmanager
    def _connected(self):
        with closing(self._connect()) as connection:
            try:
                yield connection
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error):
        return OSError(
            f"memory={str(self.folder)!r} can't be used ({error}); pass a folder that "
            "can be written, on a disk of this machine, or memory=None."
        )

    @contextmanager
    def session(self, plan, seed):
        """Open the store for the images of a call.

        Parameters
        ----------
        plan : Plan
            Model, trials, conditions and settings.
        seed : int
            Seed of the trials' noise.

        Yields
        ------
        session : Session
        """
        session = Session(self, plan, seed)
        try:
            yield session
        finally:
            session.connection.close()


class Session:
    """Reads and writes the errors of one plan.

    Parameters
    ----------
    store : ErrorStore
        Where they are.
    plan : Plan
        Model, trials, conditions and settings.
    seed : int
        Seed of the trials' noise.
    """

    def __init__(self, store, plan, seed):
        self.store, self.is_full = store, False
        self.timesteps = plan.timesteps.cpu().numpy()
        self.terms = loss_terms(plan.loss)
        self.model, self.settings_name = _describe_settings(plan, seed)
        self.conditions = np.array(
            [_short_digest(row.cpu().double().numpy()) for row in plan.conditions]
        )
        self._begin()

    def _begin(self):
        self.connection = self.store._connect()
        try:
            self._sign_in()
        except sqlite3.Error as error:
            self.connection.close()
            if not is_damage(error):
                raise self.store._unusable(error) from error
            replace_damaged(self.store._path(), error)
            self.connection = self.store._connect()
            self._sign_in()

    def _sign_in(self):
        with transaction(self.connection) as do:
            do(
                "INSERT OR IGNORE INTO settings (digest, model) VALUES (?, ?)",
                (self.settings_name, self.model),
            )
            query = "SELECT id FROM settings WHERE digest = ?"
            self.settings = do(query, (self.settings_name,)).fetchone()[0]

    def load(self, pixels):
        """Look up errors, and make these the images that :meth:`keep` is about.

        Parameters
        ----------
        pixels : ndarray of shape (n_images, 3, size, size)
            The images.

        Returns
        -------
        known : ndarray of shape (n_images, n_conditions, n_trials), float64
            NaN where nothing is kept.
        """
        self.names = [digest(image) for image in pixels]
        self.images = [None] * len(self.names)
        shape = (len(self.names), len(self.conditions), len(self.timesteps))
        known = np.full(shape, np.nan)
        with self._forgiving(self._register):
            self._register()
        with self._forgiving(self._register):
            for row, image, name in zip(known, self.images, self.names, strict=True):
                self._fill(row, self._records(image, name))
        return known

    def _register(self):
        """Ids of the images at hand."""
        if self.is_full:
            return
        with transaction(self.connection) as do:
            for name in self.names:
                do(
                    "INSERT INTO images (digest, used) VALUES (?, ?) "
                    "ON CONFLICT (digest) DO UPDATE SET used = excluded.used",
                    (name, time.time()),
                )
            query = "SELECT id FROM images WHERE digest = ?"
            self.images = [do(query, (name,)).fetchone()[0] for name in self.names]

    def _fill(self, row, records):
        """Put records where they belong in the known errors of an image, in place."""
        order = np.argsort(self.conditions, kind="stable")
        names = self.conditions[order]
        j = np.minimum(records["trial"], len(self.timesteps) - 1).astype(int)
        values = sum(records[term] for term in self.terms)
        mine = (
            (j == records["trial"])
            & (self.timesteps[j] == records["timestep"])
            & np.isfinite(values)
        )
        first = np.searchsorted(names, records["condition"], "left")
        last = np.searchsorted(names, records["condition"], "right")
        for place in range(int((last - first).max(initial=0))):  # equal prompts
            here = mine & (first + place < last)
            row[order[first[here] + place], j[here]] = values[here]

    def _records(self, image, name):
        """What is kept of an image, with these settings."""
        if image is None:
            return np.empty(0, RECORD)
        rows = self.connection.execute(
            "SELECT rowid, checksum, records FROM errors "
            "WHERE image = ? AND settings = ?",
            (image, self.settings),
        ).fetchall()
        good = [b""]
        for row, checksum, records in rows:
            if checksum == self._checksum(name, records):
                good.append(records)
                continue
            warnings.warn(
                f"memory={str(self.store.folder)!r} has a damaged entry; it is dropped "
                "and computed anew.",
                RuntimeWarning,
                stacklevel=2,
            )
            self.connection.execute("DELETE FROM errors WHERE rowid = ?", (row,))
        return np.frombuffer(b"".join(good), RECORD)

    def keep(self, triples, terms):
        """Keep what a forward pass has found out.

        Parameters
        ----------
        triples : ndarray of shape (n, 3), int64
            (image, trial, condition); images as in the last :meth:`load`.
        terms : ndarray of shape (n, n_terms), float64
            Of :data:`~diffusion_sklearn._errors.TERMS`; NaN where there is none.
        """
        records = np.empty(len(triples), RECORD)
        records["condition"] = self.conditions[triples[:, 2]]
        records["trial"] = triples[:, 1]
        records["timestep"] = self.timesteps[triples[:, 1]]
        for name, column in zip(TERMS, terms.T, strict=True):
            records[name] = column

        def write():
            self._register()
            self._write(records, triples[:, 0])

        if not self.is_full:
            with self._forgiving(write):
                self._write(records, triples[:, 0])
                self._make_room()

    @contextmanager
    def _forgiving(self, again):
        """What is computed is worth more than what is kept.

        A database that turns out to be damaged is replaced, and `again` called with
        the new one. One that can't be written is left alone from then on.
        """
        try:
            try:
                yield
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self.connection.close()
                replace_damaged(self.store._path(), error)
                self._begin()
                again()
        except (sqlite3.Error, OSError) as error:
            self.is_full = True
            warnings.warn(
                f"memory={str(self.store.folder)!r} can't be written ({error}); the "
                "run goes on, and keeps nothing from here on. Free some space, or set "
                "a limit with ErrorStore(folder, max_bytes=...).",
                RuntimeWarning,
                stacklevel=2,
            )

    def _write(self, records, rows):
        with transaction(self.connection) as do:
            for row in np.unique(rows).tolist():
                data = records[rows == row].tobytes()
                image = self.images[row]
                checksum = self._checksum(self.names[row], data)
                do(  # unless another process has just forgotten the image
                    "INSERT INTO errors SELECT ?, ?, ?, ? "
                    "WHERE EXISTS (SELECT 1 FROM images WHERE id = ?)",
                    (image, self.settings, checksum, data, image),
                )

    def _checksum(self, image, data):
        key = f"{self.settings_name}{image}".encode()
        return zlib.crc32(data, zlib.crc32(key))

    def _make_room(self):
        """Forget the images that were not asked for longest, if there is a limit."""
        limit = size_limit(self.connection)
        if used_bytes(self.connection) <= limit:
            return
        in_use = set(self.images)
        old = self.connection.execute("SELECT id FROM images ORDER BY used").fetchall()
        old = [row for row in old if row[0] not in in_use]
        step = max(1, len(old) // 20)
        for start in range(0, len(old), step):
            with transaction(self.connection) as do:
                for row in old[start : start + step]:
                    do("DELETE FROM errors WHERE image = ?", row)
                    do("DELETE FROM images WHERE id = ?", row)
            if used_bytes(self.connection) <= 0.9 * limit:
                break


def _short_digest(data):
    """The first 8 bytes of a digest, as a number."""
    return np.uint64(int(digest(data)[:16], 16))


def _describe_settings(plan, seed):
    """Name of the model for the user, and of all that an error depends on."""
    backbone = plan.backbone
    settings = {
        "backbone": f"{type(backbone).__module__}.{type(backbone).__qualname__}",
        "weights": backbone.digest(),
        "configs": backbone.configs(),
        "dtype": str(backbone.dtype),
        "native": backbone.native,
        "schedule": digest(backbone.alphas_cumprod.cpu().numpy()),
        "target": plan.target,
        "latent": list(plan.noise.shape[1:]),
        "seed": seed,
    }
    name = digest(json.dumps(settings, sort_keys=True, default=str).encode())
    return backbone.name, name
