import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from labs.data import shipped
from labs.data.cutouts import load_cutouts
from labs.data.shipped import DamagedAssetError
from labs.evaluate import predict
from labs.models.mobilenet import _Normalize, mobilenet_v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("batch", "size"), [(1, (64, 96)), (3, (57, 40))])
def test_equals_torchvision_on_random_weights(batch, size):
    torch.manual_seed(0)
    model, reference = mobilenet_v2(pretrained=False), torchvision.models.mobilenet_v2()
    reference.load_state_dict(model.state_dict())  # the same keys
    images = torch.rand(batch, 3, *size)
    standard = torchvision.transforms.Normalize(MEAN, STD)(images)
    expected = predict(reference, standard)
    assert torch.allclose(predict(model, images), expected, rtol=1e-5, atol=1e-5 * expected.std())


def test_parameter_count_is_the_published_one():
    assert sum(p.numel() for p in mobilenet_v2(pretrained=False).parameters()) == 3_504_872


def test_shipped_weights_know_imagenet():
    model = mobilenet_v2()
    assert {p.dtype for p in model.state_dict().values()} == {torch.float32, torch.int64}
    classes = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    expected = {c.name: c for c in load_cutouts() if c.name in classes}
    known = ["badger", "bison", "broccoli", "hippopotamus", "mantis", "otter", "pineapple", "zebra"]
    assert set(known) <= set(expected)
    logits = predict(model, torch.stack([on_grey(expected[name]) for name in known]))
    assert [classes[best] for best in logits.argmax(1)] == known


def on_grey(cutout):
    canvas = Image.new("RGB", (224, 224), (128, 128, 128))
    canvas.paste(cutout.picture, (32, 32), cutout.picture)
    return pil_to_tensor(canvas) / 255


def test_other_number_of_classes_replaces_only_the_head():
    whole, other = mobilenet_v2(), mobilenet_v2(num_classes=8)
    images = torch.rand(2, 3, 64, 64)
    assert predict(other, images).shape == (2, 8)
    for key, value in other.features.state_dict().items():
        assert torch.equal(value, whole.features.state_dict()[key])


def test_embedding_is_what_the_classifier_is_given():
    model, images = mobilenet_v2(pretrained=False).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        embedding = model.embed(images)
        assert embedding.shape == (2, 1280)
        assert torch.equal(model.classifier(embedding), model(images))


def test_normalisation_follows_the_model():
    assert not _Normalize().state_dict()
    doubled = mobilenet_v2(pretrained=False).double()
    assert predict(doubled, torch.rand(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    (tmp_path / "mobilenet_v2.safetensors").write_bytes(b"half a file")
    with pytest.raises(DamagedAssetError, match="expected SHA-256 9815"):
        mobilenet_v2()
