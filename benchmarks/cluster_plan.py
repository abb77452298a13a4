"""A thousand GPUs and ten million images, simulated from what is measured here.

    python benchmarks/cluster_plan.py --json cluster_plan.json

Measured on this machine: evaluations an image of the default race (fashion-dit, 10
classes), reading a photo of 640 x 427 pixels, a task's way through Dask's scheduler,
its bytes, a transaction of the kept errors, and their bytes. Assumed, and to be set:
evaluations a second of a GPU, bytes of the model, what the shared disk delivers, how
often a GPU fails.

Two plans. "one client": a single estimator under ``parallel_config(backend="dask")``,
whose process reads all images once, to find bad ones, and hands out chunks of 1,024.
"array job": each GPU runs ``diffusion-sklearn classify`` on its share of the files,
with a memory of its own. Chunks are played through a queue, one event for each. When a
worker fails, another does its chunk again; a job of the array starts again on the same
machine and goes on from what it kept. Under 2 minutes on 2 cores.
"""

import heapq
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import sklearn.datasets
from _common import describe_machine, make_parser, make_task, write

from diffusion_sklearn import ErrorStore
from diffusion_sklearn.engine._session import Session
from diffusion_sklearn.images._read import read_image

CHUNK = 1024


def evaluations_per_image(n_images):
    clf, images, _ = make_task("fashion-dit", n_images)
    return clf.denoising_errors(images).n_evaluations


def seconds_to_read():
    path = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
    began = time.perf_counter()
    for _ in range(50):
        read_image(path, 0)
    return (time.perf_counter() - began) / 50


def seconds_a_task(n=500):
    """Time that Dask's scheduler and its client spend on a task that does nothing."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(_nothing, range(10)))
        began = time.perf_counter()
        client.gather(client.map(_nothing, range(10, n + 10)))
        return (time.perf_counter() - began) / n


def _nothing(k):
    return k


def costs_of_keeping(folder):
    """Bytes an evaluation, and seconds a forward pass, that memory adds."""
    clf, images, _ = make_task("fashion-dit", 40, n_trials=50, pruning=None)
    clf.set_params(memory=folder / "kept")
    keep, seconds = Session.keep, []

    def timed(self, *what):
        began = time.perf_counter()
        keep(self, *what)
        seconds.append(time.perf_counter() - began)

    Session.keep = timed
    clf.predict(images)
    Session.keep = keep
    info = ErrorStore(folder / "kept").info()
    return info["bytes"] / info["n_evaluations"], sum(seconds) / len(seconds)


def simulate(n_gpus, n_images, cost, assumed, plan, rng):
    """Hours until the last image is done, and the share of time that GPUs work."""
    per_second = assumed["evaluations_per_second"]
    start_up, read = assumed["start_seconds"], assumed["read_seconds"]
    loading = n_gpus * assumed["model_bytes"] / assumed["disk"]
    alone = plan == "array job"
    size = -(-n_images // n_gpus) if alone else CHUNK
    chunks = [min(size, n_images - a) for a in range(0, n_images, size)]
    # When the next chunk can go out, and when each GPU can take one.
    client = 0.0 if alone else n_images * read
    gap = 0.0 if alone else assumed["task_seconds"]
    free, busy, end = [start_up + loading] * n_gpus, 0.0, 0.0
    for n in chunks:
        useful = rng.normal(n * cost.mean(), np.sqrt(n) * cost.std()) / per_second
        passes = n * cost.mean() / 256
        work = useful + (2 * n * read if alone else n * read)
        work += passes * assumed["kept_seconds_per_pass"] if alone else 0
        failure = rng.exponential(3600 * assumed["hours_to_failure"])
        if failure < work:
            work += start_up + (assumed["pass_seconds"] if alone else failure)
        client += gap
        done = max(heapq.heappop(free), client) + work
        heapq.heappush(free, done)
        busy, end = busy + useful, max(end, done)
    return end / 3600, busy / (n_gpus * end)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--evaluations-per-second", type=float, default=1000)
    parser.add_argument("--model-gigabytes", type=float, default=5)
    parser.add_argument("--disk-gigabytes-per-second", type=float, default=10)
    parser.add_argument("--hours-to-failure", type=float, default=2000)
    parser.add_argument("--n-images", type=int, default=10_000_000)
    args = parser.parse_args()

    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        cost = evaluations_per_image(50 if args.quick else 200)
        paths = [f"photos/{k:08d}.jpg" for k in range(CHUNK)]
        per_evaluation, pass_seconds = costs_of_keeping(folder)
        measured = {
            "evaluations_per_image": float(cost.mean()),
            "read_seconds": seconds_to_read(),
            "task_seconds": seconds_a_task(),
            "task_bytes": len(pickle.dumps(paths)),
            "kept_bytes_per_evaluation": per_evaluation,
            "kept_seconds_per_pass": pass_seconds,
        }
    for name, value in measured.items():
        print(f"measured  {name:<28}{value:>12.4g}")
    assumed = {
        "evaluations_per_second": args.evaluations_per_second,
        "model_bytes": 1e9 * args.model_gigabytes,
        "disk": 1e9 * args.disk_gigabytes_per_second,
        "hours_to_failure": args.hours_to_failure,
        "start_seconds": 60.0,
        "pass_seconds": 256 / args.evaluations_per_second,
    }
    for name, value in assumed.items():
        print(f"assumed   {name:<28}{value:>12.4g}")
    assumed |= measured

    n = args.n_images
    kept = n * measured["evaluations_per_image"] * measured["kept_bytes_per_evaluation"]
    print(f"\n{n:,} images; errors kept in all {kept / 1e9:.0f} GB")
    print(f"{'GPUs':>7}  {'plan':<12}{'hours':>9}{'at work':>9}{'GB kept a GPU':>15}")
    rows = []
    for n_gpus in (10, 100, 1000, 10_000):
        for plan in ("one client", "array job"):
            rng = np.random.default_rng(0)
            hours, share = simulate(n_gpus, n, cost, assumed, plan, rng)
            print(
                f"{n_gpus:>7}  {plan:<12}{hours:>9.2f}{share:>9.1%}"
                f"{kept / 1e9 / n_gpus:>15.2f}"
            )
            rows.append(
                {"gpus": n_gpus, "plan": plan, "hours": hours, "at_work": share}
            )
    write(args.json, [{"measured": measured, "assumed": assumed}, *rows])


if __name__ == "__main__":
    main()
