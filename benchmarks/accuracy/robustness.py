"""What the defaults lose on shifted photos, and to which part of the model.

    python -m benchmarks.accuracy.robustness --tables FOLDER

``fashion-dit`` and the networks trained on the same photos, on test photos as they are,
rotated, noisy, blurred and of low contrast. Timesteps: the weights of the timesteps and
the best window, both refitted on labelled training photos with the same shift; and the
window that is best on the mean of all these training photos.
Autoencoder: the networks on photos that went through it. Figure 6 of the paper in
small: the height above the line through the networks in logit space. Uses the tables of
``benchmarks.accuracy.race``. About 15 minutes on 2 cores, 1 with tables. Needs the IDX
files of Fashion-MNIST.
"""

from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks._common import describe_machine, make_parser, make_task, write
from benchmarks.accuracy._replay import errors_in_chunks
from benchmarks.accuracy._shifts import SHIFTS, shift
from benchmarks.accuracy.paper import NETWORKS, robustness
from benchmarks.accuracy.race import make_table
from diffusion_sklearn.baselines import PretrainedImageClassifier
from diffusion_sklearn.classifiers._timestep_weights import weights_of_errors
from diffusion_sklearn.datasets import load_fashion_mnist
from diffusion_sklearn.images._pixels import to_pixels
from diffusion_sklearn.metrics import clopper_pearson

EDGES = range(0, 1001, 100)


def train_table(clf, n, name, folder):
    """Errors and true class of training photos, shifted or not."""
    train = load_fashion_mnist(split="train")
    truth = np.searchsorted(clf.classes_, train.target_names[train.target[:n]])
    images = train.images[:n]
    images = shift(images, name) if name else images
    stored = f"photos-train-{name or 'as they are'}"
    clf.set_params(pruning=None)
    return errors_in_chunks(clf, images, folder, stored), truth


def refitted(clf, errors, truth):
    """Weights of the trials: fitted, and the best window, of labelled images."""
    timesteps = clf.trials_.timesteps
    fitted = weights_of_errors(clf, errors, truth)[timesteps]
    windows = [
        ((timesteps >= low) & (timesteps < high)).astype(float)
        for low, high in product(EDGES, EDGES)
        if low < high
    ]

    def accuracy(weights):
        return ((errors @ weights).argmin(axis=1) == truth).mean()

    return fitted, max(reversed(windows), key=accuracy)


def reconstructed(clf, images):
    """Images after the autoencoder, (n, h, w, 3) uint8."""
    vae, pixels = clf.backbone_.vae, to_pixels(images, clf.backbone_.image_size)
    with torch.inference_mode():
        latents = vae.encode(torch.from_numpy(pixels).to(vae.dtype)).latent_dist.mean
        decoded = vae.decode(latents).sample.float().numpy().transpose(0, 2, 3, 1)
    return np.clip(np.rint(127.5 * (decoded + 1)), 0, 255).astype(np.uint8)


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-photos", type=int, default=1000, help="as they are")
    parser.add_argument("--n-shifted", type=int, default=100)
    parser.add_argument("--n-train", type=int, default=60)
    parser.add_argument("--tables", type=Path, default=None, help="folder to keep them")
    args = parser.parse_args()
    if args.quick:
        args.n_photos = args.n_shifted = args.n_train = 10
    print(describe_machine())
    correct = {}  # by system and column
    for name in (None, *SHIFTS):
        column, n = name or "photos", args.n_shifted if name else args.n_photos
        clf, errors, truth = make_table("fashion-dit", n, name, 0, args.tables)
        clf.set_params(pruning=None)
        timesteps = refitted(clf, *train_table(clf, args.n_train, name, args.tables))
        by_system = {
            "fashion-dit": np.ones(errors.shape[2]),
            "fashion-dit, timesteps from 300 on": clf.trials_.timesteps >= 300,
            "fashion-dit, weights refitted": timesteps[0],
            "fashion-dit, best window": timesteps[1],
        }
        for system, weights in by_system.items():
            right = (errors @ weights).argmin(axis=1) == truth
            correct.setdefault(system, {})[column] = right
        images = make_task("fashion-dit", n)[1]
        images = shift(images, name) if name else images
        decoded = reconstructed(clf, images)
        for network in NETWORKS:
            model = PretrainedImageClassifier(model=f"fashion-{network}")
            model.fit(classes=clf.classes_)
            for system, shown in (
                (f"fashion-{network}", images),
                (f"fashion-{network}, after the autoencoder", decoded),
            ):
                right = model.predict(shown) == clf.classes_[truth]
                correct.setdefault(system, {})[column] = right
    rows = []
    for system, columns in correct.items():
        for column, right in columns.items():
            low, high = clopper_pearson(int(right.sum()), len(right))
            row = {"system": system, "photos": column, "n": len(right)}
            rows.append(row | {"accuracy": right.mean(), "low": low, "high": high})
        print(f"{system:<44}", *(f"{one.mean():>8.1%}" for one in columns.values()))
    first = {  # the same photos in all columns
        system: {column: right[: args.n_shifted] for column, right in columns.items()}
        for system, columns in correct.items()
    }
    networks = [first[f"fashion-{name}"] for name in NETWORKS]
    robust = robustness(first["fashion-dit"], networks)
    for one in robust:
        print(f"{one['column']:<12}{one['robustness']:>+8.1%}")
    write(
        __file__, args, {"accuracy": rows, "robustness": robust}, n_train=args.n_train
    )


if __name__ == "__main__":
    main()
