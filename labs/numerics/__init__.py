"""Try a loss where it breaks: extreme inputs, and gradients against finite differences."""

from labs.numerics.cases import Case, cases
from labs.numerics.gradients import GradientCheck, InputGradient, check_gradients
from labs.numerics.smallest import Smallest
from labs.numerics.stress import Outcome, StressReport, stress

__all__ = [
    "Case",
    "GradientCheck",
    "InputGradient",
    "Outcome",
    "Smallest",
    "StressReport",
    "cases",
    "check_gradients",
    "stress",
]
