"""Class-conditional models: labels -> class ids."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions

from diffusion_sklearn.classifiers._base import BaseDiffusionClassifier
from diffusion_sklearn.classifiers._class_ids import resolve_class_ids


@dataclass(kw_only=True, eq=False, repr=False)
class ConditionalDiffusionClassifier(BaseDiffusionClassifier):
    r"""Classify images with a class-conditional diffusion model, as it is.

    For an image x and a class c, the error of the noise that the model predicts,
    averaged over timesteps t and noise eps, estimates -log p(x | c) up to a constant;
    Bayes' rule gives the posterior of the classes [1]_:

    .. math:: p(c_i \mid x) \propto p(c_i)
        \exp\{-E_{t,\epsilon} \|\epsilon - \epsilon_\theta(x_t, c_i)\|^2\}

    The draws (t, eps) are the same for all classes and images, so a result depends
    neither on the batch size nor on the other images.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone, default="facebook/DiT-XL-2-256"
        A Hub id (``"name@revision"`` for a revision), a local folder in diffusers
        layout, the bundled ``"fashion-dit"``, a loaded pipeline or what
        :func:`load_backbone` returns.
    classes : array-like of shape (n_classes,), default=None
        The label set; None: ``np.unique(y)`` of `fit`.
    class_names : array-like of shape (n_classes,), dict or Series, default=None
        Names aligned with the sorted labels, for labels that are not names. A dict, or
        the index of a pandas Series, has the labels as keys.
    class_ids : array-like, dict, Series, "order" or "labels", default=None
        The model's class of each sorted label. None: names are looked up in the
        pipeline's own labels, and integers are ids, with a warning where those of `y`
        may be encoded names: 0, 1, 2, ... with few gaps, unless they reach the model's
        last class and its names are sorted. "labels": integers are ids, without the
        warning. "order": the k-th sorted label is class k, which survives
        meta-estimators that encode labels; an error where labels have gaps or the
        model has the names at other ids. A dict or Series is as for `class_names`.
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
    null_condition : int, default=None
        The class id that stands for none, for `guidance_scale`,
        ``prefilter="gradient"`` and :meth:`score_samples`; None: the model's own null
        class.
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
    class_ids_ : ndarray of shape (n_classes,), int64
        The model's class of each sorted label.
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
    ZeroShotDiffusionClassifier : The same with a text-to-image model.

    Notes
    -----
    `model`, `device`, `dtype`, `classes`, `class_names`, `class_ids`, `n_trials`,
    `timesteps`, `random_state` and `prefilter` take effect at the next `fit`; all
    other parameters are read at prediction, so that ``fit().set_params(...)`` and
    ``set_params(...).fit()`` give the same numbers. A pickle holds the model's name,
    never its weights, and so does a file of skops: load it with
    ``trusted=skops.io.get_untrusted_types(file=path)`` once all of these types are of
    ``diffusion_sklearn``.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=25)
    >>> clf = clf.fit(classes=["bag", "sandal", "trouser"])
    >>> clf.predict(photos.images[2:4])
    array(['trouser', 'trouser'], dtype='<U7')
    """

    _kind = "class"
    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        **BaseDiffusionClassifier._parameter_constraints,
        "class_ids": [StrOptions({"order", "labels"}), "array-like", None],
    }

    model: object = "facebook/DiT-XL-2-256"
    class_ids: object = None

    def _resolve_conditions(self, backbone, labels, names, classes_given):
        ids = resolve_class_ids(self.class_ids, labels, names, backbone, classes_given)
        return [[class_id] for class_id in ids]

    def _embeddings(self, backbone, conditions):
        tables = [
            module.weight[conditions.to(module.weight.device)]
            for module in backbone.network.modules()
            if isinstance(module, torch.nn.Embedding)
            and module.num_embeddings >= backbone.n_labels
            and not module.weight.is_meta  # weights that are offloaded
        ]
        # Ids differ already where a model has no such tables.
        return torch.cat(tables, dim=1).detach() if tables else conditions.double()

    def _set_conditions(self, class_conditions):
        self.class_ids_ = np.array([class_id for (class_id,) in class_conditions])
