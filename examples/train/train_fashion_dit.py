"""Train the bundled class-conditional model ``fashion-dit`` from scratch.

A small DiT (Peebles and Xie, ICCV 2023) with learned sigma on the latents of
Fashion-MNIST's training photos; labels are dropped to the null class 10 % of the time.
5,000 training photos are held out to choose the best checkpoint; no test photo is
read. The result is a folder that ``DiTPipeline.from_pretrained`` loads.

    python examples/train/train_vae.py --out runs/vae
    python examples/train/train_fashion_dit.py --vae runs/vae/vae --out runs/dit

Resumes from ``runs/dit/checkpoint.pt`` when it is there. About 75 minutes on 2 cores.
"""

import argparse
import bisect
import copy
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image
from torch.nn import functional as F

from diffusion_sklearn.datasets import load_fashion_mnist
from diffusion_sklearn.engine._losses import variational_terms
from diffusion_sklearn.images._pixels import fit_square

N_CLASSES = 10
DROPOUT = 0.1
T = 1000


def encode_photos(vae, data_home):
    """Posterior mean and std of every training photo, each (n, 8, 8, 8)."""
    data = load_fashion_mnist(data_home=data_home)
    photos = np.stack([fit_square(Image.fromarray(p), 32) for p in data.images])
    means, stds = [], []
    with torch.inference_mode():
        for batch in torch.from_numpy(photos).split(500):
            x = (batch[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1)
            posterior = vae.encode(x).latent_dist
            means.append(posterior.mean)
            stds.append(posterior.std)
    return torch.cat(means), torch.cat(stds), torch.from_numpy(data.target)


def hybrid_loss(output, x0, xt, noise, t, alphas_cumprod):
    """Simple loss plus the variational bound, which trains sigma alone.

    Nichol and Dhariwal (2021), "Improved Denoising Diffusion Probabilistic Models",
    equation 16.
    """
    eps, share = output.float().chunk(2, dim=1)  # (b, c, h, w) each
    bound = variational_terms(eps.detach(), share, x0, xt, t, alphas_cumprod)
    return F.mse_loss(eps, noise) + bound.mean()


@torch.inference_mode()
def held_out_accuracy(model, latents, target, alphas_cumprod, n_trials=25):
    """Accuracy of the diffusion classifier, l2 over evenly spaced timesteps."""
    rng = torch.Generator().manual_seed(0)
    timesteps = torch.linspace(0, T, n_trials + 2)[1:-1].long()
    noise = torch.randn((n_trials, *latents.shape[1:]), generator=rng)
    signal = alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    spread = (1 - alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1, 1)
    correct = 0
    classes = torch.arange(N_CLASSES).repeat_interleave(n_trials)
    for x0, label in zip(latents, target, strict=True):
        xt = (signal * x0 + spread * noise).repeat(N_CLASSES, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(xt, timesteps.repeat(N_CLASSES), classes).sample
        eps = output[:, : x0.shape[0]].float()
        error = (eps - noise.repeat(N_CLASSES, 1, 1, 1)).square().mean(dim=(1, 2, 3))
        correct += int(error.view(N_CLASSES, -1).mean(1).argmin() == label)
    return correct / len(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vae", type=Path, default=Path("runs/vae/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/dit"))
    parser.add_argument("--data-home", default=None)
    parser.add_argument(
        "--cycles",
        type=int,
        nargs="+",
        default=[9000, 7000],
        help="steps of each learning rate cycle; each peaks at half of the one before",
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--check-every", type=int, default=3000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    means, stds, target = encode_photos(vae, args.data_home)
    scale = round(1 / means.std().item(), 5)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    held_out, kept = order[:5000], order[5000:]
    check = held_out[:1000]

    scheduler = DDIMScheduler(
        num_train_timesteps=T,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    alphas_cumprod = scheduler.alphas_cumprod
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=args.heads,
        attention_head_dim=32,
        in_channels=8,
        out_channels=16,
        num_layers=args.layers,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=N_CLASSES,
    )
    for block in model.transformer_blocks:
        # One dropped label a sample, below, instead of one a block.
        block.norm1.emb.class_embedder.dropout_prob = 0.0
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
    torch.nn.init.zeros_(model.proj_out_2.weight)
    torch.nn.init.zeros_(model.proj_out_2.bias)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01
    )
    starts = [0, *itertools.accumulate(args.cycles)]
    steps = starts.pop()
    schedule, saved = None, {}
    start, best, checkpoint = 0, 0.0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        start, best = saved["step"], saved["best"]

    began, running = time.time(), 0.0
    for step in range(start, steps):
        if step in starts or schedule is None:
            cycle = bisect.bisect(starts, step) - 1
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                args.lr / 2**cycle,
                total_steps=args.cycles[cycle],
                pct_start=0.03,
            )
            if step not in starts:
                schedule.load_state_dict(saved["schedule"])
        rng = torch.Generator().manual_seed(step)
        rows = kept[torch.randint(len(kept), (args.batch,), generator=rng)]
        shape = (args.batch, *means.shape[1:])
        x0 = scale * (means[rows] + stds[rows] * torch.randn(shape, generator=rng))
        noise = torch.randn(shape, generator=rng)
        t = torch.randint(T, (args.batch,), generator=rng)
        dropped = torch.rand(args.batch, generator=rng) < DROPOUT
        labels = torch.where(dropped, N_CLASSES, target[rows])
        signal = alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
        spread = (1 - alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
        xt = signal * x0 + spread * noise  # (b, c, h, w)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(xt, t, labels).sample  # (b, 2c, h, w)
        loss = hybrid_loss(output, x0, xt, noise, t, alphas_cumprod)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.9995, (step + 1) / (step + 10))
        torch._foreach_lerp_(
            list(average.parameters()), list(model.parameters()), 1 - decay
        )
        running += loss.item()
        if (step + 1) % 250 == 0:
            seconds = time.time() - began
            print(
                f"step {step + 1} loss {running / 250:.4f} {seconds:.0f} s", flush=True
            )
            running = 0.0
        if (step + 1) % args.check_every == 0 or step + 1 == steps:
            accuracy = held_out_accuracy(
                average, scale * means[check], target[check], alphas_cumprod
            )
            print(f"step {step + 1} held-out accuracy {accuracy:.4f}", flush=True)
            if accuracy >= best:
                best = accuracy
                save_pipeline(average, vae, scale, scheduler, args.out / "fashion-dit")
            torch.save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                    "best": best,
                },
                checkpoint,
            )


def save_pipeline(model, vae, scale, scheduler, folder):
    """Write a fp16 safetensors folder that DiTPipeline.from_pretrained loads."""
    vae = copy.deepcopy(vae)
    vae.register_to_config(scaling_factor=scale)
    names = dict(enumerate(load_fashion_mnist(split="test").target_names.tolist()))
    pipeline = DiTPipeline(copy.deepcopy(model), vae, scheduler, id2label=names)
    pipeline.register_to_config(id2label=names)
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    config = folder / "vae" / "config.json"
    lines = [x for x in config.read_text().splitlines() if "_name_or_path" not in x]
    config.write_text("\n".join(lines) + "\n")  # no path of the training machine


if __name__ == "__main__":
    main()
