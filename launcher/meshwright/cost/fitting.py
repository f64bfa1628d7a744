"""Whether a plan fits, as a probability: near the limit the model cannot tell."""

from __future__ import annotations

from math import erf, log, sqrt
from typing import Literal

__all__ = ["Fits", "fit_probability", "fit_words", "fits"]

Fits = Literal["likely", "about even", "unlikely"]

SURE = 0.9  # ours: the upper end of the interval that is printed with the memory, of which a tenth lies above

_TENTH = 1.2816
"""80 % of a normal distribution lie within so many standard deviations."""


def fit_probability(peak: float, limit: float, spread: float) -> float:
    """That a run of ``peak`` predicted bytes stays within ``limit`` bytes; measured peaks are log-normal around it.

    80 % of them lie within exp(-``spread``) and exp(``spread``) times the predicted one.
    """
    return 0.5 * (1 + erf(log(limit / peak) * _TENTH / spread / sqrt(2)))


def fits(probability: float) -> Fits:
    """The word for it."""
    if probability >= SURE:
        return "likely"
    return "about even" if probability > 1 - SURE else "unlikely"


def fit_words(probability: float) -> str:
    """The word, with the chance where it is about even."""
    word = fits(probability)
    return f"{word}, {probability:.0%}" if word == "about even" else word
