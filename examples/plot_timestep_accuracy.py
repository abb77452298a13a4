"""
Accuracy by timestep
====================

With little noise, the errors of the classes differ in fine detail only, and with much
noise little of the image is left. This example shows the accuracy of a single trial at
each timestep.
"""

# %%
# Use twenty trials, evenly spaced over the timesteps, and ten classes.

import matplotlib.pyplot as plt

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.inspection import TimestepAccuracyDisplay

photos = load_fashion_photos()
X, y = photos.images[:100], photos.names[:100]
clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=20)
clf.fit(classes=photos.target_names)

# %%
# All points share the photos. The band is the 95 % Clopper-Pearson interval over
# photos. With a hundred photos it is wide, and only the coarse shape of the curve is
# significant.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
display = TimestepAccuracyDisplay.from_estimator(clf, X, y, ax=ax)

# %%
# For comparison, the accuracy of all trials together, with the default pruning:

score = clf.score(X, y)
display.ax_.axhline(score, color="C1", linestyle="--", label="all trials")
display.ax_.legend()
best = display.n_correct.argmax()
alone = display.n_correct[best] / len(X)
print(f"timestep {display.timesteps[best]} alone {alone:.2f}, all {score:.2f}")
plt.show()
