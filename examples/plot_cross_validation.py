"""
Cross-validation of a diffusion model and CLIP
==============================================

Two zero-shot classifiers are compared with ``cross_val_score``. The eight classes
differ in which item has which colour, and where it is: a yellow sneaker left of a blue
bag, a blue sneaker left of a yellow bag, and so on. Their captions consist of the same
words, but for the relation. Neither classifier is trained, so each fold is a sample of
scenes.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.model_selection import StratifiedKFold, cross_val_score

from diffusion_sklearn import CLIPZeroShotClassifier, ZeroShotDiffusionClassifier
from diffusion_sklearn.datasets import Scene, make_fashion_scenes

N_FOLDS = 5


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-scenes", type=int, default=120)
    parser.add_argument("--output", type=Path, default=None, help="save the figure")
    args = parser.parse_args()

    layouts = [
        Scene(items, colors, relation)
        for relation in ("left of", "above")
        for items in (("sneaker", "bag"), ("bag", "sneaker"))
        for colors in (("yellow", "blue"), ("blue", "yellow"))
    ]
    scenes = make_fashion_scenes(args.n_scenes, split="test", scenes=layouts)
    classifiers = {
        "fashion-scenes\n(diffusion)": ZeroShotDiffusionClassifier(
            model="fashion-scenes", prompt_template="{}", n_trials=50
        ),
        "fashion-clip": CLIPZeroShotClassifier(
            model="fashion-clip", prompt_template="{}"
        ),
    }
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    scores = {
        name: cross_val_score(clf, scenes.images, scenes.captions, cv=folds)
        for name, clf in classifiers.items()
    }
    for name, found in scores.items():
        name = name.replace("\n", " ")
        print(f"{name:<28}{found.mean():.1%}  folds {found.round(2).tolist()}")

    figure, (shown, compared) = plt.subplots(
        1, 2, figsize=(9, 4.2), width_ratios=[2, 1], layout="constrained"
    )
    rows = scenes.images[: len(layouts)].reshape(2, 4, 32, 32, 3)
    shown.imshow(rows.transpose(0, 2, 1, 3, 4).reshape(64, 128, 3))
    shown.set_title(
        "\n".join([scenes.captions[0], "and the other seven classes"]), fontsize=10
    )
    shown.axis("off")
    compared.boxplot(list(scores.values()), tick_labels=list(scores))
    compared.axhline(1 / len(layouts), color="gray", linestyle=":", label="chance")
    compared.set(ylim=(0, 1.02), ylabel=f"accuracy in each of {N_FOLDS} folds")
    compared.legend()
    if args.output:
        figure.savefig(args.output, dpi=100)
        print(f"figure {args.output}")
    else:
        plt.show()


if __name__ == "__main__":
    main()
