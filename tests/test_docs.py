"""The docs are right: their Python runs, their commands and options exist, their links resolve."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from benchmarks.__main__ import app as benchmarks_app
from resnets.cli.main import app as resnets_app
from resnets.version import __version__
from tools import reference

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [
    *READMES,
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "log.md"),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOWNLOADS = re.compile(r'load\("\w+@')
PROGRAMS = {
    "resnets": typer.main.get_command(resnets_app),
    "benchmarks": typer.main.get_command(benchmarks_app),
}
SHELL = {"|", ">", "&&", ";"}
"""Tokens that end a command."""


def each_page(function):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))(
        function
    )


def blocks(text):
    """The code blocks of a Markdown document: language and content."""
    return [(match[1], match[2]) for match in BLOCK.finditer(text)]


def command_lines(text):
    """Lines of code blocks, and code within sentences, in which a command may be."""
    for language, code in blocks(text):
        if language in ("console", "ini", ""):
            yield from code.replace("\\\n", " ").splitlines()
    yield from INLINE.findall(BLOCK.sub("", text))


def parsed(line):
    """The program and the arguments of a command line of ours; None if it is another's."""
    line = line.removeprefix("$ ").removeprefix("ExecStart=")
    try:
        tokens = shlex.split(line, comments=True)
    except ValueError:  # a code of one character, such as a quote
        return None
    while tokens and re.match(r"[A-Z_]+=", tokens[0]):
        del tokens[0]
    if "-m" in tokens:
        tokens = tokens[tokens.index("-m") + 1 :]
    if not tokens or Path(tokens[0]).name not in PROGRAMS or len(tokens) == 1:
        return None
    end = next((i for i, token in enumerate(tokens) if token in SHELL), len(tokens))
    return Path(tokens[0]).name, tokens[1:end]


def options_of(command):
    options = {name for parameter in command.params for name in parameter.opts}
    return options | {"--help"}


def unknown_parts(program, arguments):
    """The verbs and options of a command line that the program does not have."""
    command = PROGRAMS[program]
    for token in arguments:
        if token.startswith("--"):
            if token.partition("=")[0] not in options_of(command):
                yield token
        elif hasattr(command, "commands") and token not in ("VERB", "..."):
            if token not in command.commands:
                yield token
                return
            command = command.commands[token]


@each_page
def test_commands_in_the_docs_exist(page):
    text, wrong = page.read_text("utf-8"), []
    for line in command_lines(text):
        if found := parsed(line):
            wrong += [f"{part} in: {line}" for part in unknown_parts(*found)]
    assert not wrong


def test_options_in_sentences_exist():
    known = {"--nproc-per-node", "--max-restarts", "--rdzv-backend"}  # torchrun's
    for program in PROGRAMS.values():
        waiting = [program]
        for command in waiting:
            known |= options_of(command)
            waiting += getattr(command, "commands", {}).values()
    for page in PAGES:
        for code in INLINE.findall(BLOCK.sub("", page.read_text("utf-8"))):
            if match := re.match(r"--[a-z][\w-]*", code):
                assert match[0] in known, f"{page.name}: {code}"


@each_page
def test_relative_links_resolve(page):
    text, wrong = BLOCK.sub("", page.read_text("utf-8")), []
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        file = (page.parent / path if path else page).resolve()
        if page.parent != ROOT and not file.is_relative_to(ROOT / "docs"):
            wrong.append(f"{target}: the site has only what is in docs/")
        elif not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            wrong.append(target)
    assert not wrong


def test_every_page_is_in_the_navigation_of_the_site():
    settings = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]

    def pages(entries):
        for entry in entries:
            for target in entry.values():
                yield from [target] if isinstance(target, str) else pages(target)

    shown = list(pages(settings["nav"]))
    docs = ROOT / "docs"
    assert sorted(shown) == sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    assert {entry["link"] for entry in settings["extra"]["alternate"]} == {
        "index.html", "zh/index.html",
    }  # fmt: skip


def test_the_site_is_built_without_warnings(tmp_path):
    pytest.importorskip("zensical")
    for name in ("docs", "tools/site"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path / "build" / "site"
    assert '<html lang="en"' in (site / "index.html").read_text("utf-8")
    chinese = (site / "zh" / "index.html").read_text("utf-8")
    assert '<html lang="zh"' in chinese
    assert "论文的发现" in (site / "search.json").read_text("utf-8")
    for text in ((site / "index.html").read_text("utf-8"), chinese):  # no requests to other hosts
        assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?https?://", text)


@pytest.mark.parametrize("name", reference.PAGES)
def test_reference_pages_are_what_the_code_says(name):
    if name == "http.md":
        pytest.importorskip("fastapi")
    text = (reference.FOLDER / name).read_text("utf-8")
    assert text == reference.page(name), "run: python -m tools.reference"


def anchors(text):
    """The names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_wrong_commands_are_found():
    assert list(unknown_parts(*parsed("$ resnets tain cifar10-fast"))) == ["tain"]
    assert list(unknown_parts(*parsed("RANK=0 resnets eval a b --vews dense  # so"))) == ["--vews"]
    assert list(unknown_parts(*parsed("python -m benchmarks train --dali"))) == ["--dali"]
    assert not list(unknown_parts(*parsed("torchrun --x 8 -m resnets paper run fig6 --jobs 2")))
    assert parsed("$ podman build -t resnets .") is None


def test_python_in_the_readmes_runs(cache, tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "resnets" / "inference" / "samples" / "horse.png", tmp_path / "fox.png")
    monkeypatch.chdir(tmp_path)
    for page in READMES:
        [code] = [
            code for language, code in blocks(page.read_text("utf-8")) if language == "python"
        ]
        exec(compile(code.replace("resnet50@msra", "cifar-resnet20"), page.name, "exec"), {})
        assert capsys.readouterr().out.startswith("<Prediction of fox.png: horse ")


@pytest.mark.parametrize("page", ["docs/python.md"])
def test_python_in_the_docs_runs_and_prints_what_they_say(page, cache, tmp_path, monkeypatch):
    samples = ROOT / "resnets" / "inference" / "samples"
    for picture in samples.glob("*.png"):
        shutil.copy(picture, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    found = blocks((ROOT / page).read_text("utf-8"))
    assert "python" in dict(found)
    for (language, code), (following, expected) in pairwise([*found, ("", "")]):
        if language == "python" and not DOWNLOADS.search(code):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page, "exec"), names)
            if following == "text":
                assert printed.getvalue() == expected


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_readmes_are_short(page):
    text = page.read_text("utf-8")
    assert not [line for line in text.splitlines() if len(line) > 100]
    assert len(text.split()) <= 1200


def facts(text):
    """What does not depend on the language: code, numbers and code of tables, links."""
    code = [
        re.sub(r"\s+# .*", "", line) for _, block in blocks(text) for line in block.splitlines()
    ]
    tables = [
        re.findall(r"`[^`]+`|\d[\d.,]*", line) for line in text.splitlines() if line[:1] == "|"
    ]
    links = [link for link in LINK.findall(text) if link.startswith("docs/")]
    return {"code": code, "tables": tables, "links": sorted(links)}


def test_readmes_in_both_languages_say_the_same():
    english, chinese = (facts(page.read_text("utf-8")) for page in READMES)
    assert english["code"]
    assert english["tables"]
    assert chinese == english


def test_facts_that_differ_between_languages_are_found():
    text = READMES[0].read_text("utf-8")
    assert facts(text.replace("make train  ", "make trian  ")) != facts(text)
    assert facts(text.replace("6.97 %", "6.79 %")) != facts(text)


def test_the_container_is_the_one_in_the_docs():
    shown = dict(blocks((ROOT / "docs" / "serve.md").read_text("utf-8")))["dockerfile"]
    lines = (ROOT / "Containerfile").read_text("utf-8").splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("#")) == shown


def test_the_citation_has_the_version_and_the_forms_are_yaml():
    import yaml

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text("utf-8"))
