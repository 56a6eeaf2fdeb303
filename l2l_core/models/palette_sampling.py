"""Noise levels of a Palette network and the ways to draw from it.

A noisy image is y_t = √γ·y_0 + √(1 − γ)·ε with ε ~ N(0, I) (Saharia et al., SIGGRAPH 2022): γ near
1 is almost clean, γ near 0 pure noise. Images here are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

GAMMA_FLOOR = 1e-4
"""Noisier levels are left out of the fast solver: √((1 − γ) / γ) would overflow."""

Schedule = tuple[int, float, float]
"""Number of steps, first and last β of a linear schedule."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""The network: noisy images (B, 3, H, W) and γ (B,) to the noise in them."""

Impose = Callable[[Tensor], Tensor]
"""Puts the true pixels back outside the hole."""

Watch = Callable[[int, int, Tensor], None]
"""Called after each step with (step from 1, number of steps, images so far)."""


class Diffusion:
    """One linear schedule: γ and the posterior q(y_{t-1} | y_t, y_0) (Ho et al., 2020, eq. 6–7)."""

    def __init__(self, schedule: Schedule) -> None:
        steps, first, last = schedule
        # On the CPU, whatever device the network is built on.
        self.betas = torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")
        self.exact_gammas = (1 - self.betas).cumprod(0)
        previous = torch.cat([self.betas.new_ones(1), self.exact_gammas[:-1]])
        hidden = 1 - self.exact_gammas
        variance = self.betas * (1 - previous) / hidden
        self.buffers = {
            "gammas": self.exact_gammas,
            "sqrt_recip_gammas": (1 / self.exact_gammas).sqrt(),
            "sqrt_recipm1_gammas": (1 / self.exact_gammas - 1).sqrt(),
            "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
            "posterior_mean_coef1": self.betas * previous.sqrt() / hidden,
            "posterior_mean_coef2": (1 - previous) * (1 - self.betas).sqrt() / hidden,
        }
        """Per step, under their published names, in float32 as the published code uses them."""
        self.buffers = {name: value.float() for name, value in self.buffers.items()}

    def draw_gammas(self, count: int, generator: torch.Generator) -> Tensor:
        """γ (count,) as in training: uniform between the levels of a random step and the one
        before.
        """
        steps = torch.randint(1, len(self.betas), (count,), generator=generator)
        share = torch.rand(count, generator=generator)
        return self.between(steps, share)

    def between(self, steps: Tensor, share: Tensor) -> Tensor:
        """γ at `share` in [0, 1] of the way from step t - 1 to t, for integer t ≥ 1."""
        gammas = self.buffers["gammas"]
        return (gammas[steps] - gammas[steps - 1]) * share + gammas[steps - 1]

    def posterior(self, noisy: Tensor, noise: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mean (B, 3, H, W) and log variance (scalar) of y_{t-1}; the clean image is clipped."""
        at = {name: value[step].to(noisy.device) for name, value in self.buffers.items()}
        clean = at["sqrt_recip_gammas"] * noisy - at["sqrt_recipm1_gammas"] * noise
        mean = at["posterior_mean_coef1"] * clean.clamp(-1, 1) + at["posterior_mean_coef2"] * noisy
        return mean, at["posterior_log_variance_clipped"]


def add_noise(clean: Tensor, noise: Tensor, gammas: Tensor) -> Tensor:
    """y_t for clean images (B, 3, H, W), noise of their shape and γ (B,)."""
    gammas = gammas.view(-1, 1, 1, 1)
    return gammas.sqrt() * clean + (1 - gammas).sqrt() * noise


def sample_ancestral(
    predict: Predict,
    diffusion: Diffusion,
    noisy: Tensor,
    impose: Impose,
    draw: Callable[[], Tensor],
    on_step: Watch,
) -> Tensor:
    """The published sampler: every step of the schedule, fresh noise in each but the last."""
    total = len(diffusion.betas)
    gammas = diffusion.buffers["gammas"].to(noisy.device)
    for step in reversed(range(total)):
        noise = predict(noisy, gammas[step].expand(len(noisy)))
        mean, log_variance = diffusion.posterior(noisy, noise, step)
        noisy = impose(mean + (0.5 * log_variance).exp() * draw() if step else mean)
        on_step(total - step, total, noisy)
    return noisy


def sample_fast(
    predict: Predict,
    diffusion: Diffusion,
    noisy: Tensor,
    impose: Impose,
    steps: int,
    on_step: Watch,
) -> Tensor:
    """DPM-Solver++ (2M) over the schedule's γ, levels spaced evenly in log σ, σ² = (1 − γ) / γ."""
    kept = max(2, int((diffusion.exact_gammas >= GAMMA_FLOOR).sum()))
    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=kept,
        trained_betas=diffusion.betas[:kept].tolist(),
        use_exponential_sigmas=True,
        thresholding=True,  # with this maximum an exact clip of the clean image to [-1, 1]
        sample_max_value=1.0,
    )
    # diffusers keeps γ in float32, where 1 − γ loses its digits at the clean end.
    solver.alphas_cumprod = diffusion.exact_gammas[:kept]
    solver.set_timesteps(steps)
    solver.set_begin_index(0)
    for step, time in enumerate(solver.timesteps):
        gamma = 1 / (1 + solver.sigmas[step].double().square())
        noise = predict(noisy, gamma.float().to(noisy.device).expand(len(noisy)))
        noisy = impose(solver.step(noise, time, noisy, return_dict=False)[0])
        on_step(step + 1, steps, noisy)
    return noisy


def sample_renoising(
    predict: Predict,
    diffusion: Diffusion,
    noisy: Tensor,
    impose: Impose,
    draw: Callable[[], Tensor],
    steps: int,
    on_step: Watch,
) -> Tensor:
    """DDIM's sampler with the largest σ (Song et al., ICLR 2021, eq. 12): each step guesses the
    clean image and noises it afresh for the next level, so that an error in the noise of one step
    does not reach the next. The levels are those of `sample_fast`.
    """
    kept = diffusion.exact_gammas[diffusion.exact_gammas >= GAMMA_FLOOR]
    log_sigmas = ((1 - kept) / kept).log() / 2
    sigmas = torch.linspace(log_sigmas[-1].item(), log_sigmas[0].item(), steps).exp()
    gammas = (1 / (1 + sigmas.square())).to(noisy.device)
    for step, gamma in enumerate(gammas, start=1):
        noise = predict(noisy, gamma.expand(len(noisy)))
        clean = ((noisy - (1 - gamma).sqrt() * noise) / gamma.sqrt()).clamp(-1, 1)
        if step < steps:
            clean = add_noise(clean, draw(), gammas[step].expand(len(noisy)))
        noisy = impose(clean)
        on_step(step, steps, noisy)
    return noisy
