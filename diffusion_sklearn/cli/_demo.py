"""The command ``demo``: real photos in; a table, a picture and a report out."""

import sys
import time
from contextlib import redirect_stdout

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.special import softmax

from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.cli._output import print_json
from diffusion_sklearn.cli._report import N_MISTAKES, draw_evidence, write_report
from diffusion_sklearn.cli._scores import proportion, text_score
from diffusion_sklearn.cli._table import check_writable
from diffusion_sklearn.datasets import load_fashion_photos, load_fashion_winoground
from diffusion_sklearn.metrics import winoground_scores

INTERVAL = "{value:6.1%}   95 % interval {low:.1%} to {high:.1%}"
COLORS = {"right": (25, 130, 60), "wrong": (200, 35, 35), "": (120, 120, 120)}


def run_demo(args):
    """Classify images that ship; write a picture and a report.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.
    """
    demo = DEMOS[args.model]
    n_trials = getattr(args, "n_trials", demo["n_trials"])
    if not 1 <= args.n_images <= demo["max_images"]:
        args.fail(
            f"--n-images={args.n_images} must lie between 1 and {demo['max_images']}"
        )
    if n_trials < 1:
        args.fail(f"--n-trials={n_trials} must be 1 or more")
    if args.output.suffix not in Image.registered_extensions():
        args.fail(f"--output={args.output} must end in .png or another image suffix")
    report = args.output.with_suffix(".html")
    for path in (args.output, report):
        check_writable(path, "--output", args.fail)
    with redirect_stdout(None if args.json else sys.stdout):
        cards, n_wrong, result, facts = demo["run"](args.n_images, n_trials)
    draw_cards(cards, **demo["picture"]).save(args.output)
    mistakes = [card for card in cards if len(card["images"]) > 1]
    text = (
        f"{len(mistakes)} of {n_wrong}. Red: where the prediction explains the image "
        "better than the true class; blue: the reverse."
    )
    sections = [
        {"heading": "Mistakes and their evidence", "text": text, "cards": mistakes},
        {
            "heading": "All images",
            "text": demo["lines"],
            "cards": [card | {"images": card["images"][:1]} for card in cards],
        },
    ]
    title = f"Demo of {args.model} on {result['n_images']} images"
    write_report(report, title, facts, sections)
    if args.json:
        paths = {"picture": str(args.output), "report": str(report)}
        print_json({"model": args.model, "n_trials": n_trials} | result | paths)
        return
    facts += [("picture", args.output), ("report", report)]
    print("\n".join(f"{name:<12} {value}" for name, value in facts))


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
    cards : list of dict
        A photo each, with the three likeliest classes, for
        :func:`~diffusion_sklearn.cli._report.write_report`; some of those that are
        classified wrongly have a picture of the evidence too.
    n_wrong : int
    result : dict
        Accuracy and cost.
    facts : list of (str, str)
        The same to be read.
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
    accuracy = proportion(int(correct.sum()), len(images))
    cost, full = errors.n_evaluations.mean(), len(clf.classes_) * n_trials
    result = {
        "n_images": len(images),
        "accuracy": accuracy,
        "images_per_second": speed,
        "evaluations": {"mean": float(cost), "without_pruning": full},
    }
    count = f"{cost:.0f} network evaluations an image, of {full} without pruning"
    facts = [
        ("accuracy", INTERVAL.format(**accuracy)),
        ("speed", f"{speed:.2f} images a second"),
        ("cost", count),
    ]
    cards = []
    for image, name, best, p in zip(images, names, predicted, proba, strict=True):
        status = {best: "wrong", name: "right"}
        top = [(clf.classes_[k], p[k]) for k in p.argsort()[::-1][:3]]
        lines = [(label, value, status.get(label, "")) for label, value in top]
        cards.append({"title": name, "images": [image], "lines": lines})
    for k in wrong[:N_MISTAKES]:
        (evidence,) = clf.evidence(images[k : k + 1], predicted[k], names[k])
        cards[k]["images"].append(draw_evidence(images[k], evidence))
    return cards, len(wrong), result, facts


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
    cards, n_wrong, result, facts
        As of :func:`classify_photos`; the cards have the probability of the true
        caption, of each model.
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
    both = {name: text_score(winoground_scores(m, tags)) for name, m in scores.items()}
    facts = [(name, INTERVAL.format(**score)) for name, score in both.items()]
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
    wrong, cards = proba["diffusion"] <= 0.5, []  # (n, 2)
    diffusion.set_params(verbose=0)
    n_shown = 0
    for k in np.concatenate([better, np.setdiff1d(np.arange(n), better)]):
        for i in (0, 1):
            true, other = captions[k, [i, 1 - i]]
            lines = [
                (name, p[k, i], "right" if p[k, i] > 0.5 else "wrong")
                for name, p in proba.items()
            ]
            card = {"title": true, "images": [images[k, i]], "lines": lines}
            if wrong[k, i] and n_shown < N_MISTAKES:
                n_shown += 1
                diffusion.fit(classes=[true, other])
                (evidence,) = diffusion.evidence(images[k, i][None], other, true)
                card["images"].append(draw_evidence(images[k, i], evidence))
            cards.append(card)
    return cards, int(wrong.sum()), result, facts


def draw_cards(cards, n_shown, columns, side):
    """Draw images in a grid, with lines of text below each.

    Parameters
    ----------
    cards : list of dict
        As for :func:`~diffusion_sklearn.cli._report.write_report`.
    n_shown : int
        The first of them are drawn.
    columns : int
        Images in a row.
    side : int
        Of an image, in pixels.

    Returns
    -------
    picture : PIL.Image.Image
    """
    cards, gap, line_height = cards[:n_shown], 12, 17
    width = side + gap
    height = side + gap + line_height * (1 + max(len(card["lines"]) for card in cards))
    size = (columns * width, -(-len(cards) // columns) * height)
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for index, card in enumerate(cards):
        x = index % columns * width + gap // 2
        y = index // columns * height + gap // 2
        image = Image.fromarray(card["images"][0]).convert("RGB")
        picture.paste(image.resize((side, side)), (x, y))
        draw.text((x, y + side), card["title"], fill="black", font=font)
        for k, (label, p, status) in enumerate(card["lines"], 1):
            color, top = COLORS[status], y + side + line_height * k
            draw.text((x, top), f"{label} {p:.3f}", fill=color, font=font)
            draw.rectangle((x, top + 14, x + side * p, top + 15), fill=color)
    return picture


DEMOS = {
    "fashion-dit": {
        "run": classify_photos,
        "n_trials": 100,
        "max_images": 1000,
        "picture": {"n_shown": 1000, "columns": 10, "side": 110},
        "lines": "With the three likeliest classes.",
    },
    "fashion-scenes": {
        "run": match_scenes,
        "n_trials": 25,
        "max_images": 800,
        "picture": {"n_shown": 24, "columns": 6, "side": 192},
        "lines": "With the probability that each model gives to the true caption.",
    },
}
"""Demo of each bundled model: defaults and limits, the shape of its picture, and what
the report says of the lines below its images."""
