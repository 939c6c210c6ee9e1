"""Write formulas as MathML, which browsers draw themselves, without a script from the network."""

import re

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

# docutils would set the index of an accented letter below the letter instead of beside it; an
# empty group between them prevents that.
ACCENT_WITH_INDEX = re.compile(r"(\\(?:bar|hat|tilde)\s*(?:\{[^{}]*\}|\w))_")


def visit_math(translator, node):
    """Write a formula within a line."""
    translator.body.append(to_mathml(node.astext(), as_block=False))
    raise SkipNode


def visit_math_block(translator, node):
    """Write a formula that stands by itself."""
    formula = to_mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise SkipNode


def to_mathml(tex, as_block):
    """Translate the LaTeX of a formula."""
    return tex2mathml(ACCENT_WITH_INDEX.sub(r"\1{}_", tex), as_block)


def setup(app):
    """Offer the renderer under the name "mathml"."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
