"""What PyPI gets: the links of README hold there, and the metadata name the project."""

import importlib.util
import re
import tomllib
import zipfile

import pytest

from pages import ROOT

_SPEC = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
release = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(release)
ADDRESS = "https://example.org/overtone"


def test_every_link_of_readme_is_whole_and_names_a_file():
    written = (ROOT / "README.md").read_text()
    text = release.linked(written, ADDRESS, "v1")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == len(re.findall(r"\]\(([^)]+)\)", written)) > 20
    for link in links:
        assert re.match(r"https?://|#", link), link
        if link.startswith(ADDRESS):
            kind, tag, path = link.removeprefix(f"{ADDRESS}/").split("/", 2)
            assert kind == ("raw" if path.endswith((".png", ".svg")) else "blob")
            assert tag == "v1"
            assert (ROOT / path.partition("#")[0]).exists(), path


def test_the_metadata_name_the_project():
    text = release.addressed((ROOT / "pyproject.toml").read_text(), ADDRESS, "v1")
    urls = tomllib.loads(text)["project"]["urls"]
    assert urls["Repository"] == ADDRESS
    assert urls["Changelog"] == f"{ADDRESS}/blob/v1/CHANGELOG.md"


def test_the_citation_has_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    ("held", "fault"),
    [
        (("a.py", "b.js"), None),
        (("a.py",), "lacks \\['overtone/b.js'\\]"),
        (("a.py", "b.js", "c.txt"), "should not hold \\['overtone/c.txt'\\]"),
    ],
)
def test_a_wheel_holds_the_package_and_nothing_else(tmp_path, held, fault):
    package = tmp_path / "src" / "overtone"
    package.mkdir(parents=True)
    for name in ("a.py", "b.js", "c.txt"):
        (package / name).write_text("")
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        for name in held:
            archive.writestr(f"overtone/{name}", "")
        archive.writestr("overtone-1.dist-info/METADATA", "")
    if fault is None:
        release.check_wheel(tmp_path / "x.whl", tmp_path)
        return
    with pytest.raises(SystemExit, match=fault):
        release.check_wheel(tmp_path / "x.whl", tmp_path)
