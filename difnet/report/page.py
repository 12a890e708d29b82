"""How does a report become a file? Blocks of words, figures and pictures, written as one HTML page and as Markdown."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from difnet.record.formatting import harmless, markdown


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    """A list of remarks."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text below a head; the first column is words, the others are figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file of the report's folder; a wide one takes the whole width of the page."""

    file: str
    png: bytes
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Code:
    """Text to be read or typed as it stands, folded away where the page can fold."""

    title: str
    text: str


Block = Paragraph | Items | Table | Picture | Code


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


# As Markdown


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    """The report as GitHub's Markdown; pictures are files beside it."""
    parts = [f"# {markdown(title)}"]
    for section in sections:
        parts += [f"## {markdown(section.title)}", *(_block_md(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block_md(block: Block) -> str:
    match block:
        case Items():
            return "\n".join(f"- {markdown(text)}" for text in block.texts) or "Nothing."
        case Table():
            rule = "|".join([":--", *["--:"] * (len(block.head) - 1)])
            rows = [" | ".join(map(markdown, row)) for row in (block.head, *block.rows)]
            return "\n".join(f"| {row} |" for row in [rows[0], rule, *rows[1:]])
        case Picture():
            return f"![{markdown(block.caption)}]({block.file})\n\n*{markdown(block.caption)}*"
        case Code():
            text = harmless(block.text).rstrip()
            fence = "`" * max(4, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"**{markdown(block.title)}**\n\n{fence}\n{text}\n{fence}"
    return markdown(block.text)


# As HTML

LONG = 36  # characters: the longest figure is like "59.9 TFLOP ± 5.46 TFLOP"

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --pale: #5d6675; --line: #d9dde3; --page: #fbfbfa; --card: #fff;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --pale: #9aa4b2; --line: #333b47; --page: #15191f;
  --card: #1c222a; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.8rem 0 .9rem; padding-bottom: .35rem; border-bottom: 2px solid var(--accent); }
p, li { max-width: 46rem; overflow-wrap: anywhere; } .lead, figcaption { color: var(--pale); } .lead { margin: 0; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .9rem; min-width: 100%; }
th, td { padding: .45rem .8rem .45rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--pale); font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; } td.long { white-space: normal; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1.5rem;
  align-items: start; grid-auto-flow: dense; margin: 1.2rem 0; }
figure { margin: 0; } figure.whole { grid-column: 1 / -1; }
figure img { width: 100%; display: block; background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem; } figcaption { font-size: .88rem; margin-top: .5rem; }
details { border: 1px solid var(--line); border-radius: 8px; background: var(--card); margin: .6rem 0; }
summary { cursor: pointer; padding: .6rem .9rem; font-family: ui-monospace, "Cascadia Mono", Menlo, monospace;
  font-size: .85rem; overflow-wrap: anywhere; }
pre { margin: 0; padding: .4rem .9rem 1rem; overflow-x: auto; font: .83rem/1.5 ui-monospace, "Cascadia Mono", Menlo,
  monospace; }
"""


def to_html(title: str, sections: Iterable[Section]) -> str:
    """The report as one page that carries its pictures and asks nothing of any other place."""
    body = "\n".join(f"<section>\n<h2>{_esc(s.title)}</h2>\n{_blocks_html(s.blocks)}\n</section>" for s in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_esc(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{_esc(title)}</h1>\n"
        f'<p class="lead">A report by difnet: agents that learn one launch model together.</p>\n{body}\n'
        "</main>\n</body>\n</html>\n"
    )


def _esc(text: str) -> str:
    return html.escape(harmless(text), quote=True)


def _cell_html(text: str) -> str:
    """A figure stays on one line; what is longer than any figure may break."""
    return f'<td class="long">{_esc(text)}</td>' if len(text) > LONG else f"<td>{_esc(text)}</td>"


def _blocks_html(blocks: Sequence[Block]) -> str:
    """The blocks in order; pictures that follow each other stand side by side where there is room."""
    parts = []
    for pictures, group in groupby(blocks, lambda block: isinstance(block, Picture)):
        inner = "\n".join(map(_block_html, group))
        parts.append(f'<div class="pictures">\n{inner}\n</div>' if pictures else inner)
    return "\n".join(parts)


def _block_html(block: Block) -> str:
    match block:
        case Items():
            items = "".join(f"<li>{_esc(text)}</li>" for text in block.texts)
            return f"<ul>{items}</ul>" if items else "<p>Nothing.</p>"
        case Table():
            head = "".join(f'<th scope="col">{_esc(cell)}</th>' for cell in block.head)
            rows = "\n".join(f"<tr>{''.join(map(_cell_html, row))}</tr>" for row in block.rows)
            return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
        case Picture():
            data, caption = base64.b64encode(block.png).decode("ascii"), _esc(block.caption)
            image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
            opening = '<figure class="whole">' if block.wide else "<figure>"
            return f"{opening}{image}<figcaption>{caption}</figcaption></figure>"
        case Code():
            return f"<details><summary>{_esc(block.title)}</summary><pre>{_esc(block.text)}</pre></details>"
    return f"<p>{_esc(block.text)}</p>"
