"""Networks whose batch norms do something, so that forgetting one shows."""

from torch import nn


def shake(module):
    """Draw weights and statistics of all batch norms at random; the module is in eval mode then."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            part.running_mean.normal_(0.0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()
