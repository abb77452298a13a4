"""Learn the trial covariances that ship with the bundled models.

    python examples/train/fit_trial_covariance.py

From 60 training photos (fashion-dit) or scenes of training photos (fashion-scenes, ten
captions), and as many distorted ones: rotated, with noise, blurred, of low contrast.
For the losses l2 and l1. No test photo is used, and the trials are none of those that
an estimator draws by default. About 10 minutes on 2 cores; needs the IDX files of
Fashion-MNIST.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np

from benchmarks._common import make_scene_task
from benchmarks.accuracy._shifts import SHIFTS, shift
from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    fit_trial_covariance,
)
from diffusion_sklearn.datasets import load_fashion_mnist, load_fashion_photos

N_IMAGES = 60


def with_distortions(images):
    """Half of the images as they are, and an eighth of them with each shift."""
    parts = np.array_split(images[N_IMAGES:], len(SHIFTS))
    shifted = []
    for name, part in zip(SHIFTS, parts, strict=True):
        if part.ndim == 3:
            shifted.append(shift(part, name))
        else:
            channels = [shift(part[..., c], name) for c in range(part.shape[3])]
            shifted.append(np.stack(channels, axis=-1))
    return np.concatenate([images[:N_IMAGES], *shifted])


def main():
    photos = load_fashion_mnist(split="train").images[-2 * N_IMAGES :]
    scenes, _, captions = make_scene_task("captions", 2 * N_IMAGES, "train", 2**20)
    names = load_fashion_photos().target_names
    tasks = [
        (ConditionalDiffusionClassifier(model="fashion-dit"), names, photos),
        (ZeroShotDiffusionClassifier(model="fashion-scenes"), captions, scenes),
    ]
    bundled = Path(str(files("diffusion_sklearn.bundled")))
    for clf, classes, images in tasks:
        clf.set_params(trial_covariance=None).fit(classes=classes)
        images = with_distortions(images)
        for loss in ("l2", "l1"):
            covariance = fit_trial_covariance(clf.set_params(loss=loss), images)
            path = bundled / clf.model / f"trial_covariance_{loss}.npz"
            covariance.save(path)
            print(path.name, covariance, flush=True)


if __name__ == "__main__":
    main()
