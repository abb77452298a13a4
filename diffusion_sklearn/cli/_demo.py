"""The two demos: real photos in, a table and a picture out."""

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
from diffusion_sklearn.datasets import load_fashion_photos, load_fashion_winoground
from diffusion_sklearn.metrics import clopper_pearson, winoground_scores

GREEN, RED, GRAY = (25, 130, 60), (200, 35, 35), (120, 120, 120)


def classify_photos(n_images, n_trials, output):
    """Classify shipped photos with fashion-dit, print what came out and draw it.

    Parameters
    ----------
    n_images : int
        At most 1,000.
    n_trials : int
        Trials for a class.
    output : Path
        Where the picture goes.
    """
    photos = load_fashion_photos()
    images, truth = photos.images[:n_images], photos.names[:n_images]
    print(f"{len(images)} Fashion-MNIST test photos, model fashion-dit")
    clf = ConditionalDiffusionClassifier(
        model="fashion-dit", n_trials=n_trials, verbose=int(sys.stderr.isatty())
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
    full = len(clf.classes_) * n_trials
    print(
        f"cost         {result.n_evaluations.mean():.0f} network evaluations an image, "
        f"of {full} without pruning"
    )
    draw_predictions(images, truth, clf.classes_, proba).save(output)
    print(f"picture      {output}")


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
        color = GREEN if good else RED
        draw.text((x + 6, y + 4), f"{true}", fill=color, font=font)
        square = Image.fromarray(image).convert("RGB").resize((photo, photo))
        picture.paste(square, (x + 6, y + 20))
        for place, k in enumerate(likeliest):
            top = y + 22 + photo + 16 * place
            shade = color if classes[k] == true or place == 0 else GRAY
            draw.rectangle((x + 6, top + 12, x + 6 + 110 * p[k], top + 14), fill=shade)
            draw.text(
                (x + 6, top - 2), f"{classes[k]} {p[k]:.2f}", fill="black", font=font
            )
    return picture


def match_scenes(n_images, n_trials, output):
    """Match scenes with captions of the same words, beside the model's own CLIP.

    Parameters
    ----------
    n_images : int
        At most 800, two for each example.
    n_trials : int
        Trials for a pair of scene and caption.
    output : Path
        Where the picture goes.
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
    began = time.perf_counter()
    scores = {"diffusion": diffusion.score_pairs(images, captions)}  # (n, 2, 2)
    seconds = time.perf_counter() - began
    scores["CLIP"] = clip.score_pairs(images, captions)
    # Probability of the right one of the two captions, for each image.
    proba = {
        name: softmax(matrix, axis=2)[:, [0, 1], [0, 1]]
        for name, matrix in scores.items()
    }  # (n, 2) each
    right = {name: (p > 0.5).all(axis=1) for name, p in proba.items()}
    only_ours = np.flatnonzero(right["diffusion"] & ~right["CLIP"])
    print(f"\nCLIP is wrong and diffusion right in {len(only_ours)} of {n}:")
    for k in only_ours[:3]:
        print(f"\nexample {k}, swapped: {tags[k]}")
        print("         probability of the true caption  diffusion   CLIP")
        for i in (0, 1):
            chances = f"{proba['diffusion'][k, i]:8.3f}{proba['CLIP'][k, i]:8.3f}"
            print(f"scene {i + 1}  {captions[k, i]:<36}{chances}")
    print("\nboth scenes right")
    for name, matrix in scores.items():
        result = winoground_scores(matrix, tags)
        low, high = result.intervals["text"]
        print(f"{name:<13}{result.text:6.1%}   95 % interval {low:.1%} to {high:.1%}")
    print(f"{'chance':<13}{0.25:6.1%}")
    print(f"\nspeed        {2 * n / seconds:.2f} images a second")
    print(f"cost         {2 * n_trials} network evaluations an image")
    order = np.concatenate([only_ours, np.setdiff1d(np.arange(n), only_ours)])[:12]
    draw_matches(
        images[order],
        captions[order],
        {name: p[order] for name, p in proba.items()},
    ).save(output)
    print(f"picture      {output}")


def draw_matches(images, captions, proba, columns=3):
    """Draw pairs of scenes with their captions, and how sure each model is of them.

    Parameters
    ----------
    images : ndarray of shape (n, 2, h, w, 3), uint8
        The scenes.
    captions : ndarray of shape (n, 2)
        The caption of each.
    proba : dict of str to ndarray of shape (n, 2)
        What each model gives the true caption.
    columns : int, default=3
        Pairs in a row.

    Returns
    -------
    picture : PIL.Image.Image
    """
    scene, gap = 192, 12
    width, height = 2 * (scene + gap), scene + 62
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * (width + gap), rows * height), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=11)
    for k, i in np.ndindex(images.shape[:2]):
        x = k % columns * (width + gap) + i * (scene + gap) + gap // 2
        y = k // columns * height + gap // 2
        large = Image.fromarray(images[k, i]).resize((scene, scene), Image.BICUBIC)
        picture.paste(large, (x, y))
        draw.text((x, y + scene + 2), captions[k, i], fill="black", font=font)
        for line, (name, p) in enumerate(proba.items(), start=1):
            color = GREEN if p[k, i] > 0.5 else RED
            text = f"{name} {p[k, i]:.3f}"
            draw.text((x, y + scene + 2 + 15 * line), text, fill=color, font=font)
    return picture


DEMOS = {
    "fashion-dit": (classify_photos, 100, 1000),
    "fashion-scenes": (match_scenes, 25, 800),
}
"""Demo of each bundled model, its number of trials, and the most images it has."""
