"""Displays of fitted estimators. Matplotlib is imported when one of them draws."""

from skae.plotting._latent import LatentDisplay
from skae.plotting._loss_curve import LossCurveDisplay
from skae.plotting._outlier_reason import OutlierReasonDisplay
from skae.plotting._outlier_score import OutlierScoreDisplay
from skae.plotting._reconstruction import ReconstructionDisplay

__all__ = [
    "LatentDisplay",
    "LossCurveDisplay",
    "OutlierReasonDisplay",
    "OutlierScoreDisplay",
    "ReconstructionDisplay",
]
