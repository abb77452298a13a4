"""Names of classes -> prompts."""

import warnings


def make_prompts(prompt_template, names, own, listed):
    """Put the names of the classes into the templates.

    Parameters
    ----------
    prompt_template : str or list of str
        The estimator's parameter.
    names : list of length n_classes
        What each class is called.
    own : str
        The template that "auto" stands for.
    listed : bool
        Whether the user listed the classes, rather than `y`.

    Returns
    -------
    prompts : list of list of str
        Those of each class, one for each template.

    Raises
    ------
    ValueError
        If a template has no ``{}``, or the listed classes are no names.
    """
    templates = prompt_template
    if isinstance(templates, str):
        templates = [own if templates == "auto" else templates]
    wrong = [t for t in templates if not isinstance(t, str) or "{}" not in t]
    if wrong or not templates:
        raise ValueError(
            f"prompt_template={prompt_template!r}: every template needs a "
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
            stacklevel=4,
        )
    return [[t.replace("{}", str(name)) for t in templates] for name in names]
