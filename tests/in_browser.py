"""The built pages, gone through in headless Chromium: `nox -s site` builds them and runs this.

Every page is opened on a wide screen and on a phone's; nothing may fail to load, log an error, come from another
machine or stick out at the side. `SITE` is the folder of the pages, `CHROMIUM` the browser.
"""

import functools
import http.server
import os
import re
import threading
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page.stem for page in DOCS.glob("*.md"))
WIDTHS = {"wide": (1280, 800), "phone": (390, 844)}
PATIENCE = 120_000
"""Milliseconds until what does not come is an error; the reference takes half a minute on a machine with other work."""
SIZES = WIDTHS | {"desk": (1400, 1000)}

SEARCHES = {
    "orthogonal": "orthogonal/",
    "freeze": "recipes/",
    "checkpoint": "recipes/",
    "ViT": "recipes/",
    "MoE": "recipes/",
    "mixture of experts": "recipes/",
    "weight decay": "optimizer/",
    "LoRA": "recipes/",
    "muP": "width/",
    "eqx.partition": "optimizer/",
    "Haar": "glossary/",
    "ix.labels": "optimizer/",
    "trunc_normal_": "coming_from/",
    "register_layer": "api/",
    "kaiming_uniform": "coming_from/",
    "last rule wins": "rules/",
    "fan_out of groups": "axes/",
}
"""What one may look for → a page that has to be among the results."""

STICKS_OUT = """() => {
    const scrolls = e => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    return [...document.querySelectorAll('.md-content *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
        .map(e => e.outerHTML.slice(0, 120));
}"""
"""Elements of the text beyond the right edge that stand in no box that scrolls."""

PICTURES = """() => [...document.images].filter(e => e.checkVisibility()).map(e => [
    new URL(e.src).pathname.split('/').pop(),
    e.complete && e.naturalWidth > 100 && e.getBoundingClientRect().width > 100
])"""
"""File names of the pictures in sight, and whether each has come."""


ENTRIES = """() => Object.fromEntries([...document.querySelectorAll('.doc-object > .doc-heading')].map(heading => [
    heading.id,
    [...heading.parentElement.querySelectorAll('.doc-contents p:not(.doc-class-bases)')]
        .some(e => e.innerText.length > 20)
]))"""
"""Ids of the headings of the reference, and whether words stand below each."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """Where the pages are served, on this machine alone."""
    handler = functools.partial(Quiet, directory=os.environ["SITE"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, address, request):
    """A new tab of a stated width; whatever went wrong in it by the end of the test fails the test."""
    width, height = SIZES[getattr(request, "param", "wide")]
    wrong = []
    context = browser.new_context(viewport={"width": width, "height": height}, base_url=address)
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    tab.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}"))
    tab.on("response", lambda response: response.status >= 400 and wrong.append(f"{response.url}: {response.status}"))
    tab.on(
        "request",
        lambda request: (
            request.url.startswith(("http:", "https:", "ws"))
            and not request.url.startswith(address)
            and wrong.append(f"{request.url}: from another machine")
        ),
    )
    yield tab
    context.close()
    assert wrong == []


def open_page(tab, page):
    """Open a page and wait for all of it: on a busy machine the network is idle before a long page is parsed."""
    tab.goto("" if page == "index" else f"{page}/", wait_until="load")
    tab.wait_for_load_state("networkidle")


@pytest.mark.parametrize("tab", WIDTHS, indirect=True)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_and_fits(tab, page):
    """One heading, a title, every picture shown, text in a size to read, notes smaller, nothing to push aside."""
    open_page(tab, page)
    assert tab.locator("h1").count() == 1
    assert "initax" in tab.title()
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.evaluate("innerWidth")
    assert tab.evaluate(STICKS_OUT) == []
    sizes = "all => Math.min(...all.map(e => parseFloat(getComputedStyle(e).fontSize)))"
    assert tab.eval_on_selector_all(".md-content__inner > p", sizes) >= 16
    assert tab.eval_on_selector_all(".md-content p", sizes) >= 12
    assert [name for name, shown in tab.evaluate(PICTURES) if not shown] == []


@pytest.mark.parametrize("tab", ["desk", "phone"], indirect=True)
@pytest.mark.parametrize("page", ["index", "rules", "plan", "how-it-works", "axes", "width", "depth"])
def test_printed_tables_are_seen_whole(tab, page):
    """On a desk as printed, on a phone with fewer columns; one of the two is shown."""
    open_page(tab, page)
    assert tab.locator(".printed-wide").count() == tab.locator(".printed-narrow").count() > 0
    shown = "all => all.filter(e => e.checkVisibility())"
    cut_off = f"all => ({shown})(all).filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 80))"
    assert tab.eval_on_selector_all(".printed-wide code, .printed-narrow, .printed-narrow *", cut_off) == []
    narrow = tab.eval_on_selector_all(".printed-narrow", f"all => ({shown})(all).length")
    wide = tab.eval_on_selector_all(".printed-wide", f"all => ({shown})(all).length")
    assert (narrow == 0) != (wide == 0)


@pytest.mark.parametrize("tab", ["desk"], indirect=True)
@pytest.mark.parametrize("page", PAGES)
def test_nothing_has_to_be_pushed_aside_on_a_desk(tab, page):
    """Not a table, not a line of code."""
    open_page(tab, page)
    cut_off = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 80))"
    boxes = ".md-content .highlight code, .md-content .md-typeset__scrollwrap, .md-content table"
    assert tab.eval_on_selector_all(boxes, f"all => ({cut_off})(all.filter(e => e.checkVisibility()))") == []


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_the_gallery_shows_every_picture_on_either_ground(tab, ground):
    named = set(re.findall(rf"pictures/(\w+-{ground}\.svg)", (DOCS / "gallery.md").read_text("utf-8")))
    tab.emulate_media(color_scheme=ground)
    open_page(tab, "gallery")
    assert dict(tab.evaluate(PICTURES)) == dict.fromkeys(named, True)
    assert len(named) >= 5


@pytest.mark.parametrize("tab", WIDTHS, indirect=True)
@pytest.mark.parametrize("query", SEARCHES)
def test_search_finds(tab, query):
    """A result leads to its page; on a phone the search opens behind its button."""
    open_page(tab, "index")
    if not tab.locator(".md-search__form").is_visible():
        tab.locator(".md-header__button[for=__search]").click()
    tab.get_by_role("textbox", name="Search").press_sequentially(query)
    result = tab.locator(f".md-search-result__link[href*='/{SEARCHES[query]}']").first
    result.wait_for(timeout=PATIENCE)
    result.click()
    tab.wait_for_url(f"**/{SEARCHES[query]}**")
    assert tab.locator("h1").is_visible()


def test_search_finds_nothing_where_nothing_is(tab):
    open_page(tab, "index")
    tab.get_by_role("textbox", name="Search").press_sequentially("qqzzxx")
    tab.get_by_text("No matching documents").wait_for(timeout=PATIENCE)


@pytest.mark.parametrize("tab", ["phone"], indirect=True)
def test_a_phone_reaches_every_page(tab):
    """The menu behind the button lists all pages of the site."""
    open_page(tab, "index")
    tab.locator(".md-header__button[for=__drawer]").click()
    tab.locator(".md-nav--primary").first.wait_for()
    links = tab.locator(".md-nav--primary a.md-nav__link").evaluate_all("all => all.map(e => e.pathname)")
    assert {f"/{page}/" for page in PAGES if page != "index"} | {"/"} <= set(links)


def test_the_reference_has_an_entry_with_a_text_for_every_public_name(tab):
    """Each name has one heading, and a sentence below it."""
    open_page(tab, "api")
    names = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    entries = tab.evaluate(ENTRIES)
    assert [name for name in names if not entries.get(name)] == []


@pytest.mark.parametrize("tab", ["desk", "phone"], indirect=True)
def test_signatures_of_the_reference_are_seen_whole(tab):
    open_page(tab, "api")
    cut_off = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 80))"
    assert tab.locator(".doc-signature code").count() > 80
    assert tab.eval_on_selector_all(".doc-signature code", cut_off) == []


def test_the_contents_of_the_reference_have_no_dunders(tab):
    open_page(tab, "api")
    names = tab.locator(".md-nav a.md-nav__link").evaluate_all("all => all.map(e => e.textContent.trim())")
    assert {"reinit", "SignalReport"} <= set(names)
    assert [name for name in names if "__" in name] == []


def test_what_a_function_returns_is_one_entry(tab):
    """A text of several lines is not taken apart into several values."""
    open_page(tab, "api")
    lists = "all.filter(e => /^Returns/.test(e.innerText)).map(e => e.closest('p').nextElementSibling)"
    items = f"all => {lists}.map(e => e.children.length)"
    counts = tab.eval_on_selector_all(".doc-section-title", items)
    assert len(counts) > 15
    assert set(counts) == {1}


def test_schemes_return_schemes(tab):
    """Not what their functions make them of."""
    open_page(tab, "api")
    signature = tab.locator("[id='initax.schemes.he_normal'] ~ .doc-signature").first.inner_text()
    assert signature.strip().endswith("-> Scheme")


def test_code_can_be_copied(tab):
    open_page(tab, "index")
    assert tab.locator(".highlight button[title='Copy to clipboard'], .highlight .md-clipboard").count() >= 2
