"""The plan of a prediction: everything that is the same for all images."""

import logging
import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from uuid import uuid4

import numpy as np
import torch

from diffusion_sklearn.backbones._batches import BatchSize, resolve_batch_size
from diffusion_sklearn.backbones._conditions import (
    pack_tensors,
    to_dict,
    unpack_tensors,
)
from diffusion_sklearn.backbones._loading import get_backbone
from diffusion_sklearn.engine._covariance import MeanPredictor, TrialCovariance
from diffusion_sklearn.engine._losses import check_loss
from diffusion_sklearn.engine._pruning import pruning_rounds, split_pruning, stage_ends
from diffusion_sklearn.engine._trials import Trials

MAX_GROUP_SIZE = 64  # images
SEARCH_LEVEL = 0.6  # of all timesteps
MAX_GROUP_ERRORS = 2**23  # errors of a group of images: 64 MiB

logger = logging.getLogger(__name__)
_last_received = None  # the plan that this process was last sent


@dataclass(frozen=True, eq=False)
class Plan:
    """Model, conditions, trials, pruning and loss of a prediction.

    Built once for a fit and a process. The attributes are small and on the CPU; what
    follows from them (noise, tensors on the model's device, the batch size) is made at
    the first use and stays out of a pickle.

    Attributes
    ----------
    model : BackboneSpec
        Leads to the model, which is loaded once a process; with its fingerprint.
    trials : Trials
        The (timestep, noise) pairs.
    conditions : Tensor of shape (n_conditions, ...) or Conditions
        Text embeddings or class ids, those of a class next to each other.
    n_prompts : ndarray of shape (n_classes,), int64
        Conditions of each class.
    weights : ndarray of shape (n_trials,)
        Weight of each trial's error.
    pruning, loss, target, guidance_scale, batch_size : object
        As in the estimators.
    null : Tensor of shape (1, ...), Conditions or None
        The null condition, where there is guidance.
    image_size : int
        Side of the images in pixels.
    covariance : TrialCovariance or None
        Of the errors of this loss and target. A race predicts with it.
    """

    model: object
    trials: Trials
    conditions: object
    n_prompts: np.ndarray
    weights: np.ndarray
    pruning: object
    loss: str
    target: str
    guidance_scale: float
    null: object
    image_size: int
    batch_size: object
    covariance: TrialCovariance | None = None
    token: str = field(default_factory=lambda: uuid4().hex, repr=False)

    def __post_init__(self):
        check_loss(self.loss, self.backbone)
        self.backbone.latent_shape(self.image_size)

    @cached_property
    def backbone(self):
        """The diffusion model."""
        return get_backbone(self.model)

    @property
    def n_classes(self):
        """Number of classes."""
        return len(self.n_prompts)

    @cached_property
    def first_conditions(self):
        """Index of the first condition of each class, (n_classes,)."""
        return np.cumsum(self.n_prompts) - self.n_prompts

    @property
    def latent_shape(self):
        """(channels, height, width) of a latent."""
        return self.backbone.latent_shape(self.image_size)

    @property
    def n_elements(self):
        """Number of elements of a latent, which turns means into sums."""
        return math.prod(self.latent_shape)

    @cached_property
    def rounds(self):
        """Cumulative numbers of trials, each with the rules that drop classes there."""
        return pruning_rounds(self.pruning, len(self.trials), self.predictor)

    @cached_property
    def predictor(self):
        """What predicts the mean of all trials in a race; None: a test of means."""
        if self.covariance is None or split_pruning(self.pruning)[0] is None:
            return None
        stages = stage_ends(self.pruning)
        weights, timesteps = self.weights, self.trials.timesteps
        levels = self.covariance.levels(timesteps)
        if levels is not None:
            with np.errstate(divide="ignore"):  # trials of weight 0
                levels[0] += np.log(weights)
        return MeanPredictor(
            self.covariance.matrix(timesteps) * np.outer(weights, weights),
            self.trials.order(stages) if stages else None,
            levels,
        )

    @cached_property
    def order(self):
        """Order in which the trials are run, (n_trials,)."""
        if self.predictor is not None:
            return self.predictor.order
        return self.trials.order(stage_ends(self.pruning))

    @cached_property
    def search_trial(self):
        """Trial on which a search among many classes compares them.

        The first of a race by prediction, which tells the most of all. Else the one at
        the noise level nearest to :data:`SEARCH_LEVEL`.
        """
        if self.predictor is not None:
            return self.order[0]
        level = SEARCH_LEVEL * self.backbone.n_timesteps
        distance = np.abs(self.trials.timesteps - level)
        return np.where(self.weights > 0, distance, np.inf).argmin()

    @cached_property
    def coefficients(self):
        """Weight of each trial in a mean of the first n, a row for each n.

        Of shape (n_trials + 1, n_trials); zeros for numbers of trials between the
        rounds.
        """
        n = len(self.trials)
        coefficients = np.zeros((n + 1, n))
        for end, _ in self.rounds:
            mean = 1 / end
            if self.predictor is not None and end < n:
                mean, *_ = self.predictor.after(end)
            coefficients[end, self.order[:end]] = mean
        return coefficients

    @cached_property
    def inputs(self):
        """Noise, timesteps, conditions and null condition, on the model's device."""
        device = self.backbone.device
        noise = torch.from_numpy(self.trials.noise(self.latent_shape))
        return (
            noise.to(device, self.backbone.compute_dtype),  # (n_trials, c, h, w)
            torch.from_numpy(self.trials.timesteps).to(device),  # (n_trials,)
            self.conditions.to(device),
            None if self.null is None else self.null.to(device),
        )

    @cached_property
    def rows(self):
        """Rows of a forward pass; fewer once they did not fit into memory."""
        condition = self.inputs[2][:1]
        rows = resolve_batch_size(
            self.batch_size, self.backbone, self.latent_shape, condition
        )
        logger.info("%d network evaluations a forward pass", rows.rows)
        return rows

    @cached_property
    def encode_rows(self):
        """Images encoded at once; fewer once they did not fit into memory."""
        return BatchSize(self.rows.rows)

    @cached_property
    def group_size(self):
        """Images evaluated together: with two classes left, they fill a batch."""
        ends = [0] + [end for end, _ in self.rounds]
        shortest = min(b - a for a, b in pairwise(ends))
        n_errors = len(self.conditions) * len(self.trials)
        most = min(MAX_GROUP_SIZE, MAX_GROUP_ERRORS // n_errors)
        return max(1, min(most, math.ceil(self.rows.rows / (2 * shortest))))

    def __reduce__(self):
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        return _receive, (pack_tensors(state),)

    def __sizeof__(self):
        # Dask sends objects of more than a few kilobytes to each worker once.
        tensors = to_dict(self.conditions).values()
        return sum(x.nbytes for x in tensors) + self.trials.timesteps.nbytes


def _receive(state):
    """The plan of a pickle; the same object as long as it is the same plan."""
    global _last_received
    if _last_received is None or _last_received.token != state["token"]:
        # Without a look at the model: an error here would end a worker of loky.
        _last_received = object.__new__(Plan)
        vars(_last_received).update(unpack_tensors(state))
    return _last_received
