"""Names of classes -> prompts."""

import csv
import warnings
from pathlib import Path


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


def read_prompts(prompts):
    """Prompts by label.

    Parameters
    ----------
    prompts : dict, Series, str or Path
        The estimator's parameter: label to prompt or list of prompts, or a CSV file
        with the columns prompt, classname and classidx, a row for each prompt.

    Returns
    -------
    prompts : dict
        Label to list of str. Of a file, class names and class indices are labels both.

    Raises
    ------
    OSError
        If the file can't be read.
    ValueError
        If a column is missing, a prompt is no text or a class index no integer.
    """
    if isinstance(prompts, (str, Path)):
        by_label = {}
        with Path(prompts).expanduser().open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = {"prompt", "classname", "classidx"} - set(rows.fieldnames or ())
            if missing:
                raise ValueError(
                    f"prompts={str(prompts)!r} has no column {sorted(missing)}; "
                    "write a CSV with the columns prompt, classname and classidx."
                )
            for row in rows:
                try:
                    index = int(row["classidx"])
                except (TypeError, ValueError) as error:  # None where it is missing
                    raise ValueError(
                        f"prompts={str(prompts)!r}, line {rows.line_num}: classidx="
                        f"{row['classidx']!r} is no integer; a row is prompt, "
                        "classname and classidx, a prompt with commas in quotes."
                    ) from error
                for label in (row["classname"], index):
                    by_label.setdefault(label, []).append(row["prompt"])
    else:
        by_label = {
            label: [given] if isinstance(given, str) else list(given)
            for label, given in dict(prompts).items()
        }
    for label, texts in by_label.items():
        if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ValueError(
                f"prompts has {texts!r} for the label {label!r}; pass a str or a list "
                "of str that are not blank."
            )
    return by_label


def prompts_of_labels(prompts, labels):
    """The prompts of each label.

    Parameters
    ----------
    prompts : dict
        From :func:`read_prompts`.
    labels : ndarray of shape (n_classes,)
        The sorted labels.

    Returns
    -------
    prompts : list of list of str

    Raises
    ------
    ValueError
        If a label has none.
    """
    missing = [label for label in labels.tolist() if label not in prompts]
    if missing:
        raise ValueError(
            f"prompts has none for the labels {missing!r}; it has some for "
            f"{list(prompts)[:10]!r}. Add them, or leave prompts=None and use "
            "prompt_template."
        )
    return [prompts[label] for label in labels.tolist()]
