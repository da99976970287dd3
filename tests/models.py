"""Keep the tiny models of the tests; each is named for the edge case it stands for."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import nn

Pair = namedtuple("Pair", ["left", "right"])


@dataclass(frozen=True)
class Detected:
    """Hold what a detector might return as a dataclass."""

    boxes: torch.Tensor
    scores: torch.Tensor
    best: torch.Tensor
    size: tuple[int, int] = (8, 8)

    def __post_init__(self):
        if self.best.is_floating_point():
            raise ValueError("best is an index")


class ImageBatch:
    """Hold tensors as attributes of a plain object, as torchvision's ImageList does."""

    def __init__(self, tensors, sizes):
        self.tensors = tensors
        self.sizes = sizes


class TwoConvs(nn.Sequential):
    """Be healthy: [N,1,8,8] to [N,3], with layers "0" (conv), "1" (ReLU), "2" (conv)."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 3, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class RaisesInForward(nn.Module):
    """Run one layer, then raise ``RuntimeError("on purpose")``."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        self.conv(x)
        raise RuntimeError("on purpose")


class ReusedReLU(nn.Module):
    """Call one ReLU twice, the second time on [N,2]."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))))


class SharedLayer(nn.Module):
    """Own one layer under two names, ``left`` and ``right``, and call it under both."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(3, 3)
        self.right = self.left

    def forward(self, x):
        return self.right(self.left(x))


class InplaceAfterConv(nn.Sequential):
    """Overwrite the convolution's output with a ReLU(inplace=True)."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 3, padding=1)
        )


class InplaceAfterView(nn.Sequential):
    """Overwrite a view (what Flatten returns) in place."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(72, 3))


class ResidualInplace(nn.Module):
    """Add the shortcut in place, as torchvision's blocks do."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.branch(x)
        out += x
        return self.relu(out)


class WritesOverItsInput(nn.Module):
    """Double the caller's tensor in place before using it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(x.mul_(2))


class Returns(nn.Module):
    """Hand its input to ``build`` and return whatever that makes of it."""

    def __init__(self, build):
        super().__init__()
        self.build = build

    def forward(self, x):
        return self.build(x)


class TupleOutput(nn.Sequential):
    """Return a tuple of tensors, one of them an integer tensor."""

    def __init__(self):
        super().__init__(nn.Linear(3, 4), Returns(lambda x: (x * 2, x.argmax(1), "a word")))


class DictOutput(nn.Sequential):
    """Return an ordered dict, as torchvision's segmentation backbones do."""

    def __init__(self):
        super().__init__(
            nn.Linear(3, 4), Returns(lambda x: OrderedDict(out=x + 1, aux=[x - 1, None]))
        )


class NamedTupleOutput(nn.Sequential):
    """Return a named tuple inside a list."""

    def __init__(self):
        super().__init__(nn.Linear(3, 4), Returns(lambda x: [Pair(x, x * 3)]))


class DataclassOutput(nn.Sequential):
    """Return a frozen dataclass."""

    def __init__(self):
        super().__init__(
            nn.Linear(3, 4),
            Returns(lambda x: Detected(boxes=x, scores=x.sum(1), best=x.argmax(1))),
        )


class ObjectOutput(nn.Sequential):
    """Return a plain object that holds a tensor."""

    def __init__(self):
        super().__init__(nn.Linear(3, 4), Returns(lambda x: ImageBatch(x * 2, [(8, 8)])))


class PackedOutput(nn.Sequential):
    """Return a packed sequence, a named tuple that checks what it is made of."""

    def __init__(self):
        super().__init__(
            nn.Linear(3, 4),
            Returns(lambda x: nn.utils.rnn.pack_sequence([x[:3], x[3:]])),
        )


class NoParameters(nn.Sequential):
    """Own no parameter and no buffer."""

    def __init__(self):
        super().__init__(nn.ReLU(), nn.Flatten())


class FrozenBackbone(nn.Module):
    """Own a backbone without gradients and in eval mode, and a head that trains."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.backbone.requires_grad_(False).eval()

    def forward(self, x):
        return self.head(self.backbone(x).mean((2, 3)))


class UnusedBranch(nn.Module):
    """Own a layer that forward never calls."""

    def __init__(self):
        super().__init__()
        self.used = nn.Linear(3, 2)
        self.unused = nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x)


class DeadReLU(nn.Module):
    """Let no value, and so no gradient, through the ReLU after ``first``."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        nn.init.constant_(self.first.bias, -100.0)

    def forward(self, x):
        return self.second(self.first(x).relu())


class Log(nn.Module):
    """Take the logarithm: NaN below zero, minus infinity at zero."""

    def forward(self, x):
        return x.log()


class NaNInThird(nn.Module):
    """Compute finite values in ``first`` and ``second``, and NaN in ``third``."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Tanh()
        self.third = Log()
        self.fourth = nn.Linear(3, 2)

    def forward(self, x):
        return self.fourth(self.third(self.second(self.first(x)) - 2))


class NaNAtSecondCall(nn.Module):
    """Call ``log`` twice: first on ones, then on minus ones."""

    def __init__(self):
        super().__init__()
        self.log = Log()

    def forward(self, x):
        return self.log(torch.ones_like(x)) + self.log(-torch.ones_like(x))


class NaNBetweenLayers(nn.Module):
    """Divide zero by zero in the code of ``inner``, between two healthy layers."""

    def __init__(self):
        super().__init__()
        self.inner = DividesByItsNorm()
        self.after = nn.Linear(3, 2)

    def forward(self, x):
        return self.after(self.inner(x * 0))


class DividesByItsNorm(nn.Module):
    """Divide by a norm that may be zero, then run a layer on the result."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(3, 3)

    def forward(self, x):
        return self.project(x / x.norm())


class InfiniteGradient(nn.Module):
    """Return finite values from ``root`` whose gradient at zero is infinite."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(3, 3, bias=False)
        self.root = Returns(lambda x: x.abs().sqrt())
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.root(self.scale(x)))


class NaNThenRaises(nn.Module):
    """Raise because a layer returned NaN, as detectors do."""

    def __init__(self):
        super().__init__()
        self.log = Log()

    def forward(self, x):
        if self.log(-torch.ones_like(x)).isnan().any():
            raise ValueError("boxes are not finite")
        return x


class MaskedAttention(nn.Module):
    """Attend with a float mask in which minus infinity forbids looking ahead."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class DrawsNoise(nn.Sequential):
    """Own everything that changes by itself in train mode: dropout and batch statistics."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2)
        )


class TiedWeights(nn.Module):
    """Use one weight twice, as ``inner.weight`` and as ``outer.weight``."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 3)
        self.outer.weight = self.inner.weight

    def forward(self, x):
        return self.outer(self.inner(x).tanh())


class ThreeBlocks(nn.Module):
    """Run three blocks of a convolution, a batch norm and a ReLU, and classify: [N,1,h,w] to [N,4].

    The number ``scale`` multiplies what the third block makes.
    """

    def __init__(self, scale=1.0):
        super().__init__()
        self.blocks = nn.Sequential(*(ConvNormReLU(1 if i == 0 else 4) for i in range(3)))
        self.blocks[2].scale = scale
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.blocks(x).mean((2, 3)))


class ConvNormReLU(nn.Module):
    """Run a convolution, a batch norm and a ReLU, and multiply the result with ``scale``."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.scale = 1.0

    def forward(self, x):
        return self.relu(self.norm(self.conv(x))) * self.scale


class FoldedBatch(nn.Module):
    """Put the whole batch into one row, as a reshape with a constant 1 does: [N,4] to [1,4N]."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(4, 4)

    def forward(self, x):
        return self.scale(x).reshape(1, -1)


class FixedBatch(nn.Module):
    """Reshape to a batch of two, whatever came in: [2,4] to [2,2,2]."""

    def forward(self, x):
        return (x * 2).reshape(2, 2, 2)


class TwoInputs(nn.Module):
    """Take two tensors of one batch, and return a sum and a count: [N,3], [N,2] to [N,1], [N]."""

    def forward(self, left, right):
        return left.sum(1, keepdim=True) + right.sum(1, keepdim=True), (left > 0.5).sum(1)


class DictInput(nn.Module):
    """Take a dict and return a dict with a list and a None in it."""

    def forward(self, sample):
        both = sample["image"] * sample["weight"]
        return {"out": both, "aux": [both + 1, None]}


class CallsAnUnknownOperator(nn.Module):
    """Call in ``inner`` an operator that ONNX does not have."""

    def __init__(self):
        super().__init__()
        self.inner = Returns(torch.special.bessel_j0)

    def forward(self, x):
        return self.inner(x) + 1


class BranchesOnValues(nn.Module):
    """Choose what to compute by looking at the values, which no exported graph can do."""

    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class BranchesOnSize(nn.Module):
    """Double a batch of even size only, which an exporter bakes in."""

    def forward(self, x):
        return x * 2 if x.shape[0] % 2 == 0 else x * 1


class MaskedRows(nn.Module):
    """Take a keyword that nothing else can stand for, and return names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x, bias=None, *, mask, double=False):
        found = self.layer(x - 2 * mask)
        found = found if bias is None else found + bias
        found = 2 * found if double else found
        return {"boxes": found.exp(), "aux": {"score": found.sigmoid()}, "levels": [found + 1]}


class LooseKeywords(nn.Module):
    """Take what it is given."""

    def forward(self, *images, **extra):
        return images[0] + extra["one"] - 2 * extra["two"]


class NamesOutputs(nn.Module):
    """Return one of several structures; its values bear names that the exporter gives too."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        a, b = x.exp(), x.exp().sigmoid()
        return {
            "crossed": {"sigmoid": a, "exp": b},
            "as input": {"x": a, "y": b},
            "passed on": {"x": x, "y": b},
            "twice": {"a": a, "b": a},
            "named tuple": Pair(a, {"deep": b}),
            "in a tuple": (a, {"b": b}),
            "with none": {"a": a, "nothing": None, "b": b},
            "plain": (a, b),
            "whole keys": {0: a, 1: b},
            "the same path": {"a": {"b": a}, "a.b": b},
        }[self.kind]


class MaskedEncoder(nn.Module):
    """Use an operator that ONNX lacks, in a network that a plain trace refuses."""

    def __init__(self, is_causal=None):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.is_causal = nn.TransformerEncoder(layer, 1), is_causal

    def forward(self, x):
        mask = torch.triu(torch.full((5, 5), float("-inf")), 1)
        return self.encoder(x, mask=mask, is_causal=self.is_causal)


class Unwritable(Exception):
    """Raise when asked what it says."""

    def __str__(self):
        raise RuntimeError("no words")


class RaisesUnwritable(nn.Module):
    """Raise the worst error there is."""

    def forward(self, x):
        raise Unwritable


class WorksOnce(nn.Module):
    """Compute the wrong thing once, and then nothing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 1:
            raise OSError("out of words")
        return self.layer(x) + 1


class GroupedUpsampler(nn.Module):
    """Use a transposed convolution in groups, which ONNX Runtime cannot quantise per channel."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 16, 3, groups=4)
        self.plain = nn.ConvTranspose2d(16, 4, 1)

    def forward(self, x):
        return self.plain(self.up(x).relu())


class TiedTable(nn.Module):
    """Read one weight as a table, as a layer, and transposed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.table.weight

    def forward(self, i):
        scores = self.out(self.table(i).mean(1))
        return self.out(scores.softmax(1) @ self.table.weight)
