"""Speed-up of each optimization of the network on a CPU.

    python -m benchmarks.speed.parts

Evaluations per second of ``predict(pruning=None)`` on both bundled models: as PyTorch
runs the network, with the faster float32 kernels, with freed memory kept for the next
forward pass, with both (the default), and with both in bfloat16. Each is timed in its
own processes, which take turns: median of three, slowest and fastest. About 6 minutes
on 2 cores, ``--quick`` 1.
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
PARTS = {  # dtype, whether with kernels, whether with kept memory
    PLAIN: ("float32", False, False),
    "faster float32 kernels": ("float32", True, False),
    "freed memory kept": ("float32", False, True),
    "both": ("float32", True, True),
    "both, bfloat16": ("bfloat16", True, True),
}


def measure(model, how, n_images):
    """Evaluations per second."""
    dtype, kernels, memory = PARTS[how]
    if not kernels:
        _errors.fast_kernels = lambda backbone: nullcontext()
    if not memory:
        _errors.kept_memory = lambda device: nullcontext()
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
        f"{'model':<16}{'how':<34}{'evaluations / s':>16}{'ratio':>8}{'from - to':>15}"
    )
    rows, quick = [], ["--quick"] if args.quick else []
    for model in ("fashion-dit", "fashion-scenes"):
        speeds = {how: [] for how in PARTS}
        for _ in range(n_rounds):
            for how, values in speeds.items():
                values.append(run_in_process(__file__, *quick, "--only", model, how))
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
