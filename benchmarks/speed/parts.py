"""Speed-up of each optimization of the network on a CPU.

    python -m benchmarks.speed.parts

Evaluations per second of ``predict(pruning=None)`` on both bundled models: as PyTorch
runs the network, with the faster float32 kernels (the default), and in bfloat16. The
last row sets two environment variables of glibc's allocator, so that it keeps freed
memory. Each is timed in its own processes, which take turns: median of three, slowest
and fastest. About 5 minutes on 2 cores, ``--quick`` 1.
"""

import json
import statistics
import time
from contextlib import nullcontext

from benchmarks._common import (
    describe_machine,
    make_parser,
    make_task,
    run_in_process,
    write,
)
from diffusion_sklearn.engine import _errors

PLAIN = "plain float32"
PARTS = {  # dtype, and environment variables
    PLAIN: ("float32", {}),
    "faster float32 kernels": ("float32", {}),
    "bfloat16": ("bfloat16", {}),
    "faster float32 kernels, MALLOC_*": (
        "float32",
        {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)},
    ),
}


def measure(model, how, n_images):
    """Evaluations per second."""
    if how == PLAIN:
        _errors.fast_kernels = lambda backbone: nullcontext()
    clf, images, _ = make_task(
        model, n_images, n_trials=50, pruning=None, dtype=PARTS[how][0]
    )
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
        f"{'model':<16}{'how':<34}{'evaluations / s':>16}{'ratio':>8}{'from - to':>15}"
    )
    rows, quick = [], ["--quick"] if args.quick else []
    for model in ("fashion-dit", "fashion-scenes"):
        speeds = {how: [] for how in PARTS}
        for _ in range(n_rounds):
            for how, (_, environment) in PARTS.items():
                flags = [*quick, "--only", model, how]
                speed = run_in_process(__file__, *flags, environment=environment)
                speeds[how].append(speed)
        plain = statistics.median(speeds[PLAIN])
        for how, values in speeds.items():
            speed, low, high = statistics.median(values), min(values), max(values)
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
                f"{model:<16}{how:<34}{speed:>16.0f}{speed / plain:>8.2f}"
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
