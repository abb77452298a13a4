"""Composed scenes: a text-to-image model against the CLIP that conditions it.

    python -m benchmarks.accuracy.compositional

The bundled fashion-scenes as a classifier against the bundled fashion-clip, whose text
encoder it uses, and against chance, on scenes of test photos with combinations that
occur in training, and with held-out ones. The questions are the item among 10, the
colour among 6 and the relation among 4, where the rest of the caption is true. The
scores are text, image and group score on two scenes and two captions of the same words
(Table 3 of Li et al., ICCV 2023). All parameters have their defaults (``--target
epsilon``: the error of the noise without weights, as in the paper). For the image and
group score, the unconditional error is subtracted. About 12 minutes on 2 cores,
``--quick`` 2.
"""

import time
from dataclasses import replace

from sklearn.base import clone
from sklearn.utils import Bunch

from benchmarks._common import make_parser, write
from diffusion_sklearn import CLIPZeroShotClassifier, ZeroShotDiffusionClassifier
from diffusion_sklearn.datasets import (
    load_fashion_winoground,
    make_fashion_scenes,
    make_fashion_winoground,
)
from diffusion_sklearn.datasets._fashion_mnist import FASHION_NAMES
from diffusion_sklearn.datasets._fashion_scenes import RELATIONS, SCENE_COLORS
from diffusion_sklearn.metrics import clopper_pearson, winoground_scores

SPLITS = {"test": "test scenes", "held-out": "held-out combinations"}


def questions(scenes):
    """Captions to choose from for each scene, the true one first, by question."""
    captions = {"item": {}, "colour": {}, "relation": {}}
    for index, scene in enumerate(scenes):
        (item, *items), (color, *colors) = scene.items, scene.colors
        captions["item"][index] = [
            replace(scene, items=(other, *items)).caption
            for other in _first(item, FASHION_NAMES)
        ]
        captions["colour"][index] = [
            replace(scene, colors=(other, *colors)).caption
            for other in _first(color, SCENE_COLORS)
        ]
        if scene.relation is not None:
            captions["relation"][index] = [
                replace(scene, relation=other).caption
                for other in _first(scene.relation, RELATIONS)
            ]
    return captions


def _first(true, names):
    return [true, *(name for name in names if name != true)]


def ask_all(model, scenes):
    """(question, accuracy, interval, chance) of each question."""
    for question, captions in questions(scenes.scenes).items():
        right = 0
        for index, choices in captions.items():
            model.fit(classes=choices)
            right += model.predict(scenes.images[index : index + 1])[0] == choices[0]
        low, high = clopper_pearson(int(right), len(captions))
        name = f"{question} among {len(choices)}"
        yield name, int(right) / len(captions), [low, high], 1 / len(choices)


def match_all(model, examples, **how):
    """(score and tag, accuracy, interval, chance) of each score and tag."""
    matrix = model.score_pairs(examples.images, examples.captions, **how)
    scores = winoground_scores(matrix, examples.tags)
    chances = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
    for score, chance in chances.items():
        for tag, part in {"all": scores, **scores.tags}.items():
            name = f"{score} score, {tag}"
            yield name, part[score], list(part.intervals[score]), chance


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-scenes", type=int, default=200, help="for each split")
    parser.add_argument("--n-examples", type=int, default=400, help="for each split")
    parser.add_argument("--n-trials", type=int, default=100, help="for each pair")
    parser.add_argument("--target", default="auto", help="the space of the error")
    parser.add_argument("--dtype", default="auto", help="of the diffusion model")
    parser.add_argument("--verbose", type=int, default=0, help="1: progress bars")
    args = parser.parse_args()
    n_scenes, n_examples = args.n_scenes, args.n_examples
    if args.quick:
        n_scenes, n_examples = n_scenes // 8, n_examples // 8

    diffusion = ZeroShotDiffusionClassifier(
        model="fashion-scenes",
        prompt_template="{}",
        target=args.target,
        dtype=args.dtype,
    )
    matching = clone(diffusion).set_params(n_trials=args.n_trials, verbose=args.verbose)
    clip = CLIPZeroShotClassifier(model="fashion-clip", prompt_template="{}")
    print(
        f"{n_scenes} scenes a split, {diffusion.n_trials} trials in a race; "
        f"{n_examples} examples, {args.n_trials} trials a pair"
    )
    rows, began = [], time.perf_counter()
    for split, title in SPLITS.items():
        scenes = make_fashion_scenes(n_scenes, split=split, random_state=1)
        examples = load_fashion_winoground()
        if split == "held-out":
            examples = make_fashion_winoground(400, split=split)
        examples = Bunch(**{k: v[:n_examples] for k, v in examples.items()})
        print(f"\n{title:<24}{'diffusion':^24}{'fashion-clip':^24}{'chance':>8}")
        ours = [*ask_all(diffusion, scenes)]
        ours += match_all(matching, examples, subtract_unconditional=True)
        theirs = [*ask_all(clip, scenes), *match_all(clip, examples)]
        for (name, *a, chance), (_, *b, _) in zip(ours, theirs, strict=True):
            print(f"{name:<24}{_cell(*a)}{_cell(*b)}{chance:>8.1%}")
            for model, (accuracy, interval) in ("diffusion", a), ("fashion-clip", b):
                rows.append(
                    {
                        "split": split,
                        "question": name,
                        "model": model,
                        "right": accuracy,
                        "interval": interval,
                        "chance": chance,
                    }
                )
    print(f"\n{time.perf_counter() - began:.0f} s")
    write(
        __file__,
        args,
        rows,
        n_scenes=n_scenes,
        n_examples=n_examples,
        n_trials=args.n_trials,
        target=args.target,
    )


def _cell(accuracy, interval):
    return f"{accuracy:>8.1%}  ({interval[0]:>6.1%} -{interval[1]:>6.1%})"


if __name__ == "__main__":
    main()
