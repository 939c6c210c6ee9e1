"""Whether two tables are from one distribution, and how much more often rows are in the second."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler

# Categories with an effect of their own; the rarest share one.
MAX_CATEGORIES = 20
N_KNOTS = 5
N_FOLDS = 5
# Ratios beyond these are estimates of hardly any rows.
LARGEST_RATIO = 50.0


class ExchangeabilityTest(NamedTuple):
    """Result of `AutoencoderOutlierDetector.check_exchangeability`."""

    area: float
    """Area under the ROC curve with which a classifier tells new rows from rows of `fit`; 0.5 if
    it cannot."""
    p_value: float
    """Probability that the area is so large although the rows are exchangeable."""


def additive_classifier(frame: pd.DataFrame) -> Any:
    """Logistic regression on smooth functions of numeric columns, and on categories."""
    is_number = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    numeric = [place for place, number in enumerate(is_number) if number]
    others = [place for place, number in enumerate(is_number) if not number]
    smooth = make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        SplineTransformer(N_KNOTS, knots="quantile", extrapolation="linear"),
    )
    encoder = OneHotEncoder(
        max_categories=MAX_CATEGORIES, handle_unknown="infrequent_if_exist", sparse_output=False
    )
    columns = ColumnTransformer([("smooth", smooth, numeric), ("categories", encoder, others)])
    return make_pipeline(columns, LogisticRegression(max_iter=1000))


def together(known: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of both tables, in types that `additive_classifier` takes, and which ones are new."""
    frame = pd.concat([known, new.set_axis(known.columns, axis=1)], ignore_index=True)
    frame = frame.set_axis([str(place) for place in range(frame.shape[1])], axis=1)
    for name, column in frame.items():
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            seconds = (column - column.min()).dt.total_seconds()
            frame[name] = seconds.astype(np.float64)
        elif pd.api.types.is_numeric_dtype(column.dtype):
            frame[name] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            frame[name] = column.astype(str)
    return frame, np.repeat([0, 1], [len(known), len(new)])


def density_ratios(
    known: pd.DataFrame, new: pd.DataFrame, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate how much more often each row is among new rows than among known ones.

    A classifier tells the two apart; its odds are the ratio of the densities. Each row is judged by
    a classifier that has not seen it.

    Returns
    -------
    of_known : ndarray of shape (n_known,)
    of_new : ndarray of shape (n_new,)

    References
    ----------
    Tibshirani, Barber, Candès & Ramdas, "Conformal prediction under covariate shift", NeurIPS
    (2019), section 2.3.
    """
    frame, is_new = together(known, new)
    n_folds = min(N_FOLDS, len(known), len(new))
    if n_folds < 2:
        return np.ones(len(known)), np.ones(len(new))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    shares = cross_val_predict(
        additive_classifier(frame), frame, is_new, cv=folds, method="predict_proba"
    )[:, 1]
    with np.errstate(divide="ignore"):
        ratios = shares / (1.0 - shares) * (len(known) / len(new))
    ratios = np.clip(ratios, 1.0 / LARGEST_RATIO, LARGEST_RATIO)
    return ratios[: len(known)], ratios[len(known) :]


def exchangeability_test(known: pd.DataFrame, new: pd.DataFrame, seed: int) -> ExchangeabilityTest:
    """Test whether a classifier can tell new rows from known ones.

    It learns from one half of all rows. If these are exchangeable, its scores of the other half are
    as well, and the sum of their ranks has the distribution of Wilcoxon's statistic.

    References
    ----------
    Lopez-Paz & Oquab, "Revisiting classifier two-sample tests", ICLR (2017).
    """
    frame, is_new = together(known, new)
    first, second = train_test_split(
        np.arange(len(frame)), test_size=0.5, stratify=is_new, random_state=seed
    )
    classifier = additive_classifier(frame).fit(frame.iloc[first], is_new[first])
    scores = classifier.decision_function(frame.iloc[second])
    of_new, of_known = scores[is_new[second] == 1], scores[is_new[second] == 0]
    result = mannwhitneyu(of_new, of_known, alternative="greater")
    area = float(result.statistic) / (len(of_new) * len(of_known))
    return ExchangeabilityTest(area, float(result.pvalue))
