"""The kept errors: what was computed once is read from disk afterwards."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from weakref import WeakKeyDictionary
from zipfile import BadZipFile

import numpy as np
import torch

ARRAYS = ("classes", "trials", "errors")


class ErrorMemory:
    """Errors of (image, class, trial) in a folder, one small file an image.

    What is kept is found again in any later fit, process or session, as long as the
    weights, the image's pixels, the class's prompts or id, the trial and the settings
    are the same. Several processes may use the folder at once.

    Parameters
    ----------
    folder : str or Path
        Where the files go; made when needed.
    plan : Plan
        Model, trials, classes and settings.
    seed : int
        Seed of the trials' noise.
    """

    def __init__(self, folder, plan, seed):
        settings = {
            "weights": plan.backbone.digest(),
            "configs": plan.backbone.configs(),
            "dtype": str(plan.backbone.dtype),
            "native": plan.backbone.native,
            "schedule": digest(plan.backbone.alphas_cumprod.cpu().numpy()),
            "loss": plan.loss,
            "target": plan.target,
            "latent": list(plan.noise.shape[1:]),
            "seed": seed,
        }
        name = digest(json.dumps(settings, sort_keys=True, default=str).encode())
        self.folder = Path(folder).expanduser() / name[:32]
        self.classes = [
            digest(rows.cpu().double().numpy())
            for rows in plan.conditions.chunk(plan.n_classes)
        ]
        self.trials = list(enumerate(plan.timesteps.tolist()))

    def load(self, pixels):
        """Look up errors.

        Parameters
        ----------
        pixels : ndarray of shape (n_images, 3, size, size)
            The images.

        Returns
        -------
        errors : ndarray of shape (n_images, n_classes, n_trials), float64
            NaN where nothing is kept.
        """
        shape = (len(pixels), len(self.classes), len(self.trials))
        errors = np.full(shape, np.nan)
        for row, image in zip(errors, pixels, strict=True):
            kept = self._read(digest(image))
            for k, label in enumerate(self.classes):
                found = kept.get(label, {})
                row[k] = [found.get(trial, np.nan) for trial in self.trials]
        return errors

    def save(self, pixels, errors):
        """Keep errors beside those that are there.

        Parameters
        ----------
        pixels : ndarray of shape (n_images, 3, size, size)
            The images.
        errors : ndarray of shape (n_images, n_classes, n_trials)
            NaN where there is nothing to keep.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for image, rows in zip(map(digest, pixels), errors, strict=True):
            kept = self._read(image)
            for label, row in zip(self.classes, rows, strict=True):
                for j in np.flatnonzero(~np.isnan(row)):
                    kept.setdefault(label, {})[self.trials[j]] = row[j]
            self._write(image, kept)

    def _read(self, image):
        """Errors kept for an image: {class: {(index, timestep): error}}."""
        path = self.folder / f"{image}.npz"
        if not path.exists():
            return {}
        try:
            with path.open("rb") as file, np.load(file) as stored:
                labels, trials, errors = (stored[name] for name in ARRAYS)
        except (OSError, ValueError, EOFError, KeyError, BadZipFile):
            return {}  # cut short by a crash; written anew
        keys = [tuple(trial) for trial in trials.tolist()]
        return {
            str(label): {
                key: value
                for key, value in zip(keys, row.tolist(), strict=True)
                if not np.isnan(value)
            }
            for label, row in zip(labels, errors, strict=True)
        }

    def _write(self, image, kept):
        trials = sorted({trial for found in kept.values() for trial in found})
        errors = [[found.get(t, np.nan) for t in trials] for found in kept.values()]
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                classes=np.array(list(kept)),
                trials=np.array(trials, np.int64).reshape(-1, 2),
                errors=np.array(errors, np.float64),
            )
        os.replace(name, self.folder / f"{image}.npz")


def digest(data):
    """Name some bytes.

    Parameters
    ----------
    data : bytes-like or ndarray
        What to name.

    Returns
    -------
    name : str
        SHA-256, in hexadecimal.
    """
    return hashlib.sha256(memoryview(data).cast("B")).hexdigest()


_digests = WeakKeyDictionary()


def digest_weights(pipeline):
    """Name a pipeline by its weights.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        Whose modules are named.

    Returns
    -------
    name : str
        SHA-256, in hexadecimal. Kept until a weight is changed or replaced.
    """
    parts = pipeline.components.values()
    weights = [
        (name, tensor)
        for part in parts
        if isinstance(part, torch.nn.Module)
        for name, tensor in part.state_dict().items()
    ]
    # Sums tell in a fraction of the time whether anything has changed.
    state = [(name, tensor.sum(dtype=torch.float32).item()) for name, tensor in weights]
    kept_state, name = _digests.get(pipeline, (None, None))
    if kept_state != state:
        total = hashlib.sha256()
        for key, tensor in weights:
            flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
            total.update(key.encode())
            total.update(flat.numpy())
        name = total.hexdigest()
        _digests[pipeline] = state, name
    return name
