"""
Evidence for a class over the image
===================================

The error of a diffusion model is a mean over the positions of the latent. The
difference of the errors of two classes at each position shows where one class explains
the image better than the other.
"""

# %%
# Compare two captions of a scene that differ in which item has which colour.

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
# In red regions the right caption has the smaller error.

figure, (shown, explained) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
shown.imshow(scenes.images[0])
shown.set_title(right)
shown.axis("off")
display = EvidenceDisplay.from_estimator(
    clf, scenes.images[0], right, wrong, ax=explained
)
display.colorbar_.set_label("wrong caption  \N{LEFT RIGHT ARROW}  right caption")

# %%
# With a class-conditional model: where an ankle boot differs from a sneaker. More
# trials make the map smoother.

photos = load_fashion_photos()
clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=200)
clf.fit(classes=["ankle boot", "sneaker"])
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
EvidenceDisplay.from_estimator(clf, photos.images[0], "ankle boot", "sneaker", ax=ax)
plt.show()
