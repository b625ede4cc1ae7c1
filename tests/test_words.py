"""What people read on the command line is whole sentences."""

import ast
import doctest
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import overtone
from overtone.cli.app import COMMANDS
from overtone.training.recipes import RECIPES, find_recipe

SOURCE = Path(__file__).parent.parent / "src" / "overtone"
FRAGMENTS = ("Of ", "And ", "Or ", "But ", "None:", "None ", "Also ", "That ", "As ")
"""Words that continue a sentence that stands elsewhere."""


def is_sentence(text):
    """Whether a text begins as a sentence does, and ends as one."""
    text = " ".join(text.split())
    begins = text[0].isupper() or text.startswith("`overtone ")
    return begins and text.endswith((".", "...")) and not text.startswith(FRAGMENTS)


@pytest.mark.parametrize(
    "text", ["of a relay, the first stage", "Of the latents.", "0: none", "A b"]
)
def test_fragments_are_noticed(text):
    assert not is_sentence(text)


def texts_of(*names):
    """The text below each field of a class in files of these names, by file, class and field."""
    for file in sorted(SOURCE.rglob("*.py")):
        if names and file.name not in names:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign | ast.Assign) and isinstance(text, ast.Expr):
                    target = field.target if isinstance(field, ast.AnnAssign) else field.targets[0]
                    if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
                        yield f"{file.name}: {node.name}.{target.id}", text.value.value


def test_every_text_of_a_setting_is_a_sentence():
    found = dict(texts_of())
    assert len(found) > 700
    assert [name for name, text in found.items() if not is_sentence(text)] == []


SYNONYMS = {
    "as loud as": "as large as",
    "averages of power functions": "power-function EMAs",
    "class number": "class label",
    "evaluations an image": "function evaluations per image",
    "forward calls": "function evaluations",
    "Frechet distance": "Fréchet distance",
    "fresh noise": "noise that is drawn anew, eta",
    "goes on with a run": "resumes a run",
    "learning speed": "learning rate",
    "made ones": "generated images",
    "mean of the weights": "EMA",
    "moving mean": "moving average",
    "network calls": "function evaluations",
    "noise amount": "noise level",
    "noise strength": "noise level",
    "put aside": "held out",
    "recognised share": "class accuracy",
    "share recognised": "class accuracy",
    "taken in turn": "one after another",
    "the made images": "generated images",
    "what stands around": "what it is",
}
"""Words that stand for a term of the field, which readers know instead, and the term."""
ROOT = SOURCE.parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("synonym", SYNONYMS)
def test_a_thing_has_the_name_that_the_field_gives_it(synonym):
    """In code, help, messages and pages; the log tells what was said at the time."""
    files = [*SOURCE.rglob("*.py"), *(page for page in PAGES if page.name != "log.md")]
    assert len(files) > 250
    found = [
        file.name
        for file in files
        if synonym.lower() in " ".join(file.read_text(encoding="utf-8").lower().split())
    ]
    assert found == [], f"say: {SYNONYMS[synonym]}"


def test_commands_and_recipes_are_told_in_sentences():
    assert [text for text in COMMANDS.values() if not is_sentence(text)] == []
    for name in COMMANDS:
        files = [SOURCE / "cli" / f"{name}.py", SOURCE / "cli" / name / "__init__.py"]
        tree = ast.parse(next(file for file in files if file.exists()).read_text())
        summary = (ast.get_docstring(tree) or "").partition("\n\n")[0]
        assert is_sentence(summary), summary
    abouts = {name: find_recipe(name).about for name in RECIPES}
    assert [name for name, about in abouts.items() if not is_sentence(about)] == []


def test_help_is_in_groups_and_its_lines_are_full():
    """Lines end where the next word does not fit, and not where those of the source do."""
    told = subprocess.run(
        [sys.executable, "-m", "overtone", "train", "diffit-digits", "--help"],
        capture_output=True, encoding="utf-8", check=True,
        env={**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    lines = told.stdout.splitlines()
    assert [line.strip("╭─╮ ").removesuffix(" options") for line in lines if "╭" in line] == [
        "options", "network", "preconditioning", "schedule", "sampler", "guidance", "optimisation",
        "reporting",
    ]  # fmt: skip
    texts = [line.strip("│").rstrip() for line in lines if line.startswith("│")]
    pairs = [(a, b.split()[0]) for a, b in pairwise(texts) if a[:7] == b[:7] == " " * 7]
    assert len(pairs) > 50
    assert [line for line, word in pairs if len(line) + 1 + len(word) <= 97] == []


def test_help_tells_the_ranges_of_numbers():
    from overtone.cli.options import _unbroken
    from overtone.denoisers.guidance import GuidanceSettings
    from overtone.networks.configs.adm import ADMConfig
    from overtone.ranges import FINITE, above, at_least, below, within
    from overtone.samplers.sampler import Sampler
    from overtone.training.configs.training import Training

    for limits, words in (
        (within(0, 1), "from 0 to 1"),
        (above(0), "above 0"),
        (above(0, 1000), "above 0 and at most 1,000"),
        (below(1), "at least 0 and below 1"),
        (at_least(0), "at least 0"),
        (within(1, 10**15), "at least 1"),
        (FINITE, ""),
    ):
        assert limits.words == words
    assert _unbroken(ADMConfig)["dropout"].endswith("in training. It is at least 0 and below 1.")
    assert _unbroken(Training)["lr"].endswith("It is above 0.")
    assert _unbroken(Training)["betas"].endswith("Each is at least 0 and below 1.")
    assert _unbroken(GuidanceSettings)["band"].endswith("It is above 0 and below 1.")
    eta = _unbroken(Sampler)["eta"]
    assert "in [0, 1]" in eta
    assert "It is from" not in eta  # it says so itself


def test_options_that_may_be_none_take_what_their_other_type_takes(capsys):
    from overtone.cli.options import parse
    from overtone.denoisers.guidance import GuidanceSettings

    def parsed(*words):
        return parse(GuidanceSettings, "x", None, words)

    assert parsed("--interval", "0.2", "5").interval == (0.2, 5.0)
    assert parsed("--interval", "None", "--power", "2").interval is None
    assert parsed("--channels", "0", "2").channels == (0, 2)
    assert parsed("--channels", "None").channels is None
    for words in (("--interval", "0.2"), ("--interval", "0.2", "5", "7"), ("--power", "a")):
        with pytest.raises(SystemExit):
            parsed(*words)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        parsed("--interval", "0.2")
    assert "expected 2 values, not 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parsed("--help")
    told = capsys.readouterr().out
    assert "--interval FLOAT FLOAT" in told
    assert "{None}" not in told


EXAMPLES = (
    "Request", "Sampler", "RelayProcess", "GuidanceSettings", "DiffiTUNet", "IdealDenoiser",
    "find_recipe", "load_pipeline", "merged", "open_data", "temporalize",
)  # fmt: skip


@pytest.mark.parametrize("name", ["overtone", *EXAMPLES])
def test_examples_of_docstrings_run(name):
    known = overtone if name == "overtone" else getattr(overtone, name)
    module = sys.modules[known.__name__ if known is overtone else known.__module__]
    (test,) = [
        test
        for test in doctest.DocTestFinder(recurse=False).find(known, name, module, vars(module))
        if test.examples
    ]
    said = []
    assert (
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append).failed == 0
    ), "".join(said)
