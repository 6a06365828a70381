"""Cells of an executed notebook as HTML that needs nothing from outside.

Text and tables are cleaned: what is not plain markup is shown as the text it is.
Pictures are embedded, formulas are drawn, code is highlighted and waits to be opened.
"""

import base64
import html
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from math import ceil, floor
from pathlib import Path
from typing import Any

import nbformat
from bleach.sanitizer import Cleaner
from bs4 import BeautifulSoup
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import text_to_path
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from helpers.progress import MARK

# fmt: off
TABLE = frozenset({
    "table", "caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "th",
    "td",
})
PROSE = TABLE | {
    "h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "blockquote", "em",
    "strong", "del", "code", "pre", "a", "img", "hr", "br", "sup", "sub", "kbd",
    "div", "span",
}
# fmt: on
ATTRIBUTES = {
    "*": ["class", "id", "colspan", "rowspan", "scope"],
    "a": ["href", "title"],
    "img": ["src", "alt", "title"],
}
STYLES = {"background", "background-color", "color", "font-weight", "font-style"}
NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)? ?%?|nan|-?inf|–|")
WIDE = 32  # characters from which on a cell's text is wrapped
LONG = 20  # rows from which on a table scrolls downwards, too
EM = 100  # units of a formula's drawing in the size of its font


@dataclass
class Block:
    """A piece of a page: `kind` is "prose", "code", "figure", "table" or "said"."""

    kind: str
    html: Markup


@dataclass
class Chapter:
    """An executed notebook, ready for a page."""

    name: str  # "01_zero_shot"
    title: str
    answer: Markup  # the block quote under the title, or nothing
    sections: list[tuple[str, str]]  # (id, heading) of the second level
    blocks: list[Block]
    captions: dict[str, Markup]  # of the figures, by the name they are saved under
    began: str  # "2026-11-21", or nothing
    seconds: float | None


@dataclass
class _Draft:
    """A chapter while its cells are read, prose still as trees."""

    parts: list[tuple[str, Any]] = field(default_factory=list)
    code: list[str] = field(default_factory=list)  # cells that wait for an output
    saved: list[str] = field(default_factory=list)  # figures without a caption yet
    captions: dict[str, Markup] = field(default_factory=dict)


def chapter(path: Path, pages: Collection[str]) -> Chapter:
    """Read an executed notebook; `pages` are the names that a link may lead to.

    Raises:
        ValueError: a file that is no notebook.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        draft = _Draft()
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                _add_prose(draft, cell)
            elif cell.cell_type == "code" and cell.source.strip():
                _add_code(draft, cell)
        _fold(draft)
    except (ValueError, OSError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is not a readable notebook ({error}): run its chapter again"
        ) from error
    trees = [part for kind, part in draft.parts if kind == "prose"]
    sections = _anchors(trees)
    _mend_links(trees, pages)
    title, answer = _opening(trees)
    about = notebook.metadata.get("papermill", {})
    return Chapter(
        path.stem,
        title or path.stem,
        answer,
        sections,
        [Block(kind, Markup(str(part))) for kind, part in draft.parts],
        draft.captions,
        str(about.get("start_time") or "")[:10],
        about.get("duration"),
    )


def picture(png: bytes, alt: str) -> Markup:
    """An embedded PNG or JPEG as an `img` of its natural size."""
    image = Image.open(io.BytesIO(png))
    width, height = image.size
    text = base64.b64encode(png).decode()
    source = f"data:{Image.MIME[image.format]};base64,{text}"
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(
        source, width, height, alt
    )


def table(markup: str) -> Markup:
    """A table of pandas in a box of its own, with the colours that a Styler gave it.

    Any other markup, such as that in a class's name, is shown as the text it is.
    """
    styles: dict[str, str] = {}
    found = re.match(r"\s*(?:<div>)?\s*<style\b[^>]*>(.*?)</style>", markup, re.S)
    if found:
        styles = _cell_styles(found[1])
        markup = markup[found.end() :].rstrip().removesuffix("</div>")
    tree = BeautifulSoup(_cleaner(TABLE).clean(markup), "html.parser")
    for cell in tree.select("th, td"):
        style = styles.get(cell.get("id"))
        if style:
            cell["style"] = style
    for tag in tree.find_all(True):
        tag.attrs.pop("class", None)
        tag.attrs.pop("id", None)
        if tag.name in ("th", "td") and len(tag.get_text()) > WIDE:
            tag["class"] = ["text"]
    _align_numbers(tree)
    return _boxed(str(tree).strip(), any("background" in s for s in styles.values()))


def _boxed(markup: str, tinted: bool = False) -> Markup:
    """Wide tables scroll in a box; the light colours of a tinted one need a card."""
    classes = "box long" if markup.count("<tr") > LONG else "box"
    classes += " tinted" if tinted else ""
    return Markup(
        f'<div class="{classes}" role="region" aria-label="table" tabindex="0">'
        f"{markup}</div>"
    )


def _align_numbers(tree: BeautifulSoup) -> None:
    """Columns of numbers and their headings keep to the right.

    Columns are counted from the right, as cells that span rows stand on the left.
    """
    rows = [row.find_all(["th", "td"])[::-1] for row in tree.select("tbody > tr")]
    heads = [row.find_all(["th", "td"])[::-1] for row in tree.select("thead > tr")]
    for place in range(max(map(len, rows), default=0)):
        column = [row[place] for row in rows if len(row) > place]
        if any(cell.name == "th" for cell in column) or not all(
            NUMBER.fullmatch(cell.get_text(strip=True)) for cell in column
        ):
            continue
        over = [row[place] for row in heads if len(row) > place]
        for cell in column + [head for head in over if "colspan" not in head.attrs]:
            cell["class"] = ["number"]


def _cell_styles(sheet: str) -> dict[str, str]:
    """What a Styler's sheet says of each cell, by its id: harmless properties only."""
    styles: dict[str, str] = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
        pairs = (line.partition(":")[::2] for line in body.split(";"))
        kept = [
            f"{name.strip()}:{value.strip()}"
            for name, value in pairs
            if name.strip() in STYLES and re.fullmatch(r"[\w\s#%.,()-]+", value)
            if "url" not in value
        ]
        for selector in selectors.split(",") if kept else ():
            name = selector.strip().removeprefix("#")
            styles[name] = ";".join([*filter(None, [styles.get(name)]), *kept])
    return styles


@cache
def _cleaner(tags: frozenset[str]) -> Cleaner:
    protocols = ["http", "https", "mailto", "data"]
    return Cleaner(tags=tags, attributes=ATTRIBUTES, protocols=protocols)


class _Renderer(IPythonRenderer):
    """Markdown with formulas marked as such, instead of left to a script."""

    def __init__(self, attachments: dict[str, Any]) -> None:
        super().__init__(
            escape=False, exclude_anchor_links=True, attachments=attachments
        )

    def inline_math(self, body: str) -> str:
        return f'<span class="math">{html.escape(body)}</span>'

    def block_math(self, body: str) -> str:
        return f'<span class="math display">{html.escape(body)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def _markdown(source: str, attachments: dict[str, Any] | None = None) -> BeautifulSoup:
    text = MarkdownWithMath(renderer=_Renderer(attachments or {})).render(source)
    tree = BeautifulSoup(_cleaner(PROSE).clean(text), "html.parser")
    for span in tree.select("span.math"):
        drawn = formula(span.get_text(), display="display" in span["class"])
        span.replace_with(BeautifulSoup(drawn, "html.parser"))
    for image in tree.select("img"):
        if not image.get("src", "").startswith("data:image/"):
            image.replace_with(image.get("alt", ""))
    for found in tree.select("table"):
        found.replace_with(BeautifulSoup(_boxed(str(found)), "html.parser"))
    return tree


def formula(tex: str, display: bool = False) -> Markup:
    """TeX as a drawing in the colour of the text; as code where it cannot be drawn."""
    tex = " ".join(tex.split())
    try:
        with rc_context({"mathtext.fontset": "stix"}):
            font = FontProperties(size=EM)
            advance = text_to_path.get_text_width_height_descent(f"${tex}$", font, True)
            outline = Outline(*text_to_path.get_text_path(font, f"${tex}$", True))
    except ValueError:
        return Markup("<code>{}</code>").format(tex)
    ink = outline.get_extents()
    left, right = floor(min(ink.x0, 0)), ceil(max(ink.x1, advance[0]))
    bottom, top = floor(min(ink.y0, 0)), ceil(ink.y1)
    drawn = Markup(
        '<svg class="{}" role="img" aria-label="{}" viewBox="{} {} {} {}" '
        'style="width:{}em;height:{}em;vertical-align:{}em"><path d="{}"/></svg>'
    )
    width, height = right - left, top - bottom
    return drawn.format(
        "math display" if display else "math",
        tex,
        *(left, -top, width, height),
        *(width / EM, height / EM, bottom / EM),
        "".join(_strokes(outline)),
    )


def _strokes(outline: Outline) -> Iterator[str]:
    """An outline in SVG's letters, whose y axis points down."""
    letters = {
        Outline.MOVETO: "M",
        Outline.LINETO: "L",
        Outline.CURVE3: "Q",
        Outline.CURVE4: "C",
    }
    for points, code in outline.iter_segments(simplify=False):
        if code == Outline.CLOSEPOLY:
            yield "Z"
        else:
            pairs = points.reshape(-1, 2).round().astype(int)
            yield letters[code] + " ".join(f"{x} {-y}" for x, y in pairs)


def _add_prose(draft: _Draft, cell: Any) -> None:
    _fold(draft)
    tree = _markdown(cell.source, cell.get("attachments"))
    first = tree.find()
    caption = first.find() if first is not None and first.name == "p" else None
    if draft.saved and caption is not None and caption.name == "em":
        text = Markup("".join(str(child) for child in caption.children))
        draft.captions |= dict.fromkeys(draft.saved, text)
        for kind, part in reversed(draft.parts):
            if kind in ("prose", "table"):
                break
            if kind == "figure":
                part.img["alt"] = caption.get_text(" ", strip=True)
    draft.saved.clear()
    draft.parts.append(("prose", tree))


def _add_code(draft: _Draft, cell: Any) -> None:
    """Code waits until there is something to see, so that silent cells share a fold."""
    draft.code.append(cell.source)
    seen = [part for output in cell.outputs for part in _output(output)]
    if not seen:
        return
    _fold(draft)
    draft.parts += seen
    if any(kind == "figure" for kind, _ in seen):
        draft.saved += re.findall(r'run\.figure\(\s*f?"([\w-]+)"', cell.source)


def _fold(draft: _Draft) -> None:
    if not draft.code:
        return
    formatter = HtmlFormatter(nowrap=True)
    shown = [highlight(source, PythonLexer(), formatter) for source in draft.code]
    pieces = "".join(f"<pre><code>{text.strip()}</code></pre>" for text in shown)
    draft.parts.append(("code", Markup(pieces)))
    draft.code = []


def _output(output: Any) -> Iterator[tuple[str, Any]]:
    """What a reader sees of an output; nothing of a progress line."""
    if output.output_type == "stream":
        yield from _said(output.text)
    elif output.output_type == "error":
        yield from _said("\n".join(output.traceback))
    elif MARK not in output.metadata:
        data = output.data
        kind = next((k for k in ("image/png", "image/jpeg") if k in data), None)
        if kind:
            image = picture(base64.b64decode(data[kind]), "a figure")
            yield "figure", BeautifulSoup(image, "html.parser")
        elif "image/svg+xml" in data:
            text = base64.b64encode(data["image/svg+xml"].encode()).decode()
            image = f'<img src="data:image/svg+xml;base64,{text}" alt="a figure">'
            yield "figure", BeautifulSoup(image, "html.parser")
        elif "<table" in data.get("text/html", ""):
            yield "table", table(data["text/html"])
        elif "text/markdown" in data:
            yield "prose", _markdown(data["text/markdown"])
        else:
            yield from _said(data.get("text/plain", ""))


def _said(text: str) -> Iterator[tuple[str, Markup]]:
    """Printed lines: those that stand in columns keep to them, others are wrapped."""
    text = strip_ansi(text).strip("\n")
    if text:
        columns = re.search(r"\S {2,}\S|^ {4}", text, re.M)
        name = "columns" if columns else "lines"
        yield "said", Markup('<pre class="{}">{}</pre>').format(name, text)


def _opening(trees: list[BeautifulSoup]) -> tuple[str, Markup]:
    """Take the title off the first cell; its text, and that of the block quote."""
    if not trees:
        return "", Markup()
    heading, quote = trees[0].find("h1"), trees[0].find("blockquote")
    title = heading.extract().get_text(" ") if heading else ""
    title = re.sub(r"^\d\d[a-z]?\s+", "", title)
    if quote is None:
        return title, Markup()
    lines = (Markup("".join(map(str, p.children))) for p in quote.select("p"))
    return title, Markup(" ").join(lines)


def _anchors(trees: list[BeautifulSoup]) -> list[tuple[str, str]]:
    """Give every heading an id of its own; returns those of the second level."""
    taken, sections = set(), []
    for tree in trees:
        for heading in tree.select("h1, h2, h3, h4, h5, h6"):
            text = heading.get_text(" ", strip=True)
            name = base = re.sub(r"\W+", "-", text).strip("-").lower() or "section"
            number = 2
            while name in taken:
                name, number = f"{base}-{number}", number + 1
            taken.add(name)
            heading["id"] = name
            if heading.name == "h2":
                sections.append((name, text))
    return sections


def _mend_links(trees: list[BeautifulSoup], pages: Collection[str]) -> None:
    """Links between notebooks lead to pages; what leads nowhere is no link."""
    known = {tag["id"].lower() for tree in trees for tag in tree.select("[id]")}
    for tree in trees:
        for link in tree.select("a"):
            target = link.get("href", "")
            file, _, place = target.partition("#")
            name = Path(file).name.removesuffix(".ipynb")
            if file.endswith(".ipynb") and name in pages:
                link["href"] = f"{name}.html"
            elif not file and place.lower() in known:
                link["href"] = f"#{place.lower()}"
            elif not re.match(r"https?://|mailto:", target):
                link.unwrap()
