"""A tiny inpainting pipeline in diffusers' folder layout, opened by the adapter."""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from l2l_core.masks import parse_mask
from l2l_core.models.checkpoints import CheckpointError, save_weights
from l2l_core.models.diffusion_inpainting import open_pipeline
from l2l_core.runtime import seeded
from l2l_core.unlearning.objective import squared_distance

HOLE = parse_mask("centre:0.5", 32)


def write_tokenizer(folder):
    folder.mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghij", *(f"{c}</w>" for c in "abcdefghij")]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    vocabulary, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
    CLIPTokenizer(vocabulary, merges, model_max_length=8).save_pretrained(folder)


def write_pipeline(folder, channels=9, scheduler=None):
    """Random parts small enough for a test: 32×32 images, 16×16 latents."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=22,
            hidden_size=12,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text.save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (scheduler or PNDMScheduler(skip_prk_steps=True)).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionInpaintPipeline", "_diffusers_version": "0.30.0"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("inpainting"))


@pytest.fixture
def model(folder):
    return open_pipeline(folder).eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=seeded(1))


def test_sizes_come_from_the_parts(model):
    assert (model.image_size, model.cell, model.reads_hole) == (32, 2, True)
    assert model.prompt.shape == (1, 8, 12)


def test_the_prompt_is_read(folder, model):
    assert not torch.equal(open_pipeline(folder, prompt="a b").prompt, model.prompt)


@torch.no_grad()
def test_features_are_those_of_the_whole_network(model, images):
    """What a full pass computes on its way down is what `encode` returns."""
    view = model.draw_view(images, HOLE.expand(2, 32, 32), seeded(3))
    inputs = model.encoder_input(images, view)
    assert inputs.shape == (2, 9, 16, 16)
    seen = []
    hooks = [model.unet.conv_in.register_forward_hook(lambda m, i, o: seen.append(o))]
    for block in model.unet.down_blocks:
        hooks.append(block.register_forward_hook(lambda m, i, o: seen.extend(o[1])))
    hooks.append(model.unet.mid_block.register_forward_hook(lambda m, i, o: seen.append(o)))
    prompt = model.prompt.expand(2, -1, -1)
    model.unet(inputs, view.timesteps, prompt)
    for hook in hooks:
        hook.remove()
    features = model.encode(inputs, view)
    assert len(features) == len(seen)
    for ours, theirs in zip(features, seen, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_the_view_is_shared_and_hidden_pixels_do_not_reach_the_context(model, images):
    view = model.draw_view(images, HOLE.expand(2, 32, 32), seeded(3))
    other = torch.where(HOLE, torch.rand_like(images), images)
    first, second = model.encoder_input(images, view), model.encoder_input(other, view)
    assert torch.equal(first[:, 4:], second[:, 4:])
    assert not torch.equal(first[:, :4], second[:, :4])
    assert torch.equal(model.noise_input(other, images, view), second)


def test_only_the_way_down_learns(model, images):
    model.freeze_decoder()
    model.set_gradient_checkpointing(True)
    view = model.draw_view(images, HOLE.expand(2, 32, 32), seeded(3))
    features = model.encode(model.encoder_input(images, view), view)
    squared_distance(features, [torch.zeros_like(f) for f in features]).sum().backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None}
    assert moved == model.encoder_parameters().keys()
    assert not any(".up_blocks." in name or name.startswith("vae.") for name in moved)


@pytest.mark.parametrize(
    ("channels", "scheduler"),
    [(9, None), (9, DDPMScheduler()), (4, EulerDiscreteScheduler())],
    ids=["reads the hole, PNDM", "reads the hole, DDPM", "plain, Euler"],
)
def test_complete(tmp_path, images, channels, scheduler):
    model = open_pipeline(write_pipeline(tmp_path, channels, scheduler), steps=3).eval()
    seen = []
    completed = model.complete(images, HOLE, generator=seeded(5), on_step=lambda *a: seen.append(a))
    assert torch.equal(completed[:, :, ~HOLE], images[:, :, ~HOLE])
    assert not torch.equal(completed[:, :, HOLE], images[:, :, HOLE])
    assert completed.min() >= 0 and completed.max() <= 1
    assert torch.equal(seen[-1][2], completed) and seen[-1][0] == seen[-1][1] == len(seen)
    alone = model.complete(images[:1], HOLE, generator=seeded(5))
    torch.testing.assert_close(completed[:1], alone, atol=1e-4, rtol=0)
    assert not torch.equal(completed, model.complete(images, HOLE, generator=seeded(6)))


def test_our_own_file_needs_no_folder(model, images, tmp_path):
    path = tmp_path / "unlearned.safetensors"
    save_weights(model.state_dict(), path, model.describe())
    opened = open_pipeline(path, steps=2).eval()
    first = opened.complete(images, HOLE, generator=seeded(5))
    assert torch.equal(first, model.complete(images, HOLE, steps=2, generator=seeded(5)))


def test_a_file_without_its_configuration_says_so(model, tmp_path):
    path = tmp_path / "unlearned.safetensors"
    save_weights(model.state_dict(), path, {"family": model.family})
    with pytest.raises(CheckpointError, match="'config' is missing"):
        open_pipeline(path)


def test_pickled_parts_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "pickled")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        open_pipeline(copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_missing_parts_are_named(folder, tmp_path, part):
    copy = shutil.copytree(folder, tmp_path / "partial")
    shutil.rmtree(copy / part)
    with pytest.raises(CheckpointError, match="inpainting pipeline"):
        open_pipeline(copy)


def test_a_scheduler_is_one_of_diffusers(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "odd")
    (copy / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "os"}')
    with pytest.raises(CheckpointError, match="no scheduler os"):
        open_pipeline(copy)
