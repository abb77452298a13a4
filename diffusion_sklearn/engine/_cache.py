"""Kept errors, read before the network runs and written after a pass."""

import json
import sqlite3
import time
import warnings
import zlib
from contextlib import closing, nullcontext

import numpy as np

from diffusion_sklearn.backbones._checksums import digest
from diffusion_sklearn.backbones._conditions import to_dict
from diffusion_sklearn.backbones._fingerprint import unseen
from diffusion_sklearn.engine._losses import TERMS, loss_terms
from diffusion_sklearn.engine._store import (
    RECORD,
    is_damage,
    size_limit,
    transaction,
    used_bytes,
)


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
                if not is_damage(error):
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
        with transaction(self.connection) as execute:
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
        with transaction(self.connection) as execute:
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
        if used_bytes(self.connection) > size_limit(self.connection):
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
            with transaction(self.connection) as execute:
                for row in images[start : start + step]:
                    execute("DELETE FROM errors WHERE image = ?", row)
                    execute("DELETE FROM images WHERE digest = ?", row)
            if used_bytes(self.connection) <= 0.9 * size_limit(self.connection):
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
