"""
How many trials, and at which timesteps
=======================================

A trial is a pair of a timestep and a noise. More of them make a prediction steadier and
dearer. Which timesteps they should have is an old question: the same few again and
again, or spread over all?
"""

# %%
# Four classes of clothes for the upper body, the hard ones among the ten.

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
# "even" spreads the timesteps over the whole range; a list is gone through again and
# again. A dict names the strategies.

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
# A difference of one photo in eighty is 1.25 points of accuracy, so that only wide gaps
# between the lines mean something.

for name, row in zip(display.strategies, display.accuracy, strict=True):
    print(f"{name:<12}", *(f"{accuracy:.3f}" for accuracy in row))
plt.show()
