"""The command ``demo``: real photos in, a table and a picture out."""

import sys
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.special import softmax

from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.cli._table import check_writable
from diffusion_sklearn.datasets import load_fashion_photos, load_fashion_winoground
from diffusion_sklearn.metrics import clopper_pearson, winoground_scores

GREEN, RED, GRAY = (25, 130, 60), (200, 35, 35), (120, 120, 120)


def run_demo(args):
    """Classify images that ship.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.
    """
    run, n_trials, max_images = DEMOS[args.model]
    n_trials = n_trials if args.n_trials is None else args.n_trials
    if not 1 <= args.n_images <= max_images:
        args.fail(f"--n-images={args.n_images} must lie between 1 and {max_images}")
    if n_trials < 1:
        args.fail(f"--n-trials={n_trials} must be 1 or more")
    if args.output.suffix not in Image.registered_extensions():
        args.fail(f"--output={args.output} must end in .png or another image suffix")
    check_writable(args.output, "--output", args.fail)
    run(args.n_images, n_trials).save(args.output)
    print(f"picture      {args.output}")


def classify_photos(n_images, n_trials):
    """Classify shipped photos with fashion-dit and print the results.

    Parameters
    ----------
    n_images : int
        At most 1,000.
    n_trials : int
        Trials for each class.

    Returns
    -------
    picture : PIL.Image.Image
        The photos with their labels and the three likeliest classes. Labels are green
        where the likeliest class is the true one, else red.
    """
    photos = load_fashion_photos()
    images, names = photos.images[:n_images], photos.names[:n_images]
    print(f"{len(images)} Fashion-MNIST test photos, model fashion-dit")
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=n_trials, verbose=int(sys.stderr.isatty())
    ).fit(classes=photos.target_names)
    start = time.perf_counter()
    result = clf.denoising_errors(images)
    seconds = time.perf_counter() - start
    proba = np.exp(result.log_proba)  # (n, k)
    predicted = clf.classes_[proba.argmax(axis=1)]
    correct = predicted == names

    print("\nphoto  true        predicted   probability")
    wrong = np.flatnonzero(~correct)[:3]
    shown = np.concatenate([wrong, np.flatnonzero(correct)[: 10 - len(wrong)]])
    for k in np.sort(shown):
        mark = "" if correct[k] else "  wrong"
        row = f"{k:5d}  {names[k]:<10}  {predicted[k]:<10}"
        print(f"{row}  {proba[k].max():11.3f}{mark}")
    low, high = clopper_pearson(int(correct.sum()), len(images))
    print(f"\naccuracy     {correct.mean():.1%}", end="")
    print(f"   95 % interval {low:.1%} to {high:.1%}")
    print(f"speed        {len(images) / seconds:.2f} images a second")
    print(
        f"cost         {result.n_evaluations.mean():.0f} network evaluations an image, "
        f"of {len(clf.classes_) * n_trials} without pruning"
    )
    cards = []
    for image, name, is_correct, p in zip(images, names, correct, proba, strict=True):
        color = GREEN if is_correct else RED
        lines = [(name, color, 0)]
        for k in p.argsort()[::-1][:3]:
            label = clf.classes_[k]
            shade = color if label == name or len(lines) == 1 else GRAY
            lines.append((f"{label} {p[k]:.2f}", shade, p[k]))
        cards.append((image, lines))
    return draw_cards(cards, columns=10, side=110)


def match_scenes(n_images, n_trials):
    """Match scenes with captions of the same words, and compare with CLIP.

    Parameters
    ----------
    n_images : int
        At most 800, two for each example.
    n_trials : int
        Trials for each pair of scene and caption.

    Returns
    -------
    picture : PIL.Image.Image
        Some of the scenes with their captions and, for each model, the probability of
        the true caption.
    """
    data = load_fashion_winoground()
    n = max(1, n_images // 2)
    images, captions, tags = data.images[:n], data.captions[:n], data.tags[:n]
    print(f"{n} times two scenes and two captions of the same words: which is which?")
    print("model fashion-scenes, against fashion-clip, whose text encoder it uses")
    diffusion = ZeroShotDiffusionClassifier(
        model="fashion-scenes", n_trials=n_trials, verbose=int(sys.stderr.isatty())
    )
    clip = CLIPZeroShotClassifier(model="fashion-clip")
    start = time.perf_counter()
    scores = {"diffusion": diffusion.score_pairs(images, captions)}  # (n, 2, 2)
    seconds = time.perf_counter() - start
    scores["CLIP"] = clip.score_pairs(images, captions)
    # Probability of the true caption of the two, for each image.
    proba = {
        name: softmax(matrix, axis=2)[:, [0, 1], [0, 1]]
        for name, matrix in scores.items()
    }  # (n, 2) each
    correct = {name: (p > 0.5).all(axis=1) for name, p in proba.items()}
    better = np.flatnonzero(correct["diffusion"] & ~correct["CLIP"])
    print(f"\nCLIP is wrong and diffusion right in {len(better)} of {n}:")
    for k in better[:3]:
        print(f"\nexample {k}, swapped: {tags[k]}")
        print("         probability of the true caption  diffusion   CLIP")
        for i in (0, 1):
            columns = f"{proba['diffusion'][k, i]:8.3f}{proba['CLIP'][k, i]:8.3f}"
            print(f"scene {i + 1}  {captions[k, i]:<36}{columns}")
    print("\nboth scenes right")
    for name, matrix in scores.items():
        result = winoground_scores(matrix, tags)
        low, high = result.intervals["text"]
        print(f"{name:<13}{result.text:6.1%}   95 % interval {low:.1%} to {high:.1%}")
    print(f"{'chance':<13}{0.25:6.1%}")
    print(f"\nspeed        {2 * n / seconds:.2f} images a second")
    print(f"cost         {2 * n_trials} network evaluations an image")
    cards = []
    for k in np.concatenate([better, np.setdiff1d(np.arange(n), better)])[:12]:
        for i in (0, 1):
            lines = [(captions[k, i], "black", 0)]
            for name, p in proba.items():
                color = GREEN if p[k, i] > 0.5 else RED
                lines.append((f"{name} {p[k, i]:.3f}", color, p[k, i]))
            cards.append((images[k, i], lines))
    return draw_cards(cards, columns=6, side=192)


def draw_cards(cards, columns, side):
    """Draw images in a grid, with lines of text below each.

    Parameters
    ----------
    cards : list of (ndarray, list of tuple)
        An image and its lines: text, colour, and the length of a bar below the text as
        a fraction of `side`.
    columns : int
        Images in a row.
    side : int
        Of an image, in pixels.

    Returns
    -------
    picture : PIL.Image.Image
    """
    gap, line_height = 12, 17
    width = side + gap
    height = side + gap + line_height * max(len(lines) for _, lines in cards)
    size = (columns * width, -(-len(cards) // columns) * height)
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for index, (image, lines) in enumerate(cards):
        x = index % columns * width + gap // 2
        y = index // columns * height + gap // 2
        enlarged = Image.fromarray(image).convert("RGB").resize((side, side))
        picture.paste(enlarged, (x, y))
        for k, (text, color, fraction) in enumerate(lines):
            top = y + side + line_height * k
            draw.text((x, top), text, fill=color, font=font)
            if fraction:
                bar = (x, top + 14, x + side * fraction, top + 15)
                draw.rectangle(bar, fill=color)
    return picture


DEMOS = {
    "fashion-dit": (classify_photos, 100, 1000),
    "fashion-scenes": (match_scenes, 25, 800),
}
"""Demo of each bundled model, its number of trials, and its number of images."""
