"""The commands and their options, with an example for each command."""

import argparse
from pathlib import Path

from diffusion_sklearn import __version__
from diffusion_sklearn.datasets._specs import list_datasets

BUDGET = {"n_trials": 100, "pruning": 0.99, "loss": "l2"}
"""Defaults where neither an option nor the data set has a value."""

EXAMPLES = {
    "demo": "--model fashion-scenes",
    "classify": "photos/ --classes cat dog --output labels.csv",
    "evaluate": "test_images/ --model fashion-dit --output evaluation\n"
    "  diffusion-sklearn evaluate --dataset pets --max-images 500 "
    "--baseline openai/clip-vit-large-patch14",
    "app": "--model fashion-dit",
    "info": "--memory errors/",
    "clear-memory": "errors/",
}


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

    demo = _add_command(commands, "demo", "Classify 100 images with a bundled model.")
    text = "fashion-dit classifies photos, fashion-scenes matches captions"
    models = ("fashion-dit", "fashion-scenes")
    _add(demo, "--model", text, choices=models, default=models[0])
    _add(demo, "--n-images", "at most 1,000 photos or 800 scenes", int, default=100)
    _add(demo, "--n-trials", "trials for each class or caption", int)
    picture = Path("diffusion-sklearn-demo.png")
    _add(demo, "--output", "image file to write", Path, default=picture)

    text = "Classify image files, one row for each."
    classify = _add_command(commands, "classify", text)
    text = "files, folders, or globs such as 'photos/**/*.jpg'"
    _add(classify, "paths", text, nargs="+", metavar="PATH")
    group = classify.add_mutually_exclusive_group()
    _add(group, "--classes", "the classes", nargs="+", action="extend", metavar="NAME")
    _add(group, "--classes-file", "the classes, one a line", Path)
    text = "a .csv, .jsonl or .parquet file; default: CSV on standard output"
    _add(classify, "--output", text, Path)
    _add_model_options(classify)

    text = "Classify a folder with a subfolder for each class, and score the result."
    evaluate = _add_command(commands, "evaluate", text)
    group = evaluate.add_mutually_exclusive_group(required=True)
    _add(group, "folder", "labelled images", Path, nargs="?", metavar="FOLDER")
    names = list_datasets()
    text = f"a data set of the paper, with its settings: {', '.join(names)}"
    _add(group, "--dataset", text, choices=names, metavar="NAME")
    _add(evaluate, "--names", "lines of subfolder, tab, name of the class", Path)
    text = "for evaluation.json, predictions.csv and confusion_matrix.png"
    _add(evaluate, "--output", text, Path, default=Path("evaluation"))
    group = evaluate.add_argument_group("with --dataset")
    text = "images on disk, a subfolder for each class; default: from the Hub"
    _add(group, "--dataset-folder", text, Path)
    _add(group, "--split", "default: the one that the paper used")
    _add(group, "--data-home", "where data sets of the Hub are written", Path)
    _add(group, "--max-images", "size of a random sample", int)
    text = "Hub id, folder or bundled name of a CLIP to compare with; repeatable"
    _add(group, "--baseline", text, action="append", default=[], metavar="CLIP")
    _add(group, "--json", "write the table as JSON", Path)
    _add_model_options(evaluate)

    app = _add_command(commands, "app", "Open a page in the browser.")
    _add(app, "--model", "Hub id, folder or bundled name; default: fashion-scenes")
    _add(app, "--clip", "CLIP beside it; default: fashion-clip with bundled models")
    host = "127.0.0.1"
    _add(app, "--host", f"address to listen on (default: {host})", default=host)
    _add(app, "--port", "default: 7860", int, default=7860)

    info = _add_command(commands, "info", "Print versions, devices and bundled models.")
    _add(info, "--memory", "print the contents of this memory folder too", Path)
    text = "Delete the errors in a memory folder."
    _add(_add_command(commands, "clear-memory", text), "memory", "the folder", Path)
    return parser


def _add_command(commands, name, description):
    command = commands.add_parser(
        name,
        help=description,
        description=description,
        epilog=f"example:\n  diffusion-sklearn {name} {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(fail=command.error)
    return command


def _add(group, flag, text, type=str, **settings):
    group.add_argument(flag, help=text, type=type, **settings)


def _add_model_options(command):
    _add(command, "--model", "Hub id, folder or bundled name")
    text = "text with {} for the class; repeatable: the errors are averaged"
    _add(command, "--prompt-template", text, action="append")
    text = "a CSV of prompt, classname and classidx, in place of a template"
    _add(command, "--prompts", text, Path)
    no_default = argparse.SUPPRESS  # to tell whether the user set the option
    _add(command, "--n-trials", "default: 100", int, default=no_default)
    text = "a confidence (default: 0.99), stages such as 25:5,50:2, or none"
    _add(command, "--pruning", text, parse_pruning, default=no_default)
    text = "l2 (default), l1, huber, vlb or l2+vlb"
    _add(command, "--loss", text, default=no_default)
    _add(command, "--timesteps", "even (default), anytime or random", default="even")
    _add(command, "--seed", "of the trials (default: 0)", int, default=0)
    _add(command, "--batch-size", "rows a forward pass", _int_or_auto, default="auto")
    _add(command, "--device", "cpu, cuda, cuda:1, mps, auto", default="auto")
    _add(command, "--dtype", "float32, bfloat16, float16 or auto", default="auto")
    _add(command, "--n-jobs", "processes; -1: all cores", int)
    text = "folder that keeps every error computed, for the next run"
    _add(command, "--memory", text, Path)
    text = "go on with the rows of --output, of the same command"
    command.add_argument("--resume", action="store_true", help=text)
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
