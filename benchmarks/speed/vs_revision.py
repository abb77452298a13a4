"""Predictions of this checkout against those of an earlier commit.

    python -m benchmarks.speed.vs_revision --revision 18ae233

The commit is checked out into a temporary worktree. Each run is a process of its own
that fits the default classifier, predicts two images to warm up, then times
``predict``. Both versions take turns; a ratio is the median of the ratios of the pairs.
Peak memory is that of the process. In "one by one", each call has a single photo. About
8 minutes on 2 cores, ``--quick`` 2.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._common import ROOT, describe_machine, make_parser, write

TASKS = ("fashion-dit", "fashion-scenes", "fashion-dit, one by one")

# Runs in both versions, so it uses public names only.
RUN = """
import json, resource, sys, time
task, n = sys.argv[1], int(sys.argv[2])
from diffusion_sklearn import (
    ConditionalDiffusionClassifier, ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.datasets import load_fashion_photos, make_fashion_scenes

if task.startswith("fashion-dit"):
    photos = load_fashion_photos()
    images, names = photos.images[:n], photos.target_names
    clf = ConditionalDiffusionClassifier(model="fashion-dit").fit(classes=names)
else:
    scenes = make_fashion_scenes(n, split="test", n_items=1, random_state=0)
    images, names = scenes.images, load_fashion_photos().target_names
    clf = ZeroShotDiffusionClassifier(model="fashion-scenes").fit(classes=names)
clf.predict(images[:2])
wall, cpu = time.perf_counter(), time.process_time()
if task.endswith("one by one"):
    labels = [clf.predict(images[k : k + 1])[0] for k in range(n)]
else:
    labels = clf.predict(images).tolist()
print(json.dumps({
    "wall": time.perf_counter() - wall,
    "cpu": time.process_time() - cpu,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "labels": [str(label) for label in labels],
}))
"""


def run(checkout, task, n_images):
    """Seconds, peak MiB and labels of one process."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, task, str(n_images)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(task, old, n_images, n_rounds):
    """A row of the table."""
    pairs = [
        (run(old, task, n_images), run(ROOT, task, n_images)) for _ in range(n_rounds)
    ]
    row = {"task": task, "n_images": n_images}
    for name in ("wall", "cpu", "peak"):
        ratios = sorted(new[name] / before[name] for before, new in pairs)
        row[name] = statistics.median(new[name] for _, new in pairs)
        row[f"{name}_ratio"] = statistics.median(ratios)
        row[f"{name}_ratio_range"] = [ratios[0], ratios[-1]]
    before, new = pairs[0]
    same = [a == b for a, b in zip(before["labels"], new["labels"], strict=True)]
    row["same_labels"] = sum(same) / len(same)
    return row


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--revision", default="18ae233", help="the earlier commit")
    args = parser.parse_args()
    n_images, n_rounds = (20, 1) if args.quick else (100, 3)
    print(f"against {args.revision}; {n_images} images, {n_rounds} pairs of runs")
    print(describe_machine())
    print(f"{'task':<26}{'wall':>8}{'cpu':>8}{'peak':>8}{'same labels':>13}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", old, args.revision], check=True)
        try:
            for task in TASKS:
                row = compare(task, old, n_images, n_rounds)
                rows.append(row)
                print(
                    f"{task:<26}{row['wall_ratio']:>8.3f}{row['cpu_ratio']:>8.3f}"
                    f"{row['peak_ratio']:>8.3f}{row['same_labels']:>13.1%}",
                    flush=True,
                )
        finally:
            subprocess.run([*git, "remove", "--force", old], check=True)
    write(__file__, args, rows, revision=args.revision, n_rounds=n_rounds)


if __name__ == "__main__":
    main()
