"""Command line: ``diffusion-sklearn`` or ``python -m diffusion_sklearn``."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusion_sklearn import ConditionalDiffusionClassifier, __version__
from diffusion_sklearn.backbones._loading import BUNDLED
from diffusion_sklearn.datasets import load_fashion_photos
from diffusion_sklearn.metrics import clopper_pearson


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None: those of the process.

    Returns
    -------
    status : int
        Exit status, 0 when all went well.
    """
    parser = argparse.ArgumentParser(
        prog="diffusion-sklearn",
        description="Conditional diffusion models as scikit-learn classifiers.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="classify 100 photos that ship, with a model that ships"
    )
    demo.add_argument("--model", choices=list(BUNDLED), default="fashion-dit")
    demo.add_argument("--n-images", type=int, default=100, help="at most 1,000")
    demo.add_argument("--n-trials", type=int, default=100, help="trials for a class")
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("diffusion-sklearn-demo.png"),
        help="where the picture goes",
    )
    args = parser.parse_args(argv)
    if not 1 <= args.n_images <= 1000:
        demo.error(f"--n-images={args.n_images} must lie between 1 and 1000")
    if args.n_trials < 1:
        demo.error(f"--n-trials={args.n_trials} must be 1 or more")
    if args.output.suffix not in Image.registered_extensions():
        demo.error(f"--output={args.output} must end in .png or another image suffix")
    if not args.output.absolute().parent.is_dir():
        demo.error(f"--output={args.output}: there is no such folder")
    return run_demo(args)


def run_demo(args):
    """Classify shipped photos, print what came out and draw it.

    Parameters
    ----------
    args : argparse.Namespace
        ``model``, ``n_images``, ``n_trials`` and ``output``.

    Returns
    -------
    status : int
    """
    photos = load_fashion_photos()
    images, truth = photos.images[: args.n_images], photos.names[: args.n_images]
    print(f"{len(images)} Fashion-MNIST test photos, model {args.model}")
    clf = ConditionalDiffusionClassifier(
        model=args.model, n_trials=args.n_trials, verbose=int(sys.stderr.isatty())
    ).fit(classes=photos.target_names)
    began = time.perf_counter()
    result = clf.denoising_errors(images)
    seconds = time.perf_counter() - began
    proba = np.exp(result.log_proba)  # (n, k)
    predicted = clf.classes_[proba.argmax(axis=1)]

    print("\nphoto  true        predicted   probability")
    for index in _worth_showing(predicted == truth):
        mark = "" if predicted[index] == truth[index] else "  wrong"
        print(
            f"{index:5d}  {truth[index]:<10}  {predicted[index]:<10}  "
            f"{proba[index].max():11.3f}{mark}"
        )
    n_correct = int((predicted == truth).sum())
    low, high = clopper_pearson(n_correct, len(images))
    print(f"\naccuracy     {n_correct / len(images):.1%}", end="")
    print(f"   95 % interval {low:.1%} to {high:.1%}")
    print(f"speed        {len(images) / seconds:.2f} images a second")
    full = len(clf.classes_) * args.n_trials
    print(
        f"cost         {result.n_evaluations.mean():.0f} network evaluations an image, "
        f"of {full} without pruning"
    )
    draw_predictions(images, truth, clf.classes_, proba).save(args.output)
    print(f"picture      {args.output}")
    return 0


def _worth_showing(correct, n=10):
    """The first few photos, with a few that came out wrong among them."""
    wrong = np.flatnonzero(~correct)[: n // 3]
    right = np.flatnonzero(correct)[: n - len(wrong)]
    return np.sort(np.concatenate([wrong, right]))


def draw_predictions(images, truth, classes, proba, columns=10):
    """Draw images with their labels and the three likeliest classes.

    Parameters
    ----------
    images : ndarray of shape (n, h, w) or (n, h, w, 3), uint8
        The images.
    truth : sequence of n str
        Their true classes.
    classes : ndarray of shape (n_classes,)
        Names of the classes.
    proba : ndarray of shape (n, n_classes)
        Their posterior.
    columns : int, default=10
        Images in a row.

    Returns
    -------
    picture : PIL.Image.Image
        Titles are green where the likeliest class is the true one, else red.
    """
    width, photo, bars = 132, 84, 54
    height = photo + bars + 22
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=11)
    for index, (image, true, p) in enumerate(zip(images, truth, proba, strict=True)):
        x, y = index % columns * width, index // columns * height
        likeliest = p.argsort()[::-1][:3]
        good = classes[likeliest[0]] == true
        color = (25, 130, 60) if good else (200, 35, 35)
        draw.text((x + 6, y + 4), f"{true}", fill=color, font=font)
        square = Image.fromarray(image).convert("RGB").resize((photo, photo))
        picture.paste(square, (x + 6, y + 20))
        for place, k in enumerate(likeliest):
            top = y + 22 + photo + 16 * place
            shade = color if classes[k] == true or place == 0 else (120, 120, 120)
            draw.rectangle((x + 6, top + 12, x + 6 + 110 * p[k], top + 14), fill=shade)
            draw.text(
                (x + 6, top - 2), f"{classes[k]} {p[k]:.2f}", fill="black", font=font
            )
    return picture
