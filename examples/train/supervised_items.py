"""What a network with labels makes of the same latents: a bound for fashion-scenes.

A small residual network is trained to name the item of training scenes with one item,
from the clean latents that `fashion-scenes` is trained on, and asked about test scenes
and held-out (colour, item) pairs. Nothing is saved. About 3 minutes on 2 cores.

    python examples/train/supervised_items.py
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from diffusion_sklearn import load_backbone
from diffusion_sklearn.datasets import make_fashion_scenes
from diffusion_sklearn.datasets._fashion_mnist import FASHION_NAMES
from diffusion_sklearn.metrics import clopper_pearson


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):  # (b, d, 8, 8)
        return F.relu(x + self.layers(x))


def latents_of(n, split, seed, data_home):
    """Clean latents (n, c, 8, 8) of scenes with one item, and the items' numbers."""
    data = make_fashion_scenes(
        n, split=split, n_items=1, random_state=seed, data_home=data_home
    )
    pixels = torch.from_numpy(data.images.transpose(0, 3, 1, 2)).float() / 127.5 - 1
    backbone = load_backbone("fashion-scenes")
    latents = torch.cat([backbone.encode(part) for part in pixels.split(500)])
    names = [scene.items[0] for scene in data.scenes]
    return latents, torch.tensor([FASHION_NAMES.index(name) for name in names])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-home", default=None)
    parser.add_argument("--n-scenes", type=int, default=40_000)
    parser.add_argument("--passes", type=int, default=6)
    args = parser.parse_args()
    x, y = latents_of(args.n_scenes, "train", 0, args.data_home)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(x.shape[1], 64, 3, padding=1),
        Block(64),
        Block(64),
        Block(64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, len(FASHION_NAMES)),
    )
    steps = args.passes * len(x) // 128
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    rng = np.random.default_rng(0)
    for step in range(steps):
        rows = rng.integers(len(x), size=128)
        loss = F.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 300 == 0:
            print(f"step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    network.eval()
    for split in ("test", "held-out"):
        x, y = latents_of(2000, split, 1, args.data_home)
        with torch.no_grad():
            right = int((network(x).argmax(dim=1) == y).sum())
        low, high = (100 * p for p in clopper_pearson(right, len(y)))
        share = 100 * right / len(y)
        print(f"{split}: {share:.1f} % right ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
