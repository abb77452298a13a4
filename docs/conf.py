"""Sphinx configuration: ``pip install ".[docs]" && sphinx-build docs docs/_build``."""

import diffusion_sklearn

project = "diffusion_sklearn"
author = "The diffusion_sklearn developers"
copyright = f"2026, {author}"
version = release = diffusion_sklearn.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
autosummary_generate = True
numpydoc_show_class_members = False
autodoc_default_options = {"members": True, "inherited-members": "BaseEstimator"}
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
