"""Links from the HTML representation of an estimator to its page in the documentation."""

from __future__ import annotations

import os


class DocumentationLinkMixin:
    """Link to the page of a class of skae, where the documentation is served.

    The site has no address of its own. Whoever serves what ``make docs`` builds names its root in
    the environment variable SKAE_DOCS_URL; without it there is no link. The attributes are those
    that scikit-learn's `BaseEstimator` looks for.
    """

    _doc_link_module = "skae"

    @property
    def _doc_link_template(self) -> str:
        root = os.environ.get("SKAE_DOCS_URL", "").rstrip("/")
        return root and f"{root}/api/generated/{{estimator_module}}.{{estimator_name}}.html"
