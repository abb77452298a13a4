"""Train the bundled ``fashion-clip`` contrastively on captioned fashion scenes.

A small ``CLIPModel`` with a tokenizer of its own. It sees the same scenes as
``fashion-scenes``, 20 times as that does: 5 passes with both encoders, then 3, again 3
and 9 with the text encoder locked as it then is, since ``fashion-scenes`` is
conditioned on it.

    python examples/train/train_fashion_clip.py --out runs/clip

Resumes from ``runs/clip/checkpoint.pt`` when it is there; ``--start FOLDER`` begins the
last phase with a saved model. 75 minutes on 2 cores.
"""

import argparse
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from _scene_text import (
    MAX_TOKENS,
    N_SCENES,
    draw_captions,
    make_tokenizer,
    tokenize,
    training_scenes,
)
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

SEEDS = {"both": 0, "image": 2, "image again": 3, "image for long": 4}
MEAN, STD = 0.3, 0.25  # of the scenes' pixels, about


PHASES = (  # what is trained, passes over the scenes, peak of the learning rate
    ("both", 5, 1e-3),
    ("image", 3, 5e-4),
    ("image again", 3, 5e-4),
    ("image for long", 9, 5e-4),
)


def contrastive_loss(model, see, pixels, states, same):
    """Symmetric cross-entropy; pairs that show the same scene are no negatives.

    `see` is the image encoder, compiled; `states` (b, d) come from the text encoder.
    """
    with torch.autocast("cpu", torch.bfloat16):
        images = model.visual_projection(see(pixels).pooler_output).float()  # (b, d)
        texts = model.text_projection(states).float()  # (b, d)
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = model.logit_scale.exp() * images @ texts.T  # (b, b)
    logits = logits.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool), -1e4)
    target = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss, (logits.argmax(1) == target).float().mean()


def same_scene(scenes, captions):
    """Which captions fit which images of a batch, (b, b) bool."""
    fits = [
        {s.caption, s.mirrored.caption, s.plain_caption, s.mirrored.plain_caption}
        for s in scenes
    ]
    captions = [caption.replace("a ankle", "an ankle") for caption in captions]
    return torch.tensor([[caption in fit for caption in captions] for fit in fits])


def make_model(tokenizer):
    """A CLIP with random weights."""
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 160,
                "intermediate_size": 640,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "hidden_act": "gelu",
                "max_position_embeddings": MAX_TOKENS,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": end,
                "pad_token_id": end,
            },
            vision_config={
                "hidden_size": 160,
                "intermediate_size": 640,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "hidden_act": "gelu",
                "image_size": 32,
                "patch_size": 4,
            },
            projection_dim=128,
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/clip"))
    parser.add_argument("--data-home", default=None)
    parser.add_argument("--start", type=Path, default=None)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--n-scenes", type=int, default=N_SCENES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    pixels, scenes = training_scenes(args.n_scenes, args.data_home)
    if args.start:
        tokenizer = CLIPTokenizer.from_pretrained(args.start)
        model = CLIPModel.from_pretrained(args.start, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer()
        model = make_model(tokenizer)
    model.set_attn_implementation("eager")  # the fastest for so small a model
    see = torch.compile(model.vision_model)

    def states_of(captions):
        return model.text_model(tokenize(tokenizer, captions)).pooler_output  # (b, d)

    @cache
    def locked_state_of(caption):
        with torch.no_grad():
            return states_of([caption])[0]  # (d,)

    checkpoint, phases = args.out / "checkpoint.pt", PHASES
    if args.start:
        phases = PHASES[-1:]
    saved = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    if saved:
        names = [name for name, *_ in PHASES]
        phases = PHASES[names.index(saved["phase"]) :]
    for phase, passes, peak in phases:
        # fashion-scenes listens to the text encoder, which stays as it is from here on.
        model.text_model.requires_grad_(phase == "both")
        weights = [p for p in model.parameters() if p.requires_grad]
        steps = int(passes * len(scenes) / args.batch)
        optimizer = torch.optim.AdamW(
            weights, lr=peak, betas=(0.9, 0.98), weight_decay=0.05
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peak, total_steps=steps, pct_start=0.1
        )
        start = 0
        if saved and saved["phase"] == phase:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
            start = saved["step"]

        began, losses, hits = time.time(), [], []
        for step in range(start, steps):
            rng = np.random.default_rng([SEEDS[phase], step])
            rows = rng.integers(len(scenes), size=args.batch)
            shown = [scenes[k] for k in rows]
            captions = draw_captions(shown, rng)
            x = (pixels[rows].float() / 255 - MEAN) / STD  # (b, 3, 32, 32)
            same = same_scene(shown, captions)
            if phase == "both":
                with torch.autocast("cpu", torch.bfloat16):
                    states = states_of(captions)
            else:
                states = torch.stack([locked_state_of(c) for c in captions])
            loss, hit = contrastive_loss(model, see, x, states, same)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, np.log(100))
            losses.append(loss.item())
            hits.append(hit.item())
            if (step + 1) % 100 == 0 or step + 1 == steps:
                print(
                    f"{phase} {step + 1}/{steps} loss {np.mean(losses[-100:]):.4f} "
                    f"accuracy in the batch {np.mean(hits[-100:]):.4f} "
                    f"temperature {1 / model.logit_scale.exp().item():.4f} "
                    f"{time.time() - began:.0f} s",
                    flush=True,
                )
                torch.save(
                    {
                        "phase": phase,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "step": step + 1,
                    },
                    checkpoint,
                )

    folder = args.out / "fashion-clip"
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
