"""Checks against one denoising step of the pipeline's own ``__call__``."""

import inspect
from functools import wraps

import numpy as np
import torch
from sklearn.utils import Bunch

from diffusion_sklearn.backbones._noise_schedule import RectifiedFlow
from diffusion_sklearn.backbones._sources import quiet
from diffusion_sklearn.testing._common import (
    assert_close,
    copy_backbone,
    draw_noise,
    make_images,
    to_tensor,
    two_names,
)


@torch.no_grad()
def check_denoising_step(backbone):
    """The backbone predicts the clean latents of the pipeline's own step."""
    for fraction in (0.25, 0.75):
        timestep = int(fraction * backbone.n_timesteps)
        step = run_one_step(backbone, timestep)
        if step is None:
            return
        assert_close(
            step.predicted,
            step.expected,
            f"at timestep {timestep} the predicted clean latents are not those of the "
            "pipeline's own step; see sign, time and conditions in forward, and the "
            "noise schedule",
        )


@torch.no_grad()
def check_latents(backbone):
    """The pipeline decodes from the backbone's latents what was encoded."""
    step = run_one_step(backbone, backbone.n_timesteps // 2)
    if step is None or step.decoded is None:
        return
    assert_close(
        step.decoded,
        step.encoded,
        "from the latents of an image, the pipeline decodes something else than was "
        "encoded; see scale, shift and layout in encode",
    )


def run_one_step(backbone, timestep):
    """Let the pipeline make one step from a timestep to the end.

    The pipeline is a copy with another sampler of the same noise schedule (DDPM, or
    Euler's for a flow), whose result is the predicted clean latents.

    Parameters
    ----------
    backbone : Backbone
    timestep : int

    Returns
    -------
    step : Bunch or None
        ``predicted`` and ``expected``, Tensors of shape (1, ...): predicted clean
        latents of the backbone and of the pipeline's step, in the layout of the
        network's input. ``encoded`` and ``decoded``, Tensors: what the autoencoder
        makes of the image, and what the pipeline hands to it to decode the latents of
        the backbone; None without an autoencoder. None if the pipeline has no
        ``__call__``.

    Raises
    ------
    AssertionError
        If the pipeline can't be called, or never calls ``scheduler.step``.
    """
    if not callable(backbone.pipeline):
        return None
    backbone = copy_backbone(backbone, torch.float32)
    name, pipeline = two_names(backbone)[0], backbone.pipeline
    pixels = to_tensor(make_images(backbone, 1)).float()
    latents, encoded = _encode(backbone, pixels)
    t = torch.tensor([timestep], device=latents.device)
    noised = backbone.add_noise(latents, draw_noise(latents), t)

    parameters = inspect.signature(type(pipeline).__call__).parameters
    spy = _Spy(
        backbone, name, t, "prompt" in parameters or "class_labels" in parameters
    )
    spy.end = spy.network_input(latents)
    side = backbone.image_size
    if hasattr(pipeline, "default_sample_size"):  # HiDream resizes to this area
        pipeline.default_sample_size = latents.shape[-1]
    options = {
        "prompt": name,
        "class_labels": [name],
        # Others take images to be edited, which are a condition.
        "image": (pixels + 1) / 2 if "strength" in parameters else None,
        "strength": 1.0,
        "height": side,
        "width": side,
        "latents": noised if backbone.packs_latents else spy.network_input(noised),
        "num_inference_steps": 2,  # 1 has a meaning of its own in some pipelines
        "original_inference_steps": 2,
        "guidance_scale": backbone.no_guidance,
        "true_cfg_scale": 1.0,
        "max_sequence_length": getattr(backbone, "max_sequence_length", None),
        "use_resolution_binning": False,
        "clean_caption": False,
        "output_type": "np",
    }
    options = {k: v for k, v in options.items() if k in parameters and v is not None}
    pipeline.set_progress_bar_config(disable=True)
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    try:
        # Some pipelines draw from the global generator.
        with torch.random.fork_rng(devices), quiet():
            pipeline(**options)
    except _Stop:
        pass
    except Exception as error:
        raise AssertionError(
            f"{type(pipeline).__name__}.__call__ fails with the arguments "
            f"{sorted(options)} ({type(error).__name__}: {error}); see whether it has "
            "arguments without a default."
        ) from error
    assert spy.expected is not None, "the pipeline did not call scheduler.step."
    if "latents" not in parameters or spy.sigma_data:  # drawn or scaled by itself
        noised = spy.seen
    predicted = backbone.predict(noised, t, spy.condition)
    clean, _ = backbone.noise_schedule.latents_and_noise(
        backbone.prediction_type, predicted, noised, t
    )
    return Bunch(
        predicted=spy.network_input(clean),
        expected=spy.expected,
        encoded=encoded,
        decoded=spy.decoded,
    )


def _encode(backbone, pixels):
    """Latents of the backbone, and what its autoencoder makes of the same pixels."""
    vae, shapes = backbone.vae, [pixels.shape]
    if vae is None:
        return backbone.encode(pixels), None
    encode = vae.encode

    def spy(x, *args, **kwargs):
        shapes.append(x.shape)
        return encode(x, *args, **kwargs)

    vae.encode = spy
    latents = backbone.encode(pixels)
    # An autoencoder of videos takes a frame.
    encoded = encode(pixels.view(shapes[-1]).to(vae.device, vae.dtype))[0]
    if not isinstance(encoded, torch.Tensor):  # a distribution
        encoded = encoded.mean
    return latents, encoded


class _Stop(Exception):
    """Ends a call of which nothing more is needed."""


class _Spy:
    """Records what passes between the parts of a pipeline during a step."""

    def __init__(self, backbone, name, timestep, takes_condition):
        self.backbone, self.timestep = backbone, timestep
        self.condition = backbone.condition([name])
        self.takes_condition, self.runs_backbone = takes_condition, False
        self.sigma_data = _sigma_data(backbone.scheduler)
        self.inputs = self.seen = self.end = self.expected = self.decoded = None
        backbone.network.register_forward_pre_hook(self._network, with_kwargs=True)
        if backbone.vae is not None:
            backbone.vae.decode = self._decode
        backbone.pipeline.scheduler = self._one_timestep(_plain_scheduler(backbone))

    def network_input(self, latents):
        """Latents in the layout in which the backbone hands them to the network."""
        self.runs_backbone = True
        try:
            self.backbone.predict(latents, self.timestep, self.condition)
        except _Stop:
            return self.seen
        finally:
            self.runs_backbone = False

    def _network(self, network, args, kwargs):
        bound = inspect.signature(network.forward).bind_partial(*args, **kwargs)
        self.seen = next(iter(bound.arguments.values()))
        if isinstance(self.seen, list):  # of images that are videos of one frame
            self.seen = torch.stack(self.seen).squeeze(2)
        if self.runs_backbone:
            self.inputs = bound.arguments
            raise _Stop
        if not self.takes_condition:  # the pipeline samples without one
            return (), {**self.inputs, **bound.arguments}
        return args, kwargs

    def _one_timestep(self, scheduler):
        """Replace the timesteps by one; continue from the latents of the image."""
        schedule, step = self.backbone.noise_schedule, scheduler.step
        time = float(schedule.network_time(self.timestep))

        @wraps(scheduler.set_timesteps)
        def set_timesteps(*args, timesteps=None, sigmas=None, mu=None, **kwargs):
            at = time
            if timesteps is not None and sigmas is not None:  # the time is not shifted
                own, grid = self.backbone.scheduler, np.linspace(1, 0.001, 10_000)
                own.set_timesteps(
                    sigmas=grid, timesteps=grid * schedule.n_timesteps, mu=mu
                )
                curve = own.sigmas[:-1].flip(0), own.timesteps.flip(0)
                at = np.interp(time / schedule.n_timesteps, *curve)
            scheduler.timesteps = scheduler.timesteps.new_tensor([at])
            scheduler.num_inference_steps = 1
            if self.sigma_data:  # TrigFlow: an angle, and where the step ends
                sigma = time / schedule.n_timesteps
                angle = np.arctan2(sigma, 1 - sigma)
                scheduler.timesteps = torch.tensor([angle, 0.0])
            if hasattr(scheduler, "sigmas"):  # a flow's timestep is T sigma
                scheduler.sigmas = torch.tensor([time / schedule.n_timesteps, 0.0])

        @wraps(step)
        def recorded_step(*args, return_dict=True, **kwargs):
            output = step(*args, **kwargs)
            self.expected = output.prev_sample / (self.sigma_data or 1)
            output.prev_sample = self.end * (self.sigma_data or 1)
            # Consistency models decode the second one.
            return output if return_dict else (output.prev_sample,) * 2

        scheduler.set_timesteps, scheduler.step = set_timesteps, recorded_step
        return scheduler

    def _decode(self, latents, *args, **kwargs):
        self.decoded = latents
        raise _Stop


def _sigma_data(scheduler):
    """Standard deviation of the latents of TrigFlow; None for others."""
    config = scheduler.config
    return config.sigma_data if config.get("prediction_type") == "trigflow" else None


def _plain_scheduler(backbone):
    """A sampler whose only step ends at the predicted clean latents."""
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    own = backbone.scheduler
    if _sigma_data(own):
        return type(own).from_config(own.config)
    if isinstance(backbone.noise_schedule, RectifiedFlow):
        with quiet():
            return FlowMatchEulerDiscreteScheduler.from_config(
                own.config, shift=1.0, use_dynamic_shifting=False
            )
    scheduler = DDPMScheduler.from_config(
        own.config, clip_sample=False, thresholding=False, variance_type="fixed_small"
    )
    scheduler.alphas_cumprod = own.alphas_cumprod
    return scheduler
