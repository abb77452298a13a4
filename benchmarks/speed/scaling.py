"""Efficiency and start-up time of two workers.

    python -m benchmarks.speed.scaling

fashion-dit on test photos, without pruning, one thread a worker: one process, two loky
processes, and two workers of Dask and of Ray where they are installed. Efficiency is
the time of one process over twice that of two workers; 0.9 is the target. Starting up
is the first call less the second: imports, and the model once for each worker; a
cluster of Dask or Ray is up by then, loky's processes are not.
About 4 minutes on 2 cores, ``--quick`` under 2.
"""

import time
import warnings
from contextlib import contextmanager, nullcontext

import joblib
import torch

from benchmarks._common import describe_machine, make_parser, make_task, write

WORKERS = 2


@contextmanager
def dask():
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0"
    )
    with cluster, Client(cluster), joblib.parallel_config(backend="dask"):
        yield


@contextmanager
def ray():
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        register_ray()
        with joblib.parallel_config(backend="ray", n_jobs=WORKERS):
            yield
    finally:
        ray.shutdown()


def loky():
    return joblib.parallel_config(
        backend="loky", n_jobs=WORKERS, inner_max_num_threads=1
    )


ALONE = "one process"
BACKENDS = {ALONE: nullcontext, "loky": loky, "dask": dask, "ray": ray}


def measure(backend, n_images):
    """Seconds for the images, and what the first call took on top."""
    clf, images, _ = make_task("fashion-dit", n_images, n_trials=50, pruning=None)
    seconds = []
    with BACKENDS[backend]():
        for _ in range(2):
            began = time.perf_counter()
            clf.predict(images)
            seconds.append(time.perf_counter() - began)
    return seconds[1], max(0.0, seconds[0] - seconds[1])


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-images", type=int, default=None)
    others = [name for name in BACKENDS if name != ALONE]
    parser.add_argument("--backends", nargs="+", default=others, choices=others)
    args = parser.parse_args()
    n_images = args.n_images or (40 if args.quick else 160)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{n_images} photos, 10 classes, 50 trials; one thread a worker")
    print(describe_machine())
    print(f"{'backend':<14}{'workers':>9}{'s':>8}{'efficiency':>12}{'start-up, s':>13}")
    rows, alone = [], None
    for backend in [ALONE, *args.backends]:
        try:
            seconds, start = measure(backend, n_images)
        except ImportError:
            print(f"{backend:<14} is not installed")
            continue
        n_workers = 1 if backend == ALONE else WORKERS
        alone = seconds if alone is None else alone
        efficiency = alone / (n_workers * seconds)
        print(
            f"{backend:<14}{n_workers:>9}{seconds:>8.1f}{efficiency:>12.2f}"
            f"{start:>13.1f}",
            flush=True,
        )
        rows.append(
            {
                "backend": backend,
                "workers": n_workers,
                "seconds": seconds,
                "efficiency": efficiency,
                "start_up_seconds": start,
            }
        )
    write(__file__, args, rows, n_images=n_images, n_classes=10, n_trials=50)


if __name__ == "__main__":
    main()
