"""Devices, precision and seeds."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from l2l_core.errors import PlainError


def choose_device(name: str = "auto") -> torch.device:
    """The device for "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ValueError: the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PlainError(
            f"There is no device “{name}” here. Use auto, cpu, cuda, cuda:N or mps."
        ) from error
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """“fp32”, “bf16” or “fp16” for a requested precision; auto takes bf16 where it is native.

    Raises:
        ValueError: fp16 on a CPU, where training would silently be in fp32.
    """
    if name == "fp16" and device.type == "cpu":
        raise PlainError("A CPU does not compute in fp16. Choose auto, fp32 or bf16.")
    if name != "auto":
        return name
    return "bf16" if _has_native_bf16(device) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision for a block; nothing at fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def accelerator_on(device: torch.device, **settings: Any) -> Accelerator:
    """accelerate with these settings. It keeps its first ones for a whole process, but a warm
    worker needs new ones each run; and one process alone may be asked to use "cuda:1".
    """
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=device.type == "cpu", **settings)
    if accelerator.num_processes == 1:
        accelerator.state.device = device
    return accelerator


def leave_process_group() -> None:
    """End what `accelerate launch` set up for processes to talk to each other, if it did: a process
    that exits with its threads still running can be aborted, and the launcher calls that a failure.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def seeded(seed: int, *stream: int) -> torch.Generator:
    """A CPU generator for one purpose of a run; different streams are independent."""
    mixed = seed
    for number in stream:
        mixed = (mixed * 6364136223846793005 + number * 1442695040888963407 + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


def stream_per_sample(
    count: int, generator: torch.Generator | None = None
) -> list[torch.Generator]:
    """A CPU generator for each of `count` samples, seeded in order from one generator (default:
    seed 0), so that a sample's draws do not depend on the others.
    """
    generator = generator or torch.Generator().manual_seed(0)
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device)
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: CUDA has an error of its own, the CPU's allocator and MPS raise a
    plain RuntimeError that says so.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    told = ("DefaultCPUAllocator: ", "MPS backend out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in told)


def release_memory(device: torch.device) -> None:
    """Give back what is cached but not used, after running out of memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def describe_device(device: torch.device) -> str:
    """A device as people name it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Without instructions for it a CPU's bf16 is slower than its fp32.
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False
