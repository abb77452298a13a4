"""Cost against the number of classes, and memory against the number of images.

    python benchmarks/growth.py --json growth.json

fashion-scenes with 2 to 100 prompts (a colour and an item, then two items in a
relation), by default and without pruning: evaluations and time an image. fashion-dit on
100 to 10,000 images: peak memory of the process, each in a process of its own. About 4
minutes on 2 cores, ``--quick`` 1.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
from _common import describe_machine, make_parser, without_article, write

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.datasets import load_fashion_photos, make_fashion_scenes


def captions(n):
    """The first n different captions of scenes, single items first."""
    single = make_fashion_scenes(400, split="test", n_items=1, random_state=0)
    double = make_fashion_scenes(400, split="test", n_items=2, random_state=0)
    found = [*dict.fromkeys(single.captions[:60]), *dict.fromkeys(double.captions)]
    return [without_article(caption) for caption in found[:n]]


def of_classes(n_images, numbers):
    images = make_fashion_scenes(n_images, split="test", random_state=3).images
    print(f"\nfashion-scenes, {n_images} images, 100 trials")
    print(
        f"{'classes':>8}{'pruning':>9}{'evaluations':>13}{'of all':>8}{'s / image':>11}"
    )
    for n_classes in numbers:
        for pruning in (0.99, None) if n_classes <= 10 else (0.99,):
            clf = ZeroShotDiffusionClassifier(model="fashion-scenes", pruning=pruning)
            clf.fit(classes=captions(n_classes))
            began = time.perf_counter()
            cost = clf.denoising_errors(images).n_evaluations.mean()
            seconds = (time.perf_counter() - began) / n_images
            share = cost / (100 * n_classes)
            print(
                f"{n_classes:>8}{pruning or 'none':>9}{cost:>13.0f}{share:>8.1%}"
                f"{seconds:>11.3f}",
                flush=True,
            )
            yield {
                "classes": n_classes,
                "pruning": pruning,
                "evaluations": float(cost),
                "seconds_per_image": seconds,
            }


def measure_memory(n_images):
    """Peak memory of this process, MiB, after a prediction on so many images."""
    photos = load_fashion_photos()
    images = np.resize(photos.images, (n_images, *photos.images.shape[1:]))
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", pruning=((4, 1),), n_trials=4
    ).fit(classes=photos.target_names)
    clf.predict(images[:100])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    clf.predict(images)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "images": n_images,
        "peak_mib": after,
        "mib_more_than_for_100": after - before,
    }


def of_images(numbers):
    print("\nfashion-dit, 4 trials: peak memory, MiB")
    print(f"{'images':>8}{'peak':>8}{'more than for 100':>19}")
    for n in numbers:
        # In a process of its own: a peak never falls.
        command = [sys.executable, __file__, "--memory-of", str(n)]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(found.stdout)
        print(f"{n:>8}{row['peak_mib']:>8.0f}{row['mib_more_than_for_100']:>19.1f}")
        yield row


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--memory-of", type=int, default=None, help="images, as JSON")
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(measure_memory(args.memory_of)))
        return
    print(describe_machine())
    classes, images = (2, 5, 10, 20, 50, 100), (100, 1000, 10_000)
    rows = [
        *of_classes(5 if args.quick else 15, classes[:4] if args.quick else classes)
    ]
    rows += of_images(images[:2] if args.quick else images)
    write(args.json, rows)


if __name__ == "__main__":
    main()
