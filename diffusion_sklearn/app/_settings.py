"""Settings of the page, and the command and the Python lines that do the same."""

import shlex
from dataclasses import dataclass

from diffusion_sklearn.backbones._loading import load_backbone
from diffusion_sklearn.classifiers import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)

MAX_CLASSES, MAX_TRIALS = 50, 250


@dataclass(frozen=True)
class Settings:
    """Settings of the page.

    Parameters
    ----------
    model : str
        Hub id, folder or bundled name.
    clip : str or None
        Model of the CLIP beside it.
    classes : str, default=""
        One a line.
    template : str, default=""
        Prompt template; empty: the model's own.
    prompts : dict, default=None
        Prompts by label, before the template.
    n_trials : int, default=100
        For each class.
    """

    model: str
    clip: str | None
    classes: str = ""
    template: str = ""
    prompts: dict | None = None
    n_trials: int = 100

    @property
    def names(self):
        """The classes as a list."""
        lines = [line.strip() for line in self.classes.splitlines()]
        return [line for line in lines if line] or list(self.prompts or ())

    @property
    def params(self):
        """Parameters of the estimator; the prompts as a file."""
        params = {"model": self.model, "n_trials": int(self.n_trials)}
        if self.prompts:
            params["prompts"] = "prompts.csv"
        elif self.template.strip():
            params["prompt_template"] = self.template.strip()
        return params

    def make(self):
        """The estimator with these settings, not fitted.

        Returns
        -------
        clf : estimator

        Raises
        ------
        ValueError
            If there are too many trials.
        """
        if not 1 <= self.n_trials <= MAX_TRIALS:
            raise ValueError(f"{self.n_trials} trials: set 1 to {MAX_TRIALS}.")
        if load_backbone(self.model).kind == "class":
            return ConditionalDiffusionClassifier(**self.params)
        clf = ZeroShotDiffusionClassifier(**self.params)
        return clf.set_params(prompts=self.prompts)

    def fit(self, names=None):
        """The fitted estimator.

        Parameters
        ----------
        names : list of str, default=None
            The classes; None: those of the settings.

        Returns
        -------
        clf : estimator

        Raises
        ------
        ValueError
            If there are too few or too many classes, or the model lacks one.
        """
        names = self.names if names is None else names
        if not 2 <= len(names) <= MAX_CLASSES:
            raise ValueError(
                f"{len(names)} classes: type 2 to {MAX_CLASSES}, one a line."
            )
        return self.make().fit(classes=names)

    def command(self, files, classes, **options):
        """The command line that gives the same result.

        Parameters
        ----------
        files : list of str
        classes : list of str
        **options
            Further options.

        Returns
        -------
        command : str
        """
        if any("," in name for name in classes):
            options["classes_file"] = "classes.txt"
        else:
            options["classes"] = ",".join(classes)
        words = ["diffusion-sklearn", "classify", *files]
        for name, value in (self.params | options).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def code(self, call, **values):
        """The Python lines that give the same result.

        Parameters
        ----------
        call : str
            What is called of `clf`, and of `clip` if there is one.
        **values
            Named in lines of their own; with `classes` the estimators are fitted.

        Returns
        -------
        code : str
        """
        fit = ".fit(classes=classes)" if "classes" in values else ""
        estimators = {"clf": (type(self.make()).__name__, self.params)}
        if self.clip:
            params = {"model": self.clip}
            if "prompt_template" in self.params:
                params["prompt_template"] = self.params["prompt_template"]
            estimators["clip"] = "CLIPZeroShotClassifier", params
        names = ", ".join(sorted(name for name, _ in estimators.values()))
        lines = [f"from diffusion_sklearn import {names}", ""]
        lines += [f"{name} = {value!r}" for name, value in values.items()]
        for variable, (name, params) in estimators.items():
            arguments = ", ".join(f"{key}={value!r}" for key, value in params.items())
            lines.append(f"{variable} = {name}({arguments}){fit}")
            lines.append(f"print({variable}.{call})")
        return "\n".join(lines)
