"""The scenes that both scene models are trained on, and their tokenizer."""

import numpy as np
import torch
from transformers import CLIPTokenizer

from diffusion_sklearn.datasets import make_fashion_scenes
from diffusion_sklearn.datasets._fashion_scenes import SCENE_WORDS

MAX_TOKENS = 16
N_SCENES = 150_000
PLAIN = 0.25  # share of captions that name no colour


def training_scenes(n, data_home):
    """Scenes of training photos: pixels (n, 3, 32, 32) uint8 and what they show."""
    data = make_fashion_scenes(n, data_home=data_home)
    pixels = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
    return pixels, data.scenes


def draw_captions(scenes, rng, one_way=0.5):
    """One caption a scene: told from either item, sometimes without colours.

    Half of those without colours say "a" throughout, as a prompt template does.
    `one_way` is the share told from the item that is left of or above the other.
    """
    captions = []
    for scene in scenes:
        told = scene
        if (scene.relation in ("left of", "above")) != (rng.random() < one_way):
            told = scene.mirrored
        caption = told.caption
        if rng.random() < PLAIN:
            caption = told.plain_caption
            if rng.random() < 0.5:
                caption = caption.replace("an ankle", "a ankle")
        captions.append(caption)
    return captions


def make_tokenizer():
    """A CLIP tokenizer in which every word of the captions is one token."""
    pieces = [chr(k) for k in range(ord("!"), ord("~") + 1)]
    vocab = {p: k for k, p in enumerate([*pieces, *(f"{p}</w>" for p in pieces)])}
    merges = []
    for word in SCENE_WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        # Right to left: the pieces of two words never compete for a merge.
        while len(parts) > 1:
            pair = (parts[-2], parts[-1])
            if pair not in merges:
                merges.append(pair)
            parts[-2:] = ["".join(pair)]
            vocab.setdefault(parts[-1], len(vocab))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
    # The classifiers read these from tokenizer_config.json.
    tokenizer.init_kwargs["known_words"] = list(SCENE_WORDS)
    tokenizer.init_kwargs["prompt_template"] = "a {}"
    return tokenizer


def tokenize(tokenizer, captions):
    """Token ids of captions, (n, MAX_TOKENS)."""
    return tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
