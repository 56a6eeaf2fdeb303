"""What several commands share: settings as flags, runs by name, progress, being stopped."""

from __future__ import annotations

import dataclasses
import inspect
import json
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from l2l_core.config import PRESETS, ConfigError, UnlearnRequest, field_docs, preset_settings
from l2l_core.jobs.store import Run, RunError, RunStore
from l2l_core.registry import FAMILIES, defaults_of

Flags = Mapping[str, tuple[Any, str]]
"""Flags by name: type and help."""
console = Console()
EXIT_CODES = {"failed": 1, "interrupted": 130}
NAMED_SETS = ("builtin", "proxy", "inputs", "classes")
"""Kinds of image set that are no path."""
_PATH_OPTIONS = {o.name for f in FAMILIES.values() for o in f.options if o.kind == "path"}
CONFIG: dict[str, tuple[Any, str]] = {
    "preset": (str, f"Starting point: {', '.join(PRESETS)}."),
    "config": (Path, "YAML or JSON file of settings; flags override it."),
}
"""Flags of every command that takes a request."""
INSTRUMENTS: dict[str, tuple[Any, str]] = {
    "mask": (str, "The hole; see l2l_core/masks.py. [default: centre:0.5]"),
    "extractor": (str, "builtin, inception:FILE, clip:FOLDER or places:FILE. [default: builtin]"),
    "embedding": (
        str,
        "A second extractor, whose cosine with the true image is shown, too; the paper's is "
        "clip:FOLDER.",
    ),
    "perceptual": (str, "builtin, lpips-alex:FILE or lpips-vgg:FILE. [default: builtin]"),
    "limit": (int, "Most images of a set that are measured. [default: 1024]"),
}
"""Flags of every command that measures for the full table."""


def request_signature(own: Flags, instead: Flags | None = None) -> inspect.Signature:
    """A command's own flags, then every field of UnlearnRequest as a flag with its documentation;
    `instead` replaces some of these.
    """
    flags = {**own, **flags_of(UnlearnRequest), **(instead or {})}
    return inspect.Signature([_flag(name, kind, text) for name, (kind, text) in flags.items()])


def extended_signature(
    command: Callable[..., None], panels: Mapping[str, Flags]
) -> inspect.Signature:
    """The signature of a command that ends in **flags, with flags by help panel in their place."""
    written = inspect.signature(command, eval_str=True).parameters.values()
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in written if p.kind is not p.VAR_KEYWORD]
    more = [
        _flag(name, kind, text, panel)
        for panel, flags in panels.items()
        for name, (kind, text) in flags.items()
    ]
    return inspect.Signature([*own, *more])


def flags_of(config: type) -> dict[str, tuple[Any, str]]:
    """Every field of a configuration as a flag: its type, and its documentation with default."""
    docs, kinds = field_docs(config), get_type_hints(config)
    flags: dict[str, tuple[Any, str]] = {}
    for field in dataclasses.fields(config):
        kind: Any = kinds[field.name] if kinds[field.name] in (bool, int, float) else str
        text = " ".join(docs[field.name].split())
        if get_origin(kinds[field.name]) is tuple:
            part, *more = get_args(kinds[field.name])
            times = "several times" if more == [...] else f"{1 + len(more)} times, always"
            kind, text = list[part], f"{text} Can be given {times}."  # type: ignore[valid-type]
        default = field.default
        if default is None and field.name in defaults_of("mae"):
            text += " [default: what suits the model]"
        elif default not in (dataclasses.MISSING, None, "", ()):
            shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
            text += f" [default: {shown}]"
        flags[field.name] = (kind, text)
    return flags


def _flag(name: str, kind: Any, text: str, panel: str | None = None) -> inspect.Parameter:
    option = typer.Option(help=escape(text), show_default=False, rich_help_panel=panel)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def merged(
    settings: Mapping[str, Any], preset: str | None, flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of `UnlearnRequest`: a file's, then the preset's, then the flags that were given;
    paths are made absolute.
    """
    settings = dict(settings)
    if preset is not None:
        model = flags.get("model") or settings.get("model") or "mae-fluent"
        settings |= preset_settings(preset, model)
    return _with_absolute_paths(settings | given(flags))


def _with_absolute_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that mean the same files from every folder; what is no text is refused later."""
    settings = settings | _paths_in(settings, ("checkpoint",))
    for name in ("forget", "retain"):
        specs = settings.get(name)
        if isinstance(specs, (str, list)):
            settings[name] = absolute_sets([specs] if isinstance(specs, str) else specs)
    options = settings.get("model_options")
    if isinstance(options, Mapping):
        settings["model_options"] = {**options, **_paths_in(options, _PATH_OPTIONS)}
    return settings


def absolute_sets(specs: Sequence[Any]) -> list[Any]:
    """Image sets with absolute paths; those of other kinds as they are."""

    def is_path(spec: Any) -> bool:
        return isinstance(spec, str) and spec.partition(":")[0] not in NAMED_SETS

    return [_absolute(spec) if is_path(spec) else spec for spec in specs]


def _paths_in(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Those of the named settings that are paths, absolute."""
    found = {name: settings.get(name) for name in names}
    return {name: _absolute(path) for name, path in found.items() if path and isinstance(path, str)}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, model_options as values.

    Raises:
        ConfigError: model_options is not JSON.
    """
    found = {name: value for name, value in flags.items() if value not in (None, [])}
    if "model_options" in found:
        found["model_options"] = _options(found["model_options"])
    return found


def listed(text: str | None) -> list[str]:
    """The parts of a text like “a,b”."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _options(text: str) -> Any:
    try:
        options = json.loads(text)
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise ConfigError('model_options must be JSON, e.g. {"heads": 12}.')
    return options


def find_run(name: str) -> Run:
    """A run by its id or folder.

    Raises:
        RunError: no such run.
    """
    folder = Path(name)
    if (folder / "state.json").is_file():
        return Run(folder.absolute())
    return RunStore().get(name)


def measurable(name: str) -> Run:
    """A run by its id or folder, with weights.

    Raises:
        RunError: no such run, or it has none.
    """
    run = find_run(name)
    if not run.weights.is_file():
        raise RunError(f"This run has no weights to measure: it is {run.state.status}.")
    return run


def print_whole(table: Table) -> None:
    """Print a table as wide as it must be: a number cut short says something else."""
    roomy = console.options.update(max_width=1000)
    wide = console.measure(table, options=roomy).maximum
    Console(width=max(wide, console.width)).print(table)


def stopped_by_signals() -> Callable[[], bool]:
    """Whether Ctrl-C or a termination signal came; a second Ctrl-C does not wait for the step."""
    stopping: list[int] = []

    def stop(number: int, frame: object) -> None:
        if stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopping.append(number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return lambda: bool(stopping)


class StepProgress(Progress):
    """A bar for the steps of a run, fed with its events."""

    def __init__(self, disable: bool = False) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
            console=console,
            disable=disable,
        )
        self.steps = self.add_task("Unlearning", total=None, losses="")

    def show(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        if event["kind"] == "step":
            losses = f"retain {event['retain']:.4f}  forget {event['forget']:.4f}"
            step, total = event["step"], event["steps"]
            self.update(self.steps, completed=step, total=total, losses=losses)
        elif event["kind"] == "stage":
            self.console.print(event["text"])
