"""The command ``cost``: what a run would take, from a few evaluations."""

import sys
import time

import numpy as np
import torch
from rich.filesize import decimal

from diffusion_sklearn.backbones._loading import get_backbone
from diffusion_sklearn.classifiers._plans import fitted_plan, load_and_draw, make_plan
from diffusion_sklearn.cli._classify import find_images, make_classifier, read_classes
from diffusion_sklearn.cli._output import format_seconds, print_json, print_table
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
    n_classes, args.classes = args.classes, ()
    has_names = args.classes_file is not None or args.prompts is not None
    if has_names == (n_classes is not None):
        args.fail(
            "pass the number of --classes, or their names by --classes-file or "
            "--prompts."
        )
    if args.sample and not has_names:
        args.fail("--sample is classified; name the classes with --classes-file.")
    paths, clf = find_images(args.sample)[:N_SAMPLE], make_classifier(args)
    if has_names:
        plan = fitted_plan(clf.fit(classes=read_classes(args)))
    else:
        plan = _anonymous_plan(clf, n_classes)
    measured, (low, high) = _measure(plan), _bounds(plan)
    one, encoding = measured["seconds_an_evaluation"], measured["seconds_an_encoding"]
    seconds = [n * one + encoding for n in (low, high)]
    if paths:
        start = time.perf_counter()
        low = high = float(clf.denoising_errors(paths).n_evaluations.mean())
        seconds = [(time.perf_counter() - start) / len(paths)] * 2
        measured |= {"n_sample": len(paths), "seconds_an_image": seconds[0]}
    report = {
        "model": plan.backbone.name,
        "device": str(plan.backbone.device),
        "dtype": str(plan.backbone.dtype).removeprefix("torch."),
        "batch_size": plan.rows.rows,
        "n_images": args.images,
        "n_classes": plan.n_classes,
        "n_trials": clf.n_trials,
        "pruning": clf.pruning,
        "measured": measured,
        "extrapolated": {
            "evaluations_an_image": [low, high],
            "evaluations": [n * args.images for n in (low, high)],
            "seconds": [s * args.images for s in seconds],
        },
    }
    if args.json:
        print_json(report)
    else:
        _print_cost(report)


def _print_cost(report):
    measured, total = report["measured"], report["extrapolated"]
    low, high = total["evaluations_an_image"]
    how = "exact" if low == high else "bounds; --sample measures it"
    basis = "extrapolated from the time of an evaluation and of encoding an image"
    if "n_sample" in measured:
        how = f"mean of {measured['n_sample']} images, measured"
        basis = "extrapolated from these images, with all but loading the model"
    place = f"{report['device']}, {report['dtype']}, batches of {report['batch_size']}"
    peak, weights = measured["peak_bytes"], decimal(measured["weights_bytes"])
    peak = "unknown" if peak is None else decimal(peak)
    of = "device" if report["device"].startswith("cuda") else "process"
    one = format_seconds(measured["seconds_an_evaluation"])
    rows = [
        ("evaluations an image", _range(low, high, "{:,.0f}".format), how),
        ("evaluations", _range(*total["evaluations"], "{:,.0f}".format), "of all"),
        ("time", _range(*total["seconds"], format_seconds), f"{basis}; one process"),
        ("time of an evaluation", one, f"measured: {place}"),
        ("peak of memory", peak, f"measured, of the {of}; {weights} are weights"),
    ]
    title = f"{report['n_images']:,} images, {report['n_classes']:,} classes"
    print_table((title, report["model"], ""), rows)


def _range(low, high, form):
    return form(low) if low == high else f"{form(low)} to {form(high)}"


def _anonymous_plan(clf, n_classes):
    """A plan for a number of classes, all with the condition of one."""
    spec, trials = load_and_draw(clf)
    backbone, n_prompts = get_backbone(spec), 1
    if backbone.kind == "class" and n_classes > backbone.n_labels:
        raise ValueError(
            f"--classes={n_classes}, but {backbone.name} has {backbone.n_labels}; pass "
            "a smaller number or another --model."
        )
    if not isinstance(getattr(clf, "prompt_template", ""), str):
        n_prompts = len(clf.prompt_template)
    condition = backbone.condition([0 if backbone.kind == "class" else ""])
    conditions = condition[torch.zeros(n_classes * n_prompts, dtype=torch.int64)]
    return make_plan(clf, spec, trials, conditions, np.full(n_classes, n_prompts))


def _bounds(plan):
    """Fewest and most evaluations of an image."""
    n_trials, first = len(plan.trials), plan.rounds[0][0]
    low, high = evaluation_bounds(plan.pruning, n_trials, plan.n_classes, first)
    counts = plan.n_prompts
    if plan.pruning is None:
        return [float(high * counts.mean())] * 2
    return float(low * counts.min()), float(high * counts.max())


def _measure(plan):
    """Seconds of an evaluation and an encoding, and memory, by running the model."""
    backbone, size, rows = plan.backbone, plan.image_size, plan.rows.rows
    is_cuda = backbone.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(backbone.device)
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 3, size, size))
    encoding, latents = _timed(lambda: encode(plan, pixels.astype("float32")).cpu())
    latents = latents.to(backbone.device)
    triples = np.zeros((rows, 3), np.int64)  # (image, trial, condition)
    triples[:, 1] = np.arange(rows) % len(plan.trials)
    seconds, _ = _timed(lambda: evaluate(plan, latents, triples))
    modules = [m for m in (backbone.network, backbone.vae) if m is not None]
    weights = [tensor for m in modules for tensor in m.state_dict().values()]
    peak = torch.cuda.max_memory_allocated(backbone.device) if is_cuda else _peak()
    return {
        "seconds_an_evaluation": seconds / rows,
        "seconds_an_encoding": encoding,
        "weights_bytes": sum(tensor.nbytes for tensor in weights),
        "peak_bytes": peak,
    }


def _timed(compute):
    """Median seconds of some calls without the first, and the last result."""
    seconds, result = [], None
    while len(seconds) < MAX_PASSES and sum(seconds) < MAX_SECONDS:
        start = time.perf_counter()
        result = compute()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:] or seconds)), result


def _peak():
    """Peak memory of this process, in bytes; None on Windows."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
