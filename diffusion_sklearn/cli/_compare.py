"""``evaluate --dataset``: a diffusion classifier and CLIP baselines in one table."""

import time

from diffusion_sklearn._versions import versions
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.cli._arguments import BUDGET
from diffusion_sklearn.cli._classify import make_classifier
from diffusion_sklearn.cli._scores import (
    evaluate_images,
    format_score,
    score,
    write_json,
)
from diffusion_sklearn.datasets._load import load_dataset, read_table
from diffusion_sklearn.datasets._specs import get_dataset_spec
from diffusion_sklearn.metrics import winoground_scores

SCORE_NAMES = {"acc1": "accuracy", "mean_per_class_recall": "mean per class"}


def compare(args):
    """Classify a data set of the paper and print a table with the baselines.

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
    spec = get_dataset_spec(args.dataset)
    if args.json is not None and not args.json.absolute().parent.is_dir():
        args.fail(f"--json={args.json}: there is no such folder")
    data = load_dataset(
        args.dataset,
        folder=args.dataset_folder,
        split=args.split,
        data_home=args.data_home,
        max_images=args.max_images,
        class_names=None if args.names is None else read_table(args.names),
    )
    clf = make_classifier(args, **{name: getattr(spec, name) for name in BUDGET})
    templates = args.prompt_template or spec.prompt_template
    if "prompt_template" in clf.get_params():
        clf.set_params(prompt_template=templates)
    options = {"device": args.device, "dtype": args.dtype}
    baselines = [
        CLIPZeroShotClassifier(model=name, prompt_template=templates, **options)
        for name in args.baseline
    ]
    run = _score_captions if spec.metric == "text score" else _score_classes
    table = {
        "dataset": spec.name,
        "metric": spec.metric,
        "n_classes": len(data.classes) if "classes" in data else None,
        "n_classes_paper": spec.n_classes,
        "n_trials": clf.n_trials,
        "pruning": clf.pruning,
        "loss": clf.loss,
        "command": args.command_line,
        "versions": versions(),
    } | run(clf, baselines, data, args)
    if args.json is not None:
        write_json(args.json, table)
    _print_table(table)
    print(f"{'written to':<22} {args.output}")
    return table["skipped"], table["n_images"] + len(table["skipped"])


def _score_classes(clf, baselines, data, args):
    report = evaluate_images(clf, data, args)
    keys = ("model", "scores", "seconds", "evaluations", "prompts")
    results = [{"kind": "diffusion"} | {key: report[key] for key in keys}]
    readable = [k for k, p in enumerate(data.images) if str(p) not in report["skipped"]]
    images = [data.images[k] for k in readable]
    for clip in baselines if images else ():
        start = time.perf_counter()
        clip.set_params(class_names=data.class_names).fit(classes=data.classes)
        log_proba = clip.predict_log_proba(images)
        results.append(
            {
                "model": str(clip.model),
                "kind": "contrastive",
                "scores": score(data.target[readable], log_proba, clip.classes_)[0],
                "seconds": time.perf_counter() - start,
                "prompts": clip.prompts_,
            }
        )
    keys = ("n_images", "skipped")
    return {key: report[key] for key in keys} | {"results": results}


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
