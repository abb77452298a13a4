"""
Why the trials are paired
=========================

A diffusion classifier adds noise to an image, predicts the noise with each class as the
condition, and selects the class with the smallest error. This example plots the errors
of one photo against the timestep, for two classes that are easily confused.
"""

# %%
# Load a bundled class-conditional model, and a photo that it was not trained on.
# `fit` sets the classes and trains nothing.

import matplotlib.pyplot as plt

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.inspection import DenoisingErrorDisplay

photos = load_fashion_photos()
photo, name = photos.images[0], photos.names[0]
clf = ConditionalDiffusionClassifier(model="fashion-dit")
clf.fit(classes=["ankle boot", "sneaker"])

# %%
# Each thin line is the error of one noise sample at all timesteps, and thick lines
# are means. On the left, the mean of each timestep is subtracted: the variation over
# noise samples is larger than the difference between the classes, so that independent
# noise for each class would hide it. On the right, the mean of each noise sample is
# subtracted too. The difference between the classes remains, and it mostly has one
# sign.

figure, (shown, by_timestep, by_noise) = plt.subplots(
    1, 3, figsize=(12, 4), width_ratios=[1, 2, 2], layout="constrained"
)
shown.imshow(photo, cmap="gray")
shown.set_title(name)
shown.axis("off")
display = DenoisingErrorDisplay.from_estimator(
    clf, photo, n_noises=4, timesteps=50, center="timestep", ax=by_timestep
)
display.plot(by_noise, center="noise")

# %%
# Compute the standard deviation over noise samples of an error, and of the difference
# between the errors of the two classes, averaged over timesteps:

one = display.errors[0].std(axis=0).mean()
difference = (display.errors[0] - display.errors[1]).std(axis=0).mean()
print(f"spread of an error {one:.4f}, of a difference {difference:.4f}")
plt.show()
