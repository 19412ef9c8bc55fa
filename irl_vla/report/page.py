"""One plain HTML page out of tables and pictures; no scripts, no network, opens from disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan
from pathlib import Path

from irl_vla.ledger.files import write_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } .note { color: #555; } .label { background: #fff4d6; padding: .4rem .7rem; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: 12px; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        note: a sentence above the content.
        rows: a table, columns in order of first appearance.
        pictures: files below the page's folder.
        text: preformatted text, e.g. a configuration.
    """

    title: str
    note: str = ""
    rows: Sequence[Mapping[str, object]] = ()
    pictures: Sequence[Path] = ()
    text: str = ""


def write_page(path: Path, title: str, label: str, sections: Sequence[Section]) -> Path:
    """Writes the page atomically.

    Args:
        label: what kind of result this is; stands first, e.g. that the data is generated.
    """
    body = [f"<h1>{escape(title)}</h1>", f'<p class="label">{escape(label)}</p>']
    for section in sections:
        body += _section(section, path.parent)
    document = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    write_text(path, document)
    return path


def _section(section: Section, folder: Path) -> list[str]:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.note:
        parts.append(f'<p class="note">{escape(section.note)}</p>')
    if section.rows:
        parts.append(_table(section.rows))
    for picture in section.pictures:
        name = picture.relative_to(folder).as_posix()
        parts.append(f'<p><img src="{escape(name)}" alt="{escape(picture.stem)}"></p>')
    if section.text:
        parts.append(f"<pre>{escape(section.text)}</pre>")
    return parts


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = ["".join(f"<td>{_cell(row.get(column, ''))}</td>" for column in columns) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(value: object) -> str:
    """A value of the table; "none" for a figure that does not exist (NaN)."""
    if isinstance(value, float):
        return "none" if isnan(value) else f"{value:.3f}"
    return escape(str(value))
