"""How Sphinx builds the pages: `make docs`. Warnings are errors there."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from docs.generate import docstrings, pages  # noqa: E402 - found through the line above

project = "mad"
author = "The mad authors"
copyright = "The mad authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]
templates_path: list[str] = []

html_theme = "furo"
html_title = "mad"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Links between pages must lead somewhere. Names of Python are left out: most are of other packages.
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]

# Docstrings here are plain text with Markdown's backquotes.
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def setup(app: docstrings.Application) -> None:
    """Makes what is generated, before Sphinx looks for pages."""
    pages.write_all(FOLDER / "_generated")
    app.connect("autodoc-process-docstring", docstrings.plain)
