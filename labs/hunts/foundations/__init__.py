"""Check the hunts of stage 01, one module per hunt."""

from labs.hunts.foundations.checkpoint import check_checkpoint
from labs.hunts.foundations.class_map import check_class_map
from labs.hunts.foundations.delivery import check_delivery
from labs.hunts.foundations.hidden_layers import check_hidden_layers
from labs.hunts.foundations.skip_connection import check_skip_connection
from labs.hunts.foundations.softmax_twice import check_digit_loss
from labs.hunts.foundations.upright_photo import check_shrink_photo

__all__ = [
    "check_checkpoint",
    "check_class_map",
    "check_delivery",
    "check_digit_loss",
    "check_hidden_layers",
    "check_shrink_photo",
    "check_skip_connection",
]
