"""What the pages say is there is there."""

import re
from pathlib import Path

import pytest

import overtone

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLE = "| the paper | symbol | file |"


def rows_of(page):
    """The rows of the tables that lead from a paper's equations to the code."""
    lines = page.read_text().splitlines()
    for at, line in enumerate(lines):
        if line == TABLE:
            for row in lines[at + 2 :]:
                if not row.startswith("|"):
                    break
                yield [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("name", ["diffit", "relay", "meme", "dsno", "halving"])
def test_a_system_s_page_leads_from_the_paper_to_the_code(name):
    rows = list(rows_of(ROOT / "docs" / f"{name}.md"))
    assert len(rows) >= 3
    for _, symbols, files in rows:
        named = re.findall(r"`([^`]+)`", files)
        texts = [(ROOT / "src" / "overtone" / file).read_text() for file in named]
        for symbol in re.findall(r"`([^`]+)`", symbols):
            parts = [] if symbol.startswith("overtone ") else re.findall(r"\w+", symbol)
            assert all(any(part in text for text in texts) for part in parts), (symbol, files)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:|#", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, link


def test_the_reference_has_every_public_name():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    told = {line.rpartition(".")[2] for page in pages for line in page.read_text().splitlines()}
    assert {name for name in overtone.__all__ if not name.startswith("_")} - told == set()
