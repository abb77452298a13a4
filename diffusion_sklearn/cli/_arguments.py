"""The commands and their options, with an example for each command."""

import argparse
from pathlib import Path

from diffusion_sklearn import __version__
from diffusion_sklearn.datasets._specs import list_datasets

BUDGET = {"n_trials": 100, "pruning": 0.99, "loss": "l2"}
"""Defaults where neither an option nor the data set has a value."""

COMMANDS = {
    "demo": (
        "classify 100 images that ship, with a model that ships",
        "--model fashion-scenes",
    ),
    "classify": (
        "classify image files, one row for each",
        "photos/ --classes cat dog --output labels.csv",
    ),
    "evaluate": (
        "classify a folder with a subfolder for each class, and score the predictions",
        "test_images/ --model fashion-dit --output evaluation\n"
        "  diffusion-sklearn evaluate --dataset pets --max-images 500 "
        "--baseline openai/clip-vit-large-patch14",
    ),
    "info": (
        "versions, devices, bundled models, and the contents of a memory folder",
        "--memory errors/",
    ),
    "clear-memory": ("delete the errors in a memory folder", "errors/"),
}
"""Description and example of each command."""


def make_parser():
    """Describe the commands.

    Returns
    -------
    parser : argparse.ArgumentParser
        Its result has the name of the command as ``command``, and as ``fail`` a
        function that exits with a message about an argument.
    """
    parser = argparse.ArgumentParser(
        prog="diffusion-sklearn",
        description="Conditional diffusion models as scikit-learn classifiers.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    adders = {}
    for name, (text, example) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  diffusion-sklearn {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(fail=command.error)
        adders[name] = command

    _add_demo_options(adders["demo"])
    _add_classify_options(adders["classify"])
    _add_model_options(adders["classify"])
    _add_evaluate_options(adders["evaluate"])
    _add_model_options(adders["evaluate"])
    adders["info"].add_argument("--memory", type=Path, metavar="DIR")
    adders["clear-memory"].add_argument("memory", type=Path, metavar="DIR")
    return parser


def _add(group, flag, text, type=str, metavar=None, **settings):
    metavar = metavar or {int: "N", Path: "FILE"}.get(type)
    group.add_argument(flag, help=text, type=type, metavar=metavar, **settings)


def _add_demo_options(demo):
    demo.add_argument(
        "--model",
        choices=["fashion-dit", "fashion-scenes"],
        default="fashion-dit",
        help="fashion-dit classifies photos, fashion-scenes matches captions",
    )
    _add(demo, "--n-images", "at most 1,000 photos or 800 scenes", int, default=100)
    _add(demo, "--n-trials", "trials for each class or caption", int)
    picture = Path("diffusion-sklearn-demo.png")
    _add(demo, "--output", "image file to write", Path, default=picture)


def _add_classify_options(classify):
    text = "image files, folders, or globs such as 'photos/**/*.jpg'"
    _add(classify, "paths", text, metavar="PATH", nargs="+")
    group = classify.add_mutually_exclusive_group(required=True)
    _add(group, "--classes", "the classes", metavar="NAME", nargs="+", action="extend")
    _add(group, "--classes-file", "the classes, one a line", Path)
    text = "a .csv, .jsonl or .parquet file; default: CSV on standard output"
    _add(classify, "--output", text, Path)


def _add_evaluate_options(evaluate):
    group = evaluate.add_mutually_exclusive_group(required=True)
    _add(group, "folder", "labelled images", Path, "FOLDER", nargs="?")
    group.add_argument(
        "--dataset",
        choices=list_datasets(),
        metavar="NAME",
        help="a data set of the paper, with its prompts, trials, pruning and loss: "
        + ", ".join(list_datasets()),
    )
    text = (
        "lines of subfolder, tab, name of the class; default: the names of the "
        "subfolders, with spaces for underscores"
    )
    _add(evaluate, "--names", text, Path)
    text = "for evaluation.json, predictions.csv and confusion_matrix.png"
    _add(evaluate, "--output", text, Path, "DIR", default=Path("evaluation"))

    group = evaluate.add_argument_group("with --dataset")
    text = "images on disk, a subfolder for each class; default: from the Hub"
    _add(group, "--dataset-folder", text, Path, "DIR")
    _add(group, "--split", "default: the one that the paper used")
    _add(group, "--data-home", "where data sets of the Hub are written", Path, "DIR")
    _add(group, "--max-images", "a random sample of N images", int)
    text = "Hub id, folder or bundled name of a CLIP to compare with; repeatable"
    _add(group, "--baseline", text, metavar="CLIP", action="append", default=[])
    _add(group, "--json", "write the table as JSON", Path)


def _add_model_options(command):
    _add(command, "--model", "Hub id, folder or bundled name")
    text = "a text with {} for the class; repeatable: the errors are averaged"
    _add(command, "--prompt-template", text, metavar="T", action="append")
    no_default = argparse.SUPPRESS  # to tell what the user set
    _add(command, "--n-trials", "default: 100", int, default=no_default)
    text = "a confidence (default: 0.99), stages such as 25:5,50:2, or none"
    _add(command, "--pruning", text, parse_pruning, "P", default=no_default)
    text = "l2 (default), l1, huber, vlb or l2+vlb"
    _add(command, "--loss", text, default=no_default)
    _add(command, "--timesteps", "even (default), anytime or random", default="even")
    _add(command, "--seed", "of the trials (default: 0)", int, default=0)
    text = "network evaluations a forward pass"
    _add(command, "--batch-size", text, _int_or_auto, "N", default="auto")
    _add(command, "--device", "cpu, cuda, cuda:1, mps, auto", default="auto")
    _add(command, "--dtype", "float32, bfloat16, float16 or auto", default="auto")
    _add(command, "--n-jobs", "processes; -1: all cores", int)
    text = "folder that keeps every error computed, for the next run"
    _add(command, "--memory", text, Path, "DIR")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    text = "model, device, dtype and batch size"
    command.add_argument("--verbose", action="store_true", help=text)


def parse_pruning(text):
    """Parse the option ``--pruning``.

    Parameters
    ----------
    text : str
        "none", a confidence, or stages as trials:classes, with commas between them.

    Returns
    -------
    pruning : None, float or tuple
        As in the estimators.
    """
    if text.lower() == "none":
        return None
    parts = [
        tuple(map(int, part.split(":", 1))) if ":" in part else float(part)
        for part in text.split(",")
    ]
    return parts[0] if isinstance(parts[0], float) and len(parts) == 1 else tuple(parts)


parse_pruning.__name__ = "confidence, stages or none"  # argparse shows it


def _int_or_auto(text):
    return text if text == "auto" else int(text)


_int_or_auto.__name__ = "int or auto"
