"""
Paired comparison of classifiers
================================

Two classifiers that see the same images differ only where one is right and the other is
not. This example compares a diffusion model with CLIP, and two settings of one model,
by paired differences in accuracy.
"""

# %%
# The classes are the eight ways to arrange a shirt and a coat: which of them is red and
# which blue, and the relation. The scenes are composed of test photos.

import matplotlib.pyplot as plt
import numpy as np

from diffusion_sklearn import CLIPZeroShotClassifier, ZeroShotDiffusionClassifier
from diffusion_sklearn.datasets import Scene, make_fashion_scenes
from diffusion_sklearn.inspection import (
    ClassifierComparisonDisplay,
    compare_classifiers,
)

ITEMS, COLORS = ("shirt", "coat"), ("red", "blue")
RELATIONS = ("left of", "right of", "above", "below")
shown = [
    Scene(ITEMS, colors, relation)
    for colors in (COLORS, COLORS[::-1])
    for relation in RELATIONS
]
scenes = make_fashion_scenes(64, scenes=shown, split="test", random_state=1)
X, y = scenes.images, np.array(scenes.captions)
classes = [scene.caption for scene in shown]

figure, axes = plt.subplots(2, 4, figsize=(7, 4), layout="constrained")
for ax, image, caption in zip(axes.flat, X, y, strict=False):
    ax.imshow(image)
    ax.set_title(caption, fontsize=7)
    ax.axis("off")

# %%
# All classifiers have the same prompts. Diffusion classifiers with the same
# `random_state` also share their trials, so that noise adds little to a difference.

diffusion = {"model": "fashion-scenes", "prompt_template": "{}"}
classifiers = {
    "diffusion, 25 trials": ZeroShotDiffusionClassifier(**diffusion, n_trials=25),
    "diffusion, 1 trial": ZeroShotDiffusionClassifier(**diffusion, n_trials=1),
    "CLIP": CLIPZeroShotClassifier(model="fashion-clip", prompt_template="{}"),
}
for clf in classifiers.values():
    clf.fit(classes=classes)
comparison = compare_classifiers(classifiers, X, y)
for name, accuracy in zip(comparison.names, comparison.accuracy, strict=True):
    print(f"{name:<24}{accuracy:.3f}")

# %%
# The interval of a difference tells how large it may be, and McNemar's test whether it
# may be chance: it counts the images that only one of the two gets right.

for other in (1, 2):
    low, high = comparison.interval[0, other]
    print(
        f"{comparison.names[0]} against {comparison.names[other]}: "
        f"{comparison.difference[0, other]:+.3f} ({low:+.3f} to {high:+.3f}), "
        f"p = {comparison.p_value[0, other]:.2g}"
    )

figure, ax = plt.subplots(figsize=(7, 2.5), layout="constrained")
ClassifierComparisonDisplay(comparison).plot(ax=ax)
plt.show()
