"""`predict` against the algorithm as the paper's code runs it.

    python -m benchmarks.speed.vs_loop

Baseline: one image after another, batches of 32, all prompts encoded beforehand, the
paper's schedule for Oxford-IIIT Pets (25 trials, the best 5 classes, then up to 250),
written as a plain loop over the same diffusers modules, in float32. Beside it the
estimator with the same schedule and trials, whose labels must be the same, and the
estimator by default. Each task runs in its own process, in which the baseline comes
first, so that the package has no effect on it. fashion-scenes has two tasks: which of
ten captions describes a scene, and which of ten items it shows in any colour. Time is
measured on fewer images than accuracy, that of the stages on a fifth of those of the
default. The last column is the accuracy of the default minus that of the stages on the
same images, with its standard error; ``--tables`` keeps the labels. About 90 minutes on
2 cores, ``--quick`` 2. More than 1,000 photos need the IDX files of Fashion-MNIST.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks._common import describe_machine, make_parser, make_task, write
from benchmarks.accuracy._replay import choices_in_chunks
from diffusion_sklearn.images._pixels import to_pixels

PETS = ((25, 5), (250, 1))
BATCH = 32
TASKS = ["fashion-dit", "fashion-scenes", "fashion-scenes, items"]


@torch.no_grad()
def paper_loop(clf, images):
    """Algorithm 2, image by image; returns the index of a class for each."""
    pipeline, trials = clf.backbone_.pipeline, clf.trials_
    vae, device, dtype = pipeline.vae, pipeline.device, pipeline.dtype
    schedule = pipeline.scheduler.alphas_cumprod.to(device)
    timesteps = torch.from_numpy(trials.timesteps).to(device)
    order = trials.order([end for end, _ in PETS]).tolist()
    classes, network = conditions_and_network(clf)
    velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
    labels = []
    for image in images:
        x = torch.from_numpy(to_pixels([image], clf.backbone_.image_size))
        z = vae.encode(x.to(device, dtype)).latent_dist.mean.float()  # (1, c, h, w)
        z = z * vae.config.scaling_factor
        noise = torch.from_numpy(trials.noise(z.shape[1:])).to(device)
        errors = {k: {} for k in range(len(classes))}
        active, done = list(errors), 0
        for end, n_keep in PETS:
            todo = [(k, j) for k in active for j in order[done:end]]
            for start in range(0, len(todo), BATCH):
                batch = todo[start : start + BATCH]
                which, drawn = torch.tensor(batch, device=device).T
                t = timesteps[drawn]
                alpha_t = schedule[t].sqrt().view(-1, 1, 1, 1)
                sigma_t = (1 - schedule[t]).sqrt().view(-1, 1, 1, 1)
                eps = noise[drawn]
                noised = alpha_t * z + sigma_t * eps
                predicted = network(noised.to(dtype), t, classes[which]).float()
                if velocity:
                    predicted = alpha_t * predicted + sigma_t * noised
                losses = F.mse_loss(predicted, eps, reduction="none")
                losses = losses.mean(dim=(1, 2, 3)).tolist()
                for (k, j), loss in zip(batch, losses, strict=True):
                    errors[k][j] = loss
            active.sort(key=lambda k: np.mean(list(errors[k].values())))
            active, done = active[:n_keep], end
        labels.append(active[0])
    return np.array(labels)


def conditions_and_network(clf):
    """Conditions of the classes, and a function that calls the network."""
    pipeline, names = clf.backbone_.pipeline, clf.classes_
    device = pipeline.device
    if hasattr(pipeline, "transformer"):
        dit, channels = pipeline.transformer, pipeline.vae.config.latent_channels
        ids = torch.tensor([pipeline.labels[name] for name in names], device=device)
        return ids, lambda x, t, c: dit(x, t, class_labels=c).sample[:, :channels]
    tokens = pipeline.tokenizer(
        [prompt for prompts in clf.prompts_ for prompt in prompts],
        padding="max_length",
        return_tensors="pt",
    ).input_ids
    states = pipeline.text_encoder(tokens.to(device))[0]  # (k, tokens, d)
    unet = pipeline.unet
    return states, lambda x, t, c: unet(x, t, encoder_hidden_states=c).sample


def compare(task, n_loop, n_timed, n_images, folder):
    """Rows of the table for one task."""
    ours, images, truth = make_task(
        task,
        n_images,
        n_trials=250,
        pruning=PETS,
        target="epsilon",
        dtype="float32",
    )
    truth = np.searchsorted(ours.classes_, truth)
    some = images[:n_loop]
    paper_loop(ours, some[:1])  # warm up
    began = time.perf_counter()
    expected = paper_loop(ours, some)
    baseline = (time.perf_counter() - began) / n_loop
    default = make_task(task, 1, dtype="float32")[0]
    (first, n_keep), (last, _) = PETS
    cost = float(first * len(ours.classes_) + (last - first) * n_keep)
    rows, right = [row(task, "plain loop", baseline, baseline, cost)], {}
    for name, clf, count in (
        ("the same stages", ours, max(n_timed // 5, 1)),
        ("default", default, n_timed),
    ):
        clf.predict(some[:8])  # warm up
        began = time.perf_counter()
        clf.predict(images[:count])
        seconds = (time.perf_counter() - began) / count
        stored = f"loop-{task}-{name}"
        choice, cost = choices_in_chunks(clf, images, folder, stored)
        right[name] = choice == truth
        same = float((choice[:n_loop] == expected).mean())
        cost = float(cost.mean())
        rows.append(row(task, name, seconds, baseline, cost, same, right[name]))
    gain = right["default"].astype(float) - right["the same stages"]
    rows[-1]["gain"] = float(gain.mean())
    rows[-1]["gain_error"] = float(gain.std() / np.sqrt(len(gain)))
    return rows


def row(task, name, seconds, baseline, cost, same=None, right=None):
    return {
        "task": task,
        "how": name,
        "seconds_per_image": seconds,
        "ratio": baseline / seconds,
        "evaluations": cost,
        "same_labels": same,
        "n_images": None if right is None else len(right),
        "accuracy": None if right is None else float(right.mean()),
        "gain": None,
        "gain_error": None,
    }


def print_row(one):
    same = "" if one["same_labels"] is None else f"{one['same_labels']:.1%}"
    accuracy = "" if one["accuracy"] is None else f"{one['accuracy']:.1%}"
    gain = ""
    if one["gain"] is not None:
        gain = f"{one['gain']:+.2%} +- {one['gain_error']:.2%}"
    print(
        f"{one['task']:<23}{one['how']:<18}{one['seconds_per_image']:>10.3f}"
        f"{one['ratio']:>8.2f}{one['evaluations']:>13.0f}{same:>13}"
        f"{accuracy:>10}{gain:>20}",
        flush=True,
    )


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--n-loop", type=int, default=30, help="images of the loop")
    parser.add_argument("--n-timed", type=int, default=250, help="of the default")
    parser.add_argument(
        "--n-images", type=int, nargs=3, default=[1000] * 3, help="for accuracy"
    )
    parser.add_argument("--only", nargs="+", default=None, choices=TASKS)
    parser.add_argument("--tables", type=Path, default=None, help="folder of labels")
    args = parser.parse_args()
    if args.quick:
        args.n_loop, args.n_timed, args.n_images = 5, 25, [25] * 3
    print(
        f"{args.n_loop} images of the loop, {args.n_timed} of ours, and for accuracy "
        f"{args.n_images}, 10 classes"
    )
    print(describe_machine())
    print(
        f"{'task':<23}{'how':<18}{'s / image':>10}{'ratio':>8}{'evaluations':>13}"
        f"{'same labels':>13}{'accuracy':>10}{'than the stages':>20}"
    )
    rows, spawn = [], multiprocessing.get_context("spawn")
    for task, n_images in zip(TASKS, args.n_images, strict=True):
        if task not in (args.only or TASKS):
            continue
        # In a process of its own, in which the loop comes first.
        with ProcessPoolExecutor(1, spawn) as process:
            numbers = args.n_loop, args.n_timed, n_images
            compared = process.submit(compare, task, *numbers, args.tables)
        for one in compared.result():
            print_row(one)
            rows.append(one)
    write(
        __file__,
        args,
        rows,
        n_loop=args.n_loop,
        n_timed=args.n_timed,
        n_classes=10,
    )


if __name__ == "__main__":
    main()
