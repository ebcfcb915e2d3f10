"""What README, pages and docstrings show works as shown, and what they name is there."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsesvm import cli
from sparsesvm.meta import command, report

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "docs").glob("**/*.md"))}
SOURCES = "".join(path.read_text() for path in (ROOT / "sparsesvm").glob("**/*.py")) + (ROOT / "Makefile").read_text()
MODULES = (
    "",
    ".metrics",
    ".bilevel",
    ".bilevel.tasks",
    ".bilevel.encoders",
    ".bilevel.training",
    ".factors",
    ".meta",
    ".sklearn",
)
LIGHTNING = ("ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated")

pytestmark = [pytest.mark.filterwarnings(warning) for warning in LIGHTNING]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """What is shown to be typed: indented lines and code in running text, in words."""
    text = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    lines = re.findall(r"^ {4}(\S.*)$", text, flags=re.MULTILINE)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    return [line.partition(" #")[0].split() for line in (*lines, *inline)]


ALL = [(name, words) for name, text in {"README.md": README, **PAGES}.items() for words in commands(text)]


def public_objects() -> list[tuple[str, object]]:
    """The public functions and classes, by their full name."""
    found = {}
    for suffix in MODULES:
        module = importlib.import_module(f"sparsesvm{suffix}")
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                found[f"{module.__name__}.{name}"] = value
    return sorted(found.items())


PUBLIC = public_objects()


def test_the_readme_is_short_and_has_no_history():
    assert len(README.splitlines()) <= 110
    assert not re.search(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{7,40}\b", README)
    assert len(python_blocks(README)) >= 3


@pytest.mark.parametrize("number", range(len(python_blocks(README))))
def test_readme_snippets_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(python_blocks(README)[number], f"README snippet {number}", "exec"), {})


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if python_blocks(text)])
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(python_blocks(PAGES[page])):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("name, text", [("README.md", README), *PAGES.items()])
def test_links_lead_to_files(name, text):
    made = ("gallery/",)  # by the build of the site
    for link in re.findall(r"\]\(([^)#\s]+)\)", text):
        path = (ROOT / name).parent / link
        if not link.startswith("http") and not any(folder in link for folder in made):
            assert path.exists() or path.with_suffix(".md").exists(), link


def test_make_has_the_targets_named():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {words[1] for _, words in ALL if words[0] == "make" and len(words) > 1}
    assert {"demo", "test", "docs"} <= named <= targets


def test_the_benchmarks_named_have_the_options_named():
    shown = [words for _, words in ALL if words[:2] == ["python", "-m"] and re.match(r"benchmarks\.\w", words[2])]
    assert shown
    for words in shown:
        source = (ROOT / "benchmarks" / f"{words[2].partition('.')[2]}.py").read_text()
        for option in words[3:]:
            assert not option.startswith("--") or f'"{option}"' in source, words


def test_the_scripts_named_are_there():
    for _, words in ALL:
        if words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words


def test_the_extras_named_can_be_installed():
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", section, flags=re.MULTILINE))
    named = set(re.findall(r"pip install '(?:sparsesvm|\.)\[([a-z,]+)\]'", README + "".join(PAGES.values())))
    assert named and named <= extras


@pytest.mark.parametrize("words", [words for _, words in ALL if words[:1] == ["sparsesvm"] and len(words) > 1], ids=" ".join)
def test_the_commands_named_are_understood(words):
    if words[1] == "evaluate" and len(words) > 2:
        report.make_parser().parse_args(words[2:])
        return
    with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0 and words[1] in output.getvalue()
    if "--config" in words:
        command.find_config(words[words.index("--config") + 1])


def test_the_messages_of_troubleshooting_are_those_of_the_package():
    said = re.sub(r'"\s*\n\s*f?"', "", SOURCES)  # literals over several lines
    headings = re.findall(r"^## (.*)$", PAGES["docs/troubleshooting.md"], flags=re.MULTILINE)
    quoted = [text for heading in headings for text in re.findall(r"`([^`]+)`", heading)]
    assert len(quoted) >= 10
    for text in quoted:
        for part in text.split("..."):
            assert part.strip() in said, part


def test_the_reference_has_everything_public():
    reference = "".join(text for name, text in PAGES.items() if name.startswith("docs/reference/"))
    documented = {name.rpartition(".")[2] for name in re.findall(r"auto(?:class|function):: (\S+)", reference)}
    assert {name.rpartition(".")[2] for name, _ in PUBLIC} <= documented


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A folder in which sparsesvm fit --config digits has left a checkpoint, of a shorter run."""
    folder = tmp_path_factory.mktemp("digits")
    small = ("--trainer.max_epochs=1", "--data.episodes_per_epoch=4", "--data.val_episodes=2", "--report=false")
    fit = [sys.executable, "-m", "sparsesvm", "fit", "--config", "digits", *small, "--trainer.enable_progress_bar=false"]
    subprocess.run(fit, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name, value", PUBLIC, ids=[name for name, _ in PUBLIC])
def test_docstring_examples_run(name, value, request, tmp_path, monkeypatch):
    tests = [test for test in doctest.DocTestFinder().find(value, name, globs={}) if test.examples]
    assert tests or not inspect.isfunction(value), f"{name} has no example"
    loads = any("checkpoints/best.ckpt" in test.docstring for test in tests)
    monkeypatch.chdir(request.getfixturevalue("digits_run") if loads else tmp_path)
    for test in tests:
        failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert not failed


def test_the_readme_picture_is_made_by_its_command(tmp_path):
    (words,) = [words for name, words in ALL if name == "README.md" and words[:1] == ["python"] and words[-1].endswith(".png")]
    assert (ROOT / words[-1]).is_file() and f"]({words[-1]})" in README
    subprocess.run([sys.executable, ROOT / words[1], tmp_path / "picture.png"], check=True, capture_output=True)
    assert (tmp_path / "picture.png").stat().st_size > 10_000
