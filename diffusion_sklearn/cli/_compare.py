"""The command ``compare``: two models on the same labelled folder."""

from diffusion_sklearn import CLIPZeroShotClassifier, ImageError
from diffusion_sklearn.backbones._completeness import list_files
from diffusion_sklearn.backbones._families import BUNDLED
from diffusion_sklearn.backbones._sources import load_pretrained, resolve_name
from diffusion_sklearn.baselines import _contrastive
from diffusion_sklearn.cli._classify import make_classifier
from diffusion_sklearn.cli._output import print_json, print_table
from diffusion_sklearn.cli._scores import format_score, proportion
from diffusion_sklearn.cli._table import check_writable, printable, problem_of
from diffusion_sklearn.datasets import load_dataset
from diffusion_sklearn.images._read import read_image
from diffusion_sklearn.inspection import (
    ClassifierComparisonDisplay,
    compare_classifiers,
)
from diffusion_sklearn.inspection._common import figure_and_axes


def run_compare(args):
    """Compare two models and print the difference in accuracy.

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
    if args.a == args.b:
        args.fail(f"A={args.a} and B={args.b} are the same; name two models.")
    if args.output is not None:
        check_writable(args.output, "--output", args.fail)
        figure, ax = figure_and_axes(None)
        kinds = figure.canvas.get_supported_filetypes()
        if args.output.suffix[1:] not in kinds:
            args.fail(
                f"--output={args.output} must end in one of .{', .'.join(kinds)}."
            )
    data = load_dataset(args.folder, max_images=args.max_images)
    skipped, readable = {}, []
    for k, path in enumerate(data.images):
        try:
            read_image(path, 0)
            readable.append(k)
        except ImageError as error:
            skipped[printable(path)] = problem_of(path, error)
    if not readable:
        raise ValueError(f"FOLDER={args.folder}: none of its images can be read.")
    classifiers = {}
    for model in (args.a, args.b):
        clf = _make(model, args)
        clf.set_params(class_names=data.class_names, verbose=int(not args.quiet))
        classifiers[model] = clf.fit(classes=data.classes)
    images = [data.images[k] for k in readable]
    result = compare_classifiers(classifiers, images, data.target[readable])
    if args.output is not None:
        ClassifierComparisonDisplay(result).plot(ax)
        figure.savefig(args.output, bbox_inches="tight")
    _print_comparison(result, args)
    return skipped, len(data.images)


def _make(model, args):
    """The classifier that suits a model, not fitted."""
    if not is_contrastive(model):
        args.model, args.prompts = model, None
        return make_classifier(args)
    return CLIPZeroShotClassifier(
        model=model,
        prompt_template=args.prompt_template or "auto",
        device=args.device,
        dtype=args.dtype,
    )


def is_contrastive(model):
    """Whether a model is loaded as CLIP: it has no diffusers pipeline.

    Parameters
    ----------
    model : str
        Hub id, folder, file or bundled name.

    Returns
    -------
    contrastive : bool
    """
    bundled = BUNDLED | _contrastive.BUNDLED
    name, revision = resolve_name(model, bundled)
    if name.endswith(".safetensors"):
        return False

    def read(source, how):
        return list_files(source, how, "model_index.json")

    try:
        load_pretrained(name, revision, read, bundled, "")
        return False
    except OSError:
        return True


def _print_comparison(result, args):
    n, (first, second) = result.correct.shape[1], result.correct
    scores = [proportion(int(one.sum()), n) for one in result.correct]
    low, high = result.interval[0, 1].tolist()
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    value, p_value = float(result.difference[0, 1]), float(result.p_value[0, 1])
    if args.json:
        models = [
            {"model": name, "accuracy": score}
            for name, score in zip(result.names, scores, strict=True)
        ]
        difference = {"value": value, "low": low, "high": high, "p_value": p_value}
        only = {"only_a_correct": only_a, "only_b_correct": only_b}
        print_json({"n_images": n, "models": models, "difference": difference} | only)
        return
    rows = zip(result.names, map(format_score, scores), strict=True)
    print_table((f"{n} images", "accuracy"), [*rows])
    print(
        f"difference {100 * value:+.1f} points   95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}   McNemar's test: p = {p_value:.3g}\n"
        f"only {args.a} is right on {only_a} images, only {args.b} on {only_b}"
    )
