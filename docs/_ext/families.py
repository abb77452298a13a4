"""The directive ``families``: a table of the model families, read from their classes.

The facts are those of the tiny pipelines of ``diffusion_sklearn.testing``, loaded as a
user's pipeline is. Sizes are those of ``benchmarks/results/speed/model_sizes.json``.
"""

import inspect
import json
import os
import warnings

from .results import RESULTS, list_table

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def describe_families():
    """Facts of every family.

    Returns
    -------
    rows : list of dict of str to str
        A row for each subclass of Backbone, in the order of ``tiny_pipelines``. The
        keys are the headings of the table.
    """
    from diffusion_sklearn import load_backbone
    from diffusion_sklearn.testing import tiny_pipelines
    from diffusion_sklearn.testing._checks import CHECKS

    by_class = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers, and of distilled models
        for make in tiny_pipelines().values():
            backbone = load_backbone(make())
            by_class.setdefault(type(backbone), []).append(_facts(backbone))
    sizes = json.loads((RESULTS / "speed" / "model_sizes.json").read_text("utf-8"))
    rows = []
    for cls, facts in by_class.items():
        title = inspect.getdoc(inspect.getmodule(cls)).split("\n")[0]
        row = {
            "family": title.partition(":")[0].rstrip("."),
            "pipeline classes": ", ".join(f"``{name}``" for name in cls.pipelines),
        }
        for heading in facts[0]:
            values = dict.fromkeys(value for of in facts for value in of[heading])
            row[heading] = (", " if heading == "text encoders" else " or ").join(values)
        row["published models"] = "; ".join(
            f"{of['model']}: {of['published']}, {of['after_fit']:.1f} GB"
            for of in sizes["rows"]
            if of["pipeline"] in cls.pipelines
        )
        row["checks, on tiny pipelines"] = f"{len(CHECKS)} on {len(facts)}"
        rows.append(row)
    return rows


def _facts(backbone):
    """What the table says of one pipeline, a list for each heading."""
    from diffusion_sklearn.backbones._conditions import to_dict
    from diffusion_sklearn.backbones._noise_schedule import RectifiedFlow
    from diffusion_sklearn.testing._common import two_names

    predicts = backbone.prediction_type
    if isinstance(backbone.noise_schedule, RectifiedFlow):
        predicts = f"flow {predicts}"
    parts = backbone.pipeline.components.items()
    encoders = [
        f"``{type(part).__name__}``"
        for name, part in parts
        if name.startswith("text_encoder") and part is not None
    ]
    tensors = to_dict(backbone.condition(two_names(backbone)))
    names = [name or "tokens" for name in tensors]
    weights, window = backbone.default_weights(), "all timesteps"
    if weights is not None:
        sigma = backbone.noise_schedule.sigma_t[weights > weights.max() / 2]
        window = f"sigma {sigma.min():.2f} to {sigma.max():.2f}"
    return {
        "predicts": [predicts + ", variance" * backbone.learns_variance],
        "condition": ["class" if backbone.kind == "class" else ", ".join(names)],
        "text encoders": encoders,
        "default target": [backbone.default_target],
        "default window": [window],
    }


def setup(app):
    """Connect the directive."""
    from sphinx.util.docutils import SphinxDirective  # tests need no Sphinx

    class Families(SphinxDirective):
        def run(self):
            """Make the table; at every build, as the classes may have changed."""
            self.env.note_reread()
            rows = describe_families()
            cells = [list(row.values()) for row in rows]
            return self.parse_text_to_nodes(list_table([list(rows[0]), *cells]))

    app.add_directive("families", Families)
    return {"parallel_read_safe": True}
