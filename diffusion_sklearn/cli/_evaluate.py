"""The command ``evaluate``: a labelled folder or a data set of the paper."""

import time

import numpy as np
from sklearn.utils import Bunch

from diffusion_sklearn import ConditionalDiffusionClassifier, load_backbone
from diffusion_sklearn._versions import versions
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.cli._arguments import BUDGET
from diffusion_sklearn.cli._classify import combine, make_classifier
from diffusion_sklearn.cli._scores import (
    ROWS,
    evaluate_images,
    format_score,
    score,
    write_json,
)
from diffusion_sklearn.cli._table import check_new, check_writable, printable
from diffusion_sklearn.datasets._load import check_names, load_dataset, read_table
from diffusion_sklearn.datasets._specs import DatasetSpec
from diffusion_sklearn.images._folders import read_class_folders
from diffusion_sklearn.metrics import winoground_scores

SCORE_NAMES = {"acc1": "accuracy", "mean_per_class_recall": "mean per class"}


def run_evaluate(args):
    """Classify labelled images and print the scores.

    Parameters
    ----------
    args : Namespace
        The parsed arguments.

    Returns
    -------
    skipped : dict of str to str
        Error of each file that could not be read, by path.
    n_images : int
        Number of files.
    """
    if args.json is not None:
        check_writable(args.json, "--json", args.fail)
    names = None if args.names is None else read_table(args.names)
    if args.dataset is None:
        options = (
            "dataset_folder",
            "split",
            "data_home",
            "max_images",
            "baseline",
            "json",
        )
        for name in options:
            if getattr(args, name):
                args.fail(f"--{name.replace('_', '-')} goes with --dataset")
        data = _read_folder(args, names)
    else:
        data = load_dataset(
            args.dataset,
            folder=args.dataset_folder,
            split=args.split,
            data_home=args.data_home,
            max_images=args.max_images,
            class_names=names,
        )
    for name in ("evaluation.json", ROWS):
        check_new(args.output / name, args.resume)
    spec = data.spec
    budget = {name: getattr(spec, name) for name in BUDGET} if spec.n_trials else {}
    clf = make_classifier(args, **budget)
    if args.dataset is None:
        report = evaluate_images(clf, data, _fit_classes(clf, data), args)
        _print_report(report)
    else:
        report = _compare(clf, data, args)
        _print_table(report)
    print(f"{'written to':<22} {args.output}")
    return report["skipped"], report["n_images"] + len(report["skipped"])


def _read_folder(args, names):
    images, target, classes = read_class_folders(args.folder, exclude=args.output)
    if names is None:
        names = {name: name.replace("_", " ") for name in classes}
    missing = [name for name in classes if name not in names]
    if missing:
        raise ValueError(
            f"--names={args.names} lacks the folders {', '.join(missing[:5])}; "
            "give each a line: folder, tab, name."
        )
    names = {name: names[name] for name in classes}
    check_names(names, f"--names={args.names}")
    return Bunch(
        images=images,
        target=np.array(target),
        classes=np.array(classes),
        class_names=list(names.values()),
        class_ids=None,
        folder=args.folder,
        spec=DatasetSpec(name=args.folder.name),
    )


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


def _compare(clf, data, args):
    """Scores of the classifier and of the baselines, with the paper's settings."""
    templates = args.prompt_template or data.spec.prompt_template
    if "prompt_template" in clf.get_params():
        clf.set_params(prompt_template=templates)
    options = {"device": args.device, "dtype": args.dtype}
    baselines = [
        CLIPZeroShotClassifier(model=name, prompt_template=templates, **options)
        for name in args.baseline
    ]
    run = _score_captions if data.spec.metric == "text score" else _score_classes
    table = {
        "dataset": data.spec.name,
        "metric": data.spec.metric,
        "n_classes": len(data.classes) if "classes" in data else None,
        "n_classes_paper": data.spec.n_classes,
        "n_trials": clf.n_trials,
        "pruning": clf.pruning,
        "loss": clf.loss,
        "command": args.command_line,
        "versions": versions(),
    } | run(clf, baselines, data, args)
    if args.json is not None:
        write_json(args.json, table)
    return table


def _score_classes(clf, baselines, data, args):
    report = evaluate_images(clf, data, _fit_classes(clf, data), args)
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
    return {"n_images": report["n_images"], "skipped": skipped, "results": results}


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
        scores = {}
        for name, part in {"text score": total, **parts}.items():
            low, high = part.intervals["text"]
            scores[name] = {"value": part.text, "low": low, "high": high}
        results.append(
            {
                "model": str(model.model),
                "kind": "diffusion" if model is clf else "contrastive",
                "scores": scores,
                "seconds": time.perf_counter() - start,
            }
        )
    table = {"n_images": 2 * len(data.images), "skipped": {}, "results": results}
    args.output.mkdir(parents=True, exist_ok=True)
    report = table | {"command": args.command_line, "versions": versions()}
    write_json(args.output / "evaluation.json", report)
    return table


def _print_table(table):
    """Print a line for each model and score."""
    few = ""
    if table["n_classes"] not in (None, table["n_classes_paper"]):
        few = f", {table['n_classes']} classes (the paper: {table['n_classes_paper']})"
    print(f"{table['dataset']:<22} {table['n_images']} images{few}")
    print(f"{'the paper reports':<22} {table['metric']}")
    width = max(len(result["model"]) for result in table["results"])
    for result in table["results"]:
        for name, value in result["scores"].items():
            name = SCORE_NAMES.get(name, name)
            print(f"{result['model']:<{width}}  {name:<22} {format_score(value)}")
    print("Intervals are Clopper and Pearson's; of a mean per class, a normal one.")


def _print_report(report):
    print(f"{'images':<22} {report['n_images']}")
    for name, value in report["scores"].items():
        print(f"{name:<22} {format_score(value)}")
    cost = report["evaluations"]
    print(
        f"{'evaluations':<22} {cost['mean']:.0f} an image, 95 % below "
        f"{cost['percentile_95']:.0f}"
    )
    print(f"{'seconds':<22} {report['seconds']:.1f}")
