"""Sphinx configuration.

pip install -c constraints.txt ".[docs]" && sphinx-build -W docs docs/_build/html

The build needs no network. With DOCS_GALLERY=0 in the environment, the examples of the
gallery are shown and not run.
"""

import os
import re
import sys
from pathlib import Path

import matplotlib

import diffusion_sklearn

sys.path.insert(0, str(Path(__file__).parent))  # for _ext
matplotlib.use("Agg")

project = "diffusion_sklearn"
author = "The diffusion_sklearn developers"
copyright = f"2026, {author}"
version = release = diffusion_sklearn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax itself, as part of the build
    "sphinx_design",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "_ext.results",
    "_ext.commands",
    "_ext.families",
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
html_sidebars = {"index": []}
html_show_sourcelink = False
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


def setup(app):
    """Connect the functions above to autodoc."""
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", unlink_scikit_learn)
