"""Learn the trial covariances that ship with the bundled models.

    python examples/train/fit_trial_covariance.py

From 60 training photos (fashion-dit) or scenes of training photos (fashion-scenes, ten
captions and ten items, the mean of both), and as many distorted ones: rotated, with
noise, blurred, of low contrast. The level of the errors is that of the images as they
are. For the losses l2 and l1. No test photo is used. About 20 minutes on 2 cores; needs
the IDX files of Fashion-MNIST.
"""

from dataclasses import replace
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


def distort(images):
    """A quarter of the images with each shift."""
    parts = np.array_split(images, len(SHIFTS))
    return np.concatenate([shift(*one) for one in zip(parts, SHIFTS, strict=True)])


def main():
    photos = load_fashion_mnist(split="train").images[-2 * N_IMAGES :]
    names = load_fashion_photos().target_names
    tasks = [("fashion-dit", ConditionalDiffusionClassifier, [(photos, names)])]
    questions = []
    for question, seed in (("captions", 2**20), ("items", 2**21)):
        scenes, _, classes = make_scene_task(question, 2 * N_IMAGES, "train", seed)
        questions.append((scenes, classes))
    tasks.append(("fashion-scenes", ZeroShotDiffusionClassifier, questions))
    bundled = Path(str(files("diffusion_sklearn.bundled")))
    for model, estimator, questions in tasks:
        for loss in ("l2", "l1"):
            usual, distorted = [], []
            for images, classes in questions:
                clf = estimator(model=model, loss=loss, trial_covariance=None)
                clf.fit(classes=classes)
                usual.append(fit_trial_covariance(clf, images[:N_IMAGES]))
                others = distort(images[N_IMAGES:])
                distorted.append(fit_trial_covariance(clf, others))
            learned = usual + distorted
            levels = np.stack([one.level for one in usual])
            variances = np.stack([one.level_spread**2 for one in usual])
            covariance = replace(
                learned[0],
                kernel=np.mean([one.kernel for one in learned], axis=0),
                nugget=np.mean([one.nugget for one in learned], axis=0),
                n_images=sum(one.n_images for one in learned),
                level=levels.mean(axis=0),
                level_spread=np.sqrt(variances.mean(axis=0) + levels.var(axis=0)),
            )
            path = bundled / model / f"trial_covariance_{loss}.npz"
            covariance.save(path)
            print(path.name, covariance, flush=True)


if __name__ == "__main__":
    main()
