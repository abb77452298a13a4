"""Train the bundled photo classifiers: three ResNets and three ViTs.

What a discriminative network makes of the photos that ``fashion-dit`` is trained on,
as in Table 4 of the paper: the same 55,000 training photos, the same 5,000 held out,
from random weights. Photos are drawn at random, as many as in 12 passes (ResNets) or 20
(ViTs), mirrored and moved by up to two pixels, which those of ``fashion-dit`` are not.
No test photo is read. Each result is a folder that
``AutoModelForImageClassification.from_pretrained`` loads.

    python examples/train/train_photo_networks.py --out runs/photos

A network that is there already is left alone. About 50 minutes on 2 cores.
"""

import argparse
import time
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from diffusion_sklearn.datasets import load_fashion_mnist

MEAN, STD = 0.29, 0.35  # of the photos' pixels, about
SIDE, SHIFT = 32, 2
N_HELD_OUT = 5000
NETWORKS = {  # width of the first stage and blocks a stage; width, layers and heads
    "fashion-resnet-tiny": (16, 1),
    "fashion-resnet-small": (32, 1),
    "fashion-resnet": (32, 2),
    "fashion-vit-tiny": (64, 3, 2),
    "fashion-vit-small": (96, 4, 3),
    "fashion-vit": (128, 4, 4),
}
PASSES = {"resnet": 12, "vit": 20}  # over the photos
PEAKS = {"resnet": 4e-3, "vit": 1e-3}  # of the learning rate


def make_network(name, labels):
    """A network with random weights."""
    named = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    width, depth, *heads = NETWORKS[name]
    torch.manual_seed(0)
    if not heads:
        config = ResNetConfig(
            embedding_size=width,
            hidden_sizes=[width, 2 * width, 4 * width],
            depths=[depth] * 3,
            layer_type="basic",
            **named,
        )
        return ResNetForImageClassification(config)
    config = ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads[0],
        image_size=SIDE,
        patch_size=4,
        **named,
    )
    network = ViTForImageClassification(config)
    network.set_attn_implementation("eager")  # the fastest for so small a model
    return network


def read_photos(processor, data_home):
    """Training photos as the networks see them, one channel (n, 1, 32, 32)."""
    data = load_fashion_mnist(data_home=data_home)
    pixels = []
    for start in range(0, len(data.images), 500):
        part = [Image.fromarray(x).convert("RGB") for x in data.images[start:][:500]]
        pixels.append(processor(part, return_tensors="pt").pixel_values[:, :1])
    labels = dict(enumerate(data.target_names.tolist()))
    return torch.cat(pixels), torch.from_numpy(data.target), labels


def augment(x, rng):
    """Half of the photos mirrored, each moved by up to two pixels."""
    n = len(x)
    mirrored = torch.rand(n, generator=rng) < 0.5
    x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    x = F.pad(x, [SHIFT] * 4, value=-MEAN / STD)  # black, (n, 1, 36, 36)
    rows, columns = torch.randint(2 * SHIFT + 1, (2, n, 1), generator=rng)
    side = torch.arange(SIDE)
    which = torch.arange(n).view(-1, 1, 1)
    moved = x[which, 0, (rows + side)[:, :, None], (columns + side)[:, None, :]]
    return moved[:, None]  # (n, 1, 32, 32)


@torch.inference_mode()
def accuracy(network, x, y):
    """Share of photos that are named right."""
    network.eval()
    logits = [network(part.expand(-1, 3, -1, -1)).logits for part in x.split(500)]
    return (torch.cat(logits).argmax(dim=1) == y).float().mean().item()


def train(network, name, x, y, batch):
    """Train in place; the last 5,000 photos are held out."""
    kind = network.config.model_type
    n, peak = len(x) - N_HELD_OUT, PEAKS[kind]
    steps = PASSES[kind] * n // batch
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps, pct_start=0.15
    )
    see, began = torch.compile(network), time.time()
    for step in range(steps):
        rng = torch.Generator().manual_seed(step)
        rows = torch.randint(n, (batch,), generator=rng)
        pixels = augment(x[rows], rng).expand(-1, 3, -1, -1)  # (b, 3, 32, 32)
        network.train()
        # Transformers gain from bfloat16, small convolutions do not.
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "vit"):
            logits = see(pixels).logits  # (b, 10)
        loss = F.cross_entropy(logits.float(), y[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 400 == 0 or step + 1 == steps:
            right = accuracy(network, x[n:], y[n:])
            print(
                f"{name} {step + 1}/{steps} loss {loss.item():.3f} "
                f"held-out accuracy {right:.4f} {time.time() - began:.0f} s",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/photos"))
    parser.add_argument("--data-home", default=None)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    processor = ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    x, y, labels = read_photos(processor, args.data_home)
    # The photos that train_fashion_dit.py holds out come last.
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    order = torch.cat([order[N_HELD_OUT:], order[:N_HELD_OUT]])
    x, y = x[order], y[order]
    for name in args.only:
        if (args.out / name / "config.json").exists():
            continue
        network = make_network(name, labels)
        train(network, name, x, y, args.batch)
        network.half().save_pretrained(args.out / name)
        processor.save_pretrained(args.out / name)


if __name__ == "__main__":
    main()
