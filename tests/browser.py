"""Debian's Chromium without a window, installed where it is missing."""

import os
import shutil
import subprocess

import pytest
from selenium import webdriver

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDE = (1280, 1000)


@pytest.fixture(scope="session")
def chromium():
    """The browser and its driver."""
    names = ("chromium", "chromedriver")
    if not all(map(shutil.which, names)):
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            pytest.skip("Chromium and its driver are not here, and can't be installed")
        install = ["apt-get", "install", "-y", "-q", "chromium", "chromium-driver"]
        subprocess.run(["apt-get", "update", "-q"], check=False, capture_output=True)
        if subprocess.run(install, check=False, capture_output=True).returncode:
            pytest.skip("Debian's packages are out of reach")
    return tuple(map(shutil.which, names))


def opened(chromium, size=WIDE):
    """A browser whose window has a size."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    for flag in (*FLAGS, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(chromium[1]))


@pytest.fixture
def driver(chromium):
    browser = opened(chromium)
    try:
        yield browser
    finally:
        browser.quit()
