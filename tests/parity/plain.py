"""Compute layers with plain functions, and name their weights as the published programs do.

Nothing here knows of `labs`: it is what the networks of `labs` are held to.
"""

import math

import torch
from torch.nn.functional import conv2d, max_pool2d, softplus


class Weights:
    """Draw every weight when it is first asked for, in float64, and remember it by its name.

    The statistics of a batch norm are near those of what it is given, so that signals keep their
    size however deep the network is, and far enough from them that each number shows.
    """

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors, self.dtype = {}, torch.float64

    def __call__(self, name, *shape, scale=1.0, shift=0.0, uniform=False):
        """Return the weight of this name, drawn with this deviation around this mean."""
        if name not in self.tensors:
            draw = torch.rand if uniform else torch.randn
            noise = draw(*shape, generator=self.generator, dtype=torch.float64)
            self.tensors[name] = (noise * scale + shift).double()
        assert self.tensors[name].shape == shape, (name, shape)
        return self.tensors[name].to(self.dtype)

    def kernel(self, name, c_out, c_in, k, gain=1.0):
        """Return the weight [c_out,c_in,k,k] of a convolution."""
        return self(name, c_out, c_in, k, k, scale=gain / math.sqrt(c_in * k * k))


def by_channel(x):
    """Lay a vector along the channels of a map."""
    return x.view(1, -1, 1, 1)


def batch_norm(w, y, eps, gamma, beta, mean, var):
    """Normalise with stored statistics, whose names are given."""
    c = y.shape[1]
    centre = y.double().mean((0, 2, 3))
    # What hardly varies here is not blown up: other images may vary more, and so may rounding.
    spread = torch.maximum(y.double().std((0, 2, 3)), y.double().square().mean().sqrt())
    spread = spread.clamp(min=0.4)
    mean = w(mean, c, scale=0.3 * spread, shift=centre)
    var = w(var, c, scale=spread**2, shift=spread**2, uniform=True)
    gamma, beta = w(gamma, c, scale=0.6, shift=0.4, uniform=True), w(beta, c, scale=0.3)
    y = (y - by_channel(mean)) / by_channel(var + eps).sqrt()
    return y * by_channel(gamma) + by_channel(beta)


def activate(x, kind):
    """Apply the activation of this name."""
    if kind == "linear":
        return x
    if kind == "leaky":  # darknet, src/activations.h: (x > 0) ? x : .1*x
        return torch.where(x > 0, x, 0.1 * x)
    if kind == "mish":  # Misra 2019, equation 1
        return x * torch.tanh(softplus(x))
    assert kind == "silu"
    return x * torch.sigmoid(x)


def pool(x, k, stride=1):
    """Take the largest of k*k places; with stride 1 the size stays."""
    return max_pool2d(x, k, stride, k // 2 if stride == 1 else 0)


def enlarge(x):
    """Repeat every place twice in both directions."""
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def torch_norm(w, y, name, eps):
    """Normalise with statistics that are named as PyTorch names them."""
    entries = (f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var"))
    w.tensors.setdefault(f"{name}.num_batches_tracked", torch.tensor(7))
    return batch_norm(w, y, eps, *entries)


def conv_norm(w, x, name, c_out, k=1, stride=1, padding=None, parts=("conv", "bn"), eps=1e-3):
    """Convolve and normalise."""
    padding = k // 2 if padding is None else padding
    kernel = w.kernel(f"{name}.{parts[0]}.weight", c_out, x.shape[1], k)
    return torch_norm(w, conv2d(x, kernel, None, stride, padding), f"{name}.{parts[1]}", eps)


def conv(w, x, name, c_out, k=1, stride=1, padding=None):
    """Convolve, normalise, activate with SiLU: the Conv of v5, v7 and v8."""
    return activate(conv_norm(w, x, name, c_out, k, stride, padding), "silu")


def linear(w, x, name, c_out):
    """Convolve with 1x1 and a bias."""
    return conv2d(x, w.kernel(f"{name}.weight", c_out, x.shape[1], 1), w(f"{name}.bias", c_out))


def images(batch, height, width, dtype=torch.float64, seed=1):
    """Draw pictures with shapes of every size, [N,3,H,W] in [0,1]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(batch, 3, height, width, dtype=torch.float64)
    for side in (1, 2, 4, 8, 16, 32):
        rows, columns = -(-height // side), -(-width // side)
        patches = torch.randn(batch, 3, rows, columns, generator=generator, dtype=torch.float64)
        large = patches.repeat_interleave(side, 2).repeat_interleave(side, 3)
        total += large[:, :, :height, :width]
    return (total / 2).sigmoid().to(dtype)


def close(found, expected, relative):
    """Say whether two maps are equal to ``relative`` of the largest value, or of 1."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return (found - expected).abs().max() <= relative * max(1.0, expected.abs().max().item())
