"""The folder of kept errors: where it is, how large it may be, what is in it."""

import sqlite3
from contextlib import closing, contextmanager, suppress
from numbers import Real
from pathlib import Path

import numpy as np
from filelock import FileLock

from diffusion_sklearn.engine._database import (
    FILE,
    LOCK,
    PATIENCE,
    Unreadable,
    open_database,
    set_aside,
    size_limit,
    transaction,
    used_bytes,
)
from diffusion_sklearn.engine._errors import TERMS

RECORD = np.dtype(
    [("condition", "<u8"), ("trial", "<u4"), ("timestep", "<u4")]
    + [(name, "<f8") for name in TERMS]
)
"""An evaluation: its condition by a digest, its trial, and all terms of its loss."""


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
