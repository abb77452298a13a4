"""The command ``evaluate``: a labelled folder or a data set of the paper."""

import shlex
import time
from pathlib import Path

import numpy as np

from diffusion_sklearn import ConditionalDiffusionClassifier, load_backbone
from diffusion_sklearn._versions import versions
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.cli._arguments import BUDGET
from diffusion_sklearn.cli._classify import combine, make_classifier
from diffusion_sklearn.cli._output import format_seconds, print_json
from diffusion_sklearn.cli._report import evaluation_sections, write_report
from diffusion_sklearn.cli._scores import (
    ROWS,
    evaluate_images,
    format_score,
    score,
    text_score,
    write_json,
)
from diffusion_sklearn.cli._table import check_new, check_writable, printable
from diffusion_sklearn.datasets._load import load_dataset, read_table
from diffusion_sklearn.datasets._specs import DatasetSpec
from diffusion_sklearn.images._folders import RESULTS
from diffusion_sklearn.metrics import winoground_scores

COST = "{mean:.0f} an image, 95 % below {percentile_95:.0f}"
SCORE_NAMES = {"acc1": "accuracy", "mean_per_class_recall": "mean per class"}


def run_evaluate(args):
    """Classify labelled images and print the scores.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.

    Returns
    -------
    skipped : dict of str to str
        Error of each file that could not be read, by path.
    n_images : int
        Number of files.
    """
    if args.folder is not None and args.dataset is not None:
        args.fail("--dataset is not allowed with FOLDER; pass one of them.")
    if args.folder is None and args.dataset is None:
        args.fail("one of the arguments FOLDER --dataset is required.")
    to_stdout = args.json == Path("-")
    if args.json is not None and not to_stdout:
        check_writable(args.json, "--json", args.fail)
    names = "dataset_folder", "split", "data_home", "max_images", "baseline"
    given = [name for name in names if getattr(args, name)]
    if args.dataset is None and given:
        args.fail(f"--{given[0].replace('_', '-')} goes with --dataset")
    data = load_dataset(
        args.dataset or DatasetSpec(name=args.folder.name),
        folder=args.dataset_folder or args.folder,
        exclude=args.output,
        split=args.split,
        data_home=args.data_home,
        max_images=args.max_images,
        class_names=None if args.names is None else read_table(args.names),
    )
    for name in (RESULTS, ROWS):
        check_new(args.output / name, args.resume)
    spec = data.spec
    budget = {name: getattr(spec, name) for name in BUDGET} if spec.n_trials else {}
    clf = make_classifier(args, **budget)
    templates = args.prompt_template or (
        spec.prompt_template if args.dataset else "auto"
    )
    if "prompt_template" in clf.get_params():
        clf.set_params(prompt_template=templates)
    options = {"device": args.device, "dtype": args.dtype}
    baselines = [
        CLIPZeroShotClassifier(model=name, prompt_template=templates, **options)
        for name in args.baseline
    ]
    run = _score_captions if spec.metric == "text score" else _score_classes
    scores, rows = run(clf, baselines, data, args)
    report = {
        "dataset": spec.name,
        "metric": spec.metric,
        "n_classes": len(data.classes) if "classes" in data else None,
        "n_classes_paper": spec.n_classes,
        "n_trials": clf.n_trials,
        "pruning": clf.pruning,
        "loss": clf.loss,
        "command": args.command_line,
        "versions": versions(),
    } | scores
    write_json(args.output / RESULTS, report)
    score_names = SCORE_NAMES if args.dataset else {}
    _write_html(args.output / "report.html", report, rows, data, score_names)
    if to_stdout:
        print_json(report)
    else:
        if args.json is not None:
            write_json(args.json, report)
        _print_report(report, score_names)
        print(f"{'written to':<22} {args.output}")
    return report["skipped"], report["n_images"] + len(report["skipped"])


def _fit_classes(clf, data):
    """Fit what the model tells apart; the places of it that make up each class.

    A class of ObjectNet is one to three of ImageNet's. The prompts of two pairs of
    ImageNet's classes are the same.
    """
    conditions = [(name,) for name in data.class_names]
    if data.class_ids is not None and isinstance(clf, ConditionalDiffusionClassifier):
        check_imagenet(clf, data.spec.name)
        conditions = data.class_ids
    clf.fit(classes=sorted({c for some in conditions for c in some}))
    return [np.searchsorted(clf.classes_, some) for some in conditions]


def check_imagenet(clf, name):
    """Raise unless a model has ImageNet's 1,000 classes.

    Parameters
    ----------
    clf : ConditionalDiffusionClassifier
    name : str
        The data set that needs it.

    Raises
    ------
    ValueError
        If it has others.
    """
    backbone = load_backbone(clf.model, device=clf.device, dtype=clf.dtype)
    if backbone.n_labels != 1000 or backbone.labels.get("goldfish", 1) != 1:
        raise ValueError(
            f"{name} needs a model of ImageNet's 1,000 classes or a text-to-image "
            f"model; --model={clf.model} is neither."
        )


def _score_classes(clf, baselines, data, args):
    report, rows = evaluate_images(clf, data, _fit_classes(clf, data), args)
    keys = ("model", "scores", "seconds", "evaluations", "prompts")
    results = [{"kind": "diffusion"} | {key: report[key] for key in keys}]
    skipped = report["skipped"]
    readable = [k for k, p in enumerate(data.images) if printable(p) not in skipped]
    images = [data.images[k] for k in readable]
    for clip in baselines if images else ():
        start = time.perf_counter()
        members = _fit_classes(clip, data)
        log_proba = combine(clip.predict_log_proba(images), members)
        order = np.argsort(-log_proba, axis=1, kind="stable")
        place = np.searchsorted(data.classes, data.target[readable])
        rank = (order == place[:, None]).argmax(axis=1)
        predicted = data.classes[order[:, 0]]
        scores, _ = score(data.target[readable], predicted, rank, data.classes)
        results.append(
            {
                "model": str(clip.model),
                "kind": "contrastive",
                "scores": scores,
                "seconds": time.perf_counter() - start,
                "prompts": [clip.prompts_[some[0]] for some in members],
            }
        )
    return report | {"results": results}, rows


def _score_captions(clf, baselines, data, args):
    if not hasattr(clf, "score_pairs"):
        raise ValueError(
            f"{data.spec.name} has captions, and --model={clf.model} takes no text; "
            "pass a text-to-image model."
        )
    clf.set_params(verbose=int(not args.quiet))
    results = []
    for model in (clf, *baselines):
        start = time.perf_counter()
        pairs = model.score_pairs(data.images, data.captions)
        total = winoground_scores(pairs, data.tags)
        parts = {f"text score, {tag}": part for tag, part in total.tags.items()}
        parts = {"text score": total, **parts}
        scores = {name: text_score(part) for name, part in parts.items()}
        results.append(
            {
                "model": str(model.model),
                "kind": "diffusion" if model is clf else "contrastive",
                "scores": scores,
                "seconds": time.perf_counter() - start,
            }
        )
    args.output.mkdir(parents=True, exist_ok=True)
    n_images = 2 * len(data.images)
    return {"n_images": n_images, "skipped": {}, "results": results}, []


def _write_html(path, report, rows, data, score_names):
    """Write the report that a browser shows."""
    facts = [("images", report["n_images"]), ("images skipped", len(report["skipped"]))]
    for result in report["results"]:
        for name, value in result["scores"].items():
            name = f"{result['model']}, {score_names.get(name, name)}"
            facts.append((name, format_score(value)))
        facts.append((f"{result['model']}, time", format_seconds(result["seconds"])))
    if "evaluations" in report:
        facts.append(("network evaluations", COST.format(**report["evaluations"])))
    for name in ("n_trials", "pruning", "loss", "device", "dtype"):
        if name in report:
            facts.append((name, str(report[name]).removeprefix("torch.")))
    facts.append(("command", f"diffusion-sklearn {shlex.join(report['command'])}"))
    sections = []
    if rows:
        paths = {printable(path): path for path in data.images}
        matrix = np.array(report["confusion_matrix"])
        sections = evaluation_sections(rows, paths, report["classes"], matrix)
    write_report(path, f"Evaluation of {report['dataset']}", facts, sections)


def _print_report(report, score_names):
    """Print a line for each model and score."""
    few, paper = "", report["n_classes_paper"]
    if paper is not None and report["n_classes"] != paper:
        few = f", {report['n_classes']} classes (the paper: {paper})"
    print(f"{report['dataset']:<22} {report['n_images']} images{few}")
    if score_names:
        print(f"{'the paper reports':<22} {report['metric']}")
    width = max(len(result["model"]) for result in report["results"])
    for result in report["results"]:
        for name, value in result["scores"].items():
            name = score_names.get(name, name)
            print(f"{result['model']:<{width}}  {name:<22} {format_score(value)}")
    print("Intervals are Clopper and Pearson's; of a mean per class, a normal one.")
    if "evaluations" in report:
        print(f"{'evaluations':<22} {COST.format(**report['evaluations'])}")
