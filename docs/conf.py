"""Sphinx configuration.

pip install -c constraints.txt ".[docs]" && sphinx-build -W docs docs/_build/html

Nothing is fetched. With DOCS_GALLERY=0 in the environment the examples of the gallery
are shown and not run.
"""

import os
import re
from pathlib import Path

import matplotlib
from docutils.nodes import SkipNode
from docutils.utils.math import latex2mathml
from sphinx.util.math import get_node_equation_number

import diffusion_sklearn

matplotlib.use("Agg")

project = "diffusion_sklearn"
author = "The diffusion_sklearn developers"
copyright = f"2026, {author}"
version = release = diffusion_sklearn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(sklearn|torch|diffusers|joblib|numpy)\..*")]

# Pages of classes list their methods by _templates/autosummary/class.rst.
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "diffusion_sklearn"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
# Only the API and the gallery have pages below them to list on the left.
html_sidebars = {
    page.stem: [] for page in Path(__file__).parent.glob("*.rst") if page.stem != "api"
}
html_show_sourcelink = False
html_math_renderer = "mathml"
toc_object_entries_show_parents = "hide"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "plot_gallery": os.environ.get("DOCS_GALLERY", "1") != "0",
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("diffusion_sklearn",),
    "backreferences_dir": "generated/backreferences",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}


def skip_member(app, what, name, obj, skip, options):
    """Leave out metadata routing, and fields, which the docstring of a class lists."""
    routing = re.fullmatch(r"(get|set)_\w+_(routing|request)", name)
    field = what == "attribute" and (obj is None or repr(obj) == "INSTANCE_ATTR")
    return True if routing or field else None


def unlink_scikit_learn(app, what, name, obj, options, lines):
    """Inherited docstrings point into scikit-learn's guide, which is not here."""
    if getattr(obj, "__module__", "").startswith("sklearn."):
        text = "\n".join(lines)
        text = re.sub(r":(?:ref|term):`([^`<]+?)(?:\s*<[^`>]+>)?`", r"\1", text)
        lines[:] = text.split("\n")


def mathml(tex, as_block=False):
    """TeX as MathML, which browsers show with no script to fetch."""
    text = latex2mathml.tex2mathml(tex, as_block=as_block)
    text = text.replace("<mo>‖</mo>", '<mo stretchy="false">‖</mo>')
    # "log p" with its space, "exp(" without.
    return re.sub(
        r"<mo>&ApplyFunction;</mo>(?=\s*<m(i|sub|sup)\b)",
        '<mspace width="0.17em"></mspace>',
        text,
    )


def inline_math(self, node):
    """Write a formula in a line."""
    self.body.append(mathml(node.astext()))
    raise SkipNode


def block_math(self, node):
    """Write a formula on a line of its own, with its number."""
    self.body.append(self.starttag(node, "div", CLASS="equation"))
    if node["number"]:
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})</span>')
    self.body.append(mathml(node.astext(), as_block=True))
    self.body.append("</div>\n")
    raise SkipNode


def setup(app):
    """Register the above."""
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", unlink_scikit_learn)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
