"""Prompts -> embeddings, in batches."""

import threading
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from diffusion_sklearn.backbones._batches import BatchSize, in_batches
from diffusion_sklearn.backbones._conditions import (
    Conditions,
    cast,
    concatenate,
    to_dict,
)
from diffusion_sklearn.backbones._devices import device_of
from diffusion_sklearn.backbones._modes import evaluation_mode
from diffusion_sklearn.backbones._tokens import check_prompts

BATCH_SIZE = 64  # prompts

_lock = threading.RLock()


def text_encoders(pipeline):
    """The text encoders of a pipeline.

    Parameters
    ----------
    pipeline : DiffusionPipeline

    Returns
    -------
    encoders : list of Module
    """
    parts = pipeline.components.items()
    return [part for name, part in parts if name.startswith("text_encoder") and part]


def _common_device(encoders):
    """Where text encoders run; raise if that is in several places."""
    devices = {device_of(encoder) for encoder in encoders}
    if len(devices) != 1:
        raise ValueError(
            f"The text encoders of the pipeline are on {sorted(map(str, devices))}; "
            "put all of them on one device."
        )
    return devices.pop()


@contextmanager
def encoders_in_place(backbone):
    """Text encoders on the network's device, and off it afterwards.

    T5 is larger than many a network. The encoders of a pipeline object, which may be
    used elsewhere, stay where they are.

    Parameters
    ----------
    backbone : Backbone
    """
    if not isinstance(getattr(backbone.spec, "model", None), str):
        yield
        return
    encoders = text_encoders(backbone.pipeline)
    with _lock:
        try:
            for encoder in encoders:
                encoder.to(backbone.device)
            yield
        finally:
            for encoder in encoders:
                encoder.to("cpu")
            if backbone.device.type == "cuda":
                torch.cuda.empty_cache()


def embed_with_mask(
    backbone, prompts, instead, around="", has_negative=True, **options
):
    """Token embeddings of prompts, and their attention mask.

    Parameters
    ----------
    backbone : Backbone
        Its pipeline's ``encode_prompt`` returns tokens and mask first; its network
        takes ``max_sequence_length`` tokens.
    prompts : list of str
        The prompts.
    instead, around : str
        As in :func:`~diffusion_sklearn.backbones._tokens.check_prompts`.
    has_negative : bool
        Whether ``encode_prompt`` encodes a negative prompt, too, by default.
    **options : object
        For ``encode_prompt``.

    Returns
    -------
    conditions : Conditions
        ``tokens`` (len(prompts), n_tokens, d) and ``mask`` (len(prompts), n_tokens),
        bool.
    """
    pipeline, prompts = backbone.pipeline, list(prompts)
    length = backbone.max_sequence_length
    check_prompts(prompts, pipeline.tokenizer, length, instead, around)
    if has_negative:
        options["do_classifier_free_guidance"] = False

    def embed(prompts, device):
        tokens, mask, *_ = pipeline.encode_prompt(
            prompts, device=device, max_sequence_length=length, **options
        )
        return Conditions(tokens=tokens, mask=mask.bool())

    return embed_in_batches(backbone, prompts, embed)


def pad_tokens(rows, length):
    """Token embeddings padded to one length, and their attention mask.

    Parameters
    ----------
    rows : sequence of Tensor of shape (n_tokens, d)
        Of each prompt, without padding.
    length : int
        Number of tokens that the network takes.

    Returns
    -------
    conditions : Conditions
        As of :func:`embed_with_mask`.
    """
    tokens = [F.pad(row, (0, 0, 0, length - len(row))) for row in rows]
    mask = [torch.arange(length) < len(row) for row in rows]
    return Conditions(tokens=torch.stack(tokens), mask=torch.stack(mask))


def embed_in_batches(backbone, prompts, embed):
    """Embed prompts in batches, with the text encoders in evaluation mode.

    Parameters
    ----------
    backbone : Backbone
        Its pipeline has the text encoders.
    prompts : list of str
        The prompts.
    embed : callable
        Takes a batch of prompts and the device of the text encoders, returns a Tensor
        of shape (n_batch, ...) or Conditions.

    Returns
    -------
    conditions : Tensor of shape (len(prompts), ...) or Conditions
        On the CPU, in the network's dtype.

    Raises
    ------
    FloatingPointError
        If a text encoder overflowed, as in float16.
    ValueError
        If the text encoders are on several devices, or the pipeline's own code failed.
    """
    encoders = text_encoders(backbone.pipeline)

    def embed_batch(rows):
        try:
            return embed(prompts[rows], _common_device(encoders)).to("cpu")
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{type(backbone.pipeline).__name__}.encode_prompt raised "
                f"{type(error).__name__} ({' '.join(str(error).split())[:200]}); call "
                "it by itself, and see what the class overrides, which hooks the text "
                "encoders have (offloading), and the versions of diffusers, "
                "transformers and accelerate."
            ) from error

    with torch.no_grad(), encoders_in_place(backbone), evaluation_mode(*encoders):
        batches = list(in_batches(embed_batch, len(prompts), BatchSize(BATCH_SIZE)))
    conditions = cast(concatenate(batches), "cpu", backbone.dtype)
    if not all(tensor.isfinite().all() for tensor in to_dict(conditions).values()):
        raise FloatingPointError(
            f"The text encoder gave NaN or infinity in {encoders[0].dtype}; pass "
            "dtype='bfloat16' or 'float32'."
        )
    return conditions
