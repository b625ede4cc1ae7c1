"""The studio in a real browser: Debian's Chromium, without a window."""

import base64
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from browser import WIDE, chromium, opened  # noqa: F401
from overtone import load_pipeline
from pipeline_kinds import kinds_of_pipelines
from served import served
from test_studio import a_relay, an_operator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROOT = Path(__file__).parent.parent
NARROW = (390, 844)
WAIT = 60
FIELDS = "input, textarea"
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The script of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("npm is not here, from which axe-core comes")
    packed = subprocess.run(
        ["npm", "pack", "-s", "axe-core@4"], cwd=folder, check=False, capture_output=True
    )
    if packed.returncode:
        pytest.skip("the npm registry is out of reach")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    torch.manual_seed(0)
    kinds = kinds_of_pipelines()
    pipes = {
        "digits": kinds["EDM"],
        "experts": kinds["experts"],
        "relay": a_relay(),
        "operator": an_operator(),
    }
    with served(tmp_path_factory.mktemp("studio"), pipes, ["--limit.loaded", "4"]) as (_, address):
        yield address


class Page:
    """The studio in a browser, as somebody uses it."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.until(lambda: self.button("Make images"))

    def until(self, found):
        """What is found at last; a part that the page replaces meanwhile is looked for again."""
        replaced = (StaleElementReferenceException,)
        wait = WebDriverWait(self.browser, WAIT, 0.1, ignored_exceptions=replaced)
        return wait.until(lambda _: found())

    def all(self, css):
        return [part for part in self.browser.find_elements(By.CSS_SELECTOR, css)
                if part.is_displayed()]  # fmt: skip

    def button(self, words):
        """A button that begins with these words: headings that open have an arrow behind theirs."""
        css = "button:not([role=tab]):not([tabindex='-1'])"
        parts = [part for part in self.all(css) if part.text.strip().startswith(words)]
        return parts[0] if parts else None

    def press(self, words):
        button = self.until(lambda: self.button(words))
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def tab(self, words):
        """Choose a tab; on a narrow screen some are behind a button."""

        def tabs(css):
            return [part for part in self.all(css) if part.text.strip() == words]

        if not tabs("button[role=tab]"):
            self.all(".overflow-menu > button")[0].click()
        self.until(lambda: tabs("button[role=tab], .overflow-dropdown button"))[-1].click()

    def upload(self, file):
        """Give a file to the place for one that is on the page now."""
        panel = "./ancestor::*[@role='tabpanel'][1]"
        places = self.browser.find_elements(By.CSS_SELECTOR, "input[type=file]")
        shown = [place for place in places if place.find_element(By.XPATH, panel).is_displayed()]
        shown[-1].send_keys(str(file))
        time.sleep(1)

    def said(self, name):
        return self.browser.find_element(By.ID, name).text

    def field(self, words):
        """The visible input with a label."""
        for label in self.all("label"):
            if words in label.text and (inputs := label.find_elements(By.CSS_SELECTOR, FIELDS)):
                return inputs[0]
        return None

    def fill(self, words, value):
        field = self.until(lambda: self.field(words))
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(str(value), Keys.TAB)

    def picture(self):
        """The bytes of the picture that is shown, once it has arrived."""

        def loaded():
            for part in self.all("img.shown"):
                if self.browser.execute_script("return arguments[0].naturalWidth", part):
                    return part.get_attribute("src")
            return None

        return httpx.get(self.until(loaded)).content

    def choose(self, label, words):
        """Choose the model whose name ends so in the list with a label."""
        self.until(lambda: self.all(f"input[aria-label='{label}']"))[0].click()

        def clicked():
            fit = [part for part in self.all("[role=option]") if part.text.strip().endswith(words)]
            return fit and fit[0].click() is None

        self.until(clicked)
        self.until(lambda: not self.all("[role=option]"))
        time.sleep(0.5)

    def keep(self, name):
        """Write a picture of the whole page."""
        time.sleep(0.5)
        height = self.browser.execute_script("return document.documentElement.scrollHeight")
        whole = {"x": 0, "y": 0, "width": WIDE[0], "height": height, "scale": 1}
        asked = {"captureBeyondViewport": True, "format": "png", "clip": whole}
        taken = self.browser.execute_cdp_cmd("Page.captureScreenshot", asked)["data"]
        if folder := os.environ.get("OVERTONE_SCREENSHOTS"):
            Path(folder, f"{name}.png").write_bytes(base64.b64decode(taken))

    def errors(self):
        return [entry for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def page(request, chromium, address):  # noqa: F811
    browser = opened(chromium, request.param)
    if request.param == NARROW:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": NARROW[0], "height": NARROW[1], "deviceScaleFactor": 1, "mobile": True},
        )
    try:
        yield Page(browser, address)
    finally:
        browser.quit()


def test_a_picture_arrives_and_another_seed_makes_another(page):
    page.press("Make images")
    page.until(lambda: "16 images in" in page.said("made"))
    first = page.picture()
    page.fill("First seed", 100)
    page.press("Make images")
    page.until(lambda: page.picture() != first and "16 images in" in page.said("made"))
    second = page.picture()
    page.fill("First seed", 0)
    page.press("Make images")
    page.until(lambda: page.picture() != second and "16 images in" in page.said("made"))
    assert page.picture() == first
    width = page.browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= page.browser.execute_script("return window.innerWidth")
    assert page.errors() == []


def test_a_mistake_is_one_sentence_on_the_page(page):
    page.press("Guidance and evaluations")
    page.fill("Guidance scale\n", 1)
    page.fill("Lowest sigma", 3)
    page.fill("Highest sigma", 1)
    page.press("Make images")
    words = page.until(lambda: [part.text for part in page.all(".toast-body")])
    assert "interval" in words[0]
    assert "Traceback" not in page.browser.page_source


def test_by_keyboard_alone(page):
    for _ in range(80):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        if page.browser.switch_to.active_element.text.strip() == "Make images":
            break
    else:
        pytest.fail("the button is not reached")
    ActionChains(page.browser).send_keys(Keys.ENTER).perform()
    page.until(lambda: "images in" in page.said("made"))
    assert page.picture()


def test_experts_hand_over_on_the_timeline(page):
    page.choose("Model", "experts")
    page.until(lambda: "Experts, " in page.browser.page_source)
    page.press("Make images")
    page.until(lambda: "images in" in page.said("made"))
    texts = [part.text for part in page.all("svg text")]
    assert {"expert 1", "expert 2"} <= set(texts)


def test_a_picture_is_enlarged_and_one_is_changed(page, tmp_path):
    page.tab("Your pictures")
    page.press("Enlarge")  # what the first stage makes
    page.until(lambda: "8 x 8 px in" in page.said("enlarged"))
    generator = np.random.default_rng(0)
    small = tmp_path / "small.png"
    Image.fromarray(generator.integers(0, 256, (6, 9), np.uint8)).save(small)
    page.upload(small)
    page.press("Enlarge")
    page.until(lambda: "18 x 12 px in" in page.said("enlarged"))
    page.tab("Change")
    page.upload(small)
    page.fill("Class", "1")
    page.press("Change")
    assert page.picture()


def test_what_is_no_picture_is_said(page, tmp_path):
    page.tab("Your pictures")
    page.tab("Change")
    page.fill("Class", "1")
    page.press("Change")
    words = page.until(lambda: [part.text for part in page.all(".toast-body")])
    assert "Choose a picture first" in words[0]
    wrong = tmp_path / "wrong.png"
    wrong.write_text("no picture")
    page.all(".toast-close")[0].click()
    page.until(lambda: not page.all(".toast-body"))
    page.tab("Enlarge")
    page.upload(wrong)
    page.press("Enlarge")
    page.until(lambda: any("can't be read" in part.text for part in page.all(".toast-body")))
    assert "Traceback" not in page.browser.page_source


def test_two_models_and_their_spectra(page):
    page.tab("Compare")
    page.press("Make images of both")
    page.until(lambda: page.said("compared").count("took") == 2)
    page.until(lambda: len(page.all("img.shown")) == 3)


def test_an_operator_beside_its_rival(page):
    page.tab("One evaluation")
    page.press("Start both")
    page.until(lambda: page.said("many").startswith("Step 9"))
    assert "One evaluation" in page.said("one")
    assert len(page.all("img.shown")) == 3


def test_attention_follows_the_pointer_and_the_keys(page):
    page.tab("Attention")
    page.press("Look")
    canvases = page.until(lambda: page.all(".levels canvas"))
    draw = "return arguments[0].toDataURL()"
    moved, map_of = canvases[0], canvases[1]
    before = page.browser.execute_script(draw, map_of)
    page.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", moved)
    ActionChains(page.browser).move_to_element_with_offset(moved, -60, -60).perform()
    page.until(lambda: page.browser.execute_script(draw, map_of) != before)
    after = page.browser.execute_script(draw, map_of)
    page.browser.execute_script("arguments[0].focus()", moved)
    for _ in range(7):
        ActionChains(page.browser).send_keys(Keys.ARROW_DOWN).perform()
    page.until(lambda: page.browser.execute_script(draw, map_of) != after)
    assert page.errors() == []


def test_a_receipt_is_replayed(page, tmp_path):
    page.press("Make images")
    page.until(lambda: "images in" in page.said("made"))
    page.press("Single images and the grid, each with its receipt")
    link = page.until(lambda: page.all("a[href*='grid.png']"))[0].get_attribute("href")
    file = tmp_path / "grid.png"
    file.write_bytes(httpx.get(link).content)
    page.tab("Receipts")
    page.until(lambda: page.button("Make it again"))
    page.upload(file)
    page.press("Make it again")
    page.until(lambda: "16 of 16 images are the very same" in page.said("replayed"))


def test_nothing_serious_is_in_the_way_of_anybody(page, axe):
    page.press("Make images")
    page.until(lambda: "images in" in page.said("made"))
    for tab in ("Make", "Compare", "Your pictures", "One evaluation", "Attention", "Receipts"):
        page.tab(tab)
        time.sleep(0.5)
        page.browser.execute_script(axe)
        found = page.browser.execute_async_script(
            "const done = arguments[0]; axe.run().then((found) => done(found.violations));"
        )
        bad = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in SERIOUS]
        assert bad == [], tab


def test_two_visitors_have_their_own_pictures(page, address):
    window = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    other = Page(page.browser, address)
    other.fill("First seed", 7)
    other.press("Make images")
    page.browser.switch_to.window(window)
    page.press("Make images")
    page.until(lambda: "images in" in page.said("made"))
    own = page.picture()
    page.browser.switch_to.window(next(h for h in page.browser.window_handles if h != window))
    other.until(lambda: "images in" in other.said("made"))
    assert other.picture() != own


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The address of a studio with the models of the repository."""
    pipes = {path.name: load_pipeline(path) for path in sorted((ROOT / "models").iterdir())}
    with served(tmp_path_factory.mktemp("shipped"), pipes) as (_, address):
        yield address


def test_each_system_has_its_view(request, chromium, shipped):  # noqa: F811
    """With the repository's models. The documentation's pictures are these, where
    OVERTONE_SCREENSHOTS names a directory."""
    browser = opened(chromium, WIDE)
    request.addfinalizer(browser.quit)
    page = Page(browser, shipped)
    page.choose("Model", "meme-digits")
    page.press("Make images")
    page.until(lambda: "16 images in" in page.said("made"))
    assert sum("expert" in part.text for part in page.all("svg text")) == 4
    page.keep("studio")
    page.tab("Compare")
    page.choose("Model", "diffit-digits")
    page.choose("Beside it", "flow-digits")
    page.press("Make images of both")
    page.until(lambda: page.said("compared").count("took") == 2)
    page.keep("studio-compare")
    page.tab("Your pictures")
    page.press("Enlarge")
    page.until(lambda: "64 x 64 px in" in page.said("enlarged"))
    page.keep("studio-enlarge")
    page.tab("One evaluation")
    page.choose("Beside it", "diffit-digits")
    page.press("Start both")
    page.until(lambda: page.said("many").startswith("Step 18"))
    taken = [float(page.said(name).split(": ")[1].removesuffix(" s")) for name in ("one", "many")]
    assert taken[0] < taken[1]
    page.keep("studio-one-evaluation")
    page.tab("Attention")
    page.choose("Model", "diffit-digits")
    page.press("Look")
    page.until(lambda: page.all(".levels canvas"))
    page.keep("studio-attention")
    assert page.errors() == []
