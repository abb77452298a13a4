"""Cost against the number of classes, and memory against the number of images.

    python -m benchmarks.speed.growth

fashion-scenes with 2 to 100 prompts (a colour and an item, then two items in a
relation), of scenes that show one of them, by default and without pruning: evaluations
and time per image. Both models on few images per call: time per image. fashion-dit on
100 to 10,000 images: memory of the process, each in a process of its own. About 5
minutes on 2 cores, ``--quick`` 1.
"""

import json
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks._common import (
    describe_machine,
    make_parser,
    make_task,
    run_in_process,
    without_article,
    write,
)
from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.datasets import load_fashion_photos, make_fashion_scenes


def different_scenes(n):
    """The first n scenes of different captions, single items first."""
    single = make_fashion_scenes(400, split="test", n_items=1, random_state=0)
    double = make_fashion_scenes(400, split="test", n_items=2, random_state=0)
    by_caption = {one.caption: one for one in single.scenes[:60]}
    for one in double.scenes:
        by_caption.setdefault(one.caption, one)
    return list(by_caption.values())[:n]


def of_classes(n_images, numbers):
    print(f"\nfashion-scenes, {n_images} images, 100 trials")
    print(
        f"{'classes':>8}{'pruning':>9}{'evaluations':>13}{'of all':>8}{'s / image':>11}"
        f"{'accuracy':>10}"
    )
    for n_classes in numbers:
        scenes = different_scenes(n_classes)
        names = [without_article(one.caption) for one in scenes]
        shown = np.random.RandomState(0).permutation(n_classes)
        shown = np.resize(shown, n_images)
        images = make_fashion_scenes(
            n_images, split="test", scenes=[scenes[k] for k in shown], random_state=3
        ).images
        for pruning in (0.99, None) if n_classes <= 10 else (0.99,):
            clf = ZeroShotDiffusionClassifier(model="fashion-scenes", pruning=pruning)
            clf.fit(classes=names)
            clf.predict(images[:2])  # warm up
            began = time.perf_counter()
            result = clf.denoising_errors(images)
            seconds = (time.perf_counter() - began) / n_images
            cost = float(result.n_evaluations.mean())
            labels = clf.classes_[result.log_proba.argmax(axis=1)]
            accuracy = float((labels == np.array(names)[shown]).mean())
            fraction = cost / (100 * n_classes)
            print(
                f"{n_classes:>8}{pruning or 'none':>9}{cost:>13.0f}{fraction:>8.1%}"
                f"{seconds:>11.3f}{accuracy:>10.1%}",
                flush=True,
            )
            yield {
                "classes": n_classes,
                "pruning": pruning,
                "evaluations": cost,
                "seconds_per_image": seconds,
                "accuracy": accuracy,
            }


def of_images_at_once(n_images, numbers):
    """Seconds per image by the number of images in a call."""
    print(f"\n{n_images} images by default, a few in each call")
    print(f"{'task':<18}{'in a call':>10}{'s / image':>11}")
    for task in ("fashion-dit", "fashion-scenes"):
        clf, images, _ = make_task(task, n_images)
        clf.predict(images)  # warm up
        for number in numbers:
            began = time.perf_counter()
            for start in range(0, n_images, number):
                clf.predict(images[start : start + number])
            seconds = (time.perf_counter() - began) / n_images
            print(f"{task:<18}{number:>10}{seconds:>11.3f}", flush=True)
            yield {
                "task": task,
                "images_in_a_call": number,
                "seconds_per_image": seconds,
            }


def resident():
    """Memory of this process, MiB: at present, and the most it ever was."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak, peak
    pages = int(statm.read_text("utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20, peak


def measure_memory(n_images, n_before=100):
    """Memory of this process, MiB, after `n_before` images and after `n_images`.

    4 of 100 trials are run: all errors of 10,000 images would take 80 MiB, and their
    latents 10.
    """
    photos = load_fashion_photos()
    images = np.resize(photos.images, (n_images, *photos.images.shape[1:]))
    clf = ConditionalDiffusionClassifier(model="fashion-dit", pruning=((4, 1),))
    clf.fit(classes=photos.target_names)
    clf.predict(images[:n_before])
    before = resident()
    clf.predict(images)
    after = resident()
    return {
        "images": n_images,
        "mib": after[0],
        "mib_more": after[0] - before[0],
        "peak_mib": after[1],
        "peak_mib_more": after[1] - before[1],
    }


def of_images(numbers):
    print("\nfashion-dit, 4 of 100 trials: memory, MiB, and more than after 100 images")
    print(f"{'images':>8}{'at the end':>12}{'more':>8}{'peak':>8}{'more':>8}")
    for n in numbers:
        # In a process of its own: a peak never falls.
        row = run_in_process(__file__, "--memory-of", str(n))
        print(
            f"{n:>8}{row['mib']:>12.0f}{row['mib_more']:>8.1f}{row['peak_mib']:>8.0f}"
            f"{row['peak_mib_more']:>8.1f}"
        )
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
    at_once = (1, 4) if args.quick else (1, 2, 4, 8, 32)
    n_images = 5 if args.quick else 30
    rows = {
        "classes": [*of_classes(n_images, classes[:4] if args.quick else classes)],
        "images_in_a_call": [*of_images_at_once(8 if args.quick else 32, at_once)],
        "memory": [*of_images(images[:2] if args.quick else images)],
    }
    write(__file__, args, rows, n_images=n_images, n_trials=100)


if __name__ == "__main__":
    main()
