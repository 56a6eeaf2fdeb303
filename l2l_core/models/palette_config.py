"""Sizes, schedules and settings of a Palette network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from l2l_core.errors import PlainError
from l2l_core.models.palette_keys import PREFIX, Layout
from l2l_core.models.palette_sampling import Schedule

SAMPLERS = ("fast", "renoising", "ancestral")
NOISE_TARGETS = ("hole", "full", "published")


@dataclass(frozen=True)
class PaletteConfig:
    """Sizes of the network (all but image size and head channels follow from shapes), schedules,
    and how the model is used. The defaults are those of the published 16_Network.pth.
    """

    image_size: int = 256
    inner_channels: int = 64
    channel_mults: tuple[float, ...] = (1, 2, 4, 8)
    """Channels of each level, as multiples of `inner_channels`."""
    res_blocks: int = 2
    attended_levels: tuple[int, ...] = ()
    """Levels with attention, 0 at full resolution; the middle always has it."""
    head_channels: int | None = 32
    """Channels of an attention head; None, published as -1, for a single head."""
    norm_groups: int = 32
    train_schedule: Schedule = (2000, 1e-6, 0.01)
    """Levels γ that unlearning draws from: steps, first β, last β."""
    sampling_schedule: Schedule = (1000, 1e-4, 0.09)
    sampler: str = "fast"
    """fast: a solver of `steps` steps. renoising: as many steps, each with fresh noise, which
    forgives a network its errors. ancestral: the published one, each step of the schedule."""
    steps: int = 24
    """Steps of all samplers but the ancestral one unless the caller says otherwise."""
    noise_target: str = "hole"
    """T(n) for a forgotten image. hole: the noise image replaces y_t in the hole, the visible part
    stays. full: it replaces the visible part, too. published: as hole, with y_t's own ε as noise,
    whatever noise image is given."""
    frozen_levels: int = 0
    """This many levels, finest first, are left out of unlearning: neither trained nor compared.
    Their features are local, so they cannot tell a forget image from a retain image."""
    last_level: int | None = None
    """The coarsest level that is trained and compared; None for all and the middle block. Where a
    network completes by its finer features, forgetting by the others costs retain images more."""

    unread_levels: tuple[int, ...] = ()
    """Levels whose features D does not read, because the network was trained with D's weights for
    them at 0. Unlearning trains these levels and need not keep them as they were. (Baselines that
    train D move those weights.)"""
    extra_blocks: int = 0
    """So many times residual block, attention, residual block more on the way down, at the coarsest
    level that is trained: what E needs to tell images apart where the published network is too
    shallow for it. They are none of the published network's."""

    def __post_init__(self) -> None:
        """JSON's lists become tuples; -1 head channels become None.

        Raises:
            ValueError: a setting that does not exist or cannot be built.
        """
        for name in (
            "channel_mults",
            "attended_levels",
            "train_schedule",
            "sampling_schedule",
            "unread_levels",
        ):
            value = getattr(self, name)
            if isinstance(value, str):
                value = read_schedule(name, value)
            object.__setattr__(self, name, tuple(value))
        if self.head_channels == -1:
            object.__setattr__(self, "head_channels", None)
        for name, least in (("steps", 1), ("extra_blocks", 0)):
            if getattr(self, name) < least:
                raise PlainError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for name, allowed in (("sampler", SAMPLERS), ("noise_target", NOISE_TARGETS)):
            if getattr(self, name) not in allowed:
                raise PlainError(
                    f"{name} is “{getattr(self, name)}”; it must be one of {', '.join(allowed)}."
                )
        for name in ("train_schedule", "sampling_schedule"):
            schedule = getattr(self, name)
            if len(schedule) != 3 or schedule[0] < 2 or not 0 < schedule[1] <= schedule[2] < 1:
                raise PlainError(
                    f"{name} must be (steps ≥ 2, first β, last β < 1), not {schedule}."
                )
        if not 0 <= self.frozen_levels < len(self.channel_mults):
            most = len(self.channel_mults) - 1
            raise PlainError(f"frozen_levels is {self.frozen_levels}; it must be 0 to {most}.")
        if self.last_level is not None and not (
            self.frozen_levels <= self.last_level < len(self.channel_mults)
        ):
            raise PlainError(
                f"last_level is {self.last_level}; it must be {self.frozen_levels} to "
                f"{len(self.channel_mults) - 1}."
            )
        if not set(self.unread_levels) <= set(range(self.coarsest)):
            raise PlainError(
                f"unread_levels is {self.unread_levels}; each must be 0 to {self.coarsest - 1}, "
                "finer than the last level that is compared."
            )
        if self.image_size % 2 ** (len(self.channel_mults) - 1):
            raise PlainError(f"image_size {self.image_size} cannot be halved at every level.")
        if self.head_channels and self.channels[-1] % self.head_channels:
            raise PlainError(
                f"head_channels={self.head_channels} does not divide {self.channels[-1]} channels; "
                "pass head_channels=…"
            )

    @property
    def coarsest(self) -> int:
        """The coarsest level that unlearning trains."""
        return len(self.channel_mults) - 1 if self.last_level is None else self.last_level

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(round(self.inner_channels * mult) for mult in self.channel_mults)

    @property
    def layout(self) -> Layout:
        """The order of the published keys."""
        levels, attended = len(self.channel_mults), frozenset(self.attended_levels)
        return Layout(levels, self.res_blocks, attended, self.head_channels)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], **options: Any) -> PaletteConfig:
        """Read the sizes off a published network's tensors; `options` are any other fields.

        Raises:
            ValueError: not such a network, tensors missing, or options that do not fit.
        """
        if options.get("extra_blocks", 0) > 0:
            raise PlainError("the published layout has no extra_blocks.")
        layout = Layout.of(state, None)
        inner = state[PREFIX + "cond_embed.0.weight"].shape[1]
        try:
            widths = [
                len(state[f"{PREFIX}input_blocks.{1 + i * (layout.res_blocks + 1)}{_LAST_CONV}"])
                for i in range(layout.levels)
            ]
        except KeyError as error:
            raise PlainError(f"not a whole Palette network: {error} is missing.") from error
        return cls(
            inner_channels=inner,
            channel_mults=tuple(_whole(width / inner) for width in widths),
            res_blocks=layout.res_blocks,
            attended_levels=tuple(sorted(layout.attended)),
            **options,
        )


def read_schedule(name: str, text: str) -> Schedule:
    """A schedule written as “2000,1e-6,0.01”: steps, first β, last β.

    Raises:
        ValueError: anything else; the message calls it `name`.
    """
    try:
        steps, first, last = text.split(",")
        return int(steps), float(first), float(last)
    except ValueError as error:
        raise PlainError(
            f"{name} is “{text}”; write steps, first β and last β, like 2000,1e-6,0.01."
        ) from error


def _whole(number: float) -> float:
    return int(number) if number.is_integer() else number


_LAST_CONV = ".0.out_layers.3.weight"
