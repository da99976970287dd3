"""Deformable DETR computes what that of transformers does, point by point, and with padding."""

import re
from functools import cache

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

from labs.assigners import Hungarian
from labs.criteria import DETRCriterion
from labs.models import (
    DeformableAttention,
    DeformableDETR,
    ResNetMaps,
    deformable_detr_resnet50,
    freeze_norms,
    load_published,
    sample_levels,
)
from labs.models.resnet import Bottleneck, ResNet
from tests.parity.test_detr import CLASSES, NEAR, TARGETS, ask, batch, in_shares

WIDTH, QUERIES = 32, 7
KINDS = {"plain": (False, False), "refined": (True, False), "two stages": (True, True)}

# Where a proposal becomes a query, transformers codes its place in float32.
CLOSE = {"plain": 1e-6, "refined": 1e-6, "two stages": 4e-4}


def build(refine, two_stage):
    resnet = freeze_norms(ResNet(Bottleneck, (1, 1, 1, 1), width=8))
    backbone = ResNetMaps(resnet, first=1)
    return DeformableDETR(
        backbone, backbone.channels, CLASSES, WIDTH, 4, 2, 3, 64, QUERIES, 4, 2,
        refine=refine, two_stage=two_stage,
    )  # fmt: skip


@cache
def twins(kind):
    """Return ours and that of transformers, with the same random weights, in eval mode."""
    torch.manual_seed(0)
    refine, two_stage = KINDS[kind]
    resnet = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1],
        layer_type="bottleneck", out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=resnet, d_model=WIDTH, encoder_layers=2, decoder_layers=3,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_queries=QUERIES, num_labels=CLASSES, num_feature_levels=4,
        encoder_n_points=2, decoder_n_points=2, disable_custom_kernels=True,
        with_box_refine=refine, two_stage=two_stage, two_stage_num_proposals=QUERIES,
        auxiliary_loss=True,
    )  # fmt: skip
    theirs = DeformableDetrForObjectDetection(config)
    with torch.no_grad():
        for name, value in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if name.endswith(("running_var", "normalization.weight")):
                nn.init.uniform_(value, 0.5, 1.5)
            elif name.endswith(("norm.weight", "1.weight")) and value.ndim == 1:
                nn.init.normal_(value, 1, 0.1)
            elif value.ndim == 4:
                nn.init.kaiming_normal_(value)
            elif "sampling_offsets" in name:
                nn.init.normal_(value, std=0.5)
            elif value.ndim == 2 and "query" not in name:
                nn.init.normal_(value, std=1.5 / value.shape[1] ** 0.5)
            else:
                nn.init.normal_(value, std=1.0 if "query" in name else 0.1)
        for head, copy in (("bbox_embed", refine), ("class_embed", two_stage)):
            if copy:  # as in a published file, where the decoder's heads are the same once more
                state = getattr(theirs, head).state_dict()
                getattr(theirs.model.decoder, head).load_state_dict(state)
    ours = build(refine, two_stage)
    loaded = load_published(ours, theirs.state_dict(), "transformers")
    assert len(loaded.names) == len(ours.state_dict())
    assert len(loaded.names) + len(loaded.extras) == len(theirs.state_dict())
    return ours.double().eval(), theirs.double().eval(), loaded.names


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_sets_of_every_layer_are_equal(kind, padded):
    ours, theirs, _ = twins(kind)
    images, padding = batch()
    padding = padding if padded else None
    with torch.no_grad():
        found, expected = ours(images, padding), ask(theirs, images, padding)
    bound = {"rtol": 0, "atol": CLOSE[kind] / 10}
    torch.testing.assert_close(found.logits[-1], expected.logits, **bound)
    torch.testing.assert_close(found.boxes_norm[-1], expected.pred_boxes, **bound)
    assert found.boxes_norm.std(2).min() > 1e-3  # queries differ, so that a mixed order is seen
    if KINDS[kind][1]:
        torch.testing.assert_close(found.first[0], expected.enc_outputs_class, **NEAR)
        there = expected.enc_outputs_coord_logits.sigmoid()
        torch.testing.assert_close(found.first[1], there, **NEAR)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_their_gradients_are_equal(kind):
    ours, theirs, names = twins(kind)
    ours.zero_grad()
    theirs.zero_grad()
    images, padding = batch()
    raw = ours(images, padding)
    terms = DETRCriterion(CLASSES, Hungarian(focal=True))(raw._replace(first=None), TARGETS)
    said = theirs_of_layers(theirs, images, padding, in_shares(TARGETS, raw.sizes))
    for mine, other, weight in (("class", "ce", 1), ("box", "bbox", 5), ("giou", "giou", 2)):
        layers = [said.loss_dict[f"loss_{other}{end}"].double() for end in ("", "_0", "_1")]
        torch.testing.assert_close(terms[mine], weight * sum(layers), rtol=1e-6, atol=1e-6)
    sum(terms.values()).backward()
    said.loss.backward()
    mine = dict(ours.named_parameters())
    compared = 0
    for there, parameter in theirs.named_parameters():
        if parameter.requires_grad and there in names and parameter.grad is not None:
            gradient = mine[names[there]].grad
            if kind == "refined" and there.startswith("class_embed"):
                # transformers 5.24 shares this head among the layers; the authors' have one each.
                last = there.rpartition(".")[2]
                gradient = sum(getattr(head, last).grad for head in ours.classes)
            torch.testing.assert_close(
                gradient, parameter.grad, rtol=1e-5, atol=CLOSE[kind], msg=there
            )
            compared += 1
    assert compared > 100


def theirs_of_layers(theirs, images, padding, labels):
    from labs.models.faster_rcnn import IMAGENET_MEAN, IMAGENET_STD

    moments = (torch.tensor(v, dtype=torch.float64) for v in (IMAGENET_MEAN, IMAGENET_STD))
    mean, std = (values[:, None, None] for values in moments)
    return theirs((images - mean) / std, pixel_mask=(~padding).long(), labels=labels)


def test_an_encoder_that_proposes_is_judged_as_if_there_were_one_class():
    ours, _, _ = twins("two stages")
    raw = ours(batch()[0])
    criterion = DETRCriterion(CLASSES, Hungarian(focal=True))
    without = criterion(raw._replace(first=None), TARGETS)
    whole = criterion(raw, TARGETS)
    alike = [target | {"labels": torch.zeros_like(target["labels"])} for target in TARGETS]
    logits, boxes = (values[None] for values in raw.first)
    alone = criterion(raw._replace(logits=logits, boxes_norm=boxes, first=None), alike)
    for name, value in whole.items():
        torch.testing.assert_close(value, without[name] + alone[name])


def reading(shapes=((3, 5), (2, 2)), heads=2, points=3, seed=0):
    """Return random values, places and weights for two maps."""
    generator = torch.Generator().manual_seed(seed)
    cells = sum(h * w for h, w in shapes)
    values = torch.randn(2, cells, heads, 4, generator=generator, dtype=torch.float64)
    form = (2, 6, heads, len(shapes), points)
    places = torch.rand(*form, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    weights = torch.rand(*form, generator=generator, dtype=torch.float64)
    return values.requires_grad_(), shapes, places.requires_grad_(), weights.requires_grad_()


def by_hand(values, shapes, places, weights):
    """Interpolate between the four nearest centres, one number after the other."""
    n, q, heads, _, points, _ = places.shape
    out, start = torch.zeros(n, q, heads, values.shape[-1], dtype=values.dtype), 0
    for level, (h, w) in enumerate(shapes):
        for index in torch.cartesian_prod(*map(torch.arange, (n, q, heads, points))).tolist():
            image, query, head, point = index
            x, y = places[image, query, head, level, point].tolist()
            x, y = x * w - 0.5, y * h - 0.5
            for row in (int(y // 1), int(y // 1) + 1):
                for column in (int(x // 1), int(x // 1) + 1):
                    if 0 <= row < h and 0 <= column < w:
                        share = (1 - abs(y - row)) * (1 - abs(x - column))
                        cell = values[image, start + row * w + column, head]
                        out[image, query, head] += (
                            weights[image, query, head, level, point] * share * cell
                        )
        start += h * w
    return out.flatten(2)


def test_reading_is_interpolation_by_hand():
    arguments = reading()
    torch.testing.assert_close(sample_levels(*arguments), by_hand(*arguments))


def test_gradients_are_right_in_values_places_and_weights():
    values, shapes, places, weights = reading(points=2)
    assert gradcheck(lambda v, p, w: sample_levels(v, shapes, p, w), (values, places, weights))


def test_the_centre_of_a_cell_reads_the_cell():
    ramp = torch.arange(24.0).view(1, 24, 1, 1)
    y, x = (torch.arange(4) + 0.5) / 4, (torch.arange(6) + 0.5) / 6
    places = torch.stack([x.expand(4, -1), y[:, None].expand(-1, 6)], -1).view(1, 24, 1, 1, 1, 2)
    read = sample_levels(ramp, [(4, 6)], places, torch.ones(1, 24, 1, 1, 1))
    torch.testing.assert_close(read.flatten(), torch.arange(24.0))


def test_an_offset_is_in_cells_x_first():
    attention = DeformableAttention(4, 1, levels=1, points=1)
    with torch.no_grad():
        attention.sampling_offsets.bias.copy_(torch.tensor([1.0, 0.0]))
    around = torch.full((1, 1, 1, 2), 0.5)
    places, weights = attention.sampling(torch.rand(1, 1, 4), around, [(4, 8)])
    torch.testing.assert_close(places.flatten(), torch.tensor([0.5 + 1 / 8, 0.5]))
    assert weights.flatten().tolist() == [1]
    box = torch.tensor([[[[0.5, 0.5, 0.4, 0.2]]]])  # in halves of the box
    places, _ = attention.sampling(torch.rand(1, 1, 4), box, [(4, 8)])
    torch.testing.assert_close(places.flatten(), torch.tensor([0.7, 0.5]))


@pytest.mark.parametrize("levels", [3, 4])
def test_references_of_boxes_meet_levels_and_not_coordinates(levels):
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, levels, points=2)
    nn.init.normal_(attention.sampling_offsets.weight)
    shapes = [(4, 4), (3, 2), (2, 2), (1, 1)][:levels]
    boxes = torch.rand(1, 5, levels, 4) / 2 + 0.25
    queries = torch.rand(1, 5, 8)
    places, _ = attention.sampling(queries, boxes, shapes)
    for level in range(levels):
        only = attention.sampling(queries, boxes[:, :, [level] * levels], shapes)[0]
        torch.testing.assert_close(places[:, :, :, level], only[:, :, :, level])


def test_it_begins_with_each_head_in_a_direction_and_weights_alike():
    attention = DeformableAttention(32, 8, levels=2, points=3)
    offsets = attention.sampling_offsets.bias.view(8, 2, 3, 2)
    torch.testing.assert_close(offsets[0], torch.tensor([[[1.0, 0], [2, 0], [3, 0]]] * 2))
    torch.testing.assert_close(offsets[1, 0], torch.tensor([[1.0, 1], [2, 2], [3, 3]]))
    torch.testing.assert_close(offsets[6, 1, 2], torch.tensor([0.0, -3]), rtol=0, atol=1e-5)
    _, weights = attention.sampling(torch.rand(1, 2, 32), torch.rand(1, 2, 2, 2), [(4, 4), (2, 2)])
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 6))
    assert attention.sampling_offsets.bias.requires_grad  # drawn without gradients, and learns


def test_later_corrections_teach_nothing_to_earlier_heads():
    ours, _, _ = twins("refined")
    raw = ours(batch()[0])
    first = list(ours.boxes[0].parameters())
    last = list(ours.boxes[2].parameters())
    gradients = torch.autograd.grad(
        raw.boxes_norm[-1].sum(), [*first, *last], allow_unused=True, retain_graph=True
    )
    assert all(gradient is None or not gradient.any() for gradient in gradients[: len(first)])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[len(first) :])


def test_counts_are_the_published_ones():
    with torch.device("meta"):
        plain, whole = deformable_detr_resnet50(), deformable_detr_resnet50(91, True, True)
    assert sum(p.numel() for p in plain.parameters()) == 40_069_665
    assert sum(p.numel() for p in whole.parameters()) == 41_181_529


AUTHORS = [  # how the authors' files name what transformers' network holds
    (r"^model\.backbone\.model\.embedder\.embedder\.convolution", "backbone.0.body.conv1"),
    (r"^model\.backbone\.model\.embedder\.embedder\.normalization", "backbone.0.body.bn1"),
    (r"^model\.backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d)\.",
     lambda m: f"backbone.0.body.layer{int(m[1]) + 1}.{m[2]}."),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}"),
    (r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}"),
    (r"^model\.input_proj", "input_proj"),
    (r"^model\.query_position_embeddings", "query_embed"),
    (r"^model\.", "transformer."),
    (r"encoder_attn\.", "cross_attn."),
    (r"self_attn\.o_proj", "self_attn.out_proj"),
    (r"mlp\.fc", "linear"),
    (r"(\.encoder\.layers\.\d\.)self_attn_layer_norm", r"\1norm1"),
    (r"(\.encoder\.layers\.\d\.)final_layer_norm", r"\1norm2"),
    (r"(\.decoder\.layers\.\d\.)encoder_attn_layer_norm", r"\1norm1"),
    (r"(\.decoder\.layers\.\d\.)self_attn_layer_norm", r"\1norm2"),
    (r"(\.decoder\.layers\.\d\.)final_layer_norm", r"\1norm3"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_authors_file_says_the_same(kind):
    ours, theirs, _ = twins(kind)
    written, parts = {}, {}
    for name, value in theirs.state_dict().items():
        for pattern, new in AUTHORS:
            name = re.sub(pattern, new, name)
        if found := re.match(r"(.*decoder.*self_attn\.)([qkv])_proj\.(\w+)$", name):
            parts.setdefault(f"{found[1]}in_proj_{found[3]}", {})[found[2]] = value
        else:
            written[name] = value
    written |= {name: torch.cat([of[p] for p in "qkv"]) for name, of in parts.items()}
    assert "transformer.decoder.layers.2.self_attn.in_proj_weight" in written
    other = build(*KINDS[kind]).double().eval()
    load_published(other, written, "authors")
    for name, value in ours.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeformableAttention(10, 4), "that the heads divide, got width=10, heads=4"),
        (lambda: DeformableAttention(8, 2, points=0), "points to be a whole number from 1, got 0"),
        (
            lambda: DeformableAttention(8, 2, 1)(
                torch.rand(1, 2, 8), torch.rand(1, 2, 1, 2), torch.rand(1, 7, 8), [(2, 4)]
            ),
            "the 8 cells of 1 maps, got 7 cells and 1 shapes",
        ),
        (lambda: build(False, True), "refine=True for two_stage=True, got levels=4, 3 maps"),
        (
            lambda: DeformableDETR(nn.Identity(), (8, 16), levels=1),
            "at least as many levels as maps.*levels=1, 2 maps",
        ),
        (
            lambda: DETRCriterion(4, Hungarian(focal=True))(twins("plain")[0](batch()[0]), TARGETS),
            "logits of 4 classes, got 5",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_with_rare_objects_and_boxes_at_their_references(kind):
    torch.manual_seed(0)
    refine, two_stage = KINDS[kind]
    network = build(refine, two_stage).eval()
    with torch.no_grad():
        raw = network(batch()[0].float())
    assert 0.003 < raw.logits.sigmoid().median() < 0.03  # focal loss: 0.01 on the whole
    assert torch.allclose(raw.boxes_norm[0], raw.boxes_norm[-1], atol=1e-5)  # nothing is corrected
    if two_stage:
        return
    eighth = torch.full_like(raw.boxes_norm[..., 2:], -2.0).sigmoid()
    torch.testing.assert_close(raw.boxes_norm[..., 2:], eighth)
    centres = network.references(network.queries.chunk(2, -1)[0]).sigmoid()
    torch.testing.assert_close(raw.boxes_norm[0, 0, :, :2], centres)
