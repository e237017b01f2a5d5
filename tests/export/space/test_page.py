"""A Space in a browser: started as its README says, used as a person does."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from PIL import Image

from medmerge_hf.export.space.write import make_space


pytestmark = pytest.mark.slow

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

if not CHROMIUM:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)

WAITING = "Choose a file, or one of the examples."


@pytest.fixture(scope="module")
def space(exports, tmp_path_factory):
    """With one example."""
    folder = tmp_path_factory.mktemp("running")
    Image.new("RGB", (40, 40), "teal").save(folder / "teal.png")
    make_space(str(exports / "resnet"), folder / "space", [folder / "teal.png"])
    return folder / "space"


@pytest.fixture(scope="module")
def address(space):
    """Where the Space runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = space.parent / "log"
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    words = [sys.executable, space / "app.py"]
    with log.open("w") as stream:
        app = subprocess.Popen(words, env=environment, cwd=space.parent, stdout=stream, stderr=stream)
    try:
        wait_for(f"http://127.0.0.1:{port}", app, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        app.terminate()
        app.wait()
    assert "Traceback" not in log.read_text()


def wait_for(url, process, log):
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.locator("#answer[aria-live]").get_by_text(WAITING).wait_for()
    yield page
    page.close()


def upload(page, file):
    page.set_input_files("input[type=file]", file)


def answered(page):
    page.locator("#answer").get_by_text("This is no diagnosis").wait_for()
    page.get_by_text("shows where the network looked").wait_for()


def rows(page):
    """Of the probabilities, a class each."""
    return page.locator("[data-testid$=-confidence-set]")


def shown(page):
    """Name of a class -> per cent, as it stands on the page."""
    playwright.expect(rows(page)).to_have_count(3)
    return {name: int(share.rstrip("%")) for name, share in map(str.split, rows(page).all_inner_texts())}


def tab_to(page, name, limit=20):
    """Press Tab until something of this name has the focus."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        found = page.evaluate("[document.activeElement.ariaLabel, document.activeElement.innerText].join(' ')")
        if name in found:
            return
    raise AssertionError(f"{name} is out of reach of the keyboard")


def test_an_image_is_answered_with_probabilities_a_heat_map_and_the_card(page, space, load, photograph):
    upload(page, photograph)
    answered(page)
    classifier = load(space)
    expected = classifier(classifier.read(photograph)).probabilities
    assert shown(page) == {name: round(100 * value) for name, value in expected.items()}
    best = max(expected, key=expected.get)
    playwright.expect(page.get_by_alt_text("What the network saw")).to_be_visible()
    playwright.expect(page.get_by_alt_text(f"Heat map of {best}")).to_be_visible()
    playwright.expect(page.locator("#card").get_by_text("merged from 2 pretrained")).to_be_visible()
    picture = page.get_by_alt_text("Kernel weights by layer")
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 100


def test_dicom_is_answered_too(page, tmp_path):
    from dicom_files import write_dicom

    upload(page, write_dicom(tmp_path / "scan", WindowCenter=1000, WindowWidth=2000))
    page.locator("#answer").get_by_text("This is no diagnosis").wait_for()
    assert sum(shown(page).values()) in (99, 100, 101)


def test_the_keyboard_is_enough(page, photograph):
    page.on("filechooser", lambda chooser: None)  # Chromium is told of it some time before it is expected
    tab_to(page, "Click to Upload")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(photograph)
    answered(page)
    playwright.expect(rows(page)).to_have_count(3)
    first = rows(page).all_inner_texts()
    tab_to(page, "Example 1")
    page.keyboard.press("Enter")
    page.get_by_label("1.png").wait_for()
    playwright.expect(rows(page)).not_to_have_text(first)
    answered(page)
    tab_to(page, "Heat map for")
    page.keyboard.press("Control+A")
    page.keyboard.type("malig")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_label("Heat map for")).to_have_value("malignant")
    page.locator(".prose", has_text=re.compile("raises? (the score of )?malignant")).last.wait_for()


def test_a_broken_file_is_told_in_a_sentence_and_the_next_is_answered(page, photograph, tmp_path):
    upload(page, photograph)
    answered(page)
    page.get_by_label("Clear").first.click()
    page.get_by_text(WAITING).wait_for()
    (tmp_path / "broken.png").write_bytes(photograph.read_bytes()[:300])
    upload(page, tmp_path / "broken.png")
    page.locator("#answer").get_by_text("Nothing was classified. broken.png cannot be read").wait_for()
    playwright.expect(rows(page)).to_have_count(0)
    assert "Traceback" not in page.content()
    assert "/gradio/" not in page.locator("#answer").inner_text()
    page.get_by_label("Clear").first.click()
    upload(page, photograph)
    answered(page)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_and_is_accessible(browser, address, photograph, width, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(f"{address}/?__theme={theme}")
    page.locator("#answer[aria-live]").wait_for()
    found = axe.run(page).response["violations"]
    upload(page, photograph)
    answered(page)
    found += axe.run(page).response["violations"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
