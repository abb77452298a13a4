"""Models of open_clip, including CLIP's ResNets, which transformers lacks."""

from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from diffusion_sklearn._versions import import_optional
from diffusion_sklearn.backbones._completeness import check_tokenizer
from diffusion_sklearn.backbones._tokens import DEFAULT_TEMPLATE, check_prompts
from diffusion_sklearn.baselines._checkpoints import to_picture
from diffusion_sklearn.baselines._dual_encoder import HUB_MODEL, ContrastiveModel

PREFIX = "open_clip:"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
FILES = [WEIGHTS, "*.json", "*.txt", "*.model"]
"""Files to download: weights, configurations, vocabularies."""


class OpenCLIPModel(ContrastiveModel):
    """A model of open_clip with its tokenizer and its transform of images.

    Parameters
    ----------
    model : CLIP or CustomTextCLIP
        With ``encode_image``, ``encode_text`` and ``logit_scale``.
    tokenizer : SimpleTokenizer or HFTokenizer
        Of the texts.
    transform : callable
        A PIL image -> a tensor, as open_clip does it for inference.
    """

    def __init__(self, model, tokenizer, transform):
        length = tokenizer.context_length
        super().__init__(model, tokenizer, transform, DEFAULT_TEMPLATE, length)

    def _tokenize(self, prompts):
        uncut = _UncutTokenizer(self.tokenizer)
        check_prompts(prompts, uncut, self._length, HUB_MODEL)
        return self.tokenizer(prompts)

    def _prepare(self, images, first):
        pictures = [to_picture(image, first + k) for k, image in enumerate(images)]
        pixels = torch.stack([self.processor(picture) for picture in pictures])
        return pixels.to(self.model.logit_scale)  # its device and dtype

    def _encode_texts(self, ids):
        return self.model.encode_text(ids)

    def _encode_images(self, pixels):
        return self.model.encode_image(pixels)


class _UncutTokenizer:
    """A tokenizer of open_clip, called as one of transformers, without truncation."""

    init_kwargs = {}  # noqa: RUF012 (as in transformers)

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __call__(self, prompt, **options):
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "tokenizer"):  # wraps one of transformers
            return tokenizer.tokenizer(tokenizer.clean_fn(prompt), **options)
        ids = tokenizer.encode(prompt)
        ids = [tokenizer.sot_token_id, *ids, tokenizer.eot_token_id]
        return SimpleNamespace(input_ids=ids)

    def decode(self, ids):
        tokenizer = getattr(self._tokenizer, "tokenizer", self._tokenizer)
        return tokenizer.decode(ids).strip()


def find_repository(name):
    """Look up weights in open_clip's list.

    Parameters
    ----------
    name : str
        ``"open_clip:ARCHITECTURE/TAG"``, or the name of something else.

    Returns
    -------
    repository : str or None
        Hub id of these weights; None for something else.

    Raises
    ------
    ValueError
        If the list has no such weights; the message lists similar names.
    ImportError
        If open_clip is not installed.
    """
    if not name.startswith(PREFIX):
        return None
    open_clip = import_optional("open_clip", "open-clip")
    repositories = {}
    for architecture, tag in open_clip.list_pretrained():
        place = open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub", "")
        if place.endswith("/"):  # else a pickle: "org/name/file.bin"
            repositories[f"{architecture}/{tag}"] = place.removesuffix("/")
    pair = name.removeprefix(PREFIX)
    if pair not in repositories:
        architecture = pair.partition("/")[0]
        similar = [key for key in repositories if key.startswith(f"{architecture}/")]
        similar = similar or get_close_matches(pair, repositories, n=5, cutoff=0.0)
        raise ValueError(
            f"model={name!r}: open_clip lists no such weights in safetensors; pass "
            f"{', '.join(repr(PREFIX + key) for key in similar)}, or another pair "
            "ARCHITECTURE/TAG of open_clip.list_pretrained()."
        )
    return repositories[pair]


def is_open_clip(source, hub_options):
    """Whether a checkpoint is in the layout of open_clip, not of transformers.

    Parameters
    ----------
    source : str
        Folder or Hub id.
    hub_options : dict
        Arguments for the Hub.

    Returns
    -------
    is_open_clip : bool
        False for a checkpoint with both layouts, or one that can't be read.

    Raises
    ------
    OSError
        If there is only an image encoder of timm.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(source, **hub_options)
    except OSError:
        config = {}  # if it is not open_clip's either, transformers raises the error
    # A repository may also hold the image encoder by itself, in timm's layout.
    if config.get("model_type", "timm_wrapper") != "timm_wrapper":
        return False
    if Path(source).is_dir():
        return (Path(source) / CONFIG).is_file()
    try:
        hf_hub_download(source, CONFIG, **hub_options)
    except (OSError, ValueError):
        if config.get("model_type") == "timm_wrapper":
            raise  # the cache may hold that part only
        return False
    return True


def read_open_clip(source, hub_options):
    """Read a model in the layout of open_clip.

    Parameters
    ----------
    source : str
        Folder or Hub id.
    hub_options : dict
        Arguments for the Hub.

    Returns
    -------
    model : OpenCLIPModel
        In float32, on the CPU.

    Raises
    ------
    OSError
        If it can't be read.
    ImportError
        If open_clip is not installed.
    """
    open_clip = import_optional("open_clip", "open-clip")
    folder = Path(source)
    if not folder.is_dir():
        folder = Path(snapshot_download(source, allow_patterns=FILES, **hub_options))
    for file in (CONFIG, WEIGHTS):  # open_clip does not fail without weights
        if not (folder / file).is_file():
            raise OSError(f"there is no {file}")
    place = f"local-dir:{folder}"
    try:
        # It draws random weights first: leave torch's global generator unchanged.
        with torch.random.fork_rng(devices=[]):
            model, transform = open_clip.create_model_from_pretrained(place)
        tokenizer = open_clip.get_tokenizer(place)
        if hasattr(tokenizer, "tokenizer"):  # one of transformers
            check_tokenizer(tokenizer.tokenizer, folder)
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise OSError(str(error)) from error
    return OpenCLIPModel(model, tokenizer, transform)
