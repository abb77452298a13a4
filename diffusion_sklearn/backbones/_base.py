"""What every diffusion model offers to the estimators."""

import copy
import json
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from diffusion_sklearn.backbones._autoencoder import (
    as_channels,
    encode_pixels,
    pixels_per_latent,
)
from diffusion_sklearn.backbones._conditions import cast
from diffusion_sklearn.backbones._devices import device_of
from diffusion_sklearn.backbones._fingerprint import changed_parts, fingerprint
from diffusion_sklearn.backbones._modes import evaluation_mode
from diffusion_sklearn.backbones._noise_schedule import (
    RectifiedFlow,
    flow_weights,
    read_noise_schedule,
)
from diffusion_sklearn.backbones._tokens import (
    DEFAULT_TEMPLATE,
    default_template,
    tokenizer_of,
)

DISTILLED_SCHEDULERS = "LCMScheduler", "TCDScheduler", "SCMScheduler"
"""Samplers of distilled models only."""


class Backbone:
    """A diffusers pipeline, seen as a conditional denoiser of latents.

    Each family has a subclass, which lists its pipeline classes in
    :attr:`pipelines` and implements :meth:`condition`
    and :meth:`forward`; from then on pipelines of these classes are classifiers.
    Scale, shift, schedule and prediction type are read from the loaded configs. A
    backbone is shared: cloning or copying one returns itself.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        With a ``scheduler`` and a ``unet`` or ``transformer``. Without a ``vae`` the
        latents are the pixels.

    Attributes
    ----------
    pipeline : diffusers.DiffusionPipeline
    network : torch.nn.Module
        Its U-Net or transformer.
    image_size : int
        Side, in pixels, of the images the model was trained on.
    n_timesteps : int
        Number of timesteps it was trained with.
    prediction_type : {"epsilon", "sample", "velocity"}
        What its network predicts.
    noise_schedule : NoiseSchedule
        Weights of the clean latent and of the noise at each timestep.

    Notes
    -----
    A class-conditional family also has ``labels``, a dict from names to class ids,
    ``shared``, a dict from names of several classes to their ids, and ``n_labels``.

    Examples
    --------
    >>> import torch
    >>> from diffusion_sklearn import Backbone, load_backbone
    >>> backbone = load_backbone("fashion-scenes")  # a text-to-image model
    >>> isinstance(backbone, Backbone), backbone.prediction_type
    (True, 'velocity')
    >>> latents = backbone.encode(torch.zeros(1, 3, 32, 32))  # of a gray image
    >>> tuple(latents.shape)
    (1, 8, 8, 8)
    >>> noise, t = torch.randn_like(latents), torch.tensor([500])
    >>> noised = backbone.add_noise(latents, noise, t)
    >>> with torch.inference_mode():
    ...     velocity = backbone.predict(noised, t, backbone.condition(["a red bag"]))
    >>> velocity.shape == latents.shape
    True
    """

    pipelines = ()
    """Names of the pipeline classes that it wraps."""

    kind = "text"
    """What it is conditioned on: "text" or "class"."""

    family_target = "native"
    """Space of the error by default: a prediction type, or "native"."""

    is_flow = False
    """Whether the family is trained by flow matching, whatever the scheduler."""

    no_guidance = 1.0
    """The ``guidance_scale`` with which its pipeline samples without guidance."""

    packs_latents = False
    """Whether its pipeline takes ``latents`` as the backbone does, and packs them."""

    spec = None
    """What it was loaded from; stands for it in a pickle, which holds no weights."""

    loaded_fingerprint = None
    """That of a pipeline loaded by name, or copied, which nobody should change."""

    _fingerprint = None  # the last one

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.vae = getattr(pipeline, "vae", None)
        self.network = getattr(pipeline, "unet", None)
        if self.network is None:
            self.network = pipeline.transformer
        self.scheduler = pipeline.scheduler
        self.noise_schedule, self.prediction_type = read_noise_schedule(
            self.scheduler, self.device, self.compute_dtype, self.is_flow
        )
        self.n_timesteps = self.noise_schedule.n_timesteps
        self.vae_factor = 1 if self.vae is None else pixels_per_latent(self.vae)
        self.image_size = self._latent_side() * self.vae_factor
        self._read_from = self._what_is_read()

    @property
    def prompt_template(self):
        """What "auto" stands for in the estimators: the tokenizer may say."""
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        if tokenizer is None:
            return DEFAULT_TEMPLATE
        return default_template(tokenizer_of(tokenizer))

    @property
    def latent_channels(self):
        """Channels of a latent."""
        if self.vae is None:
            return self.network.config.in_channels
        return self.vae.config.latent_channels

    @property
    def learns_variance(self):
        """Whether the network's output has a second half of channels, for sigma."""
        channels = getattr(self.network.config, "out_channels", None)
        return channels == 2 * self.latent_channels

    @property
    def is_distilled(self):
        """Whether configs or scheduler say that it was distilled, for few steps."""
        return bool(
            type(self.scheduler).__name__ in DISTILLED_SCHEDULERS
            or self.pipeline.config.get("is_distilled")
            or self.network.config.get("time_cond_proj_dim")  # takes a guidance scale
        )

    def __sklearn_clone__(self):
        return self

    def __reduce_ex__(self, protocol):
        if self.spec is None:  # made by hand: pickled as it is
            return super().__reduce_ex__(protocol)
        from diffusion_sklearn.backbones._loading import get_unchanged

        return get_unchanged, (replace(self.spec, fingerprint=self.fingerprint()),)

    def __getstate__(self):  # skops calls no function, as a pickle does
        return vars(self) if self.spec is None else {"spec": self.spec}

    def __setstate__(self, state):
        if state.keys() == {"spec"}:
            from diffusion_sklearn.backbones._loading import get_backbone

            state = vars(get_backbone(state["spec"]))
        self.__dict__.update(state)

    def __deepcopy__(self, memo):
        return self

    @property
    def name(self):
        """Hub id, folder or bundled name, or else the class of the pipeline."""
        model = getattr(self.spec, "model", None)
        if not isinstance(model, str):
            model = getattr(model, "name", "")
        return model or type(self.pipeline).__name__

    @property
    def folder(self):
        """Local folder that the model was loaded from, a Path; None: none."""
        name = self.name if self.spec is not None else self.pipeline.name_or_path
        bundled = Path(str(files("diffusion_sklearn.bundled"))) / str(name)
        folder = bundled if bundled.is_dir() else Path(str(name))
        return folder if (folder / "model_index.json").is_file() else None

    @cached_property
    def classifier_config(self):
        """The model's own defaults as a classifier, from its folder.

        A dict with "target" and "timestep_weights" (a dict of "timesteps" and
        "weights", between which one interpolates), or with neither.
        """
        file = self.folder and self.folder / "classifier_config.json"
        return json.loads(file.read_text()) if file and file.is_file() else {}

    @property
    def default_target(self):
        """What "auto" stands for: the model's own target, or else the family's."""
        target = self.classifier_config.get("target", self.family_target)
        return self.prediction_type if target == "native" else target

    def default_weights(self):
        """Weights of the timesteps for the default target.

        Returns
        -------
        weights : ndarray of shape (n_timesteps,), float64, or None
            The model's own, or else the family's; None: all the same.
        """
        own = self.classifier_config.get("timestep_weights")
        if own is not None:
            timesteps = np.arange(self.n_timesteps)
            return np.interp(timesteps, own["timesteps"], own["weights"])
        if isinstance(self.noise_schedule, RectifiedFlow):
            return flow_weights(self.noise_schedule.sigma_t.cpu().double().numpy())
        return None

    @property
    def device(self):
        """Where the network runs."""
        return device_of(self.network)

    @property
    def dtype(self):
        """The network's dtype."""
        return self.network.dtype

    def is_current(self):
        """Whether the pipeline has the parts and configs that this was made from.

        Returns
        -------
        current : bool
        """
        return self._what_is_read() == self._read_from

    def _what_is_read(self):
        """Parts and configs of the pipeline, for a comparison."""
        parts = self.pipeline.components
        configs = [
            dict(getattr(part, "config", None) or {})
            for part in (self.pipeline, *parts.values())
            if not hasattr(getattr(part, "config", None), "to_dict")
        ]
        schedule = getattr(self.pipeline.scheduler, "alphas_cumprod", torch.empty(0))
        return {k: id(v) for k, v in parts.items()}, configs, schedule.tolist()

    @property
    def is_compiled(self):
        """Whether the network, or a part of it, went through ``torch.compile``."""
        return any(
            module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
            for module in self.network.modules()
        )

    @property
    def compute_dtype(self):
        """Dtype of latents, noise and errors: float32 or better."""
        return torch.promote_types(self.dtype, torch.float32)

    def fingerprint(self):
        """What tells the model from others, wherever they are loaded.

        It covers weights, configs, the scheduler, tokenizers, adapters with their
        scale, attention processors and switches such as FreeU.

        Returns
        -------
        fingerprint : dict of str to str
            A digest of each part. All weights are read: about a third of a second for
            each gigabyte on a core of a CPU, less on a GPU.

        Raises
        ------
        ValueError
            If the pipeline was loaded by its name and changed afterwards.
        """
        now = fingerprint(self.pipeline)
        changed = changed_parts(self.loaded_fingerprint or now, now)
        if changed:
            raise ValueError(
                f"The pipeline of model={self.name!r} was changed after it was loaded "
                f"({changed}). Pass the pipeline itself as model, as in "
                "model=backbone.pipeline, and call fit again; or call clear_cache() to "
                "load it as it was."
            )
        if self._fingerprint not in (None, now):
            vars(self).pop("_encoder", None)
        self._fingerprint = now
        return now

    def latent_shape(self, image_size):
        """Shape of the latent of a square image.

        Parameters
        ----------
        image_size : int
            Side in pixels.

        Returns
        -------
        shape : tuple of int
            (channels, height, width).

        Raises
        ------
        ValueError
            If the network can't take that size.
        """
        step = self.vae_factor * self._latent_step()
        if image_size % step:
            raise ValueError(
                f"image_size={image_size} does not suit this model; pass a multiple "
                f"of {step}, or None for its own {self.image_size}."
            )
        side = image_size // self.vae_factor
        return (self.latent_channels, side, side)

    @torch.no_grad()
    def encode(self, pixels):
        """Latents of images, as the posterior mean of the autoencoder.

        Parameters
        ----------
        pixels : Tensor of shape (n, 3, size, size)
            In [-1, 1].

        Returns
        -------
        latents : Tensor of shape (n, c, h, w), float32 or float64
            Scaled and shifted as the network expects.
        """
        if self.vae is None:
            pixels = pixels.to(self.device, self.compute_dtype)
            return as_channels(pixels, self.latent_channels)
        with evaluation_mode(self._encoder):
            latents = self._encode(self._encoder, pixels)
        return latents.to(self.device, self.compute_dtype)

    def _encode(self, vae, pixels):
        """Latents of an autoencoder, as the network takes them."""
        return encode_pixels(vae, pixels)

    @cached_property
    def _encoder(self):
        """The autoencoder; a float32 copy where it would overflow, as SDXL's does."""
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            return copy.deepcopy(self.vae).float()
        return self.vae

    def add_noise(self, latents, noise, timesteps):
        """Noised latents, a weighted sum of latents and noise.

        Parameters
        ----------
        latents, noise : Tensor of shape (b, c, h, w)
            Clean latents and standard normal noise.
        timesteps : Tensor of shape (b,), int64
            The noise level of each.

        Returns
        -------
        noised : Tensor of shape (b, c, h, w)
        """
        return self.noise_schedule.add_noise(latents, noise, timesteps)

    def prediction_and_target(
        self, target, predicted, noised, latents, noise, timesteps
    ):
        """The network's prediction and its target, both in the space of the error.

        Parameters
        ----------
        target : {"native", "epsilon", "sample", "velocity"}
            The space. "native": the prediction type of the network.
        predicted, noised, latents, noise : Tensor of shape (b, c, h, w)
            The network's output and what it was made from.
        timesteps : Tensor of shape (b,), int64
            The noise level of each.

        Returns
        -------
        predicted, truth : Tensor of shape (b, c, h, w)
        """
        schedule, own = self.noise_schedule, self.prediction_type
        target = own if target == "native" else target
        truth = schedule.target(target, latents, noise, timesteps)
        if target != own:
            implied = schedule.latents_and_noise(own, predicted, noised, timesteps)
            predicted = schedule.target(target, *implied, timesteps)
        return predicted, truth

    def condition(self, names):
        """Encode what the network is conditioned on.

        Parameters
        ----------
        names : list
            Prompts of a text-to-image model, class ids of a class-conditional one.

        Returns
        -------
        conditions : Tensor of shape (len(names), ...) or Conditions
            A row for each name. Conditions: where the network takes several tensors,
            such as tokens and their mask.
        """
        raise NotImplementedError

    def null_condition(self):
        """What the network is conditioned on where there is no prompt and no class.

        Returns
        -------
        conditions : Tensor of shape (1, ...) or Conditions

        Raises
        ------
        ValueError
            If the model was trained without a null condition.
        """
        if self.kind == "class":
            raise ValueError(
                "This model has no null class; pass null_condition=k if class k of the "
                "model stands for none."
            )
        return self.condition([""])

    def encode_null(self, given=None):
        """The null condition, as users name it.

        Parameters
        ----------
        given : str, int or None
            The parameter `null_condition` of the estimators: a prompt or a class id,
            or None for the model's own.

        Returns
        -------
        conditions : Tensor of shape (1, ...) or Conditions

        Raises
        ------
        ValueError
            If the model knows no such condition.
        """
        if given is None:
            return self.null_condition()
        if self.kind == "text" and not isinstance(given, str):
            raise ValueError(
                f"null_condition={given!r} is no prompt; pass a str, or None for the "
                "model's own."
            )
        if self.kind == "class" and (
            isinstance(given, str) or not 0 <= given < self.n_labels
        ):
            raise ValueError(
                f"null_condition={given!r} is no class id of the model, which are the "
                f"integers 0 to {self.n_labels - 1}; pass one of these, or None for "
                "the model's own null class, if it has one."
            )
        return self.condition([given])

    def forward(self, noised, timesteps, conditions):
        """One forward pass of the network.

        Parameters
        ----------
        noised : Tensor of shape (b, c, h, w)
            Noised latents, in the network's dtype.
        timesteps : Tensor of shape (b,)
            Their noise levels, as the network takes them.
        conditions : Tensor of shape (b, ...) or Conditions
            Rows of what :meth:`condition` returned, floating-point ones in the
            network's dtype.

        Returns
        -------
        output : Tensor of shape (b, c, h, w) or (b, 2 c, h, w)
            With a learned sigma, that of the network is the second half of channels.
        """
        raise NotImplementedError

    def predict(self, noised, timesteps, conditions):
        """What the network predicts, without a learned sigma.

        Parameters
        ----------
        noised : Tensor of shape (b, c, h, w)
            Noised latents.
        timesteps : Tensor of shape (b,), int64
            Their noise levels.
        conditions : Tensor of shape (b, ...) or Conditions
            Rows of what :meth:`condition` returned.

        Returns
        -------
        predicted : Tensor of shape (b, c, h, w), float32 or float64
        """
        with evaluation_mode(self.network):
            output = self.forward(*self._inputs(noised, timesteps, conditions))
        output = output[:, : noised.shape[1]]  # without a learned sigma
        return output.to(noised.device, self.compute_dtype)

    def predict_with_variance(self, noised, timesteps, conditions):
        """Run the network once, for its prediction and for its learned variance.

        Parameters
        ----------
        noised, timesteps, conditions
            As for :meth:`predict`.

        Returns
        -------
        predicted, log_variance_fraction : Tensor of shape (b, c, h, w)
            float32 or float64. The fraction places the log variance between its
            bounds, -1 to 1.
        """
        with evaluation_mode(self.network):
            output = self.forward(*self._inputs(noised, timesteps, conditions))
        return output.to(noised.device, self.compute_dtype).chunk(2, dim=1)

    def _inputs(self, noised, timesteps, conditions):
        """What :meth:`forward` takes: on the network's device, in its dtype."""
        device, dtype = self.device, self.dtype  # each a walk over the network's parts
        return (
            noised.to(device, dtype),
            self.noise_schedule.network_time(timesteps.to(device)),
            cast(conditions, device, dtype),
        )

    def _latent_side(self):
        """Side of the latents that the network was trained on."""
        side = self.network.config.get("sample_size")
        side = side or self.pipeline.default_sample_size  # in no config
        return side if isinstance(side, int) else min(side)

    def _latent_step(self):
        """What the latent's side must be a multiple of."""
        return self.network.config.get("patch_size") or 1
