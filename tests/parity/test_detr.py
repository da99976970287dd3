"""DETR computes what that of transformers does: sets, losses, gradients, and with padding."""

import re
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher

from labs.assigners import Hungarian
from labs.criteria import DETRCriterion
from labs.models import DETR, ResNetMaps, detr_resnet50, freeze_norms, load_published
from labs.models.faster_rcnn import IMAGENET_MEAN, IMAGENET_STD
from labs.models.resnet import Bottleneck, ResNet
from labs.postprocess import DETRPostprocess

CLASSES, WIDTH, QUERIES = 5, 32, 7
NEAR = {"rtol": 1e-8, "atol": 1e-8}
TARGETS = [
    {
        "boxes": torch.tensor([[10.0, 20, 70, 90], [40.0, 10, 120, 60]]),
        "labels": torch.tensor([3, 0]),
    },
    {"boxes": torch.tensor([[5.0, 8, 60, 40]]), "labels": torch.tensor([1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def build():
    resnet = freeze_norms(ResNet(Bottleneck, (1, 1, 1, 1), width=8))
    backbone = ResNetMaps(resnet, first=3)
    return DETR(backbone, backbone.channels[-1], CLASSES, WIDTH, 4, 2, 3, 64, QUERIES)


@cache
def twins():
    """Return ours and that of transformers, with the same random weights, in eval mode."""
    torch.manual_seed(0)
    resnet = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1],
        layer_type="bottleneck", out_features=["stage4"],
    )  # fmt: skip
    config = DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=resnet, d_model=WIDTH, encoder_layers=2, decoder_layers=3,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_queries=QUERIES, num_labels=CLASSES,
    )  # fmt: skip
    theirs = DetrForObjectDetection(config)
    with torch.no_grad():
        for name, value in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if name.endswith(("running_var", "normalization.weight")):
                nn.init.uniform_(value, 0.5, 1.5)
            elif name.endswith("norm.weight"):
                nn.init.normal_(value, 1, 0.1)
            elif value.ndim == 4:
                nn.init.kaiming_normal_(value)
            elif value.ndim == 2 and "query" not in name:
                nn.init.normal_(value, std=1.5 / value.shape[1] ** 0.5)
            else:
                nn.init.normal_(value, std=1.0 if "query" in name else 0.1)
    ours = build()
    loaded = load_published(ours, theirs.state_dict(), "transformers")
    assert len(loaded.names) == len(ours.state_dict())
    return ours.double().eval(), theirs.double().eval(), loaded.names


def batch():
    """Return three pictures of different sizes in one batch, and where there is none."""
    images = torch.rand(3, 3, 96, 128, generator=torch.Generator().manual_seed(1)).double()
    padding = torch.ones(3, 96, 128, dtype=torch.bool)
    for image, (height, width) in enumerate([(96, 128), (64, 96), (96, 70)]):
        padding[image, :height, :width] = False
    return images.masked_fill(padding[:, None], 0.4), padding


def ask(theirs, images, padding):
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    mask = None if padding is None else (~padding).long()
    return theirs((images - mean) / std, pixel_mask=mask)


def ask_every_layer(theirs, images, padding, labels):
    """Return the losses of transformers for what each of its layers says.

    With ``auxiliary_loss`` the decoder of transformers 5.24 gives the next layer what was normed
    for the loss, which the authors' program does not, and so says other things in training than
    later. The layers are asked without it.
    """
    said = []
    layers = theirs.model.decoder.layers
    handles = [layer.register_forward_hook(lambda *a: said.append(a[-1])) for layer in layers]
    try:
        ask(theirs, images, padding)
    finally:
        for handle in handles:
            handle.remove()
    normed = torch.stack([theirs.model.decoder.layernorm(one) for one in said])
    logits = theirs.class_labels_classifier(normed).float()
    boxes = theirs.bbox_predictor(normed).sigmoid().float()
    labels = [
        {name: v.float() if v.is_floating_point() else v for name, v in one.items()}
        for one in labels
    ]
    config = deepcopy(theirs.config)
    config.auxiliary_loss = True
    return theirs.loss_function(logits[-1], labels, "cpu", boxes[-1], config, logits, boxes)


@pytest.mark.parametrize("padded", [False, True])
def test_sets_are_equal(padded):
    ours, theirs, _ = twins()
    images, padding = batch()
    padding = padding if padded else None
    with torch.no_grad():
        found, expected = ours(images, padding), ask(theirs, images, padding)
    torch.testing.assert_close(found.logits[-1], expected.logits, **NEAR)
    torch.testing.assert_close(found.boxes_norm[-1], expected.pred_boxes, **NEAR)
    assert found.boxes_norm.std(2).min() > 1e-3  # queries differ, so that a mixed order is seen
    sizes = [[96, 128], [64, 96], [96, 70]] if padded else [[96, 128]] * 3
    assert found.sizes.tolist() == sizes


def in_shares(targets, sizes):
    """Write targets as transformers takes them."""
    labels = []
    for target, (height, width) in zip(targets, sizes.tolist(), strict=True):
        x1, y1, x2, y2 = target["boxes"].double().unbind(1)
        boxes = torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height,
                             (x2 - x1) / width, (y2 - y1) / height], 1)  # fmt: skip
        labels.append({"boxes": boxes, "class_labels": target["labels"]})
    return labels


@pytest.mark.parametrize("padded", [False, True])
def test_losses_of_all_layers_and_their_gradients_are_equal(padded):
    ours, theirs, names = twins()
    ours.zero_grad()
    theirs.zero_grad()
    images, padding = batch()
    padding = padding if padded else None
    raw = ours(images, padding)
    terms = DETRCriterion(CLASSES)(raw, TARGETS)
    loss, losses, _ = ask_every_layer(theirs, images, padding, in_shares(TARGETS, raw.sizes))
    for mine, other, weight in (("class", "ce", 1), ("box", "bbox", 5), ("giou", "giou", 2)):
        layers = [losses[f"loss_{other}{end}"].double() for end in ("", "_0", "_1")]
        torch.testing.assert_close(terms[mine], weight * sum(layers), rtol=1e-6, atol=1e-6)
    sum(terms.values()).backward()
    loss.backward()
    mine = dict(ours.named_parameters())
    compared = 0
    for there, parameter in theirs.named_parameters():
        if parameter.requires_grad and there in names:
            torch.testing.assert_close(
                mine[names[there]].grad, parameter.grad, rtol=1e-5, atol=1e-6, msg=there
            )
            compared += 1
    assert compared > 100


def test_without_auxiliary_losses_the_last_layer_alone_is_judged():
    ours, theirs, _ = twins()
    images, _ = batch()
    raw = ours(images)
    terms = DETRCriterion(CLASSES, auxiliary=False)(raw, TARGETS)
    _, losses, _ = ask_every_layer(theirs, images, None, in_shares(TARGETS, raw.sizes))
    torch.testing.assert_close(terms["class"], losses["loss_ce"].double(), rtol=1e-6, atol=1e-6)
    all_of_it = DETRCriterion(CLASSES)(raw, TARGETS)
    assert all(all_of_it[name] > 1.5 * terms[name] for name in terms)


@pytest.mark.parametrize("focal", [False, True])
def test_matching_is_that_of_the_reference_and_the_cheapest(focal):
    generator = torch.Generator().manual_seed(0)
    matcher = Hungarian(focal=focal)
    reference = HungarianMatcher(1, 5, 2)
    for trial in range(20):
        logits = 3 * torch.randn(1, 6, 4 if focal else 5, generator=generator)
        boxes = torch.rand(1, 6, 4, generator=generator) * 0.5 + 0.2
        truths = torch.rand(trial % 5, 4, generator=generator) * 0.5 + 0.2
        labels = torch.randint(4, (len(truths),), generator=generator)
        query, truth = matcher(logits[0], boxes[0], truths, labels)
        costs = matcher.costs(logits[0], boxes[0], truths, labels)
        assert costs.shape == (6, len(truths))
        if focal:
            continue
        targets = [{"boxes": truths, "class_labels": labels}]
        ((rows, columns),) = reference({"logits": logits, "pred_boxes": boxes}, targets)
        assert (query.tolist(), truth.tolist()) == (rows.tolist(), columns.tolist())


def test_shuffled_truths_are_matched_with_themselves():
    boxes = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.2
    order = torch.tensor([3, 0, 4])
    query, truth = Hungarian()(torch.zeros(5, 3), boxes, boxes[order], torch.tensor([0, 1, 0]))
    assert order[truth].tolist() == query.tolist()  # (pred, truth), not (truth, pred)


def test_more_objects_than_queries_are_matched_as_far_as_they_go():
    boxes = torch.rand(9, 4) * 0.4 + 0.2
    query, truth = Hungarian()(
        torch.zeros(4, 3), boxes[:4], boxes, torch.zeros(9, dtype=torch.int64)
    )
    assert query.tolist() == [0, 1, 2, 3]
    assert truth.tolist() == [0, 1, 2, 3]


def test_what_is_not_finite_is_refused_with_its_name():
    boxes, labels = torch.rand(2, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"finite costs, got logits of queries .* labs\.hooks\.first_bad"
    ):
        Hungarian()(torch.full((3, 2), torch.nan), torch.rand(3, 4), boxes, labels)
    with pytest.raises(ValueError, match="got boxes of queries"):
        Hungarian()(torch.zeros(3, 2), torch.full((3, 4), torch.inf), boxes, labels)


def test_a_picture_says_the_same_alone_and_beside_larger_ones():
    ours, _, _ = twins()
    images, padding = batch()
    with torch.no_grad():
        beside = ours(images, padding)
        alone = ours(images[1:2, :, :64, :96])
        unmasked = ours(images)
    # What the convolutions see beyond the edge differs, so the map of the backbone is compared off.
    close = (beside.logits[-1, 1] - alone.logits[-1, 0]).abs().max()
    apart = (unmasked.logits[-1, 1] - alone.logits[-1, 0]).abs().max()
    assert close < 0.2 * apart


def test_padding_is_never_read():
    ours, _, _ = twins()
    _, padding = batch()
    tokens = torch.randn(3, 12, WIDTH).double()
    away = padding[:, ::32, ::32].flatten(1)
    other = torch.where(away[..., None], 9 + tokens, tokens)
    place = torch.randn(3, 12, WIDTH).double()
    with torch.no_grad():
        queries = ours.queries.expand(3, -1, -1)
        sets = []
        for one in (tokens, other):
            memory = ours.encoder(one, place, padding=away)
            sets.append(ours.decoder(queries, memory, ours.queries, place, padding=away))
    torch.testing.assert_close(*sets, **NEAR)


def test_detections_are_boxes_in_pixels_of_each_picture():
    ours, theirs, _ = twins()
    images, padding = batch()
    with torch.no_grad():
        raw, said = ours(images, padding), ask(theirs, images, padding)
    found = DETRPostprocess(CLASSES)(raw)
    for image, one in enumerate(found):
        assert (one["scores"].diff() <= 0).all()
        assert sorted(one["places"].tolist()) == list(range(QUERIES))
        best, labels = said.logits[image].softmax(-1)[:, :-1].max(-1)
        torch.testing.assert_close(one["scores"], best[one["places"]], **NEAR)
        assert one["labels"].tolist() == labels[one["places"]].tolist()
        cx, cy, w, h = said.pred_boxes[image][one["places"]].unbind(1)
        height, width = raw.sizes[image].tolist()
        x1, y2 = (cx - w / 2) * width, (cy + h / 2) * height
        torch.testing.assert_close(one["boxes"][:, 0], x1, **NEAR)
        torch.testing.assert_close(one["boxes"][:, 3], y2, **NEAR)
    few = DETRPostprocess(CLASSES, max_detections=3)(raw)
    assert [len(one["scores"]) for one in few] == [3, 3, 3]


def test_with_sigmoids_a_query_may_be_two_detections():
    ours, _, _ = twins()
    with torch.no_grad():
        raw = ours(batch()[0])
    raw = raw._replace(logits=raw.logits[..., :CLASSES])
    found = DETRPostprocess(CLASSES, focal=True, max_detections=10)(raw)
    scores = raw.logits[-1].sigmoid()
    for image, one in enumerate(found):
        torch.testing.assert_close(
            one["scores"], scores[image].flatten().sort(descending=True)[0][:10]
        )
        again = scores[image][one["places"], one["labels"]]
        torch.testing.assert_close(one["scores"], again)


def test_counts_are_the_published_ones():
    with torch.device("meta"):
        network = detr_resnet50()
    assert sum(p.numel() for p in network.parameters()) == 41_524_768
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 41_302_368


AUTHORS = [  # how the authors' files name what transformers' network holds
    (r"^model\.backbone\.model\.embedder\.embedder\.convolution", "backbone.0.body.conv1"),
    (r"^model\.backbone\.model\.embedder\.embedder\.normalization", "backbone.0.body.bn1"),
    (r"^model\.backbone\.model\.encoder\.stages\.(\d)\.layers\.(\d)\.",
     lambda m: f"backbone.0.body.layer{int(m[1]) + 1}.{m[2]}."),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}"),
    (r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}"),
    (r"^model\.input_projection", "input_proj"),
    (r"^model\.query_position_embeddings", "query_embed"),
    (r"^class_labels_classifier", "class_embed"),
    (r"^bbox_predictor", "bbox_embed"),
    (r"^model\.decoder\.layernorm", "transformer.decoder.norm"),
    (r"^model\.(encoder|decoder)\.layers", r"transformer.\1.layers"),
    (r"encoder_attn\.", "multihead_attn."),
    (r"o_proj", "out_proj"),
    (r"mlp\.fc", "linear"),
    (r"self_attn_layer_norm", "norm1"),
    (r"encoder_attn_layer_norm", "norm2"),
    (r"(transformer\.encoder\.layers\.\d\.)final_layer_norm", r"\1norm2"),
    (r"(transformer\.decoder\.layers\.\d\.)final_layer_norm", r"\1norm3"),
]  # fmt: skip


def test_the_authors_file_says_the_same():
    ours, theirs, _ = twins()
    written, parts = {}, {}
    for name, value in theirs.state_dict().items():
        for pattern, new in AUTHORS:
            name = re.sub(pattern, new, name)
        if found := re.match(r"(.*attn\.)([qkv])_proj\.(\w+)$", name):
            parts.setdefault(f"{found[1]}in_proj_{found[3]}", {})[found[2]] = value
        else:
            written[name] = value
    written |= {name: torch.cat([of[p] for p in "qkv"]) for name, of in parts.items()}
    assert "transformer.decoder.layers.2.multihead_attn.in_proj_weight" in written
    other = build().double().eval()
    load_published(other, written, "authors")
    for name, value in ours.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build()(torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)), "padding of bool"),
        (
            lambda: build()(torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 32, dtype=torch.bool)),
            r"\[1,64,64\] as the images, got torch.bool \[1, 64, 32\]",
        ),
        (
            lambda: DETRCriterion(4)(twins()[0](batch()[0]), TARGETS),
            'logits of 4 classes \\+ 1 for "no object", got 6',
        ),
        (
            lambda: DETRCriterion(5)(twins()[0](batch()[0]), TARGETS[:2]),
            "one target per image.* of 3 images and 2 targets",
        ),
        (lambda: DETR(nn.Identity(), 0), "channels to be a whole number from 1, got 0"),
    ],
)
def test_what_does_not_belong_together_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_matrices_begin_as_the_authors_draw_them():
    torch.manual_seed(0)
    ours = DETR(nn.Identity(), 8, CLASSES, 64, 4, 1, 1, 256)
    for part in (ours.encoder.layers[0], ours.decoder.layers[0]):
        for layer in (part.feed_forward.linear1, part.feed_forward.linear2, part.self_attn.out):
            edge = (6 / sum(layer.weight.shape)) ** 0.5  # Glorot and Bengio 2010
            assert 0.97 * edge < layer.weight.abs().max() <= edge
