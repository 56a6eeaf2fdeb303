"""The page: header, tabs, and how they hang together."""

from __future__ import annotations

import gradio as gr

from l2l_core.models import assets_folder
from ui import html, text
from ui.services import Studio
from ui.tab_compare import build_compare
from ui.tab_runs import build_runs
from ui.tab_unlearn import build_unlearn

STYLE = assets_folder() / "style.css"


def theme() -> gr.themes.Base:
    """System fonts only, so that nothing is fetched."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )


def build_page(studio: Studio) -> gr.Blocks:
    """All tabs over one studio."""
    with gr.Blocks(
        title=text.NAME, analytics_enabled=False, delete_cache=(60, 3600), fill_width=True
    ) as page:
        header = gr.HTML(html.header(studio.device()))
        with gr.Accordion(
            "What are forget and retain? How does it work, and what are its limits?", open=False
        ):
            gr.Markdown(text.HELP)
        with gr.Tabs(selected="unlearn") as tabs:
            with gr.Tab("Unlearn", id="unlearn"):
                unlearn = build_unlearn(studio)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare = build_compare(studio)
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs = build_runs(studio)
        page.load(lambda: html.header(studio.device()), outputs=header, show_progress="hidden")
        page.load(unlearn.attach, outputs=unlearn.watched, show_progress="hidden")
        gr.Timer(5).tick(
            lambda: html.header(studio.device()), outputs=header, show_progress="hidden"
        )
        compare_tab.select(compare.refresh, outputs=compare.run, show_progress="hidden")
        runs_tab.select(runs.refresh, outputs=[runs.table, runs.run], show_progress="hidden")
        unlearn.to_compare.click(lambda: gr.Tabs(selected="compare"), outputs=tabs).then(
            compare.refresh, outputs=compare.run, show_progress="hidden"
        ).then(compare.show, inputs=compare.inputs, outputs=compare.shown)
    return page
