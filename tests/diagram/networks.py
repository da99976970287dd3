"""Keep the small networks whose wiring is known, each named for what it shows."""

import torch
from torch import nn
from torch.nn import functional as F


def conv(c_in, c_out):
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(True))


class UNet(nn.Module):
    """Skip from the encoder to the decoder by concatenation; ``skips`` of them are there."""

    def __init__(self, skips=2):
        super().__init__()
        self.enc1, self.enc2, self.middle = conv(3, 4), conv(4, 8), conv(8, 8)
        self.dec2, self.dec1 = conv(16, 8), conv(12, 4)
        self.out = nn.Conv2d(4, 2, 1)
        self.skips = skips

    def forward(self, x):
        a = self.enc1(x)
        b = self.enc2(F.max_pool2d(a, 2))
        x = self.middle(F.max_pool2d(b, 2))
        x = self.dec2(torch.cat([F.interpolate(x, scale_factor=2), b], 1))
        if self.skips < 2:
            a = torch.zeros_like(a)
        return self.out(self.dec1(torch.cat([F.interpolate(x, scale_factor=2), a], 1)))


class Dead(nn.Module):
    """Multiply what ``dead`` returns by zero, and never use ``unused``."""

    def __init__(self):
        super().__init__()
        self.stem, self.dead, self.unused, self.head = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        self.unused(x)
        return self.head(x + 0 * self.dead(x))


class Dense(nn.Sequential):
    """Give each layer what all before it returned."""

    def __init__(self, layers=4):
        super().__init__(*(nn.Linear(4 * (n + 1), 4) for n in range(layers)))

    def forward(self, x):
        found = [x]
        for layer in self:
            found.append(torch.relu(layer(torch.cat(found, -1))))
        return found[-1]


class Memory(nn.Module):
    """Read by keyword, from tuples and dicts: ``{"queries": ..., "memory": (..., ...)}``."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.read = _Reader()

    def forward(self, x, y):
        keys = {"keys": (self.first(x), self.second(y))}
        return {"found": self.read(x, memory=keys), "left": self.second.weight.sum() + y}


class _Reader(nn.Module):
    def forward(self, x, memory):
        first, second = memory["keys"]
        return x + first.mean() + second.mean()


class PicksRows(nn.Module):
    """Return indices from ``rank``, which ``pick`` follows; ``mask`` returns truth values."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(4, 1)
        self.rank, self.mask, self.pick = _Rank(), _Mask(), nn.Linear(4, 4)

    def forward(self, x):
        order, kept = self.rank(self.score(x)), self.mask(x)
        return self.pick(x[order]), x.masked_fill(~kept, 0.0)


class _Rank(nn.Module):
    def forward(self, scores):
        return scores[:, 0].argsort()


class _Mask(nn.Module):
    def forward(self, x):
        return x > 0.5
