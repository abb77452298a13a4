"""Overhead of the estimator over the forward passes of the network.

    python -m benchmarks.speed.overhead

Time of ``predict(pruning=None)``, from images to labels, against bare forward passes of
the same number of evaluations at the best batch size: as PyTorch runs them, and with
the same faster kernels. Runs take turns, and the median is compared. About 4 minutes
on 2 cores, ``--quick`` 1.
"""

import statistics
import time
from contextlib import nullcontext

import torch

from benchmarks._common import describe_machine, make_parser, make_task, write
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.engine._kernels import fast_kernels

BATCHES = (32, 64, 128, 256, 512)
KINDS = {
    "as they are": lambda backbone: nullcontext(),
    "with the same kernels": fast_kernels,
}


def bare(clf, n, batch, kind):
    """Seconds of n evaluations of the network alone."""
    backbone, conditions = clf.backbone_, fitted_plan(clf).conditions
    noised = torch.randn(batch, *backbone.latent_shape(backbone.image_size))
    t = torch.randint(backbone.n_timesteps, (batch,))
    rows = conditions[torch.arange(batch) % len(conditions)]
    began = time.perf_counter()
    with torch.inference_mode(), KINDS[kind](backbone):
        for start in range(0, n, batch):
            size = min(batch, n - start)
            backbone.predict(noised[:size], t[:size], rows[:size])
    return time.perf_counter() - began


def best_batch(clf, n, kind):
    """The batch size at which bare passes are fastest."""
    times = {}
    for batch in BATCHES:
        bare(clf, batch, batch, kind)  # warm up
        times[batch] = bare(clf, n, batch, kind)
    return min(times, key=times.get)


def compare(model, n_images, n_rounds):
    clf, images, _ = make_task(model, n_images, n_trials=50, pruning=None)
    n = n_images * 10 * 50
    best = {kind: best_batch(clf, n // 5, kind) for kind in KINDS}
    clf.predict(images[:2])  # warm up
    times = {"predict": [], **{kind: [] for kind in KINDS}}
    for _ in range(n_rounds):
        began = time.perf_counter()
        clf.predict(images)
        times["predict"].append(time.perf_counter() - began)
        for kind in KINDS:
            times[kind].append(bare(clf, n, best[kind], kind))
    ours = statistics.median(times["predict"])
    rows = []
    for kind in KINDS:
        theirs = statistics.median(times[kind])
        rows.append(
            {
                "model": model,
                "against": kind,
                "batch": best[kind],
                "predict_seconds": ours,
                "bare_seconds": theirs,
                "ratio": ours / theirs,
            }
        )
        print(
            f"{model:<16}{kind:<24}{best[kind]:>7}{theirs:>12.2f}{ours:>12.2f}"
            f"{ours / theirs:>8.2f}",
            flush=True,
        )
    return rows


def main():
    args = make_parser(__doc__).parse_args()
    n_images, n_rounds = (8, 1) if args.quick else (25, 3)
    print(f"{n_images} images, 10 classes, 50 trials; median of {n_rounds}")
    print(describe_machine())
    print(
        f"{'model':<16}{'bare passes':<24}{'batch':>7}{'bare, s':>12}{'predict, s':>12}"
        f"{'ratio':>8}"
    )
    rows = []
    for model in ("fashion-dit", "fashion-scenes"):
        rows += compare(model, n_images, n_rounds)
    write(
        __file__,
        args,
        rows,
        n_images=n_images,
        n_rounds=n_rounds,
        n_classes=10,
        n_trials=50,
    )


if __name__ == "__main__":
    main()
