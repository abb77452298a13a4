"""Parameters, fit and predictions that both diffusion classifiers share."""

import logging
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from diffusion_sklearn.backbones._loading import backbone_spec, get_backbone
from diffusion_sklearn.backbones._sources import get_or_make
from diffusion_sklearn.backbones._spec import describe
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._parameters import PARAMETER_CONSTRAINTS
from diffusion_sklearn.classifiers._prefilter import (
    candidates,
    combine_with_prefilter,
    fit_prefilter,
    prefilter_log_proba,
)
from diffusion_sklearn.engine._cache import ErrorCache, ErrorStore
from diffusion_sklearn.engine._errors import (
    DenoisingErrors,
    error_difference,
    iter_errors,
)
from diffusion_sklearn.engine._gradients import check_gradients, predict_errors
from diffusion_sklearn.engine._plan import Plan
from diffusion_sklearn.engine._posterior import check_priors, log_posterior
from diffusion_sklearn.engine._progress import ProgressBar
from diffusion_sklearn.engine._pruning import check_pruning
from diffusion_sklearn.engine._trials import check_timesteps, make_trials
from diffusion_sklearn.engine._weights import trial_weights
from diffusion_sklearn.engine._workers import (
    has_workers,
    iter_errors_of_workers,
    predict_errors_of_workers,
)
from diffusion_sklearn.images._pixels import to_pixels

logger = logging.getLogger(__name__)

_ESTIMATOR_FOR = {
    "text": "ZeroShotDiffusionClassifier",
    "class": "ConditionalDiffusionClassifier",
}


class FitKey:
    """Key of the plan of a fit; an unpickled estimator has its own."""


@dataclass(kw_only=True, eq=False, repr=False)
class BaseDiffusionClassifier(BaseImageClassifier):
    """A conditional diffusion model as a classifier (Li et al., ICCV 2023).

    The fields are the parameters of the constructor, which only assigns them.
    """

    _parameter_constraints = PARAMETER_CONSTRAINTS

    model: object
    classes: object = None
    class_names: object = None
    n_trials: int = 100
    pruning: object = 0.99
    loss: str = "l2"
    target: str = "native"
    timesteps: object = "even"
    timestep_weights: object = None
    guidance_scale: float = 1.0
    null_condition: object = None
    prefilter: object = None
    n_candidates: int = 20
    priors: object = None
    temperature: float = 1.0
    image_size: int | None = None
    image_shape: object = None
    batch_size: object = "auto"
    device: object = "auto"
    dtype: object = "auto"
    random_state: object = 0
    memory: object = None
    n_jobs: int | None = None
    verbose: int = 0

    def fit(self, X=None, y=None, *, classes=None):
        """Name the classes, encode them and draw the trials. Nothing is trained.

        Parameters
        ----------
        X : list, array-like or Tensor, default=None
            Images; only their number is used (and, of flat rows, the width).
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
        y, labels, names, classes_given = self._resolve_labels(X, y, classes)
        check_priors(self.priors, labels)
        spec, trials = self._load_and_draw()
        backbone = get_backbone(spec)
        class_conditions = self._resolve_conditions(
            backbone, labels, names, classes_given
        )
        conditions = backbone.condition(
            [c for group in class_conditions for c in group]
        )
        plan = self._make_plan(spec, trials, conditions, len(labels))
        prefilter = self.prefilter
        if isinstance(prefilter, str):  # "gradient"
            check_gradients(backbone, self.null_condition)
        elif prefilter is not None:
            prefilter = fit_prefilter(prefilter, X, y, labels)

        # Set fitted attributes only after success.
        self.classes_, self.n_classes_ = labels, len(labels)
        self.trials_, self.prefilter_ = trials, prefilter
        self._spec, self._conditions, self._fit = spec, plan.conditions, FitKey()
        self._set_conditions(class_conditions)
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
        images, plan = self._check_images(X), self._fitted_plan()
        priors = check_priors(self.priors, self.classes_)
        active, outside, _ = self._candidates(X, images, plan, priors)
        log_proba = []
        with self._cache(plan) as cache, self._progress(images) as bar:
            for errors, n_evaluations in self._iter_errors(plan, images, active, cache):
                bar.update(n_evaluations)
                errors = errors * plan.weights  # (n, k, m)
                log_proba.append(
                    log_posterior(errors, plan.n_elements, priors, self.temperature)
                )
        return combine_with_prefilter(np.concatenate(log_proba), active, outside)

    def denoising_errors(self, X):
        """Error of every image, class and trial behind a prediction.

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
        images, plan = self._check_images(X), self._fitted_plan()
        priors = check_priors(self.priors, self.classes_)
        active, outside, n_before = self._candidates(X, images, plan, priors)
        groups = []
        with self._cache(plan) as cache, self._progress(images) as bar:
            for errors, n_evaluations in self._iter_errors(plan, images, active, cache):
                bar.update(n_evaluations)
                log_proba = log_posterior(
                    errors * plan.weights, plan.n_elements, priors, self.temperature
                )
                groups.append((errors.astype(np.float32), n_evaluations, log_proba))
        errors, n_evaluations, log_proba = map(
            np.concatenate, zip(*groups, strict=True)
        )
        return DenoisingErrors(
            errors,
            self.trials_.timesteps,
            n_evaluations + n_before,
            combine_with_prefilter(log_proba, active, outside),
            self.classes_,
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
        plan = self._fitted_plan(pruning=None)
        size, maps = plan.image_size, []
        for index in range(len(images)):
            pixels = to_pixels(images[index : index + 1], size, index)
            difference = torch.from_numpy(error_difference(plan, pixels, *pair))
            difference = difference.float()[None, None]  # (1, 1, h, w)
            maps.append(F.interpolate(difference, (size, size), mode="bilinear"))
        return torch.cat(maps)[:, 0].numpy()

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
        images, (spec, trials) = self._read_images(X), self._model_and_trials()
        null = get_backbone(spec).encode_null(self.null_condition)
        errors = self._mean_errors(spec, trials, images, null, guidance_scale=1)
        return -errors[:, 0]

    def _check_parameters(self, n_trials):
        self._validate_params()
        check_pruning(self.pruning, n_trials)
        check_timesteps(self.timesteps)

    def _check_images(self, X):
        check_is_fitted(self, "classes_")
        self._check_parameters(len(self.trials_))  # they may have been set since fit
        return self._read_images(X)

    def _load_and_draw(self):
        """The model's spec, and trials for it."""
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
        trials = make_trials(
            self.timesteps,
            self.n_trials,
            backbone.n_timesteps,
            check_random_state(self.random_state),
        )
        return spec, trials

    def _model_and_trials(self):
        """Those of `fit`, or new ones for an estimator that is not fitted."""
        fitted = hasattr(self, "trials_")
        self._check_parameters(len(self.trials_) if fitted else self.n_trials)
        return (self._spec, self.trials_) if fitted else self._load_and_draw()

    def _make_plan(self, spec, trials, conditions, n_classes, **settings):
        """The plan of a prediction, from the parameters as they are now."""
        backbone = get_backbone(spec)
        settings = {
            "pruning": self.pruning,
            "guidance_scale": self.guidance_scale,
            **settings,
        }
        null = None
        if settings["guidance_scale"] != 1:
            null = backbone.encode_null(self.null_condition)
        return Plan(
            spec,
            trials,
            conditions,
            n_classes,
            weights=trial_weights(self.timestep_weights, trials, backbone, self.target),
            loss=self.loss,
            target=self.target,
            null=null,
            image_size=self.image_size or backbone.image_size,
            batch_size=self.batch_size,
            **settings,
        )

    def _fitted_plan(self, **settings):
        """The plan of this fit, made once for the same parameters."""
        backbone, trials = self.backbone_, self.trials_
        weights = trial_weights(self.timestep_weights, trials, backbone, self.target)
        key = (
            backbone,
            str(backbone.device),
            backbone.dtype,
            weights.tobytes(),
            repr(settings.get("pruning", self.pruning)),
            self.loss,
            self.target,
            self.guidance_scale,
            self.null_condition,
            self.image_size,
            self.batch_size,
        )
        conditions, n_classes = self._conditions, self.n_classes_

        def make():
            return self._make_plan(
                self._spec, trials, conditions, n_classes, **settings
            )

        return get_or_make(self._fit, key, make)

    def _cache(self, plan):
        """The kept errors of a plan, as a context; None without `memory`."""
        return ErrorCache.open(ErrorStore.of(self.memory), plan)

    def _progress(self, images):
        return ProgressBar(len(images), self.verbose)

    def _iter_errors(self, plan, images, active, cache=None):
        """Errors of groups of images, computed here or by joblib's workers."""
        if has_workers(self.n_jobs, len(images)):
            store = None if cache is None else cache.store
            return iter_errors_of_workers(plan, images, active, store, self.n_jobs)
        return iter_errors(plan, images, active, cache)

    def _candidates(self, X, images, plan, priors):
        """Classes to evaluate, and the prefilter's probability of the others.

        And the number of evaluations of each image that it took.
        """
        prefilter, shape = self.prefilter_, (len(images), self.n_classes_)
        if prefilter is None:
            return np.ones(shape, bool), np.zeros(shape), 0
        log_proba, n_evaluations = np.zeros(shape), 0
        eligible = np.ones(shape[1], bool) if priors is None else priors > 0
        if not isinstance(prefilter, str):
            log_proba = prefilter_log_proba(prefilter, X, self.classes_)
        elif eligible.sum() > self.n_candidates:
            null = plan.backbone.encode_null(self.null_condition)
            search = plan, images, null, self.n_candidates, eligible
            if has_workers(self.n_jobs, len(images)):
                errors, n_evaluations = predict_errors_of_workers(*search, self.n_jobs)
            else:
                errors, n_evaluations = predict_errors(*search)
            log_proba = -errors * plan.n_elements / self.temperature
        return (*candidates(log_proba, self.n_candidates, priors), n_evaluations)

    def _all_errors(self, X, trials=None):
        """Errors of all classes and trials, whatever the pruning and the prefilter.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.
        trials : Trials, default=None
            Other trials, whose errors are not kept in `memory`; None: those of `fit`.

        Returns
        -------
        errors : ndarray of shape (n_images, n_classes, n_trials), float64
        """
        images = self._check_images(X)
        if trials is None:
            plan, store = self._fitted_plan(pruning=None), ErrorStore.of(self.memory)
        else:
            spec, conditions, store = self._spec, self._conditions, None
            plan = self._make_plan(
                spec, trials, conditions, self.n_classes_, pruning=None
            )
        active, groups = np.ones((len(images), self.n_classes_), bool), []
        with ErrorCache.open(store, plan) as cache, self._progress(images) as bar:
            for errors, n_evaluations in self._iter_errors(plan, images, active, cache):
                bar.update(n_evaluations)
                groups.append(errors)
        return np.concatenate(groups)

    def _mean_errors(self, spec, trials, images, conditions, active=None, **settings):
        """Weighted mean error of each condition, summed over the latent, (n, k).

        NaN where `active`, (n, k), is False.
        """
        plan = self._make_plan(
            spec, trials, conditions, len(conditions), pruning=None, **settings
        )
        if active is None:
            active = np.ones((len(images), len(conditions)), bool)
        means = []
        with self._cache(plan) as cache, self._progress(images) as bar:
            for errors, n_evaluations in self._iter_errors(plan, images, active, cache):
                bar.update(n_evaluations)
                means.append((errors * plan.weights).mean(axis=2) * plan.n_elements)
        return np.concatenate(means)

    @abstractmethod
    def _resolve_conditions(self, backbone, labels, names, classes_given):
        """Prompts or class ids of each class, a list of lists.

        `classes_given` tells whether the user gave the classes, rather than `y`.
        """

    @abstractmethod
    def _set_conditions(self, class_conditions):
        """Set the fitted attribute that holds the prompts or class ids."""
