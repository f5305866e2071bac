"""A hook of mkdocs: printed tables with many columns are shown on a phone as a table from which columns drop."""

import html
import re
from typing import Any

WIDE = 48
"""Characters up to which a printed line fits on a phone."""
DROPPED = frozenset({"cls", "fan_out", "kind", "role", "rule", "shape", "std"})
"""Columns that a phone does without."""
FACTORS = frozenset({"std", "lr"})
"""Columns that stay where they stand together: the factors of `ix.mup`."""
PRINTED = re.compile(r'<div class="highlight"><pre>(?:<span></span>)?<code>(?P<text>[^<]*)</code></pre></div>')
RULE = re.compile(r"^ ─+$")
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")


def on_page_content(content: str, **_: Any) -> str:
    """Return a page with a narrow table beside each wide printed one; the style sheet shows one of the two."""
    return PRINTED.sub(lambda found: beside(found[0], html.unescape(found["text"])), content)


def beside(block: str, text: str) -> str:
    """Return a block that shows what is printed and, where that is a wide table, the same for a narrow screen."""
    block = block.replace('class="highlight"', 'class="highlight printed"')
    lines = text.splitlines()
    columns = max(map(len, lines), default=0)
    if not any(RULE.match(line) for line in lines) or columns <= WIDE:
        return block
    wide = f'<div class="printed-wide" style="--columns: {columns}">{block}</div>'
    return f'{wide}<div class="printed-narrow">{"".join(pieces(lines))}</div>'


def pieces(lines: list[str]) -> list[str]:
    """Return the lines of a printed table as HTML: each header with its rows a table, other lines paragraphs."""
    found, at = [], 0
    while at < len(lines):
        if at + 1 < len(lines) and RULE.match(lines[at + 1]):
            end = next((n for n in range(at + 2, len(lines)) if not lines[n].strip()), len(lines))
            found.append(table(lines[at], lines[at + 2 : end]))
            at = end
        else:
            if lines[at].strip():
                found.append(f"<p><code>{html.escape(lines[at].strip())}</code></p>")
            at += 1
    return found


def table(header: str, rows: list[str]) -> str:
    """Return rows under a header as an HTML table, without the columns that are dropped."""
    names = list(re.finditer(r"\S+(?: \S+)*", header))
    cells = [cut(row, names) for row in rows]
    dropped = DROPPED - FACTORS if {name[0] for name in names} >= FACTORS else DROPPED
    kept = [at for at, name in enumerate(names) if name[0] not in dropped]
    head = "".join(f"<th>{html.escape(names[at][0])}</th>" for at in kept)
    body = "".join(f"<tr>{''.join(f'<td>{breakable(row[at])}</td>' for at in kept)}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cut(row: str, names: list[re.Match[str]]) -> list[str]:
    """Return the cells of a row: what stands, two blanks apart from all else, above or below each name."""
    cells = [""] * len(names)
    for piece in re.finditer(r"\S+(?: \S+)*", row):
        cells[max(range(len(names)), key=lambda at: overlap(piece, names[at]))] = piece[0]
    return cells


def overlap(one: re.Match[str], other: re.Match[str]) -> int:
    """Return by how many characters two pieces of two lines stand above each other; less than none is a gap."""
    return min(one.end(), other.end()) - max(one.start(), other.start())


def breakable(cell: str) -> str:
    """Return a cell that may break behind the dots of a path, and nowhere if it is a number."""
    if NUMBER.fullmatch(cell):
        return f'<code class="number">{cell}</code>'
    return f"<code>{html.escape(cell).replace('.', '.<wbr>')}</code>" if cell else ""
