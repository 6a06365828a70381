"""An executed notebook as offline HTML, made by nbconvert's exporter.

This module adds what nbconvert lacks: nbconvert's cleaner escapes paragraphs and
headings, its formulas need a script, and its tables have neither a box nor alignment.
"""

import html
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat
from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner
from bs4 import BeautifulSoup, Tag
from jinja2 import TemplateError, pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from helpers.progress import MARK

ASSETS = Path(__file__).parent / "assets"
# fmt: off
TAGS = {
    "h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "blockquote", "em",
    "strong", "del", "code", "pre", "a", "img", "hr", "br", "sup", "sub", "kbd",
    "div", "span", "table", "caption", "colgroup", "col", "thead", "tbody", "tfoot",
    "tr", "th", "td",
}
# fmt: on
ATTRIBUTES = {
    "*": ["class", "id", "colspan", "rowspan", "scope"],
    "a": ["href", "title"],
    "img": ["src", "alt", "title"],
}
CLEANER = Cleaner(TAGS, ATTRIBUTES, protocols=["http", "https", "mailto", "data"])
SHEET = re.compile(r"^(\s*(?:<div>)?\s*)<style\b[^>]*>(.*?)</style>", re.S)
RULE = re.compile(r"((?:#T_\w+,?\s*)+)\{([\w\s#%.,():;-]*)\}")
STYLES = CSSSanitizer(
    ("background", "background-color", "color", "font-weight", "font-style")
)
NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)? ?%?|nan|-?inf|–|")
COLUMNS = re.compile(r"\S {2,}\S|^ {4}", re.M)
EXTERNAL = re.compile(r"https?://|mailto:")
WIDE = 32  # characters from which on a cell's text is wrapped
UNREADABLE = (ValueError, OSError, LookupError, AttributeError, TypeError)
UNREADABLE += (TemplateError,)
ANCHOR = "¶"  # nbconvert's link from a heading to itself
HEADINGS = ["h1", "h2", "h3", "h4"]
NOT_PROSE = [*HEADINGS, "a", "code", "pre", "math", "table"]  # no term is linked there


@dataclass
class Chapter:
    """An executed notebook, ready for a page."""

    name: str  # "01_zero_shot"
    title: str
    answer: Markup  # the block quote under the title, or nothing
    sections: list[tuple[str, str]]  # (id, heading) of the second level
    body: Markup
    captions: dict[str, Markup]  # of the figures, by the name they are saved under
    began: str  # "2026-11-21", or nothing
    seconds: float | None


def chapter(
    path: Path, pages: Collection[str], terms: Mapping[str, str] | None = None
) -> Chapter:
    """Read an executed notebook; the first use of a term leads to the glossary.

    Args:
        pages: the chapters' names that a link may lead to.
        terms: by spelling in small letters, the id of a term in the glossary.

    Raises:
        ValueError: a file that is no notebook.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        captions = _prepare(notebook)
        body, _ = EXPORTER.from_notebook_node(notebook)
        about = notebook.metadata.get("papermill", {})
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable notebook ({error}): run its chapter again"
        ) from error
    page = _postprocessed(body)
    _rewrite_links(page, pages)
    _link_terms(page, terms or {})
    title, quote = page.h1, page.select_one(".prose blockquote")
    lines = quote.select("p") if quote else ()
    return Chapter(
        path.stem,
        re.sub(r"^\d\d[a-z]?\s+", "", text_of(title)) if title else path.stem,
        Markup(" ").join(Markup(p.decode_contents()) for p in lines),
        [(heading["id"], text_of(heading)) for heading in page.select("h2[id]")],
        Markup(page),
        captions,
        str(about.get("start_time") or "")[:10],
        about.get("duration"),
    )


@cache
def prose(markdown: str) -> Markup:
    """Text in Markdown as markup, cleaned of all that is not plain."""
    page = _postprocessed(f'<div class="prose">{_clean(_markdown(markdown))}</div>')
    return Markup(page.div.decode_contents())


def _prepare(notebook: Any) -> dict[str, Markup]:
    """Drop progress, join silent cells to the next, give figures their captions.

    Returns the captions by the names that figures are saved under.
    """
    cells, captions, heading = [], {}, "this chapter"
    for cell in notebook.cells:
        last = cells[-1] if cells else None
        if cell.cell_type == "code":
            if not cell.source.strip():
                continue
            seen = (o for o in cell.outputs if MARK not in o.get("metadata", ()))
            cell.outputs = list(seen)
            cell.metadata["alt"] = f"figure of {heading}"
            if last and last.cell_type == "code" and not last.outputs:
                cell.source = f"{cells.pop().source}\n\n{cell.source}"
        elif last and last.cell_type == "code":
            text = BeautifulSoup(_clean(_markdown(cell.source)), "html.parser")
            caption = text.select_one("p:first-child > em:first-child")
            if caption:
                last.metadata["alt"] = caption.get_text()
                names = re.findall(r'run\.figure\(\s*f?"([\w-]+)"', last.source)
                captions |= dict.fromkeys(names, Markup(caption.decode_contents()))
        if cell.cell_type == "markdown":
            heading = re.findall(r"^#+ (.*)", f"# {heading}\n{cell.source}", re.M)[-1]
        cells.append(cell)
    notebook.cells = cells
    return captions


class _Renderer(IPythonRenderer):
    """Markdown with formulas marked as such, instead of left to a script."""

    def inline_math(self, body: str) -> str:
        return f'<span class="math">{html.escape(body)}</span>'

    def block_math(self, body: str) -> str:
        return f'<span class="math display">{html.escape(body)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def _markdown(source: str, attachments: dict[str, Any] | None = None) -> str:
    renderer = _Renderer(escape=False, anchor_link_text=ANCHOR, attachments=attachments)
    return MarkdownWithMath(renderer=renderer).render(source)


@pass_context
def _cell_markdown(context: Context, source: str) -> str:
    return _markdown(source, context["cell"].get("attachments"))


def _clean(markup: Any) -> str:
    """Plain markup, and the harmless properties of a Styler's leading sheet."""
    sheet, rules = SHEET.match(str(markup)), ""
    for selectors, body in RULE.findall(sheet[2]) if sheet else ():
        kept = STYLES.sanitize_css(_legible(body)) if "url" not in body else ""
        rules += f"{selectors}{{{kept}}}" if kept else ""
    style = f"<style>{rules}</style>" if rules else ""
    return style + CLEANER.clean(SHEET.sub(r"\1", str(markup)))


def _legible(rule: str) -> str:
    """A rule whose text is black or white, whichever has more contrast (WCAG 2).

    The Styler's own grey on a strong colour falls short of 4.5.
    """
    colour = re.search(r"background-color: #([0-9a-f]{6})", rule)
    if not colour:
        return rule
    red, green, blue = ((value / 255) ** 2.2 for value in bytes.fromhex(colour[1]))
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return f"{rule}; color: {'#000' if light > 0.179 else '#fff'}"


EXPORTER = HTMLExporter(
    Config(
        NbConvertBase={
            "display_data_priority": [
                *("image/png", "image/jpeg", "image/svg+xml"),
                *("text/html", "text/markdown", "text/plain"),
            ]
        }
    ),
    template_name="basic",
    template_file=str(ASSETS / "site_cells.html"),
    filters={"clean_html": _clean, "markdown2html": _cell_markdown},
    sanitize_html=True,
)


def formula(tex: str, display: bool = False) -> Tag:
    """TeX as MathML; as code where the converter fails."""
    tex = " ".join(tex.split())
    shown = BeautifulSoup("", "html.parser").new_tag("code", string=tex)
    try:
        # The library escapes nothing within \text{}.
        plain = tex.replace("<", r"\lt ").replace(">", r"\gt ")
        markup = convert(plain, display="block" if display else "inline")
    except Exception:  # of a dozen classes without a common one
        return shown
    math = BeautifulSoup(markup, "html.parser").math
    if "\\" in math.get_text():  # a command that it does not know
        return shown
    for tag in math.find_all(True):
        for name in ("href", "id", "class", "style"):
            tag.attrs.pop(name, None)
    math["alttext"] = tex
    return math


def _postprocessed(markup: str) -> BeautifulSoup:
    """The page with MathML formulas, boxed and aligned tables, wrapped output."""
    page = BeautifulSoup(markup, "html.parser")
    for span in page.select("span.math"):
        span.replace_with(formula(span.get_text(), "display" in span["class"]))
    for image in page.select("img"):
        if not image.get("src", "").startswith("data:image/"):
            image.replace_with(image.get("alt", ""))
    for pre in page.select(".output_text pre"):
        pre["class"] = "columns" if COLUMNS.search(pre.get_text()) else "lines"
    for pre in page.select("pre.columns, .prose pre"):
        pre["tabindex"] = "0"  # or no key scrolls it
    for found in page.select("table"):
        _align(found)
        heading = found.find_previous(HEADINGS)
        label = f"table of {text_of(heading)}" if heading else "table"
        # A region would be a landmark, and there would be too many of them.
        about = {"role": "group", "aria-label": label, "tabindex": "0"}
        box = found.wrap(page.new_tag("div", attrs={"class": "box", **about}))
        if box.find_previous_sibling("style"):
            box["class"] = "box tinted"
    return page


def _align(table: Tag) -> None:
    """Columns of numbers and their headings keep to the right, long texts are wrapped.

    Columns are counted from the right, as cells that span rows stand on the left.
    """
    for tag in table.find_all(True):
        tag.attrs.pop("class", None)
        if tag.name in ("th", "td") and len(tag.get_text()) > WIDE:
            tag["class"] = "text"
        if tag.name == "th" and tag.find_parent("thead") and not text_of(tag):
            tag.name = "td"  # heads nothing
    rows = [row.find_all(["th", "td"])[::-1] for row in table.select("tbody > tr")]
    heads = [row.find_all(["th", "td"])[::-1] for row in table.select("thead > tr")]
    for index in range(max(map(len, rows), default=0)):
        column = [row[index] for row in rows if len(row) > index]
        if all(c.name == "td" and NUMBER.fullmatch(text_of(c)) for c in column):
            over = [row[index] for row in heads if len(row) > index]
            for cell in column + [head for head in over if "colspan" not in head.attrs]:
                cell["class"] = "number"


def text_of(tag: Tag) -> str:
    """The text of a heading or cell, without the heading's link to itself."""
    return tag.get_text(" ", strip=True).removesuffix(ANCHOR).strip()


def _rewrite_links(page: BeautifulSoup, pages: Collection[str]) -> None:
    """Links between notebooks lead to pages; what leads nowhere is no link."""
    known = {tag["id"] for tag in page.select("[id]")}
    for link in page.select("a"):
        target = link.get("href", "")
        file, _, anchor = target.partition("#")
        name = Path(file).name.removesuffix(".ipynb")
        if file.endswith(".ipynb") and name in pages:
            link["href"] = f"{name}.html"
        elif Path(file).name == "GLOSSARY.md":
            link["href"] = f"glossary.html#{anchor}"
        elif (file or anchor not in known) and not EXTERNAL.match(target):
            link.unwrap()


def _link_terms(page: BeautifulSoup, terms: Mapping[str, str]) -> None:
    """The first use of each term in the prose leads to its place in the glossary."""
    left = dict(terms)
    texts = [part.find_all(string=True) for part in page.select(".prose")]
    for text in chain.from_iterable(texts):
        if text.find_parent(NOT_PROSE):
            continue
        parts, rest = [], str(text)
        while found := left and re.search(_any_of(left), rest, re.I | re.A):
            id = left[found[1].lower()]
            left = {spelling: of for spelling, of in left.items() if of != id}
            about = {"class": "term", "href": f"glossary.html#{id}"}
            link = page.new_tag("a", attrs=about, string=found[0])
            parts += [rest[: found.start()], link]
            rest = rest[found.end() :]
        if parts:
            text.replace_with(*parts, rest)


def _any_of(spellings: Collection[str]) -> str:
    longest = sorted(map(re.escape, spellings), key=len, reverse=True)
    # A plural, too, but no part of a compound such as a model's name.
    return rf"(?<![\w-])({'|'.join(longest)})s?(?![\w-])"
