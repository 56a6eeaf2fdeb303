"""Safe loading and atomic saving of weights; published layouts to our names, one adapter each.

The loader is chosen by a file's content, never by its name: safetensors, or PyTorch's zip and
legacy formats with `weights_only=True`, which runs no code from the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from l2l_core.errors import PlainError
from l2l_core.files import replacing

METADATA_KEY = "l2l"
"""Our safetensors files carry {"family", "config", …} as JSON under this header key."""

SCALE = ":scale"
"""A tensor `name` of int8 goes with `name:scale`; their product is the weight."""

State = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)


class CheckpointError(PlainError):
    """A checkpoint that cannot be used; the message says why and what would do."""


HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in the hub's layout; the first that is there is read."""


def read_checkpoint(path: str | Path) -> tuple[State, dict[str, Any]]:
    """All tensors of a weights file, out of any `model` or `state_dict` level, and its description.

    A folder stands for the hub's layout: one of `HUB_FILES` beside `config.json`. The description
    is our own header, or the hub's configuration, or empty.

    Raises:
        CheckpointError: missing, unreadable, not weights only, or holding NaN or infinite values.
    """
    path = Path(path)
    file = path
    if path.is_dir():
        file = next((path / n for n in HUB_FILES if (path / n).is_file()), path / HUB_FILES[0])
    if not file.is_file():
        raise CheckpointError(
            f"No weights at “{path.name}”. Give a file, or a folder that holds one."
        )
    state, description = (
        _read_safetensors(file) if _is_safetensors(file) else (_read_torch(file), {})
    )
    hub_config = file.with_name("config.json")
    if not description and file.name in HUB_FILES and hub_config.is_file():
        description = {"hub": _read_json(hub_config)}
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"“{file.name}” is damaged: NaN or infinite values in {_some(broken)}. Fetch it again."
        )
    return state, description


def describes_itself(path: str | Path) -> bool:
    """Whether a weights file is one of ours, which hold their model's configuration.

    Raises:
        CheckpointError: it is damaged.
    """
    path = Path(path)
    return path.is_file() and _is_safetensors(path) and "config" in _header(path)


_UNFIT = (ArithmeticError, AssertionError, AttributeError, IndexError, RuntimeError, TypeError)
"""What a value of a wrong kind or size raises."""


@contextmanager
def configuring(source: str) -> Iterator[None]:
    """Say in words why a file's configuration, with the options beside it, makes no model.

    Raises:
        CheckpointError: fields that are missing or unknown, or values that cannot be.
    """
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"“{source}”: {error}") from error
    except KeyError as error:
        raise CheckpointError(
            f"“{source}” is damaged or of another version: {error} is missing."
        ) from error
    except _UNFIT as error:
        raise CheckpointError(f"“{source}” is damaged or of another version: {error}.") from error


def build_strict(build: Callable[[], M], state: Mapping[str, Tensor], source: str) -> M:
    """Build a model and fill it as `load_strict` does; no memory is taken for one that does not
    fit, since a file may ask for far more than it holds.

    Raises:
        CheckpointError: there is no such model, or keys or shapes do not agree.
    """
    check_fit(outline(build, source), state, source)
    model = build()
    model.load_state_dict(state)
    return model


def outline(build: Callable[[], nn.Module], source: str) -> State:
    """Keys and shapes of a model, without its memory.

    Raises:
        CheckpointError: there is no such model.
    """
    with configuring(source), torch.device("meta"):
        return build().state_dict()


def load_strict(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill the model; every key must be there, none may be left over, every shape must agree.

    Raises:
        CheckpointError: one message that names the missing, extra and misshapen keys.
    """
    check_fit(model.state_dict(), state, source)
    model.load_state_dict(state)


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Compare the keys and shapes of a state with those expected.

    Raises:
        CheckpointError: one message that names the missing, extra and misshapen keys.
    """
    problems = []
    if missing := sorted(expected.keys() - state.keys()):
        problems.append(f"missing: {_some(missing)}")
    if extra := sorted(state.keys() - expected.keys()):
        problems.append(f"not part of this model: {_some(extra)}")
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if state[key].shape != expected[key].shape
    ]
    if misshapen:
        problems.append(f"wrong shape: {_some(misshapen)}")
    if problems:
        raise CheckpointError(f"“{source}” does not fit this model: {'; '.join(problems)}.")


def save_weights(
    state: Mapping[str, Tensor],
    path: str | Path,
    description: Mapping[str, Any],
    half: bool = False,
) -> str:
    """Replace a safetensors file; returns its SHA-256."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in state.items():
        value = value.detach().to("cpu")
        tensors[name] = (value.half() if half and value.is_floating_point() else value).contiguous()
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(dict(description))})
    return file_digest(path)


def save_published(state: Mapping[str, Any], path: str | Path) -> None:
    """Write what a model's `published_state()` gives, as the authors' code loads it."""
    with replacing(Path(path)) as temporary:
        torch.save(_on_cpu(state), temporary)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values in float32, whatever file or precision they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def mae_from_hub(state: Mapping[str, Tensor]) -> State:
    """The hub's `facebook/vit-mae-*` layout as the authors' names; q, k and v become one matrix.

    Takes the names of the hub's files and both spellings transformers 5 writes.

    Raises:
        CheckpointError: a block's query, key and value are not complete.
    """
    renamed: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        for pattern, replacement in _HUB_MAE_NAMES:
            key = re.sub(pattern, replacement, key)
        split = re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", key)
        if split:
            parts.setdefault(f"{split[1]}.qkv.{split[3]}", {})[split[2]] = value
        else:
            renamed[key] = value
    for key, qkv in parts.items():
        if absent := {"q", "k", "v"} - qkv.keys():
            raise CheckpointError(f"{key} lacks its {', '.join(sorted(absent))} part.")
        renamed[key] = torch.cat([qkv["q"], qkv["k"], qkv["v"]])
    return renamed


_HUB_MAE_NAMES = (
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^vit\.layernorm", "norm"),
    (r"^vit\.(encoder\.layer|layers)\.", "blocks."),
    (r"^decoder\.(mask_token|decoder_pos_embed|decoder_embed|decoder_norm|decoder_pred)", r"\1"),
    (r"^decoder\.(decoder_layers|decoder_encoder\.layer)\.", "decoder_blocks."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attn.{m[1][0]}."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def _on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().cpu().contiguous() if isinstance(value, Tensor) else _on_cpu(value)
        for name, value in state.items()
    }


def _is_safetensors(file: Path) -> bool:
    """Eight bytes of header length, then a JSON object that fits in the file."""
    with file.open("rb") as stream:
        length, brace = int.from_bytes(stream.read(8), "little"), stream.read(1)
    return brace == b"{" and length <= file.stat().st_size - 8


def _read_safetensors(file: Path) -> tuple[State, dict[str, Any]]:
    with _complete(file):
        state = load_file(file)
        for key in [key for key in state if key.endswith(SCALE)]:
            scale = state.pop(key).float()
            state[key.removesuffix(SCALE)] = scale * state[key.removesuffix(SCALE)]
    return state, _header(file)


def _header(file: Path) -> dict[str, Any]:
    with _complete(file), safetensors.safe_open(file, framework="pt") as opened:
        found = json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
    if not isinstance(found, dict):
        raise CheckpointError(f"“{file.name}” is damaged: its header describes nothing.")
    return found


@contextmanager
def _complete(file: Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise CheckpointError(
            f"“{file.name}” is not a complete safetensors file. Fetch it again."
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"“{file.name}” beside the weights is damaged: no JSON.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"“{file.name}” beside the weights holds no configuration.")
    return found


def _read_torch(file: Path) -> State:
    try:
        with file.open("rb") as stream:  # given a name, torch.load would go by its suffix
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no pickle makes the unpickler raise almost anything
        raise CheckpointError(
            f"“{file.name}” is not a file of weights that can be opened safely: it is damaged, "
            "or it would run code when opened. Use safetensors or a plain PyTorch state dict."
        ) from error
    for level in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(level), dict):
            content = content[level]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"“{file.name}” holds no state dict.")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _some(names: list[str], limit: int = 5) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
