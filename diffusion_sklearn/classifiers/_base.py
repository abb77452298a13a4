"""What both estimators share: parameters, fit, and the public methods."""

import copy
import logging
from abc import abstractmethod
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from diffusion_sklearn.backbones._loading import backbone_spec, get_backbone
from diffusion_sklearn.backbones._spec import describe
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._parameters import PARAMETER_CONSTRAINTS
from diffusion_sklearn.classifiers._prefilter import (
    candidates,
    fit_prefilter,
    groups_with_the_rest,
)
from diffusion_sklearn.classifiers._weights import resolve_weights
from diffusion_sklearn.engine._errors import DenoisingErrors, error_difference
from diffusion_sklearn.engine._posterior import check_priors
from diffusion_sklearn.engine._pruning import check_pruning, stage_ends
from diffusion_sklearn.engine._scoring import (
    Scoring,
    check_variance,
    encode,
    keep_answer,
    keep_errors,
    keep_mean,
    score,
    with_progress,
)
from diffusion_sklearn.engine._store import ErrorStore
from diffusion_sklearn.engine._trials import (
    check_timesteps,
    check_weights,
    make_trials,
)
from diffusion_sklearn.images._pixels import to_pixels

logger = logging.getLogger(__name__)


class BaseDiffusionClassifier(BaseImageClassifier):
    """A conditional diffusion model as a classifier (Li et al., ICCV 2023)."""

    _parameter_constraints = PARAMETER_CONSTRAINTS

    @abstractmethod
    def __init__(
        self,
        *,
        model,
        classes,
        class_names,
        n_trials,
        pruning,
        loss,
        target,
        timesteps,
        timestep_weights,
        guidance_scale,
        null_condition,
        prefilter,
        n_candidates,
        priors,
        temperature,
        image_size,
        image_shape,
        batch_size,
        device,
        dtype,
        random_state,
        memory,
        n_jobs,
        verbose,
    ):
        self.model = model
        self.classes = classes
        self.class_names = class_names
        self.n_trials = n_trials
        self.pruning = pruning
        self.loss = loss
        self.target = target
        self.timesteps = timesteps
        self.timestep_weights = timestep_weights
        self.guidance_scale = guidance_scale
        self.null_condition = null_condition
        self.prefilter = prefilter
        self.n_candidates = n_candidates
        self.priors = priors
        self.temperature = temperature
        self.image_size = image_size
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.memory = memory
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X=None, y=None, *, classes=None):
        """Name the classes, encode them and draw the trials. Nothing is trained.

        Parameters
        ----------
        X : list, array-like or Tensor, default=None
            Images, not looked at but for their number (and, as flat rows, their
            width).
        y : array-like of shape (n_images,), default=None
            Labels. Where `classes` is not given, they are the label set.
        classes : array-like of shape (n_classes,), default=None
            The label set; goes before the parameter of the same name.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is not possible, or no label set is given.
        OSError
            If the model can't be had.
        """
        self._check_parameters(self.n_trials)
        y, labels, names, listed = self._resolve_labels(X, y, classes)
        priors = check_priors(self.priors, labels)
        drawn = self._draw_trials()
        backbone = get_backbone(drawn["_spec"])
        conditions, encoded = self._encode_classes(backbone, labels, names, listed)
        prefilter = None
        if self.prefilter is not None:
            prefilter = fit_prefilter(self.prefilter, X, y, labels)

        # All has gone well: what was fitted before goes now.
        self.classes_, self.n_classes_ = labels, len(labels)
        self.prefilter_, self._priors = prefilter, priors
        self._conditions = conditions
        for name, value in {**drawn, **encoded}.items():
            setattr(self, name, value)
        return self

    @property
    def backbone_(self):
        """The diffusion model; its ``pipeline`` is the diffusers pipeline."""
        check_is_fitted(self, "_spec")
        return get_backbone(self._spec)

    def predict_log_proba(self, X):
        """Log posterior probability of each class.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes), float64
            Columns in the order of `classes_`.
        """
        _, log_proba = self._score(X, keep_answer)
        return log_proba

    def denoising_errors(self, X):
        """Error of every image, class and trial that a prediction is made of.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        result : DenoisingErrors
            With ``errors`` (n_images, n_classes, n_trials) float32, NaN where pruned,
            ``timesteps``, ``n_evaluations``, ``log_proba`` and ``classes``.
        """
        n_evaluations, log_proba, errors = self._score(X, keep_errors)
        return DenoisingErrors(
            errors, self.trials_.timesteps, n_evaluations, log_proba, self.classes_
        )

    def evidence(self, X, a, b):
        """Where in each image class `a` explains it better than class `b`.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.
        a, b : label
            Two of `classes_`.

        Returns
        -------
        evidence : ndarray of shape (n_images, size, size), float32
            Error of `b` minus error of `a` at each latent position, a mean over
            channels and all trials, upsampled to the size of the model's images.
            Positive where `a` explains the image better.

        Raises
        ------
        ValueError
            If `a` or `b` is no class.
        """
        images = self._check_images(X)
        for name, label in (("a", a), ("b", b)):
            if label not in self.classes_:
                raise ValueError(
                    f"{name}={label!r} is none of classes_={self.classes_.tolist()}."
                )
        pair = np.searchsorted(self.classes_, [a, b])
        scoring = self._scoring(pruning=None)
        plan, size = scoring.make_plan(self._conditions, self.n_classes_)
        maps = []
        for index in range(len(images)):
            pixels = to_pixels(images[index : index + 1], size, index)
            gap = error_difference(encode(pixels, plan), *pair, plan)  # (h, w)
            maps.append(F.interpolate(gap[None, None], (size, size), mode="bilinear"))
        return torch.cat(maps)[:, 0].cpu().numpy()

    def score_samples(self, X):
        r"""How likely images are to the model, whatever their class.

        Minus the unconditional error, with the null condition in place of a class: low
        for images unlike those that the model was trained on,

        .. math:: -E_{t,\epsilon} \|\epsilon - \epsilon_\theta(x_t)\|^2.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Returns
        -------
        scores : ndarray of shape (n_images,), float64
            The lower, the more of an outlier. Summed over the latent's elements, a
            mean over all trials; of use in comparison only.

        Raises
        ------
        ValueError
            If the model has no null condition and `null_condition` names none.

        Notes
        -----
        Needs no `fit`. Images of little detail score high, whatever they show, as with
        every likelihood of a deep generative model [1]_.

        References
        ----------
        .. [1] Nalisnick, Matsukawa, Teh, Gorur and Lakshminarayanan, "Do Deep
           Generative Models Know What They Don't Know?", ICLR 2019.
        """
        scorer, images = self._scorer(), self._read_images(X)
        reduce = partial(
            keep_mean, weights=scorer._weights, n_elements=scorer._n_elements()
        )
        null = scorer.backbone_.encode_null(self.null_condition)
        scoring = replace(scorer._scoring(pruning=None), guidance_scale=1.0, null=None)
        alive = np.ones((len(images), 1), bool)
        groups = score(scoring, images, alive, null, reduce, self.n_jobs)
        return -np.concatenate(with_progress(groups, len(images), self.verbose))[:, 0]

    def _scorer(self):
        """Itself with trials, which an estimator that is not fitted draws anew."""
        fitted = hasattr(self, "trials_")
        self._check_parameters(len(self.trials_) if fitted else self.n_trials)
        if fitted:
            return self
        scorer = copy.copy(self)
        vars(scorer).update(self._draw_trials())
        return scorer

    def _draw_trials(self):
        """What `fit` sets that has nothing to do with the classes."""
        spec = backbone_spec(self.model, self.device, self.dtype)
        backbone = get_backbone(spec)
        if backbone.kind != self._kind:
            raise ValueError(
                f"model={describe(self.model)} is conditioned on {backbone.kind}, but "
                f"{type(self).__name__} needs a model conditioned on {self._kind}; use "
                f"{_ESTIMATOR_FOR[backbone.kind]} instead."
            )
        dtype = str(backbone.dtype).removeprefix("torch.")
        logger.info("%s on %s, %s", backbone.name, backbone.device, dtype)
        backbone.latent_shape(self.image_size or backbone.image_size)
        check_variance(self.loss, backbone)
        trials = make_trials(
            self.timesteps,
            self.n_trials,
            backbone.n_timesteps,
            check_random_state(self.random_state),
            stage_ends(self.pruning),
        )
        weights = self.timestep_weights
        if not isinstance(weights, str):
            weights = check_weights(weights, trials.timesteps, backbone.n_timesteps)
        null = None
        if self.guidance_scale != 1:
            null = backbone.encode_null(self.null_condition)
        return {
            "_spec": spec,
            "trials_": trials,
            "_given_weights": weights,
            "_guidance_scale": self.guidance_scale,
            "_null": null,
        }

    @property
    def _weights(self):
        """Weight of each trial's error; a name stands for others in another space."""
        return resolve_weights(
            self._given_weights, self.trials_.timesteps, self.backbone_, self.target
        )

    def _score(self, X, keep):
        """What is kept of the images: evaluations, log posterior, perhaps errors."""
        images = self._check_images(X)
        groups = self._groups(images, X, keep)
        kept = with_progress(groups, len(images), self.verbose)
        return [np.concatenate(parts) for parts in zip(*kept, strict=True)]

    def _groups(self, images, X, keep):
        """Groups of checked images, with what is kept of each, as they are scored."""
        alive = np.ones((len(images), self.n_classes_), bool)
        if self.prefilter_ is not None:
            alive, rest = candidates(
                self.prefilter_, X, self.classes_, self.n_candidates, self._priors
            )
        reduce = partial(
            keep,
            weights=self._weights,
            n_elements=self._n_elements(),
            priors=self._priors,
            temperature=self.temperature,
        )
        scoring = self._scoring(self.pruning)
        groups = score(scoring, images, alive, self._conditions, reduce, self.n_jobs)
        if self.prefilter_ is not None:
            groups = groups_with_the_rest(groups, alive, rest)
        return groups

    def _scoring(self, pruning):
        return Scoring(
            spec=self._spec,
            trials=self.trials_,
            weights=self._weights,
            pruning=pruning,
            loss=self.loss,
            target=self.target,
            guidance_scale=self._guidance_scale,
            null=self._null,
            image_size=self.image_size,
            batch_size=self.batch_size,
            memory=ErrorStore.of(self.memory),
        )

    def _n_elements(self):
        backbone = self.backbone_
        size = self.image_size or backbone.image_size
        return int(np.prod(backbone.latent_shape(size)))

    def _check_parameters(self, n_trials):
        self._validate_params()
        check_pruning(self.pruning, n_trials)
        check_timesteps(self.timesteps)

    def _check_images(self, X):
        check_is_fitted(self, "classes_")
        # Those that say how to predict may have been set since fit.
        self._check_parameters(len(self.trials_))
        return self._read_images(X)

    @abstractmethod
    def _encode_classes(self, backbone, labels, names, listed):
        """Conditions of the classes, and the fitted attributes that tell of them.

        Those of a class stand next to each other. `listed` tells whether the user
        listed the classes, rather than `y`.
        """


_ESTIMATOR_FOR = {
    "text": "ZeroShotDiffusionClassifier",
    "class": "ConditionalDiffusionClassifier",
}
