"""Every extractor against the library it stands on; files are opened safely."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

from l2l_core.datasets import load_image_set
from l2l_core.evaluation.extractors import open_extractor
from l2l_core.evaluation.metrics import cosine
from l2l_core.evaluation.perceptual import open_perceptual
from l2l_core.models.checkpoints import CheckpointError


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, 40, 40), generator=torch.Generator().manual_seed(0)) / 255


def shake(network):
    """Random values everywhere, so that no layer is the identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def test_the_built_in_extractor_knows_subgroups():
    extractor = open_extractor()
    assert extractor.name == "built-in feature net" and extractor.dimensions == 256
    flags = load_image_set(("builtin:flags/country-flag",), 64, split="test").images()
    faces = load_image_set(("builtin:smileys/face-smiling",), 64, split="all").images()
    kinds = extractor(torch.cat([flags[:4], faces[:4]])).logits.argmax(dim=1)
    assert kinds[:4].unique().numel() == 1 and kinds[0] not in kinds[4:]
    assert extractor.features(flags[:2]).shape == (2, 256)


def test_clip_cosine_is_transformers_own(tmp_path, images):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config=sizes | {"num_attention_heads": 2, "vocab_size": 99},
        vision_config=sizes | {"num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    model = shake(CLIPModel(config))
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    folder = tmp_path / "tiny-clip"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    extractor = open_extractor(f"clip:{folder}")
    assert (extractor.name, extractor.dimensions) == ("CLIP tiny-clip", 24)
    assert extractor(images).logits is None
    pictures = [
        Image.fromarray(np.uint8((i * 255).round().permute(1, 2, 0).numpy())) for i in images
    ]
    with torch.no_grad():
        embeds = model.get_image_features(**processor(images=pictures, return_tensors="pt"))
        embeds = getattr(embeds, "pooler_output", embeds)  # transformers 5 wraps it
    expected = F.cosine_similarity(embeds[:2], embeds[1:])
    features = extractor.features(images)
    assert torch.allclose(cosine(features[:2], features[1:]), expected, atol=1e-6)
    assert not torch.allclose(expected, torch.ones(2), atol=1e-3)
    state = load_file(folder / "model.safetensors")
    del state["vision_model.post_layernorm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"post_layernorm\.weight is missing"):
        open_extractor(f"clip:{folder}")


def test_places_reads_the_published_layout(tmp_path, images):
    network = shake(torchvision.models.resnet50(num_classes=7))
    state = {
        f"module.{key}": value
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")  # the published file is older than these
    }
    path = tmp_path / "resnet50_places365.pth.tar"
    torch.save({"epoch": 90, "arch": "resnet50", "state_dict": state}, path)
    extractor = open_extractor(f"places:{path}")
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    resized = F.interpolate(images, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network((resized - mean) / std).softmax(dim=1)
    assert torch.allclose(extractor(images).logits.softmax(dim=1), expected, atol=1e-5)
    assert extractor.features(images).shape == (3, 2048)
    del state["module.fc.weight"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"missing: fc\.weight"):
        open_extractor(f"places:{path}")


def test_inception_is_torch_fidelitys(tmp_path, images, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as library

    module = library.FeatureExtractorInceptionV3
    monkeypatch.setattr(library, "load_state_dict_from_url", lambda url, progress: {})
    with monkeypatch.context() as patch:  # a random network: the real file is not here
        patch.setattr(module, "load_state_dict", lambda self, state: None)
        network = shake(module("inception-v3-compat", ["2048", "logits_unbiased"], verbose=False))
    path = tmp_path / "weights-inception.pth"
    torch.save(network.state_dict(), path)
    extractor = open_extractor(f"inception:{path}")
    with torch.no_grad():
        features, logits = network((images * 255).round().to(torch.uint8))
    assert torch.allclose(extractor.features(images), features, rtol=1e-4, atol=1e-5)
    assert torch.allclose(extractor(images).logits, logits, atol=1e-5)
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not torch-fidelity's InceptionV3"):
        open_extractor(f"inception:{path}")


class Harmful:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("kind", ["inception", "places"])
def test_no_file_runs_code(kind, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(CheckpointError):
        open_extractor(f"{kind}:{path}")
    assert "code ran" not in capsys.readouterr().out


def test_unknown_and_missing_are_said():
    with pytest.raises(ValueError, match="no extractor “dino”"):
        open_extractor("dino:x")
    with pytest.raises(ValueError, match="clip:PATH"):
        open_extractor("clip")
    with pytest.raises(CheckpointError, match="No CLIP at “nothing”"):
        open_extractor("clip:/nowhere/nothing")
    with pytest.raises(ValueError, match="no perceptual distance"):
        open_perceptual("ssim")


def test_lpips_is_the_packages(tmp_path, images, monkeypatch):
    from lpips import LPIPS

    alexnet = shake(torchvision.models.alexnet())
    state = {k: v for k, v in alexnet.state_dict().items() if k.startswith("features.")}
    path = tmp_path / "alexnet.pth"
    torch.save(state, path)
    distance = open_perceptual(f"lpips-alex:{path}")
    monkeypatch.setattr(torchvision.models, "alexnet", lambda pretrained: alexnet)
    package = LPIPS(net="alex", verbose=False)
    a, b = F.interpolate(images, (64, 64)), F.interpolate(images.flip(3), (64, 64))
    with torch.no_grad():
        expected = package(a, b, normalize=True).flatten()
    assert torch.allclose(distance(a, b), expected, rtol=1e-4) and expected.min() > 0
    assert distance(a, a).abs().max() == 0
    torch.save({"features.0.weight": state["features.0.weight"]}, path)
    with pytest.raises(CheckpointError, match=r"lacks features\.0\.bias"):
        open_perceptual(f"lpips-alex:{path}")


def test_the_built_in_perceptual_distance(images):
    distance = open_perceptual()
    assert distance.name == "built-in feature net"
    assert distance(images, images).abs().max() < 1e-6
    near, far = distance(images, (images * 0.95)), distance(images, 1 - images)
    assert (far > near).all() and (near > 0).all()
