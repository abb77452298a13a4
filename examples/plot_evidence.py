"""
Where a class wins
==================

The error of a diffusion model has a place: each position of the image tells how well
each class explains it there. The difference between two classes is a map of what speaks
for one and what for the other.
"""

# %%
# A text-to-image model, and a scene of two coloured items. The captions swap the
# colours, so that the words are the same.

import matplotlib.pyplot as plt

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

items = ("sneaker", "bag")
layouts = [
    Scene(items, colors, "left of")
    for colors in (("yellow", "blue"), ("blue", "yellow"))
]
scenes = make_fashion_scenes(2, split="test", scenes=layouts)
right, wrong = scenes.captions
clf = ZeroShotDiffusionClassifier(
    model="fashion-scenes", prompt_template="{}", n_trials=100
).fit(classes=[right, wrong])

# %%
# Red is where the right caption wins.

figure, (shown, explained) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
shown.imshow(scenes.images[0])
shown.set_title(right)
shown.axis("off")
display = EvidenceDisplay.from_estimator(
    clf, scenes.images[0], right, wrong, ax=explained
)
display.colorbar_.set_label("wrong caption  \N{LEFT RIGHT ARROW}  right caption")

# %%
# The same with class labels: what of an ankle boot makes it no sneaker? With a single
# image the map is grainy; more trials make it smoother.

photos = load_fashion_photos()
clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=200)
clf.fit(classes=["ankle boot", "sneaker"])
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
EvidenceDisplay.from_estimator(clf, photos.images[0], "ankle boot", "sneaker", ax=ax)
plt.show()
