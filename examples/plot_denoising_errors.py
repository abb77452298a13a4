"""
Why the trials are paired
=========================

A diffusion classifier adds noise to an image, lets the model predict it with each class
in turn, and believes the class with the smallest error. Here the errors of one photo
are drawn against the timestep, for two classes that are easily confused.
"""

# %%
# A class-conditional model that ships with the package, and a photo that it was not
# trained on. `fit` names the classes; nothing is trained.

import matplotlib.pyplot as plt

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.inspection import DenoisingErrorDisplay

photos = load_fashion_photos()
photo, name = photos.images[0], photos.names[0]
clf = ConditionalDiffusionClassifier(model="fashion-dit")
clf.fit(classes=["ankle boot", "sneaker"])

# %%
# Each thin line is one noise, added in all strengths; thick lines are means. On the
# left, the mean of each timestep is taken away: the noises lie far apart, the classes
# close together, and with other noise for each class nobody could say which is better.
# On the right, the mean of each noise is taken away as well. What is left is the
# difference between the classes, and it mostly has one sign.

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
# How large are the two spreads? The standard deviation over noises, of an error and of
# the difference between the errors of the two classes, a mean over timesteps:

one = display.errors[0].std(axis=0).mean()
difference = (display.errors[0] - display.errors[1]).std(axis=0).mean()
print(f"spread of an error {one:.4f}, of a difference {difference:.4f}")
plt.show()
