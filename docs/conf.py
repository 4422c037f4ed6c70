"""How Sphinx builds these pages: `make docs`."""

from overlapped import __version__ as release

project = "overlapped"
author = "the overlapped authors"
project_copyright = author
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"overlapped {release}"
autodoc_typehints = "description"
nitpicky = False
