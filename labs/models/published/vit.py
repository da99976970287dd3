"""Name the entries of ViT as torchvision and transformers do."""

from __future__ import annotations

from labs.models.published.layout import Layout, stacked, translate
from labs.models.vit import ViT

_EPS = 1e-5  # of batch norms, which ViT has none of


def of_torchvision(network: ViT) -> Layout:
    """Return torchvision's name of each entry, and ours."""
    rows = {
        "conv_proj.": "patches.",
        "class_token": "class_token",
        "encoder.pos_embedding": "positions",
        "encoder.ln.": "encoder.norm.",
        "heads.head.": "head.",
    }
    attentions = {}
    for index in range(len(network.encoder.layers)):
        theirs, ours = f"encoder.layers.encoder_layer_{index}.", f"encoder.layers.{index}."
        attentions[f"{theirs}self_attention."] = f"{ours}self_attn."
        rows |= {
            f"{theirs}ln_1.": f"{ours}norm1.",
            f"{theirs}ln_2.": f"{ours}norm2.",
            f"{theirs}self_attention.out_proj.": f"{ours}self_attn.out.",
            f"{theirs}mlp.0.": f"{ours}feed_forward.linear1.",
            f"{theirs}mlp.3.": f"{ours}feed_forward.linear2.",
        }
    names, parts = stacked(attentions)
    return Layout(translate(network, rows) | names, eps=_EPS, stacked=parts)


def of_transformers(network: ViT) -> Layout:
    """Return transformers' name of each entry of ``ViTForImageClassification``, and ours.

    Its norms have an eps of 1e-12 unless it is told otherwise; ours have the authors' 1e-6.
    """
    rows = {
        "vit.embeddings.patch_embeddings.projection.": "patches.",
        "vit.embeddings.cls_token": "class_token",
        "vit.embeddings.position_embeddings": "positions",
        "vit.layernorm.": "encoder.norm.",
        "classifier.": "head.",
    }
    inner = {
        "layernorm_before.": "norm1.",
        "layernorm_after.": "norm2.",
        "attention.q_proj.": "self_attn.query.",
        "attention.k_proj.": "self_attn.key.",
        "attention.v_proj.": "self_attn.value.",
        "attention.o_proj.": "self_attn.out.",
        "mlp.fc1.": "feed_forward.linear1.",
        "mlp.fc2.": "feed_forward.linear2.",
    }
    for index in range(len(network.encoder.layers)):
        for theirs, ours in inner.items():
            rows[f"vit.layers.{index}.{theirs}"] = f"encoder.layers.{index}.{ours}"
    return Layout(translate(network, rows), eps=_EPS)
