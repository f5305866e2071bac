"""The part of a page of the documentation that a script writes: what stands between two comments."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
END = "<!-- end -->"


def write(page: str, script: str, made: str) -> None:
    """Put what a script made in the place of what it made before.

    Args:
        page: name of the page, `"calibration"`.
        script: name of the script, `"auto"`.
        made: the text.
    """
    path, start = DOCS / f"{page}.md", f"<!-- written by benchmarks.{script} -->"
    before, rest = path.read_text(encoding="utf-8").split(start)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{start}\n\n{made}\n\n{END}{after}", encoding="utf-8")
