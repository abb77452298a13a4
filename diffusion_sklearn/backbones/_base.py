"""What every diffusion model offers to the estimators."""

import torch

from diffusion_sklearn._digest import digest_weights
from diffusion_sklearn._prompts import DEFAULT_TEMPLATE

SPACES = ("epsilon", "sample", "velocity")


class Backbone:
    """A diffusers pipeline, seen as a conditional denoiser of latents.

    One subclass a family implements :meth:`condition` and :meth:`predict`. Scale,
    shift, schedule and prediction type are read from the loaded configs. A backbone is
    shared: cloning or copying one returns itself.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        With a ``vae``, a ``scheduler`` that has ``alphas_cumprod``, and a network.

    Attributes
    ----------
    pipeline : diffusers.DiffusionPipeline
    image_size : int
        Side, in pixels, of the images the model was trained on.
    n_timesteps : int
        Number of timesteps it was trained with.
    native : {"epsilon", "sample", "velocity"}
        What its network predicts.
    """

    kind = "text"
    """What it is conditioned on: "text" or "class"."""

    prompt_template = DEFAULT_TEMPLATE
    """What the estimators' "auto" stands for, where it is conditioned on text."""

    spec = None
    """What it was loaded from; stands for it in a pickle, which holds no weights."""

    learns_variance = False
    """Whether it has ``predict_with_variance``, for the variational losses."""

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.vae, self.network = pipeline.vae, self._network(pipeline)
        # In train mode a DiT drops labels at random.
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                module.eval()
        config = pipeline.scheduler.config
        if not hasattr(pipeline.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"The scheduler {type(pipeline.scheduler).__name__} has no "
                "alphas_cumprod: only models trained with a discrete noise schedule "
                "are supported. Pass a Stable Diffusion 1.x or 2.x or a DiT model."
            )
        # Never in half precision, where alphas round to 1 at small t.
        self.alphas_cumprod = pipeline.scheduler.alphas_cumprod.to(
            self.device, self.compute_dtype
        )  # (T,)
        self.n_timesteps = len(self.alphas_cumprod)
        predicts = config.get("prediction_type", "epsilon")
        self.native = "velocity" if predicts == "v_prediction" else predicts
        if self.native not in SPACES:
            raise ValueError(
                f"The scheduler's prediction_type={predicts!r} is not supported; pass "
                "a model with 'epsilon', 'v_prediction' or 'sample'."
            )
        self.vae_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side = self.network.config.sample_size
        side = side if isinstance(side, int) else min(side)
        self.image_size = side * self.vae_factor

    def __sklearn_clone__(self):
        return self

    def __reduce_ex__(self, protocol):
        if self.spec is None:  # made by hand: pickled as it is
            return super().__reduce_ex__(protocol)
        from diffusion_sklearn.backbones._loading import get_backbone

        return get_backbone, (self.spec,)

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
    def device(self):
        """Where the network runs."""
        return self.network.device

    @property
    def dtype(self):
        """The network's dtype."""
        return self.network.dtype

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

    def digest(self):
        """Name of the weights, the same wherever they are loaded.

        Returns
        -------
        name : str
            SHA-256; about a second for each gigabyte, at the first call and after a
            change.

        Raises
        ------
        ValueError
            If adapters are attached, whose scale and state the weights do not show.
        """
        if getattr(self.network, "peft_config", None):
            raise ValueError(
                "The model has adapters attached, which memory can't tell apart; call "
                "pipeline.fuse_lora() and pipeline.unload_lora_weights() first, or "
                "pass memory=None."
            )
        return digest_weights(self.pipeline)

    def configs(self):
        """Configs that an error depends on beside the weights, as plain values.

        Returns
        -------
        configs : dict
        """
        return {
            name: {k: v for k, v in part.config.items() if not k.startswith("_")}
            for name, part in (("vae", self.vae), ("network", self.network))
        }

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
        return (self.network.config.in_channels, side, side)

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
        pixels = pixels.to(self.vae.device, self.vae.dtype)
        mean = self.vae.encode(pixels).latent_dist.mean  # (n, c, h, w)
        shift = self.vae.config.get("shift_factor") or 0.0
        mean = mean.to(self.device, self.compute_dtype)
        return (mean - shift) * self.vae.config.scaling_factor

    def signal_and_spread(self, timesteps):
        """Weights of the clean latent and of the noise, each (b, 1, 1, 1)."""
        alphas = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()

    def add_noise(self, latents, noise, timesteps):
        """Noised latents, sqrt(abar_t) x + sqrt(1 - abar_t) eps.

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
        signal, spread = self.signal_and_spread(timesteps)
        return signal * latents + spread * noise

    def in_space(self, space, predicted, noised, latents, noise, timesteps):
        """The network's prediction and the truth, both in the space of the error.

        Parameters
        ----------
        space : {"native", "epsilon", "sample", "velocity"}
            "native": what the network predicts, as it is.
        predicted, noised, latents, noise : Tensor of shape (b, c, h, w)
            The network's output and what it was made from.
        timesteps : Tensor of shape (b,), int64
            The noise level of each.

        Returns
        -------
        predicted, truth : Tensor of shape (b, c, h, w)
        """
        signal, spread = self.signal_and_spread(timesteps)
        space = self.native if space == "native" else space
        if space != self.native:
            if self.native == "epsilon":
                eps = predicted
                clean = (noised - spread * eps) / signal
            elif self.native == "velocity":
                eps = signal * predicted + spread * noised
                clean = signal * noised - spread * predicted
            else:
                clean = predicted
                eps = (noised - signal * clean) / spread
            predicted = _view(space, clean, eps, signal, spread)
        return predicted, _view(space, latents, noise, signal, spread)

    def shared_parts(self):
        """Parts of the network that do not depend on the whole of a row.

        Returns
        -------
        parts : dict of tuple of str to list of Module
            Modules by what their output depends on, of "image", "trial" and
            "condition". They are run once for the rows of a batch that agree in these.
        """
        return {}

    def condition(self, names):
        """Encode what the network is conditioned on.

        Parameters
        ----------
        names : list
            Prompts of a text-to-image model, class ids of a class-conditional one.

        Returns
        -------
        conditions : Tensor of shape (len(names), ...)
        """
        raise NotImplementedError

    def predict(self, noised, timesteps, conditions):
        """One forward pass of the network.

        Parameters
        ----------
        noised : Tensor of shape (b, c, h, w)
            Noised latents.
        timesteps : Tensor of shape (b,), int64
            Their noise levels.
        conditions : Tensor of shape (b, ...)
            Rows of what :meth:`condition` returned.

        Returns
        -------
        predicted : Tensor of shape (b, c, h, w), float32 or float64
        """
        raise NotImplementedError

    def _network(self, pipeline):
        raise NotImplementedError

    def _latent_step(self):
        """What the latent's side must be a multiple of."""
        return 1


def _view(space, clean, eps, signal, spread):
    if space == "velocity":
        return signal * eps - spread * clean
    return eps if space == "epsilon" else clean
