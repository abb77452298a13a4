"""Names of classes -> prompts."""

import warnings


def make_prompts(prompt_template, names, default, classes_given):
    """Put the names of the classes into the templates.

    Parameters
    ----------
    prompt_template : str or list of str
        The estimator's parameter.
    names : list of length n_classes
        The name of each class.
    default : str
        The template that "auto" stands for.
    classes_given : bool
        Whether the user gave the classes, rather than `y`.

    Returns
    -------
    prompts : list of list of str
        Those of each class, one for each template.

    Raises
    ------
    ValueError
        If a template has no ``{}``, or the given classes are no names.
    """
    templates = prompt_template
    if isinstance(templates, str):
        templates = [default if templates == "auto" else templates]
    invalid = [t for t in templates if not isinstance(t, str) or "{}" not in t]
    if invalid or not templates:
        raise ValueError(
            f"prompt_template={prompt_template!r}: every template needs a "
            "{} where the name of the class goes, as in 'a photo of a {}.'."
        )
    if not all(isinstance(name, str) for name in names):
        if classes_given:
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
