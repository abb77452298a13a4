"""Speed-up of each optimization of the network on a CPU.

    python -m benchmarks.speed.parts

Evaluations per second of ``predict(pruning=None)`` on both bundled models in float32:
without optimizations, with each of them alone, with all, and in bfloat16. Each is timed
in its own processes, which take turns: median of three, slowest and fastest. About 6
minutes on 2 cores, ``--quick`` 1.
"""

import contextlib
import json
import statistics
import time

from benchmarks._common import (
    describe_machine,
    make_parser,
    make_task,
    run_in_process,
    write,
)
from diffusion_sklearn.engine import _errors, _scoring

PARTS = {
    "parts shared by rows": (_errors, "computed_once"),
    "faster float32 kernels": (_errors, "FastKernels"),
    "freed memory kept": (_scoring, "kept_memory"),
}


def left_out(*args):
    """A context that does nothing, in the place of an optimization."""
    return contextlib.nullcontext(lambda triples: None)


def measure(model, how, n_images):
    """Evaluations a second."""
    for name, (module, attribute) in PARTS.items():
        if how not in (name, "all", "all, bfloat16"):
            setattr(module, attribute, left_out)
    dtype = "bfloat16" if how == "all, bfloat16" else "float32"
    clf, images, _ = make_task(model, n_images, n_trials=50, pruning=None, dtype=dtype)
    clf.predict(images[:2])  # warm up
    began = time.perf_counter()
    clf.predict(images)
    return n_images * 500 / (time.perf_counter() - began)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs=2, default=None, help="model and part")
    args = parser.parse_args()
    n_images, n_rounds = (4, 1) if args.quick else (20, 3)
    if args.only:
        print(json.dumps(measure(*args.only, n_images)))
        return
    print(f"{n_images} images, 10 classes, 50 trials; {describe_machine()}")
    print(
        f"{'model':<16}{'how':<26}{'evaluations / s':>16}{'ratio':>8}{'from - to':>15}"
    )
    rows, quick = [], ["--quick"] if args.quick else []
    for model in ("fashion-dit", "fashion-scenes"):
        speeds = {how: [] for how in ("nothing of it", *PARTS, "all", "all, bfloat16")}
        for _ in range(n_rounds):
            for how, seen in speeds.items():
                seen.append(run_in_process(__file__, *quick, "--only", model, how))
        plain = statistics.median(speeds["nothing of it"])
        for how, seen in speeds.items():
            speed, low, high = statistics.median(seen), min(seen), max(seen)
            rows.append(
                {
                    "model": model,
                    "how": how,
                    "speed": speed,
                    "slowest": low,
                    "fastest": high,
                    "ratio": speed / plain,
                }
            )
            print(
                f"{model:<16}{how:<26}{speed:>16.0f}{speed / plain:>8.2f}"
                f"{low:>9.0f} -{high:>5.0f}",
                flush=True,
            )
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
