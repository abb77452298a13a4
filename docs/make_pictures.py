"""Draw the two pictures of the landing page: python docs/make_pictures.py."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.datasets import (
    Scene,
    load_fashion_photos,
    make_fashion_scenes,
)
from diffusion_sklearn.inspection import EvidenceDisplay

IMAGES = Path(__file__).parent / "images"


def draw_posterior(path):
    """Three photos, and the posterior of the five most probable classes of each."""
    photos = load_fashion_photos()
    shown = [0, 1, 4]
    clf = ConditionalDiffusionClassifier(model="fashion-dit", temperature=0.45)
    clf.fit(classes=photos.target_names)
    proba = clf.predict_proba(photos.images[shown])
    figure, axes = plt.subplots(2, 3, figsize=(7.5, 4.2), layout="constrained")
    for index, row, (above, below) in zip(shown, proba, axes.T, strict=True):
        above.imshow(photos.images[index], cmap="gray")
        above.axis("off")
        best = np.argsort(row)[-5:]
        right = clf.classes_[best] == photos.names[index]
        below.barh(
            clf.classes_[best], row[best], color=np.where(right, "tab:blue", "0.7")
        )
        below.set(xlim=(0, 1), xlabel="probability")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_evidence(path):
    """A scene, two captions of the same words, and the evidence for the true one."""
    layouts = [
        Scene(("sneaker", "bag"), colors, "left of")
        for colors in (("yellow", "blue"), ("blue", "yellow"))
    ]
    scenes = make_fashion_scenes(2, split="test", scenes=layouts)
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes", prompt_template="{}")
    clf.fit(classes=scenes.captions)
    right, wrong = scenes.captions
    proba = clf.predict_proba(scenes.images[:1])[0]
    figure, (shown, explained) = plt.subplots(
        1, 2, figsize=(7.5, 4.2), layout="constrained"
    )
    shown.imshow(scenes.images[0])
    shown.axis("off")
    lines = [f"{name}: {p:.2f}" for name, p in zip(clf.classes_, proba, strict=True)]
    shown.set_title("\n".join(lines), fontsize=10)
    display = EvidenceDisplay.from_estimator(
        clf, scenes.images[0], right, wrong, ax=explained
    )
    explained.set_title("evidence", fontsize=10)
    display.colorbar_.set_label("wrong caption  \N{LEFT RIGHT ARROW}  right caption")
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    draw_posterior(IMAGES / "posterior.png")
    draw_evidence(IMAGES / "evidence.png")
