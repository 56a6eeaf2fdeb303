"""Any diffusers inpainting pipeline with a conditional U-Net (e.g. Stable Diffusion inpainting).

The same split as Palette's: E = embedding of the time step, first convolution, way down and middle
block of the U-Net; its representation is the list of feature maps the way up reads. Images enter
as latents of the pipeline's VAE, the prompt (empty by default) as the text encoder's output, which
is computed once. The U-Net reads the noisy latents and, where the pipeline was trained for
inpainting (Rombach et al., CVPR 2022), the hole and the latents of the visible part beside them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from l2l_core.errors import PlainError
from l2l_core.models.base import ImageToImageModel, OnStep, Representation, View, check_images
from l2l_core.models.checkpoints import CheckpointError, build_strict, read_checkpoint
from l2l_core.models.unet_attention import choose_unet_attention
from l2l_core.runtime import stream_per_sample

UNSUPPORTED = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type")
ENCODER = ("unet.time_embedding.", "unet.conv_in.", "unet.down_blocks.", "unet.mid_block.")


@dataclass(frozen=True)
class InpaintingConfig:
    """diffusers' own configurations of the parts, and what the prompt became."""

    image_size: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    """With the scheduler's class under `_class_name`."""
    prompt_shape: tuple[int, int]
    """Tokens and width of the text encoder's output."""
    steps: int = 30
    """Steps of `complete` unless the caller says otherwise."""


@dataclass(frozen=True)
class InpaintingView(View):
    """What student and teacher share: the hole, the time step and the noise of the latents."""

    hole: Tensor  # (B, 1, H, W), boolean
    timesteps: Tensor  # (B,)
    noise: Tensor  # (B, C, h, w)


class DiffusionInpainting(ImageToImageModel):
    """A latent diffusion model over square images; the hole may have any shape."""

    family = "diffusers-inpainting"
    fixed = ("vae.",)
    config: InpaintingConfig

    def __init__(self, config: InpaintingConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.unet: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(config.unet))
        choose_unet_attention(self.unet)
        self.vae: AutoencoderKL = AutoencoderKL.from_config(dict(config.vae))
        self.prompt: Tensor
        self.register_buffer("prompt", torch.zeros(1, *config.prompt_shape))
        self.cell = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        self.latent_channels: int = self.vae.config["latent_channels"]
        channels = self.unet.config["in_channels"]
        if channels not in (self.latent_channels, 2 * self.latent_channels + 1):
            raise PlainError(f"the U-Net reads {channels} channels; that is no inpainting network.")
        self.reads_hole = channels > self.latent_channels
        if extra := [name for name in UNSUPPORTED if self.unet.config.get(name)]:
            raise PlainError(f"the U-Net needs more than a prompt ({', '.join(extra)}).")
        if config.image_size % self.cell:
            raise PlainError(f"image_size must be a multiple of {self.cell}.")

    # --- unlearning --------------------------------------------------------------------------

    def draw_view(
        self, images: Tensor, masks: Tensor, generator: torch.Generator
    ) -> InpaintingView:
        """Draw a time step for each sample, and the noise of its latents."""
        count, device = len(images), generator.device
        last = self._scheduler().config["num_train_timesteps"]
        side = self.image_size // self.cell
        timesteps = torch.randint(last, (count,), generator=generator, device=device)
        shape = (count, self.latent_channels, side, side)
        noise = torch.randn(shape, generator=generator, device=device)
        return InpaintingView(masks.unsqueeze(1).to(device), timesteps, noise).to(images.device)

    def encoder_input(self, images: Tensor, view: View) -> Tensor:
        """Noised latents, and for inpainting networks the hole and the visible part's latents."""
        assert isinstance(view, InpaintingView)
        noised = self._scheduler().add_noise(self.to_latents(images), view.noise, view.timesteps)
        return torch.cat([noised, *self._context(images, view.hole)], dim=1)

    def noise_input(self, noise: Tensor, images: Tensor, view: View) -> Tensor:
        """The same for a noise image in the hole; the visible part stays."""
        assert isinstance(view, InpaintingView)
        return self.encoder_input(torch.where(view.hole, noise, images), view)

    def encode(self, inputs: Tensor, view: View) -> Representation:
        """First convolution, residuals of every block on the way down, and the middle block."""
        assert isinstance(view, InpaintingView)
        unet = self.unet
        prompt = self.prompt.expand(len(inputs), -1, -1)
        embedding = unet.time_embedding(unet.get_time_embed(inputs, view.timesteps))
        x = unet.conv_in(inputs)
        features = [x]
        for block in unet.down_blocks:
            x, residuals = block(x, embedding, **_reads(block, prompt))
            features.extend(residuals)
        if unet.mid_block is not None:
            features.append(unet.mid_block(x, embedding, **_reads(unet.mid_block, prompt)))
        return features

    def reconstruct(self, inputs: Tensor, view: View) -> Tensor:
        """What the U-Net predicts (B, C, h, w): noise, or what its scheduler is set to."""
        assert isinstance(view, InpaintingView)
        prompt = self.prompt.expand(len(inputs), -1, -1)
        return self.unet(inputs, view.timesteps, prompt, return_dict=False)[0]

    def training_loss(self, output: Tensor, images: Tensor, view: View) -> Tensor:
        """Mean squared error (B,) of the prediction over all latents (Rombach et al., equation 2).

        Raises:
            ValueError: the scheduler has the network predict something else than noise or v.
        """
        assert isinstance(view, InpaintingView)
        scheduler = self._scheduler()
        kind, label = scheduler.config.get("prediction_type", "epsilon"), view.noise
        if kind == "v_prediction":
            latents = self.to_latents(images)
            label = scheduler.get_velocity(latents, view.noise, view.timesteps)
        elif kind != "epsilon":
            raise PlainError(f"There is no training loss for networks that predict “{kind}”.")
        return (output.float() - label).square().flatten(1).mean(dim=1)

    def noise_lesson(self, noise: Tensor, images: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Nothing but the view's noise for latents, to be recognised as noise, as in Palette."""
        assert isinstance(view, InpaintingView)
        return torch.cat([view.noise, *self._context(images, view.hole)], dim=1), noise

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """Embedding of the time step, first convolution, way down and middle block."""
        return {name: p for name, p in self.named_parameters() if name.startswith(ENCODER)}

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Compute the blocks' activations again in the backward pass."""
        super().set_gradient_checkpointing(enabled)
        if enabled:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()

    # --- completion --------------------------------------------------------------------------

    @torch.no_grad()
    def complete(
        self,
        images: Tensor,
        mask: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Denoise with the pipeline's scheduler, without guidance; true pixels stay outside.

        Networks that do not read the hole get the noised latents of the visible part put back
        after each step.
        """
        hole = check_images(self, images, mask).unsqueeze(1)
        streams = stream_per_sample(len(images), generator)
        side = self.image_size // self.cell
        shape = (self.latent_channels, side, side)
        noise = torch.stack([torch.randn(shape, generator=g) for g in streams]).to(images.device)

        scheduler = self._scheduler()
        scheduler.set_timesteps(steps or self.config.steps, device=images.device)
        draws = "generator" in inspect.signature(scheduler.step).parameters
        options = {"generator": streams} if draws else {}
        true = self.to_latents(images)
        inside = self._cells(hole)
        context = self._context(images, hole)
        prompt = self.prompt.expand(len(images), -1, -1)
        latents = noise * scheduler.init_noise_sigma
        times = scheduler.timesteps
        for number, time in enumerate(times, start=1):
            inputs = torch.cat([scheduler.scale_model_input(latents, time), *context], dim=1)
            predicted = self.unet(inputs, time, prompt, return_dict=False)[0]
            latents = scheduler.step(predicted, time, latents, **options, return_dict=False)[0]
            if not self.reads_hole:
                left = times[number : number + 1]
                visible = scheduler.add_noise(true, noise, left) if len(left) else true
                latents = torch.where(inside, latents, visible)
            if on_step:
                on_step(number, len(times), self._paste(latents, images, hole))
        return self._paste(latents, images, hole)

    def to_latents(self, images: Tensor) -> Tensor:
        """The VAE's mean latents (B, C, h, w) of images in [0, 1], scaled as the U-Net wants."""
        encoded = self.vae.encode(2 * images - 1).latent_dist.mode()
        return encoded * self.vae.config["scaling_factor"]

    def _paste(self, latents: Tensor, images: Tensor, hole: Tensor) -> Tensor:
        decoded = self.vae.decode(latents / self.vae.config["scaling_factor"]).sample
        filled = ((decoded + 1) / 2).clamp(0, 1).to(images.dtype)
        return torch.where(hole, filled, images)

    def _context(self, images: Tensor, hole: Tensor) -> list[Tensor]:
        if not self.reads_hole:
            return []
        visible = torch.where(hole, torch.full_like(images, 0.5), images)
        return [self._cells(hole).to(images.dtype), self.to_latents(visible)]

    def _cells(self, hole: Tensor) -> Tensor:
        """Which latent cells (B, 1, h, w) the hole touches."""
        return F.max_pool2d(hole.float(), self.cell).bool()

    def _scheduler(self) -> Any:
        return _scheduler_class(self.config.scheduler).from_config(dict(self.config.scheduler))


def open_pipeline(path: Path, **options: Any) -> DiffusionInpainting:
    """Open a pipeline's folder (safetensors only), or our own file.

    Options: prompt (for a folder; empty by default), image_size (the U-Net's own by default),
    steps.

    Raises:
        CheckpointError: parts missing or not of the kinds this adapter knows, or unsafe files.
    """
    prompt = options.pop("prompt", "")
    if not (path / "model_index.json").is_file():
        state, description = read_checkpoint(path)
        if description.get("family") != DiffusionInpainting.family:
            raise CheckpointError(
                f"“{path.name}” is no pipeline: give the folder that holds model_index.json."
            )
        if prompt:
            raise CheckpointError("The prompt of an exported model is fixed; leave it empty.")
        return build_strict(lambda: _build({**description["config"], **options}), state, path.name)
    safe: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    try:
        unet = UNet2DConditionModel.from_pretrained(path / "unet", **safe)
        vae = AutoencoderKL.from_pretrained(path / "vae", **safe)
        text = CLIPTextModel.from_pretrained(path / "text_encoder", **safe)
        tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
        scheduler = json.loads((path / "scheduler" / "scheduler_config.json").read_text())
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"“{path.name}” is no inpainting pipeline with unet, vae, text_encoder, tokenizer and "
            f"scheduler in safetensors: {str(error).splitlines()[0].replace(str(path), path.name)}"
        ) from error
    tokens = tokenizer(
        prompt,
        padding="max_length",
        max_length=min(tokenizer.model_max_length, text.config.max_position_embeddings),
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        embedded = text(tokens.input_ids)[0].float()
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    config = {
        "image_size": unet.config["sample_size"] * factor,
        "unet": _plain(unet.config),
        "vae": _plain(vae.config),
        "scheduler": scheduler,
        "prompt_shape": tuple(embedded.shape[1:]),
        **options,
    }
    state = {f"unet.{k}": v for k, v in unet.state_dict().items()}
    state |= {f"vae.{k}": v for k, v in vae.state_dict().items()} | {"prompt": embedded}
    if broken := [k for k, v in state.items() if not v.isfinite().all()]:
        raise CheckpointError(f"“{path.name}” is damaged: NaN or infinite values in {broken[0]}.")
    return build_strict(lambda: _build(config), state, path.name)


def _build(config: Mapping[str, Any]) -> DiffusionInpainting:
    _scheduler_class(config["scheduler"])
    return DiffusionInpainting(InpaintingConfig(**config))


def _reads(block: nn.Module, prompt: Tensor) -> dict[str, Tensor]:
    """The prompt, for blocks that attend to it."""
    return {"encoder_hidden_states": prompt} if getattr(block, "has_cross_attention", False) else {}


def _scheduler_class(config: Mapping[str, Any]) -> Any:
    """One of diffusers' own schedulers, never code from the folder."""
    found = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        raise PlainError(f"there is no scheduler {config.get('_class_name')}.")
    return found


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A part's configuration as JSON has it, without where it came from."""
    kept = {k: v for k, v in config.items() if k not in ("_name_or_path", "_diffusers_version")}
    return json.loads(json.dumps(kept, default=str))
