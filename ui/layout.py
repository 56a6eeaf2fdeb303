"""The page: header, tabs, and how they hang together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from l2l_core.registry import assets_folder
from ui import html, text
from ui.services import Studio
from ui.tab_compare import build_compare
from ui.tab_evaluate import build_evaluate
from ui.tab_runs import Chosen, build_runs
from ui.tab_unlearn import build_unlearn

STYLE = assets_folder() / "style.css"


def theme() -> gr.themes.Base:
    """Calm and flat; system fonts only, so that nothing is fetched."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        block_border_width="0px",
        input_border_width="1px",
        checkbox_label_border_width="1px",
        button_secondary_background_fill="*background_fill_primary",
        button_secondary_border_color="*border_color_primary",
        button_border_width="1px",
        block_shadow="none",
        block_padding="0",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
    )


def build_page(studio: Studio, scratch: Path) -> gr.Blocks:
    """All tabs over one studio; `scratch` holds what is made for the browser only."""
    with gr.Blocks(
        title=text.NAME, analytics_enabled=False, delete_cache=(60, 3600), fill_width=True
    ) as page:
        header = gr.HTML(html.header(studio.health()), elem_id="header")
        with gr.Accordion(text.HELP_TITLE, open=False, elem_id="help"):
            gr.Markdown(text.HELP)
        with gr.Tabs(selected="unlearn", elem_id="tabs") as tabs:
            with gr.Tab("Unlearn", id="unlearn"):
                unlearn = build_unlearn(studio, scratch)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare = build_compare(studio, scratch)
            with gr.Tab("Evaluate", id="evaluate") as evaluate_tab:
                evaluate = build_evaluate(studio)
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs = build_runs(studio)

        def look() -> str:
            return html.header(studio.health())

        def compare_this(run_id: str, request: gr.Request) -> tuple[gr.Tabs, gr.Dropdown]:
            return gr.Tabs(selected="compare"), compare.choices(run_id, request)

        def follow(chosen: Chosen, request: gr.Request) -> tuple[Any, Any, Any, Any]:
            """The tab to open, and the run that Compare, Evaluate and Unlearn show then."""
            kept = gr.skip()
            if chosen.action == "compare":
                return *compare_this(chosen.run_id, request), kept, kept
            if chosen.action == "evaluate":
                choice = evaluate.choices(chosen.run_id, request)
                return gr.Tabs(selected="evaluate"), kept, choice, kept
            if chosen.action in ("show", "resume", "again"):
                shown = kept if chosen.action == "again" else chosen.run_id
                return gr.Tabs(selected="unlearn"), kept, kept, shown
            return kept, kept, kept, kept

        def again(chosen: Chosen, request: gr.Request) -> list[Any]:
            if chosen.action == "again":
                return unlearn.fill(chosen.run_id, request)
            return [gr.skip()] * len(unlearn.filled)

        quiet: dict[str, Any] = {"show_progress": "hidden"}
        gr.Timer(4).tick(look, outputs=header, queue=False, **quiet)
        page.load(look, outputs=header, queue=False, **quiet)
        page.load(unlearn.attach, outputs=unlearn.run, **quiet).then(**unlearn.watch)
        page.load(**unlearn.show_models)
        compare_tab.select(compare.choices, compare.run, compare.run, **quiet)
        evaluate_tab.select(evaluate.choices, evaluate.run, evaluate.run, **quiet)
        evaluate_tab.select(**evaluate.show_tried)
        runs_tab.select(**runs.refresh)
        unlearn.to_compare.click(compare_this, unlearn.run, [tabs, compare.run], **quiet)
        runs.acted.success(
            follow, runs.chosen, [tabs, compare.run, evaluate.run, unlearn.run], **quiet
        ).then(**unlearn.watch)
        runs.acted.success(again, runs.chosen, unlearn.filled, **quiet).then(
            **unlearn.show_models
        ).then(**unlearn.summarise)
    return page
