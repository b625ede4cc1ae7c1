"""Build what is uploaded to PyPI, from a clean copy of what is committed.

    python .ci/release.py https://github.com/OWNER/overtone --out dist

The pages and pictures that README links are made links to the repository, so that PyPI shows them,
and the project's addresses are put into the metadata. Then the archives are built and checked by
twine, and what the wheel holds is compared with the sources. It needs build and twine. Nothing is
uploaded.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = (".png", ".svg")


def linked(text: str, repository: str, tag: str) -> str:
    """README with links to the repository's files in the place of relative ones."""

    def whole(match: re.Match[str]) -> str:
        path = match[1]
        if re.match(r"https?:|#|mailto:", path):
            return match[0]
        kind = "raw" if path.endswith(PICTURES) else "blob"
        return f"]({repository}/{kind}/{tag}/{path})"

    return re.sub(r"\]\(([^)\s]+)\)", whole, text)


def addressed(text: str, repository: str, tag: str) -> str:
    """pyproject.toml with the project's addresses."""
    urls = {
        "Repository": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Documentation": f"{repository}/tree/{tag}/docs",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return text.replace("[project.scripts]", f"[project.urls]\n{lines}\n[project.scripts]", 1)


def check_wheel(wheel: Path, source: Path) -> None:
    """Raises `SystemExit` where the wheel lacks a file of the package, or holds one of no use."""
    kept = {".py", ".pyi", ".js", ".typed"}
    package = source / "src"
    wanted = {
        str(file.relative_to(package))
        for file in package.rglob("*")
        if file.suffix in kept or file.name == "py.typed"
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {
            name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")
        }
    if wanted != held:
        sys.exit(
            f"the wheel lacks {sorted(wanted - held)} and should not hold {sorted(held - wanted)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", help="the address of the repository")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    options = parser.parse_args()
    repository = options.repository.rstrip("/")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tag = f"v{version}"
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        packed = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(source, filter="data")
        for name, change in (("README.md", linked), ("pyproject.toml", addressed)):
            file = source / name
            file.write_text(change(file.read_text(), repository, tag))
        out = options.out.resolve()
        build = [sys.executable, "-m", "build", "-o", str(out), str(source)]
        subprocess.run(build, check=True)
        made = sorted(out.glob(f"overtone-{version}*"))
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *made], check=True)
        (wheel,) = (file for file in made if file.suffix == ".whl")
        check_wheel(wheel, source)
    print("\n".join(f"{file} ({file.stat().st_size / 2**20:.1f} MB)" for file in made))


if __name__ == "__main__":
    main()
