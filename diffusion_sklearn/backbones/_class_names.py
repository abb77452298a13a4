"""Names of a class-conditional model's classes."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from diffusion_sklearn.backbones._completeness import read_json


def index_names(id2label):
    """Class ids by the names of a model's classes.

    "dog, hound" is a name as a whole, and so is each of its parts.

    Parameters
    ----------
    id2label : dict
        Names by class ids.

    Returns
    -------
    labels : dict of str to int
        Names of one class.
    shared : dict of str to list of int
        Names that several classes have.
    """
    ids = {}
    for key, value in id2label.items():
        for name in {value.strip(), *(part.strip() for part in value.split(","))}:
            ids.setdefault(name, []).append(int(key))
    unique = {name: of[0] for name, of in sorted(ids.items()) if len(of) == 1}
    return unique, {name: of for name, of in ids.items() if len(of) > 1}


def class_names_of(pipeline):
    """Names of a pipeline's classes.

    "dog, hound" is a name as a whole, and so is each of its parts.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        Its ``model_index.json`` may have an ``id2label``.

    Returns
    -------
    labels : dict of str to int
        Names of one class.
    shared : dict of str to list of int
        Names that several classes have.
    """
    given = pipeline.config.get("id2label")
    if not given:  # a pipeline that was loaded or saved by diffusers, or built by hand
        labels, given = dict(getattr(pipeline, "labels", {})), _names_on_disk(pipeline)
        if not given or labels != _last_ids(given):
            return labels, {}
    return index_names(given)


def _last_ids(id2label):
    """The ``labels`` of a DiTPipeline: of a name of several classes, the last id."""
    return {
        part.strip(): int(key) for key, of in id2label.items() for part in of.split(",")
    }


def _names_on_disk(pipeline):
    """The ``id2label`` of the folder or repository that a pipeline was loaded from."""
    name = str(pipeline.name_or_path or "")
    file = Path(name) / "model_index.json"
    if not file.is_file() and name.count("/") == 1:
        file = try_to_load_from_cache(name, "model_index.json")
    if not isinstance(file, str | Path) or not Path(file).is_file():
        return None
    return read_json(Path(file)).get("id2label")
