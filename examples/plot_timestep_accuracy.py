"""
Which timesteps tell the classes apart
======================================

With little noise the classes differ in fine detail alone, and with much noise there is
hardly anything left to see. This example asks what each timestep is worth by itself.
"""

# %%
# Twenty trials, evenly spread over the timesteps, and ten classes.

import matplotlib.pyplot as plt

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.inspection import TimestepAccuracyDisplay

photos = load_fashion_photos()
X, y = photos.images[:100], photos.names[:100]
clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=20)
clf.fit(classes=photos.target_names)

# %%
# All points come from one table of errors, so that they share the photos and the noise.
# The band is the exact 95 % interval over other photos; at a hundred of them it is
# wide, and only the coarse shape of the curve means something.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
display = TimestepAccuracyDisplay.from_estimator(clf, X, y, ax=ax)

# %%
# All trials together, for comparison, as the classifier uses them by default (where
# classes that are clearly behind are dropped early):

score = clf.score(X, y)
display.ax_.axhline(score, color="C1", linestyle="--", label="all trials")
display.ax_.legend()
best = display.n_correct.argmax()
alone = display.n_correct[best] / len(X)
print(f"timestep {display.timesteps[best]} alone {alone:.2f}, all {score:.2f}")
plt.show()
