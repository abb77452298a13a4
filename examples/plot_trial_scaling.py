"""
Accuracy by number of trials
============================

More trials reduce the variance of a prediction and increase its cost. This example
compares ways to choose their timesteps: a few that are repeated with new noise, or
evenly spaced ones.
"""

# %%
# Use the four classes that are hard to distinguish.

import matplotlib.pyplot as plt
import numpy as np

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.inspection import TrialScalingDisplay

CLASSES = ["coat", "dress", "pullover", "shirt"]

photos = load_fashion_photos()
rows = np.flatnonzero(np.isin(photos.names, CLASSES))[:80]
X, y = photos.images[rows], photos.names[rows]
clf = ConditionalDiffusionClassifier(model="fashion-dit").fit(classes=CLASSES)

# %%
# "even" spaces the timesteps over the whole range, and a list is cycled through. The
# keys of the dict name the strategies.

display = TrialScalingDisplay.from_estimator(
    clf,
    X,
    y,
    strategies={
        "even": "even",
        "random": "random",
        "0": [0],
        "500": [500],
        "0, 500, 999": [0, 500, 999],
    },
    n_trials=[1, 2, 4, 8, 16],
)

# %%
# One photo in eighty is 1.25 points of accuracy, so only wide gaps between the lines
# are significant.

for name, row in zip(display.strategies, display.accuracy, strict=True):
    print(f"{name:<12}", *(f"{accuracy:.3f}" for accuracy in row))
plt.show()
