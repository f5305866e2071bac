"""Every code block of the README and the pages runs, prints what the page shows, and everything public has an entry.

After a change of a printed table, `python -m tests.test_docs` writes the new outputs into the pages;
`python -m tests.test_docs README.md docs/plan.md` into these alone.
"""

import ast
import contextlib
import importlib
import io
import re
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

import initax as ix
from initax._adapters._equinox import LAYERS
from initax._adapters._linen import LAYERS as LINEN
from initax._adapters._nnx import LAYERS as NNX
from initax._model._parameter import ROLES
from initax._planning._plan_text import COLUMNS
from tests.test_examples import LEFT

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [page for page in PAGES if "```python" in page.read_text("utf-8")]
COMMANDS = ("pip install nox && nox -s demo", "pip install nox && nox -s test")

BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*```text\n(?P<shown>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"# → (?P<value>.+)$")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of code; `shown` is the output the page prints below it, `at` where that stands in the page."""

    line: int
    code: str
    shown: str | None
    at: tuple[int, int]


def blocks_of(text: str) -> list[Block]:
    return [
        Block(
            line=text.count("\n", 0, found.start("code")),
            code=found["code"],
            shown=found["shown"],
            at=found.span("shown"),
        )
        for found in BLOCK.finditer(text)
    ]


def run(block: Block, namespace: dict[str, object], page: str) -> str:
    """Run a block, hold the value of each `expression  # → value` against the page, return what was printed."""
    lines = block.code.splitlines()
    tree = ast.increment_lineno(ast.parse(block.code), block.line)
    printed = io.StringIO()
    arrows = sum("# → " in line for line in lines)
    with contextlib.redirect_stdout(printed):
        for node in tree.body:
            arrow = ARROW.search(lines[node.end_lineno - block.line - 1])
            if arrow and isinstance(node, ast.Expr):
                arrows -= 1
                value = eval(compile(ast.Expression(node.value), page, "eval"), namespace)
                assert repr(value) == arrow["value"], f"{page}, line {node.end_lineno}: {value!r}"
            else:
                exec(compile(ast.Module([node], []), page, "exec"), namespace)
    assert arrows == 0, f"{page}, line {block.line}: an arrow stands behind something that is no expression"
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """A page's own module, in a directory of its own."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    monkeypatch.chdir(tmp_path)
    return module.__dict__


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
@pytest.mark.slow(one_in=6)
def test_code_on_a_page_runs_and_prints_what_the_page_shows(page: Path, namespace: dict[str, object]) -> None:
    text = page.read_text("utf-8")
    blocks = blocks_of(text)
    assert len(blocks) == len(re.findall(r"```py", text)), "a block of code is indented, or has options"
    for block in blocks:
        assert run(block, namespace, name_of(page)) == (block.shown or ""), f"{name_of(page)}, line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        made = target.replace("pictures/", "gallery-output/") in LEFT["gallery"]
        assert "://" in target or made or (page.parent / target).exists(), target


def test_the_first_page_leads_to_every_other() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs/index.md").read_text("utf-8")))
    assert linked == {page.name for page in PAGES if page.parent == ROOT / "docs"} - {"index.md"}


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", (ROOT / "README.md").read_text("utf-8")))
    assert linked == {page.name for page in PAGES if page.parent == ROOT / "docs"} - {"index.md"}


@pytest.mark.parametrize("page", [ROOT / "docs/how-it-works.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """From the root of the repository or of the package."""
    named = re.findall(r"`(?:src/initax/)?(\w+/\w+\.py)`", page.read_text("utf-8"))
    assert named
    folders = (ROOT, ROOT / "src/initax")
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


def test_the_glossary_has_each_word_once_and_all_roles_and_evidence() -> None:
    page = (ROOT / "docs/glossary.md").read_text("utf-8")
    words = re.findall(r"^\| (\*\*.+?) \| ", page, re.MULTILINE)
    assert len(set(words)) == len(words) > 50
    roles = next(line for line in page.splitlines() if line.startswith("| **role**"))
    evidence = next(line for line in page.splitlines() if line.startswith("| **evidence**"))
    assert all(f"`{role}`" in roles for role in ROLES)
    assert ", ".join([str(each) for each in ix.Evidence][:-1]) in evidence


def test_the_gallery_shows_every_picture_that_is_made() -> None:
    """On light and on dark pages; the pages are built with them, and hold none of their own."""
    shown = re.findall(r"\(pictures/(\w+)-(\w+)\.svg#only-(\w+)\)", (ROOT / "docs/gallery.md").read_text("utf-8"))
    assert all(ground == only for _, ground, only in shown)
    assert {f"gallery-output/{name}-{ground}.svg" for name, ground, _ in shown} == LEFT["gallery"]


def public(module: types.ModuleType) -> set[str]:
    return {f"{module.__name__}.{name}" for name in dir(module) if not name.startswith("_")}


def test_every_public_name_has_an_entry() -> None:
    """The reference lists exactly what `initax`, `initax.schemes` and `initax.convex` export."""
    listed = set(re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE))
    convex = public(ix.convex) - {"initax.convex.nnx"}
    networks = {f"initax.convex.nnx.{name}" for name in ("FICNN", "PICNN")}
    exported = (public(ix) - {"initax.schemes", "initax.convex"}) | public(ix.schemes) | convex | networks
    assert not (missing := exported - listed), f"add to docs/api.md: {[f'::: {name}' for name in sorted(missing)]}"
    assert not (gone := listed - exported), f"nobody exports them, take them off docs/api.md: {sorted(gone)}"


@pytest.mark.parametrize("name", get_args(ix.schemes.SchemeName))
def test_every_scheme_is_in_the_table_of_schemes(name: str) -> None:
    rows = [row for row in (ROOT / "docs/schemes.md").read_text("utf-8").splitlines() if row.startswith("|")]
    assert any(f"`{name}`" in row.split("|")[1] for row in rows), f"add a row to a table of docs/schemes.md: `{name}`"


@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
def test_every_layer_is_in_the_table_of_layers(cls: type) -> None:
    rows = (ROOT / "docs/layers.md").read_text("utf-8").splitlines()
    starts = f"| `{cls.__name__}"
    assert any(row.startswith(starts) for row in rows), f"add a row to docs/layers.md that starts with {starts}"


@pytest.mark.parametrize("cls", [*NNX, *LINEN], ids=lambda cls: f"{cls.__module__.split('.')[1]}-{cls.__name__}")
def test_every_layer_of_flax_is_in_its_table(cls: type) -> None:
    column = 1 if cls in NNX else 2
    rows = [row.split("|") for row in (ROOT / "docs/flax.md").read_text("utf-8").splitlines() if row.startswith("|")]
    same = any("the same" in row[2] and f"`{cls.__name__}`" in row[1] for row in rows)
    assert same or any(f"`{cls.__name__}`" in row[column] for row in rows)


def test_every_column_of_a_plan_is_in_the_table_of_columns() -> None:
    table = (ROOT / "docs/plan.md").read_text("utf-8").partition("## Reading it")[2].partition("Below stands")[0]
    named = {
        name.strip() for line in table.splitlines() if line.startswith("|") for name in line.split("|")[1].split(",")
    }
    missing = set(COLUMNS) - named
    assert not missing, f'add to the table of "Reading it" in docs/plan.md: {sorted(missing)}'


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_shows_how_to_set_up(command: str) -> None:
    assert command in (ROOT / "README.md").read_text("utf-8").splitlines()


def write_outputs(*names: str) -> None:
    """Write what each block prints into the pages of these names, or into all."""
    importlib.import_module("tests.conftest")  # the same devices as in the tests
    for page in [page for page in WITH_CODE if not names or name_of(page) in names]:
        text = page.read_text("utf-8")
        module = sys.modules["page"] = types.ModuleType("page")
        with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
            outputs = [(block, run(block, module.__dict__, name_of(page))) for block in blocks_of(text)]
        for block, printed in reversed(outputs):
            if block.shown is not None:
                start, end = block.at
                text = text[:start] + printed + text[end:]
        page.write_text(text, "utf-8")


if __name__ == "__main__":
    write_outputs(*sys.argv[1:])
