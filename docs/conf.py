"""The documentation site: `make docs` builds it into build/site; warnings are errors."""

import inspect
import os
import re

import latex2mathml.converter
from docutils import nodes

import sparsesvm

os.environ.setdefault("MPLBACKEND", "Agg")
project = "sparsesvm"
author = "the sparsesvm developers"
copyright = author
release = sparsesvm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["examples"]

html_theme = "furo"
html_title = "sparsesvm"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sourcelink = False
html_show_sphinx = False

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    # All are run but the one of several processes: about one in ten times torch's gloo aborts such a process as it ends.
    "filename_pattern": r"/(?!several_processes)[^/]*\.py$",
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}

_SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Example|Examples|Yields|Note):$")


def _as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are plain text: formulas set off by indentation become literal blocks, and marks that mean something to the
    markup mean themselves."""
    result, in_section, in_block, in_example, in_numpy_section = [], False, False, False, False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        indented = line.startswith("    ")
        if re.fullmatch(r"-{3,}", following) and not indented:
            in_numpy_section = True  # the rest consists of such sections
        if _SECTION.match(line):
            in_section, in_block, in_example = True, False, line.startswith("Example")
        elif line and not indented:
            if in_block and result[-1]:
                result.append("")
            in_section = in_block = in_example = False
        elif indented and not (in_section or in_numpy_section or in_block):
            in_block = True
            if not any(text.endswith("::") for text in result[-2:]):  # unless the docstring says so itself
                result += ["", ".. code-block:: text", ""]
        if in_block or in_example or not line or re.fullmatch(r"-{3,}", line):
            result.append(line)
            continue
        parts = re.split(r"(`+[^`]*`+)", line)
        result.append("".join(part if part.startswith("`") else re.sub(r"([\\|*]|_(?!\w))", r"\\\1", part) for part in parts))
    lines[:] = result


def _skip(app, what, name, obj, skip, options):
    """Fields of named tuples, which their class describes, and what torch and Lightning bring."""
    if what == "class" and "Alias for field number" in (inspect.getdoc(obj) or ""):
        return True
    return skip


def _mathml(display):
    """Formulas as MathML, which browsers show by themselves."""

    def visit(translator, node):
        formula = latex2mathml.converter.convert(node.astext(), display="block" if display else "inline")
        translator.body.append(f'<div class="formula">{formula}</div>' if display else formula)
        raise nodes.SkipNode

    return visit, None


def setup(app):
    app.add_html_math_renderer("mathml", _mathml(False), _mathml(True))
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)
    app.connect("autodoc-skip-member", _skip)
