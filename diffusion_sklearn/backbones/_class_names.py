"""Names of a class-conditional model's classes."""


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
    if not given:  # a pipeline that was built by hand or saved by diffusers
        return dict(getattr(pipeline, "labels", {})), {}
    return index_names(given)
