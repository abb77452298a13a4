"""The command ``cost``: what a run would take, from a few evaluations."""

import sys
import time

import numpy as np
import torch

from diffusion_sklearn.backbones._loading import get_backbone
from diffusion_sklearn.cli._classify import find_images, make_classifier, read_classes
from diffusion_sklearn.cli._output import (
    format_bytes,
    format_seconds,
    print_json,
    print_table,
)
from diffusion_sklearn.engine._errors import encode, evaluate
from diffusion_sklearn.engine._pruning import evaluation_bounds

N_SAMPLE = 4  # images of --sample that are classified
MAX_PASSES, MAX_SECONDS = 6, 3.0  # of the measurement


def run_cost(args):
    """Measure a few evaluations, and print what a run would take.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.
    """
    names = args.classes_file is not None or args.prompts is not None
    if names == (args.classes is not None):
        args.fail(
            "pass the number of --classes, or their names by --classes-file or "
            "--prompts."
        )
    if args.sample and not names:
        args.fail("--sample is classified; name the classes with --classes-file.")
    paths = find_images(args.sample)[:N_SAMPLE]
    clf = make_classifier(args)
    plan = _named_plan(clf, args) if names else _anonymous_plan(clf, args.classes)
    report = {
        "model": plan.backbone.name,
        "device": str(plan.backbone.device),
        "dtype": str(plan.backbone.dtype).removeprefix("torch."),
        "batch_size": plan.rows.rows,
        "n_images": args.images,
        "n_classes": plan.n_classes,
        "n_trials": clf.n_trials,
        "pruning": clf.pruning,
    }
    measured = _measure(plan)
    low, high = _bounds(plan)
    if paths:
        start = time.perf_counter()
        counts = clf.denoising_errors(paths).n_evaluations
        measured["seconds_an_image"] = (time.perf_counter() - start) / len(paths)
        measured["n_sample"], low = len(paths), float(counts.mean())
        high = low
    seconds = [
        n * measured["seconds_an_evaluation"] + measured["seconds_an_encoding"]
        for n in (low, high)
    ]
    if paths:
        seconds = [measured["seconds_an_image"]] * 2
    report["measured"] = measured
    report["extrapolated"] = {
        "evaluations_an_image": [low, high],
        "evaluations": [low * args.images, high * args.images],
        "seconds": [one * args.images for one in seconds],
    }
    if args.json:
        print_json(report)
    else:
        _print_cost(report)


def _print_cost(report):
    measured, total = report["measured"], report["extrapolated"]
    low, high = total["evaluations_an_image"]
    how = "exact" if low == high else "bounds; --sample measures it"
    basis = "extrapolated from the time of an evaluation and an encoding"
    if "n_sample" in measured:
        how = f"mean of {measured['n_sample']} images, measured"
        basis = "extrapolated from the same images, with all but loading the model"
    where = f"{report['device']}, {report['dtype']}, batches of {report['batch_size']}"
    peak = measured["peak_bytes"]
    rows = [
        ("evaluations an image", _range(low, high, "{:,.0f}".format), how),
        ("evaluations", _range(*total["evaluations"], "{:,.0f}".format), "of all"),
        ("time", _range(*total["seconds"], format_seconds), f"{basis}; one process"),
        ("an evaluation", format_seconds(measured["seconds_an_evaluation"]), where),
        ("encoding an image", format_seconds(measured["seconds_an_encoding"]), ""),
        (
            "peak of memory",
            "unknown" if peak is None else format_bytes(peak),
            "measured: the device's" if "cuda" in where else "measured: this process",
        ),
        ("weights", format_bytes(measured["weights_bytes"]), "network, autoencoder"),
        ("conditions", format_bytes(measured["conditions_bytes"]), "of all classes"),
    ]
    title = f"{report['n_images']:,} images, {report['n_classes']:,} classes"
    print_table((title, report["model"], ""), rows)


def _range(low, high, form):
    return form(low) if low == high else f"{form(low)} to {form(high)}"


def _named_plan(clf, args):
    """The plan for classes that have names."""
    args.classes = ()
    return clf.fit(classes=read_classes(args))._fitted_plan()


def _anonymous_plan(clf, n_classes):
    """A plan for a number of classes, all with the condition of one."""
    spec, trials = clf._load_and_draw()
    backbone, n_prompts = get_backbone(spec), 1
    if backbone.kind == "class" and n_classes > backbone.n_labels:
        raise ValueError(
            f"--classes={n_classes}, but {backbone.name} has {backbone.n_labels}; pass "
            "a smaller number or another --model."
        )
    if not isinstance(getattr(clf, "prompt_template", ""), str):
        n_prompts = len(clf.prompt_template)
    condition = backbone.condition([0 if backbone.kind == "class" else ""])
    conditions = condition.expand(n_classes * n_prompts, *condition.shape[1:])
    return clf._make_plan(spec, trials, conditions, np.full(n_classes, n_prompts))


def _bounds(plan):
    """Fewest and most evaluations of an image."""
    n_trials, first = len(plan.trials), plan.rounds[0][0]
    pairs = evaluation_bounds(plan.pruning, n_trials, plan.n_classes, first)
    counts = plan.n_prompts
    if plan.pruning is None:
        return (float(pairs[0] * counts.mean()),) * 2
    return float(pairs[0] * counts.min()), float(pairs[1] * counts.max())


def _measure(plan):
    """Seconds of an evaluation and an encoding, and memory, by running the model."""
    backbone, size = plan.backbone, plan.image_size
    is_cuda = backbone.device.type == "cuda"
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 3, size, size))
    pixels = pixels.astype(np.float32)
    rows = plan.rows.rows
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(backbone.device)
    encoding, latents = _timed(lambda: encode(plan, pixels).cpu())
    latents = latents.to(backbone.device)
    trials = np.arange(rows) % len(plan.trials)
    triples = np.stack([np.zeros_like(trials), trials, np.zeros_like(trials)], axis=1)
    seconds, _ = _timed(lambda: evaluate(plan, latents, triples))
    parts = [backbone.network] + ([] if backbone.vae is None else [backbone.vae])
    tensors = [p for part in parts for p in (*part.parameters(), *part.buffers())]
    return {
        "seconds_an_evaluation": seconds / rows,
        "seconds_an_encoding": encoding,
        "weights_bytes": sum(p.numel() * p.element_size() for p in tensors),
        "conditions_bytes": plan.conditions.numel() * plan.conditions.element_size(),
        "peak_bytes": (
            torch.cuda.max_memory_allocated(backbone.device)
            if is_cuda
            else _peak_of_process()
        ),
    }


def _timed(compute):
    """Median seconds of some calls without the first, and the last result."""
    seconds, result = [], None
    while len(seconds) < MAX_PASSES and sum(seconds) < MAX_SECONDS:
        start = time.perf_counter()
        result = compute()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:] or seconds)), result


def _peak_of_process():
    """Most memory that this process had, in bytes; None where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
