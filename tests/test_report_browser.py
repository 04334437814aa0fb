"""The page in a real browser: nothing in the console, nothing asked of the network, all text readable, all tables whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import browser, executable
from reported import make_study
from test_report_studies import one_evaluation_a_run, search_report

from isolora.report import report, write_page
from isolora.table import from_columns

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

CHECKS = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")


def check(tab, name):
    """The answer of one of the functions of page_checks.js."""
    return tab.value(f"(() => {{ {CHECKS} return {name}(); }})()")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A study with its verification, a comparison of methods, and a search."""
    folder = tmp_path_factory.mktemp("pages")
    methods = from_columns(one_evaluation_a_run(), {})
    return {
        "study": write_page(folder / "study.html", make_study()),
        "methods": report(folder / "methods.csv", methods, out=folder / "methods.html"),
        "search": write_page(folder / "search.html", search_report(False)),
    }


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["wide and light", "narrow and dark"])
@pytest.mark.parametrize("kind", ["study", "methods", "search"])
def test_quiet_alone_readable_and_whole(tab, pages, kind, width, dark):
    """Every figure is drawn, the console stays empty, only the file itself is asked for; no text is pale, cut or written over."""
    tab.requests.clear()
    tab.problems.clear()
    tab.open(pages[kind], width, dark)
    assert tab.value("[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('svg.main-svg'))")
    contrasts = check(tab, "contrasts")
    assert len(contrasts) > 100
    assert contrasts[0][0] >= 4.5, contrasts[:10]
    assert tab.value("document.documentElement.scrollWidth") == width
    assert check(tab, "outside") == []
    assert check(tab, "overlaps") == []
    if kind == "study":
        steered = "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector('.steer > .scroll'))"
        assert tab.value(steered) <= 0, "the choices of a budget fit a phone"
    whole = "[...document.querySelectorAll('table')].every((table) => getComputedStyle(table.parentElement).overflowX === 'auto')"
    assert tab.value(whole)
    assert tab.problems == []
    assert [each for each in tab.requests if not each.startswith("data:")] == [pages[kind].resolve().as_uri()]


ATTACKS = (
    "<img src=x onerror='window.struck=1'>",
    "</script><script>window.struck=1</script>",
    "<a href='javascript:window.struck=1'>here</a>",
    "javascript:window.struck=1",
    "<svg onload='window.struck=1'><set attributeName=x onbegin='window.struck=1'/></svg>",
    "\" onmouseover='window.struck=1' x=\"",
    "%{x}{{constructor.constructor('window.struck=1')()}}",
    "<iframe srcdoc='<script>parent.struck=1</script>'></iframe>",
)


@pytest.fixture(scope="module")
def strangers_page(tmp_path_factory):
    """A table of a stranger, in which every text that reaches the page tries to run something; and the file's own name."""
    folder = tmp_path_factory.mktemp("stranger")
    rows = one_evaluation_a_run()
    count = len(rows["loss"])
    for name in ("run", "model", "method", "stage", "state", "task"):
        given = rows.get(name, [name] * count)
        rows[name] = [f"{ATTACKS[hash_of(value) % len(ATTACKS)]}{value}" for value in given]
    rows |= {attack: [float(number) for number in range(count)] for attack in ATTACKS}
    return report(folder / "<img src=x onerror=window.struck=1>.csv", from_columns(rows, {}), out=folder / "page.html")


def hash_of(value):
    """A number that is the same in every process."""
    return sum(map(ord, str(value)))


USED = """(async () => {
  for (const plot of document.querySelectorAll(".plot")) {
    if (!plot.data) continue;
    plot.data.forEach((trace, curve) => { try { Plotly.Fx.hover(plot, [{curveNumber: curve, pointNumber: 0}]); } catch {} });
    for (const text of plot.querySelectorAll("text, path, rect"))
      for (const kind of ["mouseover", "mousemove", "mousedown", "mouseup", "click"])
        text.dispatchEvent(new MouseEvent(kind, {bubbles: true, clientX: 9, clientY: 9}));
  }
  for (const each of document.querySelectorAll("button, summary, th, td, a[href^='#'], input, select"))
    for (const kind of ["mouseover", "focus", "click"]) each.dispatchEvent(new MouseEvent(kind, {bubbles: true}));
  await new Promise((done) => setTimeout(done, 300));
  return document.querySelectorAll(".plot").length;
})()"""


def test_a_strangers_text_is_inert(tab, strangers_page):
    """Hovered and clicked wherever one can: nothing runs, nothing is asked of the network, no link leads to a script."""
    tab.requests.clear()
    tab.problems.clear()
    tab.open(strangers_page)
    assert tab.value(USED) > 0
    assert "onerror" in tab.value("document.body.textContent")
    assert tab.value("window.struck") is None
    assert (
        tab.value("document.querySelectorAll('a[href^=\"javascript\" i], main iframe, main img, [onerror], [onload]').length")
        == 0
    )
    assert [each for each in tab.requests if not each.startswith(("data:", "file:"))] == []
    assert tab.problems == []


def test_the_toggle_turns_the_figures_too(tab, pages):
    tab.open(pages["study"])
    ink = "getComputedStyle(document.querySelector('.legendtext')).fill"
    before = tab.value(ink)
    tab.value("document.getElementById('theme').click()")
    tab.wait("document.documentElement.dataset.painted === 'dark'")
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 31)"
    assert tab.value(ink) != before
    assert tab.value("document.getElementById('theme').getAttribute('aria-pressed')") == "true"


def test_the_keyboard_reaches_what_can_be_used(tab, pages):
    tab.open(pages["study"])
    tab.press("Tab")
    assert tab.value("document.activeElement.className") == "skip"
    tab.press("Tab")
    assert tab.value("document.activeElement.id") == "theme"
    assert tab.value("[...document.querySelectorAll('.scroll')].every((each) => each.tabIndex === 0 && each.ariaLabel)")
    assert tab.value("[...document.querySelectorAll('figure')].every((each) => each.querySelector('figcaption').textContent)")
    assert tab.value("[...document.querySelectorAll('table')].every((each) => each.caption.textContent)")


def test_a_heading_sorts(tab, pages):
    tab.open(pages["study"])
    losses = (
        "[...document.querySelectorAll('#runs tbody tr')].map((row) => row.cells[10].dataset.value).filter(Boolean).map(Number)"
    )
    tab.value("document.querySelectorAll('#runs th button')[10].click()")
    found = tab.value(losses)
    assert found == sorted(found)
    tab.value("document.querySelectorAll('#runs th button')[10].click()")
    assert tab.value(losses) == sorted(found, reverse=True)


def test_paper_is_light(tab, pages):
    tab.open(pages["study"], dark=True, media="print")
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.value("getComputedStyle(document.querySelector('.scroll.tall')).maxHeight") == "none"
