"""Parameters, fit and predictions that both diffusion classifiers share."""

import warnings
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from diffusion_sklearn.backbones._loading import get_backbone
from diffusion_sklearn.classifiers._evaluate import mean_errors, open_errors
from diffusion_sklearn.classifiers._fitted_table import fitted_table
from diffusion_sklearn.classifiers._image_classifier import BaseImageClassifier
from diffusion_sklearn.classifiers._labels import check_distinct
from diffusion_sklearn.classifiers._log_prior import (
    check_class_offsets,
    check_priors,
    resolve_log_prior,
)
from diffusion_sklearn.classifiers._parameters import PARAMETER_CONSTRAINTS
from diffusion_sklearn.classifiers._plans import (
    fitted_plan,
    load_and_draw,
    make_plan,
    model_and_trials,
)
from diffusion_sklearn.classifiers._prefilter import (
    combine_with_prefilter,
    fit_prefilter,
)
from diffusion_sklearn.engine._cache import ErrorCache
from diffusion_sklearn.engine._errors import (
    DenoisingErrors,
    error_difference,
    iter_looks,
)
from diffusion_sklearn.engine._gradients import check_gradients
from diffusion_sklearn.engine._posterior import log_posterior
from diffusion_sklearn.engine._pruning import check_pruning
from diffusion_sklearn.engine._store import ErrorStore
from diffusion_sklearn.engine._trials import check_timesteps
from diffusion_sklearn.engine._weights import GUESSED_WEIGHTS, has_guessed_weights
from diffusion_sklearn.images._pixels import to_pixels


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
    trial_covariance: object = "auto"
    loss: str = "l2"
    target: str = "auto"
    timesteps: object = "even"
    timestep_weights: object = None
    guidance_scale: float = 1.0
    null_condition: object = None
    prefilter: object = None
    n_candidates: int = 20
    prefilter_weight: float = 0.0
    priors: object = None
    class_offsets: object = None
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

        Warns
        -----
        UserWarning
            If more timesteps are listed than there are trials, if the weights of the
            timesteps were not measured for this model, or if ``guidance_scale=0`` makes
            all classes the same.
        """
        self._check_parameters(self.n_trials)
        y, labels, names, classes_given = self._resolve_labels(X, y, classes)
        check_priors(self.priors, labels)
        check_class_offsets(self.class_offsets, labels)
        spec, trials = load_and_draw(self)
        backbone = get_backbone(spec)
        class_conditions = self._resolve_conditions(
            backbone, labels, names, classes_given
        )
        conditions = backbone.condition(
            [c for group in class_conditions for c in group]
        )
        embeddings = self._embeddings(backbone, conditions)
        check_distinct(
            embeddings.float().reshape(len(labels), -1).cpu().numpy(),
            labels,
            class_conditions,
            max(1e-5, torch.finfo(embeddings.dtype).eps),
        )
        n_prompts = np.array(list(map(len, class_conditions)))
        plan = make_plan(self, spec, trials, conditions, n_prompts)
        if has_guessed_weights(self.target, self.timestep_weights, backbone):
            warnings.warn(GUESSED_WEIGHTS.format(backbone.name), stacklevel=2)
        n_listed = 0 if isinstance(self.timesteps, str) else len(self.timesteps)
        if n_listed > self.n_trials:
            warnings.warn(
                f"n_trials={self.n_trials} leaves out timesteps: only the first "
                f"{self.n_trials} of the {n_listed} listed are used. Pass "
                f"n_trials={n_listed} or more, or fewer timesteps.",
                UserWarning,
                stacklevel=2,
            )
        prefilter = self.prefilter
        if isinstance(prefilter, str):  # "gradient"
            check_gradients(backbone, self.null_condition)
        elif prefilter is not None:
            prefilter = fit_prefilter(prefilter, X, y, labels)

        # Set fitted attributes only after success.
        self.classes_, self.n_classes_ = labels, len(labels)
        self.trials_, self.prefilter_ = trials, prefilter
        self._spec, self._conditions, self._fit = spec, plan.conditions, FitKey()
        self._n_prompts = n_prompts
        self._has_covariance = plan.covariance is not None
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
        images, plan = self._check_images(X), fitted_plan(self)
        log_prior, outside, _, searched = resolve_log_prior(self, X, images, plan)
        log_proba = np.empty(log_prior.shape)
        with open_errors(self, plan, images, log_prior, searched) as groups:
            for group, errors, _ in groups:
                log_proba[group] = self._log_posterior(plan, errors, log_prior[group])
        return combine_with_prefilter(log_proba, outside)

    def staged_predict_proba(self, X):
        """Posterior probability of each class after every look of the race.

        All images are evaluated together, in the memory that this takes, and here,
        whatever `n_jobs`.

        Parameters
        ----------
        X : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`.

        Yields
        ------
        proba : ndarray of shape (n_images, n_classes), float64
            Columns in the order of `classes_`. The last are those of
            :meth:`predict_proba`. With ``pruning=None`` there is one look, at the end.

        Examples
        --------
        >>> from diffusion_sklearn import ConditionalDiffusionClassifier
        >>> from diffusion_sklearn.datasets import load_fashion_photos
        >>> clf = ConditionalDiffusionClassifier(model="fashion-dit")
        >>> clf = clf.fit(classes=["bag", "sandal", "trouser"])
        >>> looks = list(clf.staged_predict_proba(load_fashion_photos().images[2:3]))
        >>> len(looks) > 1, looks[0].shape
        (True, (1, 3))
        """
        for look in self._iter_looks(X):
            yield np.exp(look.log_proba)

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
        images, plan = self._check_images(X), fitted_plan(self)
        log_prior, outside, n_before, searched = resolve_log_prior(
            self, X, images, plan
        )
        log_proba = np.empty(log_prior.shape)
        all_errors = np.empty((*log_prior.shape, len(plan.trials)), np.float32)
        n_evaluations = np.empty(len(images), np.int64)
        with open_errors(self, plan, images, log_prior, searched) as groups:
            for group, errors, n_rows in groups:
                all_errors[group], n_evaluations[group] = errors, n_rows
                log_proba[group] = self._log_posterior(plan, errors, log_prior[group])
        return DenoisingErrors(
            all_errors,
            self.trials_.timesteps,
            n_evaluations + n_before,
            combine_with_prefilter(log_proba, outside),
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
        plan = fitted_plan(self, pruning=None)
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
        images, (spec, trials) = self._read_images(X), model_and_trials(self)
        null = get_backbone(spec).encode_null(self.null_condition)
        errors = mean_errors(self, spec, trials, images, null, guidance_scale=1)
        return -errors[:, 0]

    def _html_repr(self):
        """What notebooks show: the parameters, and after `fit` what it made."""
        fitted = fitted_table(self) if hasattr(self, "trials_") else ""
        return super()._html_repr() + fitted

    def _get_fitted_attr_html(self, doc_link=""):
        return {}  # scikit-learn's list of attributes would load the model

    def _check_parameters(self, n_trials):
        self._validate_params()
        check_pruning(self.pruning, n_trials)
        if self.prefilter_weight and isinstance(self.prefilter, str):
            raise ValueError(
                f"prefilter_weight={self.prefilter_weight} needs a classifier as "
                f"prefilter, not {self.prefilter!r}; pass one, or prefilter_weight=0."
            )
        if self.guidance_scale == 0:
            warnings.warn(
                "guidance_scale=0 predicts with the null condition alone, the same "
                "for every class; pass 1 for no guidance.",
                UserWarning,
                stacklevel=4,
            )
        check_timesteps(self.timesteps)

    def _check_images(self, X):
        check_is_fitted(self, "classes_")
        self._check_parameters(len(self.trials_))  # they may have been set since fit
        return self._read_images(X)

    def _iter_looks(self, X):
        """Errors and log posterior of all images after every look of the race.

        `errors` is the same array at every look.
        """
        images, plan = self._check_images(X), fitted_plan(self)
        log_prior, outside, n_before, searched = resolve_log_prior(
            self, X, images, plan
        )
        offsets = -log_prior * self.temperature / plan.n_elements
        pixels = to_pixels(images, plan.image_size)
        with ErrorCache.open(ErrorStore.of(self.memory), plan) as cache:
            looks = iter_looks(plan, pixels, offsets, cache, searched)
            for errors, n_evaluations in looks:
                log_proba = self._log_posterior(plan, errors, log_prior)
                yield DenoisingErrors(
                    errors,
                    self.trials_.timesteps,
                    n_evaluations + n_before,
                    combine_with_prefilter(log_proba, outside),
                    self.classes_,
                )

    def _log_posterior(self, plan, errors, log_prior):
        return log_posterior(
            errors * plan.weights,
            plan.n_elements,
            log_prior,
            self.temperature,
            plan.coefficients,
        )

    @abstractmethod
    def _resolve_conditions(self, backbone, labels, names, classes_given):
        """Prompts or class ids of each class, a list of lists.

        `classes_given` tells whether the user gave the classes, rather than `y`.
        """

    @abstractmethod
    def _embeddings(self, backbone, conditions):
        """What the network sees of the conditions, (n_conditions, ...), floats."""

    @abstractmethod
    def _set_conditions(self, class_conditions):
        """Set the fitted attribute that holds the prompts or class ids."""
