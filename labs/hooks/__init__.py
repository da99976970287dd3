"""Look inside a network while it runs, and leave it as it was."""

from labs.hooks.attention import AttentionMaps, attention_rollout, capture_attention
from labs.hooks.cam import grad_cam
from labs.hooks.culprit import Culprit, first_bad
from labs.hooks.edits import Edit, add_noise, clip_norm, clip_value, edit_gradients
from labs.hooks.health import GradientHealth, ParameterHealth, gradient_health
from labs.hooks.layout import from_nhwc, from_tokens
from labs.hooks.maps import Maps, capture

__all__ = [
    "AttentionMaps",
    "Culprit",
    "Edit",
    "GradientHealth",
    "Maps",
    "ParameterHealth",
    "add_noise",
    "attention_rollout",
    "capture",
    "capture_attention",
    "clip_norm",
    "clip_value",
    "edit_gradients",
    "first_bad",
    "from_nhwc",
    "from_tokens",
    "grad_cam",
    "gradient_health",
]
