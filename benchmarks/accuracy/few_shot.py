"""Class embeddings learned from a few images, against classifiers on features.

    python -m benchmarks.accuracy.few_shot

The rows of the ten classes in the class embeddings of ``fashion-dit`` are learned by
gradient steps on the error that classifies, all else frozen (a textual inversion a
class), from 1, 4 and 16 images a class. "New classes": photos, rows that start at the
null class, as if the model knew none of them. "Rotated": rotated photos, rows that
start at the model's own. Against logistic regression on DiffusionFeatures of the same
model, on the image embeddings of ``fashion-clip`` and on pixels, with the same images,
and against the model as it is. 300 test photos, the mean of three draws of the images.
About 25 minutes on 2 cores, ``--quick`` 1. Needs the IDX files of Fashion-MNIST.
"""

import copy

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks._common import describe_machine, make_parser, write
from benchmarks.accuracy._shifts import shift
from diffusion_sklearn import (
    CLIPZeroShotClassifier,
    ConditionalDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.baselines import DiffusionFeatures
from diffusion_sklearn.baselines._contrastive import get_contrastive
from diffusion_sklearn.datasets import load_fashion_mnist, load_fashion_photos
from diffusion_sklearn.images._pixels import to_pixels

SHOTS, BATCH = (1, 4, 16), 64
TASKS = {"new classes": (None, 10), "rotated": ("rotation", None)}


def learn_rows(pipeline, images, target, steps, learning_rate, start=None, seed=0):
    """A copy of a pipeline whose classes are learned from images; `start`: a row."""
    pipeline = copy.deepcopy(pipeline)
    network, backbone = pipeline.transformer.eval(), load_backbone("fashion-dit")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    tables = [block.norm1.emb.class_embedder for block in network.transformer_blocks]
    rows = [table.embedding_table.weight for table in tables]
    for row in rows:
        if start is not None:
            row[:10] = row[start].clone()
        row.requires_grad_(True)
    optimizer = torch.optim.Adam(rows, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    latents = backbone.encode(torch.from_numpy(to_pixels(images, backbone.image_size)))
    target = torch.from_numpy(target)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        which = torch.randint(len(latents), (BATCH,), generator=generator)
        t = torch.randint(backbone.n_timesteps, (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *latents.shape[1:], generator=generator)
        noised = backbone.add_noise(latents[which], noise, t)
        output = network(noised, timestep=t, class_labels=target[which]).sample
        loss = (output[:, : noise.shape[1]] - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for row in rows:
        row.requires_grad_(False)
    return pipeline


def clip_features(images):
    clip = CLIPZeroShotClassifier(model="fashion-clip").fit(classes=["bag", "coat"])
    model = get_contrastive(*clip._checkpoint)
    return clip._run(model.embed_images, clip._read_images(images))


FEATURES = {
    "DiffusionFeatures": lambda images: (
        DiffusionFeatures(model="fashion-dit").fit().transform(images)
    ),
    "features of fashion-clip": clip_features,
    "pixels": lambda images: images.reshape(len(images), -1) / 255,
}


def score(pipeline, images, target):
    """Accuracy of a race with a pipeline's ten classes."""
    clf = ConditionalDiffusionClassifier(model=pipeline, classes=np.arange(10))
    return float((clf.fit().predict(images) == target).mean())


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-photos", type=int, default=300)
    parser.add_argument("--n-draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=None)
    args = parser.parse_args()
    shots = SHOTS
    if args.quick:
        args.n_photos, args.n_draws, args.steps, shots = 20, 1, 5, (1,)
    print(describe_machine())
    train, photos = load_fashion_mnist(split="train"), load_fashion_photos()
    target, rows = photos.target[: args.n_photos], []
    pipeline = load_backbone("fashion-dit").pipeline
    for task in args.only or TASKS:
        shifted, start = TASKS[task]
        images = photos.images[: args.n_photos]
        images = shift(images, shifted) if shifted else images
        test = {name: features(images) for name, features in FEATURES.items()}
        values = {("the model as it is", 0): [score(pipeline, images, target)]}
        for k in shots:
            for draw in range(args.n_draws):
                rng = np.random.default_rng(draw)
                few = np.concatenate(
                    [
                        rng.choice(np.flatnonzero(train.target == label), k, False)
                        for label in range(10)
                    ]
                )
                shown, labels = train.images[few], train.target[few]
                shown = shift(shown, shifted) if shifted else shown
                how = shown, labels, args.steps, args.learning_rate, start, draw
                learned = learn_rows(pipeline, *how)
                one = values.setdefault(("class embeddings", k), [])
                one.append(score(learned, images, target))
                for name, features in FEATURES.items():
                    clf = make_pipeline(
                        StandardScaler(), LogisticRegression(max_iter=1000)
                    ).fit(features(shown), labels)
                    one = values.setdefault((name, k), [])
                    one.append(float(clf.score(test[name], target)))
            for (name, number), draws in values.items():
                if number in (0, k):
                    print(f"{task:<14}{name:<28}{number:>4}{np.mean(draws):>8.1%}")
        for (name, k), draws in values.items():
            row = {"task": task, "classifier": name, "images_per_class": k}
            row |= {"accuracy": np.mean(draws), "lowest": min(draws)}
            rows.append(row | {"highest": max(draws), "n_images": args.n_photos})
    write(
        __file__, args, rows, steps=args.steps, learning_rate=args.learning_rate,
        n_draws=args.n_draws,
    )  # fmt: skip


if __name__ == "__main__":
    main()
