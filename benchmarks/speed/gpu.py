"""Large networks with random weights on a GPU: speed and use of the card.

    python -m benchmarks.speed.gpu

A U-Net of the size of Stable Diffusion 2 (865 million weights, latents 64 x 64) and a
DiT of the size of DiT-XL/2 (675 million, latents 32 x 32), in bfloat16 on a GPU:
evaluations per second of the estimator, the model's FLOPs per second as a fraction of
the rate that a large matrix product reaches on the same card, and the ratio to the
plain loop of ``vs_loop.py`` (one image after another, batches of 32, the paper's stages
for Pets). Random weights cost what trained ones do, but a race would not stop early, so
both use the same stages, and no accuracy is reported. ``--size tiny`` runs the same
code on tiny networks, on any machine.
"""

import copy
import time

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks._common import describe_machine, make_parser, write
from benchmarks.speed.vs_loop import PETS, paper_loop
from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    load_backbone,
)
from diffusion_sklearn.classifiers._plans import fitted_plan
from diffusion_sklearn.datasets import load_fashion_photos


def make_vae(real):
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(128, 256, 512, 512) if real else (8, 8, 8, 8),
        norm_num_groups=32 if real else 4,
        layers_per_block=2 if real else 1,
        latent_channels=4,
    )


def make_dit(real):
    heads, width, layers, side = (16, 72, 28, 32) if real else (2, 16, 2, 8)
    dit = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        sample_size=side,
        num_embeds_ada_norm=1000,
    )
    names = dict(enumerate(load_fashion_photos().target_names.tolist()))
    return DiTPipeline(
        dit,
        make_vae(real),
        DDIMScheduler(clip_sample=False, steps_offset=1),
        id2label=names,
    )


def make_unet(real):
    width = 1024 if real else 16
    unet = UNet2DConditionModel(
        sample_size=64 if real else 8,
        block_out_channels=(320, 640, 1280, 1280) if real else (8, 8, 16, 16),
        layers_per_block=2 if real else 1,
        norm_num_groups=32 if real else 4,
        attention_head_dim=(5, 10, 20, 20) if real else 2,
        cross_attention_dim=width,
        use_linear_projection=True,
    )
    tokenizer = copy.deepcopy(load_backbone("fashion-scenes").pipeline.tokenizer)
    tokenizer.model_max_length = 77
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    return StableDiffusionPipeline(
        vae=make_vae(real),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def matrix_rate(device, dtype, side):
    """FLOPs a second of a large matrix product."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        a @ a
        finish(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def finish(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def study(name, cls, make, args):
    real, dtype = args.size == "real", getattr(torch, args.dtype)
    torch.manual_seed(0)
    pipeline = make(real).to(args.device, dtype)
    clf = cls(model=pipeline, n_trials=250, pruning=PETS)
    clf.fit(classes=load_fashion_photos().target_names)
    backbone, plan = clf.backbone_, fitted_plan(clf)
    size, device = backbone.image_size, backbone.device
    images = np.random.RandomState(0).randint(0, 256, (args.n_images, size, size, 3))
    images = images.astype(np.uint8)
    noised = torch.zeros(1, *backbone.latent_shape(size), device=device)
    t = torch.zeros(1, dtype=torch.int64, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.predict(noised, t, plan.conditions[:1].to(device))
    flops = counter.get_total_flops()
    clf.predict(images)  # warm up: kernels are chosen for each batch size
    paper_loop(clf, images[:1])

    def seconds_per_image(call, images):
        began = time.perf_counter()
        call(images)
        finish(device)
        return (time.perf_counter() - began) / len(images)

    ours = seconds_per_image(clf.predict, images)
    loop = seconds_per_image(
        lambda images: paper_loop(clf, images), images[: args.n_loop]
    )
    speed = 1375 / ours
    fraction = speed * flops / matrix_rate(device, dtype, 8192 if real else 512)
    batch = plan.rows.rows
    print(
        f"{name:<8}{flops / 1e9:>12.3f}{batch:>8}{speed:>16.1f}{fraction:>10.1%}"
        f"{loop / ours:>12.2f}",
        flush=True,
    )
    return {
        "network": name,
        "size": args.size,
        "dtype": args.dtype,
        "gflops_per_evaluation": flops / 1e9,
        "batch": batch,
        "evaluations_per_second": speed,
        "fraction_of_matrix_rate": fraction,
        "ratio_to_loop": loop / ours,
    }


def main():
    on_gpu = torch.cuda.is_available()
    parser = make_parser(__doc__)
    parser.add_argument("--size", choices=["real", "tiny"], default="real")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--n-images", type=int, default=8)
    parser.add_argument("--n-loop", type=int, default=2, help="images of the loop")
    args = parser.parse_args()
    if args.quick:
        args.n_images, args.n_loop = 2, 1
    print(f"{args.size} size, {args.dtype}; {describe_machine()}")
    print(
        f"{'network':<8}{'GFLOP/eval.':>12}{'batch':>8}{'evaluations / s':>16}"
        f"{'of peak':>10}{'vs loop':>12}"
    )
    rows = [
        study("U-Net", ZeroShotDiffusionClassifier, make_unet, args),
        study("DiT", ConditionalDiffusionClassifier, make_dit, args),
    ]
    write(__file__, args, rows)


if __name__ == "__main__":
    main()
