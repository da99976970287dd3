"""Run a table of rows (kind, arguments): how v3 and v4 were published, and lay out their weights.

A row that convolves has kernels of its own; the file of weights holds them in this order. Nothing
here knows of `labs`.
"""

import struct

import torch
from torch.nn.functional import conv2d

from tests.parity.plain import activate, batch_norm, enlarge, pool

EPS = 1e-5  # src/blas_kernels.cu, normalize_kernel: sqrt(variance + .00001f)


def run(table, w, images, width=1.0, last=255):
    """Return what each [yolo] row is given, in the order of the table.

    ``width`` scales the filters of all rows but those before a [yolo], which have ``last``.
    """
    made, maps, x = [], [], images
    for i, (kind, *args) in enumerate(table):
        if kind == "convolutional":
            filters, k, stride, how = args
            normalised = how != "linear"
            filters = round(filters * width) if normalised else last
            x = convolutional(w, x, str(i), filters, k, stride, how, normalised)
        elif kind == "shortcut":
            x = x + made[args[0]]
        elif kind == "route":
            x = torch.cat([made[j] for j in args], 1)
        elif kind == "maxpool":
            x = pool(x, args[0])
        elif kind == "upsample":
            x = enlarge(x)
        else:
            assert kind == "yolo"
            maps.append(x)
        made.append(x)
    return maps


def convolutional(w, x, name, filters, k, stride, how, normalised):
    kernels = w.kernel(f"{name}.kernels", filters, x.shape[1], k)
    y = conv2d(x, kernels, None, stride, k // 2)
    if normalised:
        entries = (f"{name}.{part}" for part in ("scales", "biases", "means", "variances"))
        y = batch_norm(w, y, EPS, *entries)
    else:
        y = y + w(f"{name}.biases", filters).view(1, -1, 1, 1)
    return activate(y, how)


def flat(table, w):
    """Return all numbers in the order of the file: src/parser.c, load_convolutional_weights."""
    parts = []
    for i, (kind, *_) in enumerate(table):
        if kind == "convolutional":
            order = ("biases", "scales", "means", "variances", "kernels")
            parts += [w.tensors[f"{i}.{part}"] for part in order if f"{i}.{part}" in w.tensors]
    return torch.cat([part.flatten() for part in parts])


def file(table, w, version=(0, 2, 5), seen=32_013_312):
    """Return the content of a .weights file."""
    header = struct.pack("<3i", *version)
    header += struct.pack("<q" if version[1] >= 2 else "<i", seen)
    return header + flat(table, w).float().numpy().astype("<f4").tobytes()
