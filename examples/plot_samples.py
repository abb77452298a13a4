"""
Samples of a bundled model
==========================

The pipeline of a classifier is an ordinary diffusers pipeline. This example draws
samples of ``fashion-scenes`` for eight captions. Four of them name a combination that
occurs in no training scene.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion_sklearn import load_backbone
from diffusion_sklearn.datasets import make_fashion_scenes

N_CAPTIONS, N_SAMPLES, SIDE = 8, 6, 96


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=None, help="save the samples")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()

    captions = [
        caption
        for split in ("test", "held-out")
        for caption in make_fashion_scenes(N_CAPTIONS // 2, split=split).captions
    ]
    pipeline = load_backbone("fashion-scenes").pipeline
    pipeline.set_progress_bar_config(disable=True)
    samples = pipeline(
        [caption for caption in captions for _ in range(N_SAMPLES)],
        guidance_scale=args.guidance,
        num_inference_steps=args.steps,
        generator=torch.Generator().manual_seed(0),
    ).images

    height = SIDE + 24
    grid = Image.new(
        "RGB", (2 * N_SAMPLES * SIDE + 16, N_CAPTIONS // 2 * height), "white"
    )
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(size=13)
    for k, sample in enumerate(samples):
        row, column = divmod(k, N_SAMPLES)
        side, row = divmod(row, N_CAPTIONS // 2)  # held-out ones on the right
        x, y = side * (N_SAMPLES * SIDE + 16), row * height
        if column == 0:
            draw.text((x + 2, y + 4), captions[k // N_SAMPLES], fill="black", font=font)
        grid.paste(
            sample.resize((SIDE, SIDE), Image.BICUBIC), (x + column * SIDE, y + 22)
        )
    if args.output:
        grid.save(args.output)
        print(f"{len(samples)} samples in {args.output}")
    else:
        plt.figure(figsize=(grid.width / 100, grid.height / 100), dpi=100)
        plt.figimage(grid)
        plt.show()


if __name__ == "__main__":
    main()
