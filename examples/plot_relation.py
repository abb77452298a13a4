"""
Is the sneaker left or right of the bag?
========================================

Contrastive models such as CLIP often read a caption as a bag of words. To a diffusion
model, which generates from the caption, the order of the words counts. This example
asks both for the relation of two items, and draws where the decision comes from.
"""

# %%
# Compose scenes of a sneaker and a bag in all four relations.

import matplotlib.pyplot as plt
import numpy as np

from diffusion_sklearn import CLIPZeroShotClassifier, ZeroShotDiffusionClassifier
from diffusion_sklearn.datasets import Scene, make_fashion_scenes

RELATIONS = ["above", "below", "left of", "right of"]

scenes = [
    Scene(("sneaker", "bag"), ("red", "blue"), relation)
    for relation in RELATIONS
    for _ in range(6)
]
data = make_fashion_scenes(len(scenes), split="test", scenes=scenes, random_state=0)
truth = np.array([scene.relation for scene in scenes])

# %%
# The labels are the relations, and each has a prompt. ``prompts`` takes several prompts
# for a label too, whose errors are averaged.

prompts = {r: f"a red sneaker {r} a blue bag" for r in RELATIONS}
clf = ZeroShotDiffusionClassifier(model="fashion-scenes", prompts=prompts)
clf.fit(classes=RELATIONS)
clip = CLIPZeroShotClassifier(
    model="fashion-clip",
    class_names=list(prompts.values()),
    prompt_template="{}",
)
clip.fit(classes=RELATIONS)
print(f"diffusion: {clf.score(data.images, truth):.0%} right")
print(f"CLIP:      {clip.score(data.images, truth):.0%} right")

# %%
# The evidence map of an image: red where the first caption explains it better than the
# second.

first, second = truth[0], "below"
evidence = clf.evidence(data.images[:1], first, second)[0]
largest = np.abs(evidence).max()
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.5), layout="constrained")
left.imshow(data.images[0])
left.set_title(prompts[first], fontsize=10)
right.imshow(evidence, cmap="RdBu_r", vmin=-largest, vmax=largest)
right.set_title(f"evidence for “{first}” against “{second}”", fontsize=10)
for ax in (left, right):
    ax.axis("off")
plt.show()
