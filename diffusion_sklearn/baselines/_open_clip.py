"""Models of open_clip, among them the ResNets of CLIP, which transformers lacks."""

from difflib import get_close_matches
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from diffusion_sklearn.backbones._prompts import DEFAULT_TEMPLATE, check_prompts
from diffusion_sklearn.baselines._checkpoints import to_picture
from diffusion_sklearn.baselines._dual_encoder import HUB_MODEL, ContrastiveModel

PREFIX = "open_clip:"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
FILES = [WEIGHTS, "*.json", "*.txt", "*.model"]
"""What is read of a repository: weights, configurations, vocabularies."""


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
    """A tokenizer of open_clip, called as one of transformers, that cuts nothing."""

    init_kwargs = {}  # noqa: RUF012 (as in transformers)

    def __init__(self, tokenizer):
        self.own = tokenizer

    def __call__(self, prompt, **how):
        if hasattr(self.own, "tokenizer"):  # of transformers inside
            return self.own.tokenizer(self.own.clean_fn(prompt), **how)
        start, end = self.own.sot_token_id, self.own.eot_token_id
        return _Tokens([start, *self.own.encode(prompt), end])

    def decode(self, ids):
        return getattr(self.own, "tokenizer", self.own).decode(ids).strip()


class _Tokens:
    def __init__(self, input_ids):
        self.input_ids = input_ids


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
        If the list has no such weights; the message says which are near.
    ImportError
        If open_clip is not installed.
    """
    if not name.startswith(PREFIX):
        return None
    open_clip = _import_open_clip()
    repositories = {}
    for architecture, tag in open_clip.list_pretrained():
        place = open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub", "")
        if place.endswith("/"):  # else a pickle: "org/name/file.bin"
            repositories[f"{architecture}/{tag}"] = place.removesuffix("/")
    wanted = name.removeprefix(PREFIX)
    if wanted not in repositories:
        architecture = wanted.partition("/")[0]
        near = [one for one in repositories if one.startswith(f"{architecture}/")]
        near = near or get_close_matches(wanted, repositories, n=5, cutoff=0.0)
        raise ValueError(
            f"model={name!r}: open_clip lists no such weights in safetensors; pass "
            f"{', '.join(repr(PREFIX + one) for one in near)}, or another pair "
            "ARCHITECTURE/TAG of open_clip.list_pretrained()."
        )
    return repositories[wanted]


def is_open_clip(source, how):
    """Tell open_clip's layout from that of transformers.

    Parameters
    ----------
    source : str
        Folder or Hub id.
    how : dict
        How to reach the Hub.

    Returns
    -------
    is_open_clip : bool
        False for what has both layouts, and for what can't be read.

    Raises
    ------
    OSError
        If there is only an image encoder of timm.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(source, **how)
    except OSError:
        config = {}  # if it is not open_clip's either, transformers says what is wrong
    # Beside open_clip's files there may be the image encoder alone, in timm's layout.
    if config.get("model_type", "timm_wrapper") != "timm_wrapper":
        return False
    if Path(source).is_dir():
        return (Path(source) / CONFIG).is_file()
    try:
        hf_hub_download(source, CONFIG, **how)
    except (OSError, ValueError):
        if config.get("model_type") == "timm_wrapper":
            raise  # the cache may have that part alone
        return False
    return True


def read_open_clip(source, how):
    """Read a model in the layout of open_clip.

    Parameters
    ----------
    source : str
        Folder or Hub id.
    how : dict
        How to reach the Hub.

    Returns
    -------
    model : OpenCLIPModel
        In float32, on the CPU.

    Raises
    ------
    OSError
        If it can't be had.
    ImportError
        If open_clip is not installed.
    """
    open_clip = _import_open_clip()
    folder = Path(source)
    if not folder.is_dir():
        folder = Path(snapshot_download(source, allow_patterns=FILES, **how))
    for file in (CONFIG, WEIGHTS):  # open_clip would go on without weights
        if not (folder / file).is_file():
            raise OSError(f"there is no {file}")
    place = f"local-dir:{folder}"
    try:
        # It draws weights first; the global generator of torch stays where it was.
        with torch.random.fork_rng(devices=[]):
            model, transform = open_clip.create_model_from_pretrained(place)
        tokenizer = open_clip.get_tokenizer(place)
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise OSError(str(error)) from error
    return OpenCLIPModel(model, tokenizer, transform)


def _import_open_clip():
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "A model of open_clip needs the library open_clip: "
            '`pip install "diffusion-sklearn[open-clip]"`.'
        ) from error
    return open_clip
