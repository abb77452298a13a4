"""One data set, our classifier and CLIPs -> a table."""

import json
import time

import numpy as np

from diffusion_sklearn._versions import versions
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.cli._evaluate import evaluate_images, score
from diffusion_sklearn.metrics import winoground_scores

SHOWN = {"acc1": "accuracy", "mean_per_class_recall": "mean per class"}


def compare(clf, data, baselines, templates, output, command, quiet=False):
    """Score a diffusion classifier and CLIPs on the same images.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier, not fitted.
    data : Bunch
        Of :func:`~diffusion_sklearn.datasets.load_dataset`.
    baselines : list of str
        CLIPs, by Hub id, folder or bundled name.
    templates : str or list of str
        Prompt templates of the CLIPs.
    output : Path
        Folder for what :func:`~diffusion_sklearn.cli._evaluate.evaluate_images` writes;
        for captions, ``evaluation.json`` alone.
    command : list of str
        What was typed, for the record.
    quiet : bool, default=False
        Without a progress bar.

    Returns
    -------
    table : dict
        ``results`` has a dict for each model: ``model``, ``kind``, ``scores``,
        ``seconds``, and what it was asked.
    """
    spec = data.spec
    clips = [
        CLIPZeroShotClassifier(
            model=name,
            prompt_template=templates,
            device=clf.device,
            dtype=clf.dtype,
        )
        for name in baselines
    ]
    table = {
        "dataset": spec.name,
        "metric": spec.metric,
        "n_classes": len(data.classes) if "classes" in data else None,
        "n_classes_paper": spec.n_classes,
        "n_trials": clf.n_trials,
        "pruning": clf.pruning,
        "loss": clf.loss,
        "command": command,
        "versions": versions(),
    }
    run = _compare_captions if spec.metric == "text score" else _compare_classes
    return table | run(clf, clips, data, output, command, quiet)


def _compare_classes(clf, clips, data, output, command, quiet):
    classes, names = data.classes, data.class_names
    report = evaluate_images(
        clf,
        data.images,
        data.target.tolist(),
        classes.tolist(),
        names,
        data.folder,
        output,
        command,
        quiet,
    )
    results = [
        {
            "model": report["model"],
            "kind": "diffusion",
            "scores": report["scores"],
            "seconds": report["seconds"],
            "evaluations": report["evaluations"],
            "prompts": report["prompts"],
        }
    ]
    seen = [k for k, p in enumerate(data.images) if str(p) not in report["skipped"]]
    truth = np.searchsorted(classes, data.target[seen])
    for clip in clips if seen else ():
        began = time.perf_counter()
        clip.set_params(class_names=names).fit(classes=classes)
        scores, _ = score(truth, clip.predict_log_proba([data.images[k] for k in seen]))
        results.append(
            {
                "model": str(clip.model),
                "kind": "contrastive",
                "scores": scores,
                "seconds": time.perf_counter() - began,
                "prompts": clip.prompts_,
            }
        )
    return {
        "n_images": report["n_images"],
        "skipped": report["skipped"],
        "results": results,
    }


def _compare_captions(clf, clips, data, output, command, quiet):
    if not hasattr(clf, "score_pairs"):
        raise ValueError(
            f"{data.spec.name} has captions, and --model={clf.model} takes no text; "
            "pass a text-to-image model."
        )
    clf.set_params(verbose=int(not quiet))
    results = []
    for model in (clf, *clips):
        began = time.perf_counter()
        scores = winoground_scores(
            model.score_pairs(data.images, data.captions), data.tags
        )
        parts = {"text score": scores} | {
            f"text score, {tag}": part for tag, part in scores.tags.items()
        }
        results.append(
            {
                "model": str(model.model),
                "kind": "diffusion" if model is clf else "contrastive",
                "scores": {name: _text_score(part) for name, part in parts.items()},
                "seconds": time.perf_counter() - began,
            }
        )
    found = {"n_images": 2 * len(data.images), "skipped": {}, "results": results}
    output.mkdir(parents=True, exist_ok=True)
    report = found | {"command": command, "versions": versions()}
    (output / "evaluation.json").write_text(json.dumps(report, indent=1), "utf-8")
    return found


def _text_score(scores):
    low, high = scores.intervals["text"]
    return {"value": scores.text, "low": low, "high": high}


def print_table(table):
    """Print what was found, a line for each model and score.

    Parameters
    ----------
    table : dict
        Of :func:`compare`.
    """
    few = ""
    if table["n_classes"] not in (None, table["n_classes_paper"]):
        few = f", {table['n_classes']} classes (the paper: {table['n_classes_paper']})"
    print(f"{table['dataset']:<22} {table['n_images']} images{few}")
    print(f"{'the paper reports':<22} {table['metric']}")
    width = max(len(result["model"]) for result in table["results"])
    for result in table["results"]:
        for name, found in result["scores"].items():
            name = SHOWN.get(name, name)
            print(
                f"{result['model']:<{width}}  {name:<22} {found['value']:>8.2%}   95 % "
                f"interval {found['low']:.2%} to {found['high']:.2%}"
            )
    print("Intervals are Clopper and Pearson's; of a mean per class, a normal one.")
