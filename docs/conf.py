"""The documentation site: `make docs`."""

import re

import ckptstore

project = "ckptstore"
author = "The ckptstore maintainers"
version = release = ckptstore.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinxcontrib.mermaid",
]
html_theme = "furo"
html_title = f"ckptstore {version}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the texts say what each argument is

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\.md(?:#[^)]*)?\)")


_NAMED = re.compile(r"\[[a-z]+\.md\]\(")


def setup(app):
    """Make the links of pages that are also read as files fit a site.

    A link to a page outside of this folder becomes its text, since the site has no such page. A
    link whose text is the name of a file gets the title of the page.
    """

    def read(app, name, source):
        source[0] = _NAMED.sub("[](", _OUTSIDE.sub(r"\1", source[0]))

    app.connect("source-read", read)
