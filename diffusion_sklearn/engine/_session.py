"""Kept errors of one plan: looked up before scoring, added after every pass."""

import json
import sqlite3
import time
import warnings
import zlib
from contextlib import contextmanager

import numpy as np

from diffusion_sklearn.backbones._digest import digest
from diffusion_sklearn.engine._database import (
    is_damage,
    replace_damaged,
    size_limit,
    transaction,
    used_bytes,
)
from diffusion_sklearn.engine._errors import TERMS, loss_terms
from diffusion_sklearn.engine._store import RECORD


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
            [_short_digest(row.double().numpy()) for row in plan.conditions.cpu()]
        )
        self.connection = store._connect()
        try:
            self._sign_in()
        except sqlite3.Error as error:
            if not is_damage(error):
                self.close()
                raise store._unusable(error) from error
            self._begin_anew(error)

    def close(self):
        """Close the database."""
        self.connection.close()

    def _begin_anew(self, error):
        """Go on with a new database in place of a damaged one."""
        self.close()
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
        # A prompt may occur twice.
        conditions, back = np.unique(self.conditions, return_inverse=True)
        shape = (len(self.names), len(conditions), len(self.timesteps))
        known = np.full(shape, np.nan)
        with self._forgiving(self._register):
            self._register()
        with self._forgiving(self._register):
            for row, image, name in zip(known, self.images, self.names, strict=True):
                self._fill(row, conditions, self._records(image, name))
        return known[:, back]

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

    def _fill(self, row, conditions, records):
        """Put records where they belong in the known errors of an image, in place."""
        k = np.searchsorted(conditions, records["condition"])
        k = np.minimum(k, len(conditions) - 1)
        j = np.minimum(records["trial"], len(self.timesteps) - 1).astype(int)
        values = sum(records[term] for term in self.terms)
        mine = (
            (conditions[k] == records["condition"])
            & (j == records["trial"])
            & (self.timesteps[j] == records["timestep"])
            & np.isfinite(values)
        )
        row[k[mine], j[mine]] = values[mine]

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
            Of :data:`~diffusion_sklearn.engine._errors.TERMS`; NaN where there is none.
        """
        if self.is_full:
            return
        records = np.empty(len(triples), RECORD)
        records["condition"] = self.conditions[triples[:, 2]]
        records["trial"] = triples[:, 1]
        records["timestep"] = self.timesteps[triples[:, 1]]
        for name, column in zip(TERMS, terms.T, strict=True):
            records[name] = column

        def write():
            self._register()
            self._write(records, triples[:, 0])

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
                self._begin_anew(error)
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
        "schedule": digest(backbone.process.signal.cpu().numpy()),
        "process": type(backbone.process).__name__,
        "target": plan.target,
        "latent": list(plan.noise.shape[1:]),
        "seed": seed,
        "guidance": None,
    }
    if plan.null is not None:
        null = digest(plan.null.cpu().double().numpy())
        settings["guidance"] = plan.guidance_scale, null
    name = digest(json.dumps(settings, sort_keys=True, default=str).encode())
    return backbone.name, name
