"""The command ``demo``: real photos in; a table, a picture and a report out."""

import sys
import time
from contextlib import redirect_stdout

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.special import softmax
from sklearn.base import clone

from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.cli._output import print_json
from diffusion_sklearn.cli._report import (
    N_MISTAKES,
    card,
    draw_evidence,
    write_report,
)
from diffusion_sklearn.cli._table import check_writable
from diffusion_sklearn.datasets import load_fashion_photos, load_fashion_winoground
from diffusion_sklearn.metrics import clopper_pearson, winoground_scores

GREEN, RED, GRAY = (25, 130, 60), (200, 35, 35), (120, 120, 120)


def run_demo(args):
    """Classify images that ship; write a picture and a report.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.
    """
    run, n_trials, max_images = DEMOS[args.model]
    n_trials = getattr(args, "n_trials", n_trials)
    if not 1 <= args.n_images <= max_images:
        args.fail(f"--n-images={args.n_images} must lie between 1 and {max_images}")
    if n_trials < 1:
        args.fail(f"--n-trials={n_trials} must be 1 or more")
    if args.output.suffix not in Image.registered_extensions():
        args.fail(f"--output={args.output} must end in .png or another image suffix")
    report = args.output.with_suffix(".html")
    for path in (args.output, report):
        check_writable(path, "--output", args.fail)
    with redirect_stdout(None if args.json else sys.stdout):
        picture, result, facts, sections = run(args.n_images, n_trials)
    picture.save(args.output)
    title = f"Demo of {args.model} on {result['n_images']} images"
    write_report(report, title, facts, sections)
    if args.json:
        paths = {"picture": str(args.output), "report": str(report)}
        print_json({"model": args.model, "n_trials": n_trials} | result | paths)
        return
    print("\n".join(f"{name:<12} {value}" for name, value in facts))
    print(f"picture      {args.output}")
    print(f"report       {report}")


def classify_photos(n_images, n_trials):
    """Classify shipped photos with fashion-dit and print some of the results.

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
    result : dict
        Accuracy and cost.
    facts : list of (str, str)
        The same to be read.
    sections : list of dict
        For :func:`~diffusion_sklearn.cli._report.write_report`.
    """
    photos = load_fashion_photos()
    images, names = photos.images[:n_images], photos.names[:n_images]
    print(f"{len(images)} Fashion-MNIST test photos, model fashion-dit")
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=n_trials, verbose=int(sys.stderr.isatty())
    ).fit(classes=photos.target_names)
    start = time.perf_counter()
    errors = clf.denoising_errors(images)
    speed = len(images) / (time.perf_counter() - start)
    proba = np.exp(errors.log_proba)  # (n, k)
    predicted = clf.classes_[proba.argmax(axis=1)]
    correct = predicted == names

    print("\nphoto  true        predicted   probability")
    wrong = np.flatnonzero(~correct)
    shown = np.concatenate([wrong[:3], np.flatnonzero(correct)])[:10]
    for k in np.sort(shown):
        mark = "" if correct[k] else "  wrong"
        row = f"{k:5d}  {names[k]:<10}  {predicted[k]:<10}"
        print(f"{row}  {proba[k].max():11.3f}{mark}")
    print()
    low, high = clopper_pearson(int(correct.sum()), len(images))
    cost, full = errors.n_evaluations.mean(), len(clf.classes_) * n_trials
    result = {
        "n_images": len(images),
        "accuracy": {"value": float(correct.mean()), "low": low, "high": high},
        "images_per_second": speed,
        "evaluations": {"mean": float(cost), "without_pruning": full},
    }
    facts = [
        ("accuracy", f"{correct.mean():.1%}   95 % interval {low:.1%} to {high:.1%}"),
        ("speed", f"{speed:.2f} images a second"),
        (
            "cost",
            f"{cost:.0f} network evaluations an image, of {full} without pruning",
        ),
    ]
    cards, posteriors = [], []
    for image, name, is_correct, p in zip(images, names, correct, proba, strict=True):
        color = GREEN if is_correct else RED
        best = [(clf.classes_[k], p[k]) for k in p.argsort()[::-1][:3]]
        lines = [(name, color, 0)]
        for label, value in best:
            shade = color if label == name or len(lines) == 1 else GRAY
            lines.append((f"{label} {value:.2f}", shade, value))
        cards.append((image, lines))
        lines = [(best[0][0], best[0][1], "right" if is_correct else "wrong")]
        lines += [(k, v, "right" if k == name else "") for k, v in best[1:]]
        posteriors.append(card(f"true: {name}", [image], lines))
    maps = []
    for k in wrong[:N_MISTAKES]:
        (evidence,) = clf.evidence(images[k : k + 1], predicted[k], names[k])
        maps.append(_evidence_card(posteriors[k], images[k], evidence))
    sections = _sections(maps, len(wrong), posteriors, "the three likeliest classes")
    return draw_cards(cards, columns=10, side=110), result, facts, sections


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
    result, facts, sections
        As of :func:`classify_photos`.
    """
    data = load_fashion_winoground()
    n = max(1, n_images // 2)
    images, captions, tags = data.images[:n], data.captions[:n], data.tags[:n]
    print(f"{n} times two scenes and two captions of the same words: which is which?")
    print("model fashion-scenes, against fashion-clip, whose text encoder it uses")
    diffusion = ZeroShotDiffusionClassifier(
        model="fashion-scenes",
        prompt_template="{}",
        n_trials=n_trials,
        verbose=int(sys.stderr.isatty()),
    )
    clip = CLIPZeroShotClassifier(model="fashion-clip")
    start = time.perf_counter()
    scores = {"diffusion": diffusion.score_pairs(images, captions)}  # (n, 2, 2)
    speed = 2 * n / (time.perf_counter() - start)
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
    facts, both = [], {}
    for name, matrix in scores.items():
        pairs = winoground_scores(matrix, tags)
        low, high = pairs.intervals["text"]
        both[name] = {"value": pairs.text, "low": low, "high": high}
        interval = f"95 % interval {low:.1%} to {high:.1%}"
        facts.append((name, f"{pairs.text:6.1%}   {interval}"))
    facts += [
        ("chance", f"{0.25:6.1%}"),
        ("speed", f"{speed:.2f} images a second"),
        ("cost", f"{2 * n_trials} network evaluations an image"),
    ]
    result = {
        "n_images": 2 * n,
        "both_scenes_right": both,
        "images_per_second": speed,
        "evaluations": {"mean": float(2 * n_trials)},
    }
    cards, posteriors = [], []
    for k in np.concatenate([better, np.setdiff1d(np.arange(n), better)]):
        for i in (0, 1):
            lines, bars = [(captions[k, i], "black", 0)], []
            for name, p in proba.items():
                color = GREEN if p[k, i] > 0.5 else RED
                lines.append((f"{name} {p[k, i]:.3f}", color, p[k, i]))
                status = "right" if p[k, i] > 0.5 else "wrong"
                bars.append((name, p[k, i], status))
            cards.append((images[k, i], lines))
            posteriors.append(card(f"true: {captions[k, i]}", [images[k, i]], bars))
    wrong, maps = np.argwhere(proba["diffusion"] <= 0.5), []
    for k, i in wrong[:N_MISTAKES]:
        a, b = captions[k, [1 - i, i]]
        clf = clone(diffusion).fit(classes=[a, b])
        (evidence,) = clf.evidence(images[k, i][None], a, b)
        bars = [(a, 1 - proba["diffusion"][k, i], "wrong")]
        bars.append((b, proba["diffusion"][k, i], "right"))
        shown = card(f"true: {b}", [images[k, i]], bars)
        maps.append(_evidence_card(shown, images[k, i], evidence))
    text = "the probability of the true caption of the two, of each model"
    sections = _sections(maps, len(wrong), posteriors, text)
    return draw_cards(cards[:24], columns=6, side=192), result, facts, sections


def _evidence_card(shown, image, evidence):
    """A card with a map beside its image."""
    drawn = card("", [draw_evidence(image, evidence)], [])
    return shown | {"images": shown["images"] + drawn["images"]}


def _sections(maps, n_wrong, posteriors, text):
    """Those of the report: evidence for the wrong ones, and all images."""
    shown = (
        f"{len(maps)} of {n_wrong}. Red: where the prediction explains the image "
        "better than the true class; blue: the reverse."
    )
    return [
        {"heading": "Mistakes and their evidence", "text": shown, "cards": maps},
        {"heading": "All images", "text": f"With {text}.", "cards": posteriors},
    ]


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
