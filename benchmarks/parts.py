"""What each of the cheaper ways to evaluate a network brings on a CPU.

    python benchmarks/parts.py --json parts.json

Evaluations a second of ``predict(pruning=None)`` on both bundled models in float32:
with nothing of it, with each part alone, with all, and in bfloat16. Each is timed in a
process of its own, the median of three. About 2 minutes on 2 cores, ``--quick`` 1.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import time

from _common import describe_machine, make_parser, make_task, write

from diffusion_sklearn import _errors, _scoring

PARTS = {
    "parts shared by rows": (_errors, "computed_once"),
    "faster float32 kernels": (_errors, "FastKernels"),
    "freed memory kept": (_scoring, "kept_memory"),
}


def left_out(*args):
    """In place of a part: a context that does nothing."""
    return contextlib.nullcontext(lambda triples: None)


def measure(model, how, n_images):
    """Evaluations a second."""
    for name, (module, attribute) in PARTS.items():
        if how not in (name, "all", "all, bfloat16"):
            setattr(module, attribute, left_out)
    dtype = "bfloat16" if how == "all, bfloat16" else "float32"
    clf, images, _ = make_task(model, n_images, n_trials=50, pruning=None, dtype=dtype)
    clf.predict(images[:2])
    speeds = []
    for _ in range(3):
        began = time.perf_counter()
        clf.predict(images)
        speeds.append(n_images * 500 / (time.perf_counter() - began))
    return statistics.median(speeds)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs=2, default=None, help="model and part")
    args = parser.parse_args()
    n_images = 4 if args.quick else 10
    if args.only:
        print(json.dumps(measure(*args.only, n_images)))
        return
    print(f"{n_images} images, 10 classes, 50 trials; {describe_machine()}")
    print(f"{'model':<16}{'how':<26}{'evaluations / s':>16}{'ratio':>8}")
    rows, quick = [], ["--quick"] if args.quick else []
    for model in ("fashion-dit", "fashion-scenes"):
        speeds = {}
        for how in ("nothing of it", *PARTS, "all", "all, bfloat16"):
            command = [sys.executable, __file__, *quick, "--only", model, how]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            speeds[how] = speed = json.loads(done.stdout)
            ratio = speed / speeds["nothing of it"]
            rows.append({"model": model, "how": how, "speed": speed, "ratio": ratio})
            print(f"{model:<16}{how:<26}{speed:>16.0f}{ratio:>8.2f}", flush=True)
    write(args.json, rows)


if __name__ == "__main__":
    main()
