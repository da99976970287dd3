"""Name the entries of Deformable DETR as its authors and transformers do."""

from __future__ import annotations

from labs.models.deformable_detr import DeformableDETR
from labs.models.feature_pyramid import ResNetMaps
from labs.models.published.detr import attention_rows, resnet_of_authors, resnet_of_transformers
from labs.models.published.layout import Layout, stacked, translate

_EPS = 1e-5
_ENCODER = {"feed_forward.linear1.": "mlp.fc1.", "feed_forward.linear2.": "mlp.fc2."}
_DECODER = {"self_attn.": "self_attn."} | _ENCODER
_TWICE = "the same heads again, as the decoder holds them"
_SHARED = "the same head again, of another layer"


def of_transformers(network: DeformableDETR) -> Layout:
    """Return the name of each entry of ``DeformableDetrForObjectDetection``, and ours."""
    rows = {
        "model.level_embed": "level",
        "model.query_position_embeddings.weight": "queries",
        "model.reference_points.": "references.",
        "model.enc_output.": "first.",
        "model.enc_output_norm.": "first_norm.",
        "model.pos_trans.": "placed.",
        "model.pos_trans_norm.": "placed_norm.",
        "model.input_proj.": "project.",
        "class_embed.": "classes.",
        **_box_rows(network),
    }
    rows |= resnet_of_transformers(_backbone(network), "model.backbone.model.", "backbone.")
    for index in range(len(network.encoder)):
        theirs, ours = f"model.encoder.layers.{index}.", f"encoder.{index}."
        rows |= attention_rows(theirs, ours, _ENCODER)
        rows[f"{theirs}self_attn_layer_norm."] = f"{ours}norm1."
        rows[f"{theirs}final_layer_norm."] = f"{ours}norm2."
        rows[f"{theirs}self_attn."] = f"{ours}self_attn."
    for index in range(len(network.decoder)):
        theirs, ours = f"model.decoder.layers.{index}.", f"decoder.{index}."
        rows |= attention_rows(theirs, ours, _DECODER)
        rows[f"{theirs}self_attn_layer_norm."] = f"{ours}norm1."
        rows[f"{theirs}encoder_attn_layer_norm."] = f"{ours}norm2."
        rows[f"{theirs}final_layer_norm."] = f"{ours}norm3."
        rows[f"{theirs}encoder_attn."] = f"{ours}cross_attn."
    names = translate(network, rows)
    return Layout(names, eps=_EPS, extras=_repeated(network, names, "model."))


def of_authors(network: DeformableDETR) -> Layout:
    """Return the name of each entry in the authors' files, and ours."""
    rows = {
        "transformer.level_embed": "level",
        "query_embed.weight": "queries",
        "transformer.reference_points.": "references.",
        "transformer.enc_output.": "first.",
        "transformer.enc_output_norm.": "first_norm.",
        "transformer.pos_trans.": "placed.",
        "transformer.pos_trans_norm.": "placed_norm.",
        "input_proj.": "project.",
        "class_embed.": "classes.",
        **_box_rows(network),
    }
    rows |= resnet_of_authors(_backbone(network))
    attentions = {}
    for index in range(len(network.encoder)):
        theirs, ours = f"transformer.encoder.layers.{index}.", f"encoder.{index}."
        rows[f"{theirs}linear"] = f"{ours}feed_forward.linear"
        rows[theirs] = ours
    for index in range(len(network.decoder)):
        theirs, ours = f"transformer.decoder.layers.{index}.", f"decoder.{index}."
        # There the first norm is that of what is read from the maps, the second that of the talk.
        rows[f"{theirs}norm2."], rows[f"{theirs}norm1."] = f"{ours}norm1.", f"{ours}norm2."
        rows[f"{theirs}norm3."] = f"{ours}norm3."
        rows[f"{theirs}linear"] = f"{ours}feed_forward.linear"
        rows[f"{theirs}cross_attn."] = f"{ours}cross_attn."
        rows[f"{theirs}self_attn.out_proj."] = f"{ours}self_attn.out."
        attentions[f"{theirs}self_attn."] = f"{ours}self_attn."
    names, parts = stacked(attentions)
    names = translate(network, rows) | names
    return Layout(names, _EPS, stacked=parts, extras=_repeated(network, names, "transformer."))


def _box_rows(network: DeformableDETR) -> dict[str, str]:
    return {
        f"bbox_embed.{head}.layers.{layer}.": f"boxes.{head}.{2 * layer}."
        for head in range(len(network.boxes))
        for layer in range(3)
    }


def _repeated(network: DeformableDETR, names: dict[str, str], before: str) -> dict[str, str]:
    """Return what a file holds several times: heads of the decoder, and heads that are shared."""
    heads = [name for name in names if name.startswith(("class_embed.", "bbox_embed."))]
    extras = {f"{before}decoder.{name}": _TWICE for name in heads}
    if not network.refine:
        for name in heads:
            kind, _, rest = name.split(".", 2)
            for layer in range(1, len(network.decoder)):
                extras[f"{kind}.{layer}.{rest}"] = _SHARED
    return extras


def _backbone(network: DeformableDETR) -> ResNetMaps:
    if not isinstance(network.backbone, ResNetMaps):
        raise ValueError(
            "load_published: expected a DeformableDETR on ResNetMaps, whose weights are published, "
            f"got one on {type(network.backbone).__name__}"
        )
    return network.backbone
