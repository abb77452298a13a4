"""Evaluations per second and memory of every family.

    python -m benchmarks.speed.families

Networks with random weights and random conditions. By default they are tiny, and show
the overhead of the package and of PyTorch. ``--size real`` takes the published sizes in
bfloat16, for a GPU. Each runs in its own process. Half a minute on 2 cores.
"""

import argparse
import json
import resource
import time

import torch

from benchmarks._common import describe_machine, make_parser, run_in_process, write
from benchmarks._families import FAMILIES
from diffusion_sklearn import load_backbone
from diffusion_sklearn.backbones import Conditions

TOKENS = {"Flux": 512, "PixArt-alpha": 120, "PixArt-Sigma": 300, "Sana": 300}


def random_conditions(name, backbone, rows):
    """Conditions of the shape that the network takes."""
    config = backbone.network.config
    if backbone.kind == "class":
        return torch.randint(0, backbone.n_labels, (rows,))
    if hasattr(config, "caption_channels"):
        tokens = torch.randn(rows, TOKENS[name], config.caption_channels)
        return Conditions(tokens=tokens, mask=torch.ones(tokens.shape[:2]) > 0)
    if name.startswith("Stable Diffusion 1"):
        return torch.randn(rows, 77, config.cross_attention_dim)
    if name == "Stable Diffusion XL":
        n_pooled = (
            config.projection_class_embeddings_input_dim
            - 6 * config.addition_time_embed_dim
        )
        tokens = torch.randn(rows, 77, config.cross_attention_dim)
        return Conditions(tokens=tokens, pooled=torch.randn(rows, n_pooled))
    n_tokens = TOKENS.get(name, 77 + 256)
    return Conditions(
        tokens=torch.randn(rows, n_tokens, config.joint_attention_dim),
        pooled=torch.randn(rows, config.pooled_projection_dim),
    )


def measure(name, size, rows):
    """Evaluations per second, and peak memory in GB."""
    pipeline = FAMILIES[name](size)
    on_gpu = size == "real" and torch.cuda.is_available()
    if size == "real":
        pipeline.to(torch.bfloat16)
    backbone = load_backbone(pipeline)
    device = backbone.device
    if on_gpu:  # the weights were made in float32
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    side = 8 if size == "tiny" else backbone.image_size
    shape = backbone.latent_shape(side)
    inputs = (
        torch.randn(rows, *shape, device=device),
        torch.arange(rows, device=device) % backbone.n_timesteps,
        random_conditions(name, backbone, rows).to(device),
    )
    with torch.inference_mode():
        backbone.predict(*inputs)
        _wait(on_gpu)
        began, passes = time.perf_counter(), 0
        while time.perf_counter() - began < 2:
            backbone.predict(*inputs)
            _wait(on_gpu)
            passes += 1
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if on_gpu:
        memory = torch.cuda.max_memory_allocated() / 1e9
    n_weights = sum(p.numel() for p in backbone.network.parameters())
    return {
        "family": name,
        "weights": n_weights,
        "side": side,
        "rows": rows,
        "speed": passes * rows / seconds,
        "memory": memory,
    }


def _wait(on_gpu):
    if on_gpu:
        torch.cuda.synchronize()


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--size", choices=["tiny", "real"], default="tiny")
    parser.add_argument("--rows", type=int, default=16, help="of a forward pass")
    parser.add_argument("--only", nargs="+", default=None, choices=FAMILIES)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.only[0], args.size, args.rows)))
        return
    print(f"{args.size} networks; {describe_machine()}")
    head = "weights", "pixels", "rows", "evaluations / s", "GB"
    print(f"{'family':<28}" + "".join(f"{name:>17}" for name in head))
    rows = []
    for name in args.only or FAMILIES:
        options = "--here", "--size", args.size, "--rows", str(args.rows)
        rows.append(row := run_in_process(__file__, *options, "--only", name))
        print(
            f"{name:<28}{row['weights']:>17,}{row['side']:>17}{row['rows']:>17}"
            f"{row['speed']:>17.0f}{row['memory']:>17.2f}",
            flush=True,
        )
    write(__file__, args, rows, size=args.size)


if __name__ == "__main__":
    main()
