"""Check that the words that people search for lead to pages of the built site.

    python docs/check_search.py docs/_build/html

All words of a query have to be on one page, as the search of the site asks for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sphinx.search.en import SearchEnglish

QUERIES = """
anomaly
anomaly detection
array API
autoencoder
Bernoulli
bottleneck
categorical
checkpoint
compression
convolutional
cross-validation
Dask
data drift
denoising
dimensionality reduction
early stopping
embedding
explainability
false discovery rate
feature extraction
gene expression
generative model
GPU
GridSearchCV
hyperparameter
imputation
latency
latent code
latent space
log-likelihood
memory map
missing values
multiple imputation
ONNX
one-hot encoding
outlier
overfitting
p-value
PCA
pickle
Pipeline
progress bar
random seed
recommendation
reconstruction error
reproducibility
sample weights
scree plot
single-cell
sparse matrix
streaming
synthetic data
tabular
time series
torchrun
variational autoencoder
""".strip().splitlines()


def pages_of(index: dict, query: str) -> set[int]:
    """Numbers of the pages on which all words of a query are."""
    stem = SearchEnglish({}).stem
    found = []
    for word in query.lower().replace("-", " ").split():
        pages: set[int] = set()
        for terms in (index["terms"], index["titleterms"]):
            for key in {word, stem(word)}:
                numbers = terms.get(key, [])
                pages |= {numbers} if isinstance(numbers, int) else set(numbers)
        found.append(pages)
    return set.intersection(*found)


def main(site: Path) -> int:
    """Print the queries that lead nowhere; give their number."""
    text = (site / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    lost = [query for query in QUERIES if not pages_of(index, query)]
    for query in lost:
        print(f"The search of the site finds no page for {query!r}.", file=sys.stderr)
    return len(lost)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
