"""Look inside a network while it runs, and leave it as it was."""

from labs.hooks.cam import grad_cam
from labs.hooks.culprit import Culprit, first_bad
from labs.hooks.health import GradientHealth, ParameterHealth, gradient_health
from labs.hooks.maps import Maps, capture

__all__ = [
    "Culprit",
    "GradientHealth",
    "Maps",
    "ParameterHealth",
    "capture",
    "first_bad",
    "grad_cam",
    "gradient_health",
]
