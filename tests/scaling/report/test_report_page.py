"""The report in a real browser: headless Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from in_process import run_script
from workshop_clones import write_workshop

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A Chromium: $CHROMIUM, or the first of NAMES. Without one: skipped, but in CI a failure."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("no Chromium here; install the package chromium-headless-shell or chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # Chromium refuses its sandbox to root; the page is our own, and opens no connection.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


class Visit:
    """An open page and all that it complained of or asked for."""

    def __init__(self, browser, path: Path, viewport: dict, **options: object):
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.context.close()

    def open_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_no_complaint_no_connection_no_overflow(browser, report, viewport, scheme):
    with Visit(browser, report, viewport, color_scheme=scheme) as visit:
        visit.open_all()
        wide = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
        assert max(visit.page.evaluate(wide)) <= viewport["width"]
        assert visit.complaints == []
        assert [url for url in visit.requests if not url.startswith("data:")] == [report.as_uri()]


def test_nothing_hostile_ran_and_the_policy_would_stop_it(browser, report):
    with Visit(browser, report, DESK) as visit:
        visit.open_all()
        visit.page.mouse.move(400, 400)
        assert visit.page.evaluate("window.hacked") is None
        assert "<script>window.hacked=1</script>" in visit.page.inner_text("body")
        # Even markup that got through could not act: the page's policy has one script's hash.
        visit.page.evaluate("""() => {
            const made = document.createElement('div');
            made.innerHTML = '<img src=x onerror="window.hacked=1">';
            document.body.append(made, Object.assign(
                document.createElement('script'), {textContent: 'window.hacked=1'}));
        }""")
        visit.page.wait_for_timeout(200)
        assert visit.page.evaluate("window.hacked") is None
        assert any("Content Security Policy" in complaint for complaint in visit.complaints)


def test_keyboard_reaches_the_verdict_and_opens_a_run(browser, report):
    with Visit(browser, report, DESK) as visit:
        page = visit.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#verdict"
        summary = page.locator("details.run summary").first
        summary.focus()
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) != "none"
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector('details.run').open") is True
        page.keyboard.press("Tab")
        inside = "document.querySelector('details.run').contains(document.activeElement)"
        assert page.evaluate(inside) is True


def test_boxes_that_scroll_can_be_reached_by_keyboard(browser, report):
    with Visit(browser, report, PHONE) as visit:
        visit.open_all()
        lost = visit.page.evaluate("""() => [...document.querySelectorAll('*')].filter(e =>
            e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && e.tabIndex < 0
            && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).map(e => e.outerHTML)""")
        assert lost == []


def test_filter_buttons_and_links_into_a_run(browser, report):
    with Visit(browser, report, DESK) as visit:
        page = visit.page
        runs = page.locator("details.run")
        total = runs.count()
        page.fill("#filter", "out of memory")
        assert page.locator("details.run:visible").count() == 1
        page.fill("#filter", "")
        page.click("#open-all")
        assert page.locator("details.run[open]").count() == total == 12
        page.click("#close-all")
        assert page.locator("details.run[open]").count() == 0
        page.evaluate("location.hash = '#run-3'")
        page.wait_for_function("document.getElementById('run-3').open")


def test_page_works_without_its_script(browser, report):
    with Visit(browser, report, DESK, java_script_enabled=False) as visit:
        visit.page.locator("details.run summary").first.click()
        assert visit.page.locator("details.run").first.get_attribute("open") is not None


def test_every_picture_has_a_name_and_every_heading_its_level(browser, report):
    with Visit(browser, report, DESK) as visit:
        visit.open_all()
        nameless = "[...document.querySelectorAll('svg,img')].filter(e => !e.ariaLabel).length"
        assert visit.page.evaluate(nameless) == 0
        levels = visit.page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])"
        )
        steps = [after - before for before, after in pairwise(levels)]
        assert levels[0] == 1 and max(steps) <= 1


def test_texts_have_contrast_in_light_and_dark(browser, report):
    """WCAG's contrast of the page's colours: 4.5 for text, 3 for lines of charts."""
    for scheme in ("light", "dark"):
        with Visit(browser, report, DESK, color_scheme=scheme) as visit:
            names = ["page", "panel", "text", "muted", "link", "good", "fair", "poor"]
            names += [f"c{n}" for n in range(8)]
            colors = visit.page.evaluate(
                "names => Object.fromEntries(names.map(n => [n, "
                "getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim()]))",
                names,
            )
        for name in names[2:]:
            least = 3.0 if name.startswith("c") else 4.5
            for ground in ("page", "panel"):
                found = contrast(colors[name], colors[ground])
                assert found >= least, f"{scheme}: {name} on {ground} is {found:.2f}"


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_print_shows_open_runs_on_white(browser, report):
    with Visit(browser, report, DESK, color_scheme="dark") as visit:
        visit.page.evaluate("document.querySelector('details.run').open = true")
        visit.page.emulate_media(media="print")
        shown = visit.page.locator("details.run:visible").count()
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (shown, ground) == (1, "rgb(255, 255, 255)")
        pdf = visit.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF") and len(pdf) > 50_000


def test_reload_keeps_what_was_open(browser, report, tmp_path):
    path = tmp_path / "watched.html"
    # What --watch adds to the page: tests/scaling/report/test_report.py sees that it does.
    head, rest = report.read_text(encoding="utf-8").split("<title>")
    reload = '<meta http-equiv="refresh" content="60">'
    path.write_text(f"{head}{reload}\n<title>{rest}", encoding="utf-8")
    with Visit(browser, path, DESK) as visit:
        visit.page.locator("details.run summary").nth(2).click()
        visit.page.reload()
        opened = "[...document.querySelectorAll('details.run')].map(d => d.open).indexOf(true)"
        assert visit.page.evaluate(opened) == 2
        assert visit.complaints == []


@pytest.mark.parametrize("kind", ["participants", "proposal"])
def test_the_further_pages_fit_a_phone_and_ask_for_nothing(browser, tmp_path, kind):
    runs, page = write_workshop(tmp_path / "runs", 3, ((1, 1), (1, 2))), tmp_path / "page.html"
    what = ["--participants", runs] if kind == "participants" else [runs, "--proposal"]
    assert run_script("scripts/report.py", *what, "-o", page).returncode == 0
    with Visit(browser, page, PHONE, color_scheme="dark") as visit:
        visit.open_all()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert visit.complaints == []
        assert [url for url in visit.requests if not url.startswith("data:")] == [page.as_uri()]
        assert visit.page.locator("figure svg").count() >= 2
