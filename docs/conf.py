"""Configuration of the documentation."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import skae

project = "skae"
author = "The skae developers"
copyright = "The skae developers"  # noqa: A001
version = release = skae.__version__

extensions = [
    "mathml",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_math_renderer = "mathml"
toc_object_entries_show_parents = "hide"

# Links into other projects need the network, so only a build for publication asks for them.
if os.environ.get("SKAE_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_validation_checks = {
    "all",
    "ES01",  # a summary line can be enough
    "EX01",  # the class has the example
    "GL01",  # the summary begins on the line of the quotes
    "GL08",  # checked by ruff, which knows what is inherited
    "RT02",  # returned values have names, as in scikit-learn
    "SA01",
    "SA04",
    "SS05",  # takes a noun that ends with an s for a verb
}
# Inherited from scikit-learn, which validates them itself.
numpydoc_validation_exclude = {
    r"\.fit_transform$",
    r"\.get_feature_names_out$",
    r"\.get_params$",
    r"\.set_callbacks$",
    r"\.set_params$",
}

# Figures of the guide are drawn in the build, from the code that the page shows.
plot_include_source = True
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 110)]
plot_rcparams = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (7.0, 3.2),
    "legend.frameon": False,
}
plot_apply_rcparams = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!plot_)\w+\.py$",
    "doc_module": ("skae",),
    "backreferences_dir": "api/generated/backreferences",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "skae"
html_static_path = ["_static"]
html_css_files = ["skae.css"]
html_favicon = "_static/logo.svg"
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "skae", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
# Where versions lie beside each other, see publish.py, readers choose one.
if root := os.environ.get("SKAE_DOCS_ROOT"):
    html_theme_options |= {
        "switcher": {
            "json_url": f"{root}/versions.json",
            "version_match": os.environ["SKAE_DOCS_VERSION"],
        },
        "check_switcher": False,  # the list may not be there yet
        "navbar_start": ["navbar-logo", "version-switcher"],
    }
html_sidebars = {"index": [], "getting_started": [], "changelog": [], "contributing": []}
