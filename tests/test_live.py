"""The page that runs an operator in the browser, in Debian's Chromium: its digits are Python's."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from browser import chromium, driver  # noqa: F401
from overtone import load_pipeline

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CORNERS = {
    0: (Keys.ARROW_LEFT, Keys.ARROW_UP),
    1: (Keys.ARROW_RIGHT, Keys.ARROW_UP),
    2: (Keys.ARROW_LEFT, Keys.ARROW_DOWN),
    3: (Keys.ARROW_RIGHT, Keys.ARROW_DOWN),
}
PIXELS = """
    const [canvas] = arguments;
    const side = canvas.width;
    return Array.from(canvas.getContext("2d").getImageData(0, 0, side, side).data)
        .filter((_, i) => i % 4 == 0);
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site with the model, served on this machine."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here, from which onnxruntime-web comes")
    folder = tmp_path_factory.mktemp("site")
    env = os.environ | {"OVERTONE_LIVE": "1", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)]
    made = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if "npm" in made.stderr:
        pytest.skip("the npm registry is out of reach")
    assert made.returncode == 0, made.stderr
    assert (folder / "live" / "operator.onnx").stat().st_size < 8 * 2**20
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_digits_in_the_browser_are_those_of_python(site, driver):  # noqa: F811
    driver.get(f"{site}/live/")
    wait = WebDriverWait(driver, 60, 0.1)
    said = driver.find_element(By.ID, "live-said")
    wait.until(lambda _: "One evaluation took" in said.text or "can't" in said.text)
    assert "One evaluation took" in said.text
    pad = driver.find_element(By.ID, "live-pad")
    box = driver.find_element(By.ID, "live")
    image = driver.find_element(By.ID, "live-image")
    pipe, seen = load_pipeline(ROOT / "models" / "dsno-digits"), []
    pipe.precision = "fp32"
    for label in (0, 7):
        Select(driver.find_element(By.ID, "live-class")).select_by_value(str(label))
        for seed, keys in CORNERS.items():
            for key in keys:
                pad.send_keys(key * 20)
            x, y = seed % 2, seed // 2
            wait.until(lambda _: box.get_attribute("data-made") == f"0 {x} {y} {label}")  # noqa: B023
            shown = np.array(driver.execute_script(PIXELS, image)).reshape(8, 8)
            python = np.asarray(pipe(seeds=[seed], class_labels=[label])[0])
            assert np.abs(shown - python.astype(int)).max() <= 2, (seed, label)
            seen.append(shown.tobytes())
    assert len(set(seen)) == len(seen)
    states = driver.find_elements(By.CSS_SELECTOR, "#live canvas[aria-label^=State]")
    assert len(states) == 4
    last = np.array(driver.execute_script(PIXELS, states[-1])).reshape(8, 8)
    assert (last == shown).all()
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
    others = [
        entry["name"]
        for entry in driver.execute_script("return performance.getEntriesByType('resource')")
        if not entry["name"].startswith(site)
    ]
    assert others == []  # nothing is asked of another host


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_browser_without_webassembly_is_told(site, driver):  # noqa: F811
    driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.WebAssembly"}
    )
    driver.get(f"{site}/live/")
    said = driver.find_element(By.ID, "live-said")
    WebDriverWait(driver, 20).until(lambda _: "no WebAssembly" in said.text)
