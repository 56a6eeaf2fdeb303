"""One HTML file that asks for nothing from anywhere: its frame and its plainest parts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from l2l_core.registry import assets_folder

text = html.escape


def page(title: str, body: str) -> str:
    """A page, light and dark, that needs no network and runs no script."""
    style = (assets_folder() / "report.css").read_text(encoding="utf-8")
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
        "style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{text(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], groups: Sequence[int] = ()) -> str:
    """A table of HTML cells; `groups` are the positions of rows that begin something new."""
    body = "".join(
        f"<tr{' class=first' if number in groups else ''}>"
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    )
    titles = "".join(f"<th>{text(head)}</th>" for head in heads)
    return (
        f"<div class=wide><table><thead><tr>{titles}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(values: Mapping[str, Any]) -> str:
    """Names and values."""

    def said(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    lines = (f"<dt>{text(k)}</dt><dd>{text(said(v))}</dd>" for k, v in values.items())
    return f"<dl>{''.join(lines)}</dl>"


def bullets(lines: Sequence[str]) -> str:
    """Sentences as a list."""
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"
