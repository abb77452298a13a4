"""Speed of the engine, as ratios within one run.

    python benchmarks/speed.py --json speed.json

Baseline: a plain script as one would write it from the paper, with the same model,
trials and device: one image and one trial at a time, its classes as the batch. Beside
it the estimator with every trial, with the paper's stages, and with the default race.
About 3 minutes on 2 cores.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn._images import to_pixels
from diffusion_sklearn.datasets import load_fashion_photos


@torch.inference_mode()
def plain_script(clf, images):
    """Algorithm 1 with a batch of classes; returns labels."""
    pipeline = clf.backbone_.pipeline
    vae, dit, scheduler = pipeline.vae, pipeline.transformer, pipeline.scheduler
    labels = []
    for image in images:
        x = torch.from_numpy(to_pixels([image], 32))
        z = vae.encode(x).latent_dist.mean * vae.config.scaling_factor  # (1, c, h, w)
        noise = torch.from_numpy(clf.trials_.noise(z.shape[1:]))
        errors = []
        for eps, t in zip(noise, clf.trials_.timesteps, strict=True):
            t = torch.tensor([t])
            xt = scheduler.add_noise(z, eps[None], t).expand(10, -1, -1, -1)
            output = dit(xt, t.expand(10), torch.arange(10)).sample
            gap = output[:, : z.shape[1]] - eps
            errors.append(gap.square().mean(dim=(1, 2, 3)))
        labels.append(int(torch.stack(errors).mean(0).argmin()))
    return pipeline_names(pipeline)[labels]


def pipeline_names(pipeline):
    return np.array(sorted(pipeline.labels, key=pipeline.labels.get))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-images", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None, help="write the table here")
    args = parser.parse_args()
    photos = load_fashion_photos()
    images, truth = photos.images[: args.n_images], photos.names[: args.n_images]
    settings = {
        "every trial": None,
        "stages ((25, 5), (50, 2))": ((25, 5), (50, 2)),
        "race at 0.99 (default)": 0.99,
    }
    print(f"{args.n_images} photos, 10 classes, 100 trials, fashion-dit")
    print(f"{'':<28}{'images / s':>11}{'ratio':>8}{'evaluations':>13}{'accuracy':>10}")
    rows = []
    clf = ConditionalDiffusionClassifier(model="fashion-dit")
    clf.fit(classes=photos.target_names)
    for name, pruning in [("plain script", "script"), *settings.items()]:
        if pruning != "script":
            clf.set_params(pruning=pruning).fit(classes=photos.target_names)
            clf.predict(images[:1])  # warm up
        began = time.perf_counter()
        if pruning == "script":
            predicted, cost = plain_script(clf, images), 1000.0
        else:
            result = clf.denoising_errors(images)
            predicted = clf.classes_[result.log_proba.argmax(axis=1)]
            cost = float(result.n_evaluations.mean())
        speed = len(images) / (time.perf_counter() - began)
        accuracy = float((predicted == truth).mean())
        rows.append(
            {
                "setting": name,
                "images_per_second": speed,
                "ratio": speed / rows[0]["images_per_second"] if rows else 1.0,
                "evaluations": cost,
                "accuracy": accuracy,
            }
        )
        ratio = rows[-1]["ratio"]
        print(f"{name:<28}{speed:>11.2f}{ratio:>8.2f}{cost:>13.0f}{accuracy:>10.1%}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
