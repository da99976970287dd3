"""Name the entries of DETR as its authors and transformers do."""

from __future__ import annotations

from labs.models.detr import DETR
from labs.models.feature_pyramid import ResNetMaps
from labs.models.published.layout import Layout, stacked, translate

_EPS = 1e-5  # of batch norms; those of the published network are frozen

_INSIDE = {
    "self_attn.": "self_attn.",
    "multihead_attn.": "encoder_attn.",
    "feed_forward.linear1.": "mlp.fc1.",
    "feed_forward.linear2.": "mlp.fc2.",
}
"""Parts of a layer, and what transformers calls them; norms are numbered otherwise."""


def of_authors(network: DETR) -> Layout:
    """Return the name of each entry in the authors' files, and ours."""
    rows = resnet_of_authors(_backbone(network)) | {
        "input_proj.": "project.",
        "query_embed.weight": "queries",
        "class_embed.": "classes.",
        **{f"bbox_embed.layers.{index}.": f"boxes.{2 * index}." for index in range(3)},
    }
    attentions = {}
    for kind, number, _ in _layers(network):
        name = f"{kind}.layers.{number}."
        for part in ("self_attn.", "multihead_attn."):
            attentions[f"transformer.{name}{part}"] = f"{name}{part}"
            rows[f"transformer.{name}{part}out_proj."] = f"{name}{part}out."
        rows[f"transformer.{name}linear"] = f"{name}feed_forward.linear"
        rows[f"transformer.{name}norm"] = f"{name}norm"
    rows |= {f"transformer.{kind}.norm.": f"{kind}.norm." for kind in ("encoder", "decoder")}
    names, parts = stacked(attentions)
    own = network.state_dict()
    names = {theirs: ours for theirs, ours in names.items() if ours in own}
    return Layout(translate(network, rows) | names, eps=_EPS, stacked=parts)


def of_transformers(network: DETR) -> Layout:
    """Return the name of each entry of ``DetrForObjectDetection`` on its own ResNet, and ours."""
    rows = {
        "model.input_projection.": "project.",
        "model.query_position_embeddings.weight": "queries",
        "model.decoder.layernorm.": "decoder.norm.",
        "model.encoder.layernorm.": "encoder.norm.",
        "class_labels_classifier.": "classes.",
        **{f"bbox_predictor.layers.{index}.": f"boxes.{2 * index}." for index in range(3)},
    }
    rows |= resnet_of_transformers(_backbone(network), "model.backbone.model.", "backbone.")
    for kind, number, last in _layers(network):
        theirs, ours = f"model.{kind}.layers.{number}.", f"{kind}.layers.{number}."
        rows |= attention_rows(theirs, ours, _INSIDE)
        rows[f"{theirs}self_attn_layer_norm."] = f"{ours}norm1."
        if kind == "decoder":
            rows[f"{theirs}encoder_attn_layer_norm."] = f"{ours}norm2."
        rows[f"{theirs}final_layer_norm."] = f"{ours}norm{last}."
    return Layout(translate(network, rows), eps=_EPS)


def attention_rows(theirs: str, ours: str, inside: dict[str, str]) -> dict[str, str]:
    """Return how the entries of one layer begin in transformers, and here, norms left out."""
    rows = {}
    for here, there in inside.items():
        if there.endswith("attn."):
            for part, letter in {"query": "q", "key": "k", "value": "v", "out": "o"}.items():
                rows[f"{theirs}{there}{letter}_proj."] = f"{ours}{here}{part}."
        else:
            rows[f"{theirs}{there}"] = f"{ours}{here}"
    return rows


def resnet_of_authors(backbone: ResNetMaps) -> dict[str, str]:
    """Return how the entries of torchvision's ResNet begin in the authors' files, and here."""
    stages = range(len(backbone.stages))
    return {
        "backbone.0.body.conv1.": "backbone.stem.0.",
        "backbone.0.body.bn1.": "backbone.stem.1.",
        **{f"backbone.0.body.layer{index + 1}.": f"backbone.stages.{index}." for index in stages},
    }


def resnet_of_transformers(backbone: ResNetMaps, theirs: str, ours: str) -> dict[str, str]:
    """Return how the entries of transformers' ResNet begin, and those of our maps."""
    kinds = {"convolution": ("0", "conv"), "normalization": ("1", "bn")}
    rows = {
        f"{theirs}embedder.embedder.{kind}.": f"{ours}stem.{place}."
        for kind, (place, _) in kinds.items()
    }
    for stage, blocks in enumerate(backbone.stages):
        for block in range(len(blocks)):  # type: ignore[arg-type]
            there = f"{theirs}encoder.stages.{stage}.layers.{block}."
            here = f"{ours}stages.{stage}.{block}."
            for kind, (place, name) in kinds.items():
                rows[f"{there}shortcut.{kind}."] = f"{here}downsample.{place}."
                for index in range(3):
                    rows[f"{there}layer.{index}.{kind}."] = f"{here}{name}{index + 1}."
    return rows


def _layers(network: DETR) -> list[tuple[str, int, int]]:
    """Return kind and number of each layer, and how many norms it has."""
    encoder = [("encoder", index, 2) for index in range(len(network.encoder.layers))]
    return encoder + [("decoder", index, 3) for index in range(len(network.decoder.layers))]


def _backbone(network: DETR) -> ResNetMaps:
    if not isinstance(network.backbone, ResNetMaps):
        raise ValueError(
            "load_published: expected a DETR on ResNetMaps, whose weights are published, got one "
            f"on {type(network.backbone).__name__}"
        )
    return network.backbone
