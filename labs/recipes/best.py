"""Keep the weights of the best epoch, also when the run is stopped and goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from labs.ddp import Place

_FILE = "best.safetensors"


@dataclass
class Best:
    """Keep the weights that judged best, in memory and beside the checkpoint.

    Attributes:
        folder: Of the checkpoint, if there is one.
        made_with: What decides the run: a file of another run is passed over.
        weights: The best so far, on the CPU.
        epoch: Whose they are, from 1.
        score: How they judged.
    """

    folder: Path | None
    made_with: Mapping[str, Any]
    weights: dict[str, Tensor] | None = None
    epoch: int = 0
    score: float = -1.0

    def offer(self, network: nn.Module, score: float, epoch: int, place: Place) -> None:
        """Take these weights when they are better, or the first."""
        value = -0.5 if math.isnan(score) else score
        if value <= self.score:
            return
        state = network.state_dict()
        self.weights = {key: tensor.detach().cpu().clone() for key, tensor in state.items()}
        self.score, self.epoch = value, epoch
        if self.folder and place.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            told = {"score": value, "epoch": epoch, "made with": self.made_with}
            plain = {key: tensor.contiguous() for key, tensor in self.weights.items()}
            part = self.folder / f"{_FILE}.part"
            part.write_bytes(save_tensors(plain, {"told": json.dumps(told, sort_keys=True)}))
            os.replace(part, self.folder / _FILE)

    def read(self, place: Place) -> None:
        """Take what an earlier process of the same run kept, if it did; rank 0 reads it for all."""
        file = self.folder / _FILE if self.folder else None
        content = [file.read_bytes() if place.first and file and file.exists() else None]
        if dist.is_initialized():
            dist.broadcast_object_list(content, 0, device=place.device)
        if content[0] is None:
            return
        end = 8 + int.from_bytes(content[0][:8], "little")
        told = json.loads(json.loads(content[0][8:end])["__metadata__"]["told"])
        if told["made with"] == json.loads(json.dumps(self.made_with)):
            self.weights, self.score = load_tensors(content[0]), told["score"]
            self.epoch = told["epoch"]
