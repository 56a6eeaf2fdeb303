"""The methods on equal terms: one request, the same seeds and budget, one table.

It is table 1 of Li et al. (ICLR 2024). The original is measured once; each method's run lies
beside the table and is run only once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from l2l_core.config import METHODS, PAPER_METHODS, ConfigError, UnlearnRequest, dump_json
from l2l_core.datasets import DatasetError, ImageSet
from l2l_core.evaluation.evaluate import MASK, completed, evaluation_sets
from l2l_core.evaluation.extractors import Extracted
from l2l_core.evaluation.full import Instruments, Measured, OnProgress, compare, measure
from l2l_core.evaluation.html_report import public_mask, public_request
from l2l_core.evaluation.metrics import cosine, summary
from l2l_core.evaluation.report import METRICS, SET_NAMES
from l2l_core.experiments.pareto import pareto_front, point_of
from l2l_core.experiments.proxy import default_proxy
from l2l_core.experiments.series import Series, digest
from l2l_core.files import write_atomically
from l2l_core.jobs.runner import OnEvent, Stop
from l2l_core.masks import parse_mask
from l2l_core.models import load_gold, load_model, load_original
from l2l_core.models.base import ImageToImageModel
from l2l_core.models.checkpoints import file_digest
from l2l_core.runtime import choose_device, seeded

SETS = ("retain", "forget", "seen")
COLUMNS = ("fid", "kid_apart", "is", "cosine", "embedding", "reference")
LIMIT = 1024
"""Images of a set that are measured, unless told otherwise."""
TITLES = {
    "original": "Original",
    "max_loss": "Max loss",
    "noisy_label": "Noisy label",
    "retain_label": "Retain label",
    "random_encoder": "Random encoder",
    "ours": "Ours",
    "ours_proxy": "Ours with proxy",
    "ignorance": "Ignorance",
    "gold": "Gold standard",
}
"""Rows in the paper's order; the gold standard is a model that never saw the forget images."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how it is measured."""

    request: UnlearnRequest
    methods: tuple[str, ...] = PAPER_METHODS
    proxy: tuple[str, ...] = ()
    """Image sets that take the retain sets' place in a further run of ours; none takes
    `default_proxy` where ours is compared.
    """
    gold: Path | None = None
    """Weights of a model that never saw the forget images: a row, and for all rows the cosine with
    its completions.
    """
    mask: str = MASK
    extractor: str = "builtin"
    perceptual: str = "builtin"
    embedding: str = ""
    limit: int = LIMIT

    def __post_init__(self) -> None:
        if unknown := [m for m in self.methods if m not in METHODS]:
            raise ConfigError(
                f"There is no method “{unknown[0]}”. There are: {', '.join(METHODS)}."
            )
        if not self.methods and not self.proxy:
            raise ConfigError("Nothing to compare: name at least one method.")
        if self.limit < 1:
            raise ConfigError("limit must be 1 or more.")

    def requests(self) -> dict[str, UnlearnRequest]:
        """The runs by row, in the table's order."""
        runs = {name: replace(self.request, method=name) for name in self.methods}
        proxy = self.proxy
        if not proxy and "ours" in self.methods:
            with suppress(DatasetError):
                proxy = default_proxy(self.request)
        if proxy:
            runs["ours_proxy"] = replace(self.request, method="ours", retain=proxy)
        return {name: runs[name] for name in TITLES if name in runs}

    def describe_proxy(self) -> dict[str, Any]:
        """{proxy: sets that stand in for retain} or {no_proxy: why the table has none}."""
        if requests := self.requests().get("ours_proxy"):
            return {"proxy": public_request(requests.to_dict())["retain"]}
        try:
            default_proxy(self.request)
        except DatasetError as error:
            return {"no_proxy": str(error)}
        return {}


def compare_methods(
    comparison: Comparison,
    folder: Path,
    *,
    should_stop: Stop = lambda: False,
    on_event: OnEvent | None = None,
    on_progress: OnProgress = lambda stage: None,
) -> dict[str, Any]:
    """Run and measure what is not yet; writes `compare.json` into the folder after every row.

    Called again with the same folder it goes on: finished methods are neither run nor measured
    again. A method whose run fails (max loss can diverge) gets a row that says why.

    Returns:
        {of, request, mask, seed, extractor, classes, perceptual, rows, front}, `embedding` if there
        is one, and `proxy` or `no_proxy`, why there is none. rows: name -> {run, title, sets}
        or {run, title, message}; sets: retain, forget and, where forget is held out, seen (those
        trained on) -> {n, metric: {value, change, interval, moved, spread} or {missing: why}}.
        front: rows that no other beats in retain drift and forget damage by cosine.

    Raises:
        ConfigError: settings that cannot be. ValueError: images, models or instruments cannot be
            opened, as their openers say.
    """
    series, path = Series(folder), folder / "compare.json"
    of = _digest_of(comparison, series)
    known = json.loads(path.read_bytes()) if path.is_file() else {}
    result: dict[str, Any] = known if known.get("of") == of else {"of": of, "rows": {}}
    runs = {name: series.name_of(request) for name, request in comparison.requests().items()}
    if comparison.gold:
        runs["gold"] = file_digest(comparison.gold)

    def is_measured(name: str) -> bool:
        row = result["rows"].get(name, {})
        return row.get("run") == runs[name] and "sets" in row

    waiting = [name for name in runs if not is_measured(name)]
    if not waiting:
        return result | {"front": _front(result["rows"])}
    bench = _Bench(comparison, on_progress)
    result |= bench.describe() | comparison.describe_proxy()
    for name in waiting:
        if should_stop():
            break
        on_progress(TITLES[name])
        row = {"run": runs[name], "title": TITLES[name]}
        if name == "gold":
            row |= bench.row(bench.never)
        else:
            run = series.carry_out(comparison.requests()[name], should_stop, on_event)
            state = run.state
            if state.status == "interrupted":
                break
            done = state.status == "done"
            row |= bench.row(bench.measured(run.weights)) if done else {"message": state.message}
        rows = result["rows"] | {"original": bench.original, name: row}
        result["rows"] = {key: rows[key] for key in TITLES if key in rows}
        result["front"] = _front(result["rows"])
        write_atomically(path, dump_json(result))
    return result


def _digest_of(comparison: Comparison, series: Series) -> str:
    """What all rows share; rows of another request or measurement are not kept."""
    by = [comparison.mask, comparison.extractor, comparison.perceptual, comparison.limit]
    by += [comparison.embedding] if comparison.embedding else []
    gold = comparison.gold and file_digest(comparison.gold)
    base = replace(comparison.request, method=METHODS[0])
    return digest({"base": series.name_of(base), "by": by, "gold": gold})


def _front(rows: dict[str, dict[str, Any]]) -> list[str]:
    runs = [name for name in rows if name not in ("original", "gold") and "sets" in rows[name]]
    front = pareto_front([point_of(rows[name]["sets"]) for name in runs])
    return [runs[i] for i in front]


class _Bench:
    """The images, with what was measured of the truth, of the original and of the gold standard."""

    def __init__(self, comparison: Comparison, on_progress: OnProgress) -> None:
        self.request, self.mask = comparison.request, comparison.mask
        request = self.request
        self.device = str(choose_device(request.device))
        self.tools = Instruments.open(
            comparison.extractor, comparison.perceptual, self.device, comparison.embedding
        )
        original = load_original(request, self.device)
        size = original.image_size
        self.hole = parse_mask(comparison.mask, size, seeded(request.seed, 20))
        sets = evaluation_sets(request, size, limit=comparison.limit, seen=True).named()
        self.images: dict[str, ImageSet] = {name: sets[name] for name in SETS if name in sets}
        counts = ", ".join(
            f"{len(images)} {SET_NAMES[name].lower()}" for name, images in self.images.items()
        )
        on_progress(f"Original on {counts} images")
        self.true: dict[str, Extracted] = {
            name: self.tools.extract(images.images()) for name, images in self.images.items()
        }
        self.before = self.measure(original)
        self.never: dict[str, Measured] = {}
        if comparison.gold:
            on_progress(f"{TITLES['gold']} on {counts} images")
            self.never = self.measure(load_gold(request, comparison.gold, self.device))
        self.original = {"title": TITLES["original"]} | self.row(self.before, "before", draws=2)

    def measured(self, weights: Path) -> dict[str, Measured]:
        """What a run's model makes of each set."""
        return self.measure(load_model(self.request.model, weights, device=self.device))

    def measure(self, model: ImageToImageModel) -> dict[str, Measured]:
        """What a model makes of each set."""
        found = {}
        for name, images in self.images.items():
            truth = images.images()
            filled = completed(model, truth, self.hole, self.request)
            found[name] = measure(filled, truth, self.true[name], self.hole, self.tools)
        return found

    def row(
        self, after: Mapping[str, Measured], when: str = "after", draws: int = 50
    ) -> dict[str, Any]:
        """The sets of a row: of the original (“before”), or of a model after unlearning."""
        sets: dict[str, dict[str, Any]] = {}
        for name, images in self.images.items():
            both, seed = (self.before[name], after[name]), self.request.seed
            table = compare(self.true[name], *both, seed, draws, concepts=images.concepts)
            if self.never:
                known = self.never[name].extracted.features
                then, now = (cosine(m.extracted.features, known) for m in both)
                table["reference"] = summary(then, now, images.concepts, seeded(seed, 23))
            sets[name] = {"n": len(images)} | {m: _cell_of(r, when) for m, r in table.items()}
        return {"sets": sets}

    def describe(self) -> dict[str, Any]:
        """What was measured, and with what; no paths."""
        return {
            "request": public_request(self.request.to_dict()),
            "mask": public_mask(self.mask),
            "seed": self.request.seed,
            **self.tools.names(),
        }


def _cell_of(row: dict[str, Any], when: str) -> dict[str, Any]:
    """One model's part of a row of before and after."""
    if "missing" in row:
        return row
    cell = {"value": row[when]}
    if "spread" in row:
        cell["spread"] = row["spread"][when == "after"]
    if when == "after":
        ends = row["interval"]
        cell |= {"change": row["change"], "interval": list(ends) if ends else None}  # as in JSON
        cell |= {"moved": row["moved"]} if "moved" in row else {}
    return cell


def compare_table(result: dict[str, Any]) -> Table:
    """The table of the paper as rich prints it. What the held-out forget images are too few for is
    shown of those that were trained on.
    """
    rows: dict[str, dict[str, Any]] = result["rows"]
    sets = rows["original"]["sets"]

    def is_there(name: str, metric: str) -> bool:
        return "missing" not in sets.get(name, {}).get(metric, {"missing": ""})

    columns = [
        (name, metric)
        for name in SETS
        for metric in COLUMNS
        if is_there(name, metric) and not (name == "seen" and is_there("forget", metric))
    ]
    missing = [
        f"{SET_NAMES[name]}, {METRICS[metric].name}: {row['missing']}"
        for name in ("retain", "forget")
        for metric, row in sets[name].items()
        if metric in COLUMNS and "missing" in row
    ]
    table = Table(
        title=f"Completions against the truth, mask {result['mask']}, seed {result['seed']}",
        caption="; ".join(
            [
                result["extractor"],
                *([f"embedding cosine: {result['embedding']}"] if "embedding" in result else []),
                *missing,
                *_proxy_note(result),
                "arrows point towards the truth: retain should stay there, forget should leave",
                "moved: how far an image's cosine moved, up or down, in the mean",
                "●: no other run moves retain as little and forgets as much, by cosine",
            ]
        ),
    )
    table.add_column("Method")
    for name, metric in columns:
        heading = f"{SET_NAMES[name]}, n {sets[name]['n']}\n{METRICS[metric].label}"
        table.add_column(heading, justify="right")
    table.add_column(f"{SET_NAMES['retain']}, n {sets['retain']['n']}\nmoved ↓", justify="right")
    table.add_column("")
    shown = rows | ({"ours_proxy": {}} if "no_proxy" in result else {})
    for name in (name for name in TITLES if name in shown):
        row = shown[name]
        if not row:
            table.add_row(TITLES[name], *["—"] * (len(columns) + 1), "")
            continue
        if "message" in row:
            table.add_row(row["title"], "failed")
            continue
        cells = [_cell(row["sets"][s][m], METRICS[m].digits) for s, m in columns]
        moved = row["sets"]["retain"]["cosine"].get("moved")
        cells += ["" if moved is None else f"{moved:.4f}"]
        table.add_row(row["title"], *cells, "●" if name in result["front"] else "")
    return table


def _proxy_note(result: dict[str, Any]) -> list[str]:
    if "no_proxy" in result:
        return [f"{TITLES['ours_proxy']}: {result['no_proxy']}"]
    return [f"the proxy is {' + '.join(result['proxy'])}"] if "proxy" in result else []


def _cell(row: dict[str, Any], digits: int) -> str:
    spread = f" ± {row['spread']:.{digits}f}" if "spread" in row else ""
    return f"{row['value']:.{digits}f}{spread}"
