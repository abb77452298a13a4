"""Shared by the benchmarks: options, machine, results, and images to classify."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn._versions import versions
from diffusion_sklearn.datasets import (
    load_fashion_mnist,
    load_fashion_photos,
    make_fashion_scenes,
)

ROOT = Path(__file__).parent.parent


def make_parser(text):
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=text.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument(
        "--json",
        type=Path,
        default=None,
        help="write the table here (default: to benchmarks/results, except with "
        "--quick and --only)",
    )
    return parser


def machine():
    """Hardware and versions of a measurement, as plain values."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text("utf-8").splitlines()
        names = [line.split(":")[1] for line in lines if line.startswith("model name")]
        name = names[0].strip() if names else name
    description = {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": None,
        **versions(),
    }
    if torch.cuda.is_available():
        description["gpu"] = torch.cuda.get_device_name()
    return description


def describe_machine():
    """The machine in a line."""
    info = machine()
    where = info["gpu"] or f"{info['cpu']}, {info['threads']} threads"
    return f"{where}, torch {info['torch']}"


def module_of(file):
    """Name of the benchmark in a file, such as benchmarks.speed.vs_loop."""
    return ".".join(Path(file).resolve().relative_to(ROOT).with_suffix("").parts)


def write(file, args, rows, **settings):
    """Write a table as JSON, with the machine and the command.

    Parameters
    ----------
    file : str
        The benchmark's ``__file__``.
    args : Namespace
        Its options. With `json`, the table goes there; a run with `quick` or `only`
        writes no other file.
    rows : list or dict
        The table.
    **settings
        Numbers of images, trials and the like that the rows do not have.
    """
    path, module = args.json, module_of(file)
    if path is None:
        if args.quick or getattr(args, "only", None):
            return
        _, group, name = module.split(".")
        path = ROOT / "benchmarks" / "results" / group / f"{name}.json"
    local = {"--tables", "--json"}  # with a folder or a file of this machine
    options = [
        one
        for before, one in pairwise(["", *sys.argv[1:]])
        if not local & {before, one.partition("=")[0]}
    ]
    command = shlex.join(["python", "-m", module, *options])
    table = {"machine": machine(), "command": command, "settings": settings}
    table["rows"] = rows
    path.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def run_in_process(file, *arguments):
    """Run a benchmark in a process of its own and parse the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module_of(file), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    return json.loads(done.stdout)


def make_task(task, n, first=0, **params):
    """Make a fitted classifier of ten classes, images and their true labels.

    "fashion-dit": the item on test photos, of which 1,000 ship and the other 9,000 need
    the IDX files of Fashion-MNIST. "fashion-scenes": which of ten captions describes a
    scene of one or two items, composed of test photos. "fashion-scenes, items": the
    item in scenes of one item, whose colour the prompts do not name.
    """
    photos = load_fashion_photos()
    model, names = task.split(",")[0], photos.target_names
    if task == "fashion-dit":
        clf = ConditionalDiffusionClassifier(model=model, **params)
        if first + n > len(photos.images):
            photos = load_fashion_mnist(split="test")
        if first + n > len(photos.images):
            raise ValueError(
                f"{n} photos from {first} on are more than the {len(photos.images)} of "
                "the test set; choose fewer."
            )
        subset = slice(first, first + n)
        truth = names[photos.target[subset]]
        return clf.fit(classes=names), photos.images[subset], truth
    clf = ZeroShotDiffusionClassifier(model=model, **params)
    question, seed = "items", first
    if task == "fashion-scenes":
        question, seed = "captions", 1000 + first
    images, truth, names = make_scene_task(question, n, "test", seed)
    return clf.fit(classes=names), images, truth


def make_scene_task(question, n, split, seed, data_home=None):
    """Make scenes, labels and classes of the question "items" or "captions"."""
    how = {"split": split, "random_state": seed, "data_home": data_home}
    if question == "items":
        scenes = make_fashion_scenes(n, n_items=1, **how)
        labels = np.array([scene.items[0] for scene in scenes.scenes])
        return scenes.images, labels, load_fashion_photos().target_names
    shown = make_fashion_scenes(10, split="test", random_state=0).scenes
    scenes = make_fashion_scenes(n, scenes=shown, **how)
    labels = np.array([without_article(caption) for caption in scenes.captions])
    return scenes.images, labels, [without_article(one.caption) for one in shown]


def without_article(caption):
    """A caption without its article, which the prompt template adds."""
    return caption.split(" ", 1)[1]
