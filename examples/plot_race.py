"""
How the race decides
====================

By default a prediction is a race: after each look at the trials so far, the classes
that will not come first are dropped. ``staged_predict_proba`` yields the posterior
after every look.
"""

# %%
# Take a photo of an easy class, and one that looks like several classes.

import matplotlib.pyplot as plt
import numpy as np

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.datasets import load_fashion_photos

photos = load_fashion_photos()
clf = ConditionalDiffusionClassifier(model="fashion-dit")
clf.fit(classes=photos.target_names)
shown = [np.flatnonzero(photos.names == name)[0] for name in ("trouser", "shirt")]

# %%
# Each line is the posterior of a class; those outside the final three are grey. A class
# that was dropped keeps a posterior from the trials that it had.

figure, axes = plt.subplots(2, 2, figsize=(8, 5), width_ratios=[1, 2.5])
for (photo, curve), index in zip(axes, shown, strict=True):
    image = photos.images[index : index + 1]
    looks = np.array([proba[0] for proba in clf.staged_predict_proba(image)])
    photo.imshow(image[0], cmap="gray")
    photo.axis("off")
    best = looks[-1].argsort()[::-1][:3]
    for k, name in enumerate(clf.classes_):
        label = name if k in best else None
        color = f"C{best.tolist().index(k)}" if k in best else "lightgray"
        curve.plot(np.arange(1, len(looks) + 1), looks[:, k], color=color, label=label)
    n_rows = clf.denoising_errors(image).n_evaluations[0]
    curve.set_title(f"a {photos.names[index]}: {n_rows} of 1,000 evaluations")
    curve.set(xlabel="look", ylabel="posterior", ylim=(-0.05, 1.05))
    curve.legend(fontsize=8)
figure.tight_layout()
plt.show()
