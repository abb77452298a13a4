"""Candidates by gradients among 10 to 14,400 captions.

    python -m benchmarks.speed.many_classes

fashion-scenes with captions of two items in a relation, each in a colour: the race over
all classes, and with ``prefilter="gradient"``, on the same images. A caption and its
mirror image ("a left of b", "b right of a") describe the same scene: up to 1,000
classes have only one of them, of all 14,400 both are right. The race over all 14,400
is left out. ``--quick`` for fewer images and classes.
"""

import time
from itertools import product

import numpy as np

from benchmarks._common import (
    describe_machine,
    make_parser,
    without_article,
    write,
)
from diffusion_sklearn import ZeroShotDiffusionClassifier
from diffusion_sklearn.datasets import Scene, make_fashion_scenes
from diffusion_sklearn.datasets._fashion_scenes import (
    FASHION_NAMES,
    RELATIONS,
    SCENE_COLORS,
)
from diffusion_sklearn.metrics import clopper_pearson

N_ALL = 14_400
PAPER = {"classes": 1000, "evaluations": 100_000}
"""The stages that the paper runs on ImageNet, for an image."""


def scenes_of(n_classes):
    """Scenes of the classes; those of few classes are among those of more."""
    if n_classes == N_ALL:
        items = list(product(FASHION_NAMES, SCENE_COLORS))
        return [
            Scene((a[0], b[0]), (a[1], b[1]), relation)
            for a, relation, b in product(items, RELATIONS, items)
        ]
    drawn = make_fashion_scenes(
        2 * n_classes + 100, split="test", n_items=2, random_state=0
    )
    scenes = {}
    for scene in drawn.scenes:
        if scene.mirrored not in scenes:
            scenes.setdefault(scene)
    return list(scenes)[:n_classes]


def run(clf, images):
    """Result and seconds per image, with the model loaded."""
    clf.denoising_errors(images[:1])
    began = time.perf_counter()
    result = clf.denoising_errors(images)
    return result, (time.perf_counter() - began) / len(images)


def compare(n_classes, n_images, over_all):
    """Rows of a number of classes, without and with the prefilter."""
    shown = scenes_of(min(n_classes, 1000))
    shown = [shown[k] for k in np.random.RandomState(0).permutation(len(shown))]
    data = make_fashion_scenes(n_images, split="test", scenes=shown, random_state=3)
    names = [without_article(scene.caption) for scene in scenes_of(n_classes)]
    right = [
        {without_article(scene.caption), without_article(scene.mirrored.caption)}
        for scene in data.scenes
    ]
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes")
    everywhere = None
    for prefilter in (None, "gradient") if over_all else ("gradient",):
        clf.set_params(prefilter=prefilter).fit(classes=names)
        result, seconds = run(clf, data.images)
        labels = clf.classes_[result.log_proba.argmax(axis=1)]
        n_right = sum(a in b for a, b in zip(labels, right, strict=True))
        low, high = clopper_pearson(n_right, n_images)
        row = {
            "classes": n_classes,
            "prefilter": prefilter,
            "images": n_images,
            "evaluations": float(result.n_evaluations.mean()),
            "seconds_per_image": seconds,
            "accuracy": n_right / n_images,
            "low": low,
            "high": high,
        }
        if prefilter is None:
            everywhere = labels
        else:
            evaluated = ~np.isnan(result.errors).all(axis=2)  # (n, k)
            lost = [
                b.isdisjoint(clf.classes_[row])
                for row, b in zip(evaluated, right, strict=True)
            ]
            row["lost"] = float(np.mean(lost))
            if everywhere is not None:
                row["agreement"] = float((labels == everywhere).mean())
        yield row


def print_row(row):
    print(
        f"{row['classes']:>8}{row['prefilter'] or 'none':>10}"
        f"{row['evaluations']:>13.0f}{row['seconds_per_image']:>11.2f}"
        f"{row['accuracy']:>10.1%}{row.get('agreement', np.nan):>11.1%}"
        f"{row.get('lost', np.nan):>7.1%}",
        flush=True,
    )


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-images", type=int, default=100)
    args = parser.parse_args()
    numbers = (10, 30) if args.quick else (10, 60, 300, 1000, N_ALL)
    n_images = 2 if args.quick else args.n_images
    print(describe_machine())
    print(
        f"{'classes':>8}{'prefilter':>10}{'evaluations':>13}{'s / image':>11}"
        f"{'accuracy':>10}{'agreement':>11}{'lost':>7}"
    )
    rows = []
    for n_classes in numbers:
        for row in compare(n_classes, n_images, n_classes <= 1000):
            print_row(row)
            rows.append(row)
    print(f"The paper's stages on ImageNet: {PAPER['evaluations']:,} evaluations.")
    write(__file__, args, rows, n_images=n_images, n_trials=100)


if __name__ == "__main__":
    main()
