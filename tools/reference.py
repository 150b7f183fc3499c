"""The reference pages of the docs, generated from the code.

`python -m tools.reference` writes them to `docs/reference/`; `--check` only compares, and exits
with 1 if a page is not what the code says.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import typer

import resnets
from resnets.support import markdown

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Generated: edit the code, then run `python -m tools.reference`. -->"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of words."""
    return markdown.table(header, rows, numbers=False)


def cli() -> str:
    """Every verb with its arguments and options, from typer."""
    from resnets.cli.main import app

    program = typer.main.get_command(app)
    parts = [
        "# Command line\n\n"
        "`resnets VERB --help` shows the same. Exit codes: 0 all is well, 1 something was found\n"
        "or failed (the verb says what), 2 a mistake in the command or its input, 130 after\n"
        "Ctrl-C.\n\n"
        "Shells complete verbs and options. Add the line of yours to its start-up file:\n\n"
        "| shell | line |\n| --- | --- |\n"
        '| bash, `~/.bashrc` | `eval "$(_RESNETS_COMPLETE=source_bash resnets)"` |\n'
        '| zsh, `~/.zshrc`, after `compinit` | `eval "$(_RESNETS_COMPLETE=source_zsh resnets)"` |\n'
        "| fish, `config.fish` | <code>_RESNETS_COMPLETE=source_fish resnets &#124; source</code> |"
    ]
    parts += [_verb(f"resnets {name}", command) for name, command in _verbs(program)]
    return "\n\n".join(parts)


def _verbs(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _verb(name: str, command: Any) -> str:
    rows = []
    for parameter in command.params:
        label = parameter.metavar or ""
        if parameter.param_type_name == "option":
            label = f"{', '.join(parameter.opts)} {label}".strip()
        default = parameter.default
        if parameter.required:
            default = "required"
        elif default is None or default is False or default == "":
            default = ""
        rows.append([_code(label), _cell(parameter.help or ""), _cell(str(default))])
    help_text = re.sub(r"\n(?!\n)", " ", inspect.cleandoc(command.help or "")).replace(
        "\n ", "\n\n"
    )
    parts = [f"## {name}", help_text]
    if rows:
        parts.append(table(("argument or option", "meaning", "default"), rows))
    if command.epilog:
        parts.append(f"```console\n$ {command.epilog.removeprefix('Example: ')}\n```")
    return "\n\n".join(parts)


def _code(text: str) -> str:
    """Code in a cell of a table; a bar within backquotes would keep its backslash on the site."""
    if "|" in text:
        return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    """Text in a cell of a table: one line, in which the bar is no border."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def python() -> str:
    """The functions of `resnets`, and the classes of what they return."""
    from resnets.inference.detection_results import DetectedObject, ImageDetections
    from resnets.inference.explanations import ImageExplanation
    from resnets.inference.object_detector import ObjectDetector
    from resnets.inference.predictions import ClassProbability, Prediction
    from resnets.inference.predictor import Predictor
    from resnets.support.errors import UserError

    functions = [name for name in sorted(resnets.__all__) if not name.startswith("_")]
    shown: dict[Any, tuple[str, ...]] = {
        Predictor: ("classes", "class_ids", "predict", "iter_predictions", "features", "explain"),
        Prediction: (),
        ClassProbability: (),
        ImageExplanation: ("overlay", "sheet", "pictures"),
        ObjectDetector: ("classes", "predict", "iter_predictions"),
        ImageDetections: ("draw",),
        DetectedObject: (),
        UserError: (),
    }
    parts = [
        "# Python\n\n"
        "[The guide](../python.md) shows these functions at work. A mistake in the arguments\n"
        "raises `UserError`, whose text is one line."
    ]
    parts += [_function(f"resnets.{name}", getattr(resnets, name)) for name in functions]
    for kind, members in shown.items():
        parts.append(f"## {kind.__name__}\n\n{_prose(inspect.getdoc(kind) or '')}")
        for member in members:
            found = inspect.getattr_static(kind, member)
            if isinstance(found, property):
                text = _prose(inspect.getdoc(found) or "")
                parts.append(f"### {kind.__name__}.{member}\n\nA property. {text}")
            else:
                parts.append(_function(f"{kind.__name__}.{member}", found, "###"))
    return "\n\n".join(parts)


def _function(name: str, function: Any, heading: str = "##") -> str:
    signature = inspect.signature(function)
    values = [p for p in signature.parameters.values() if p.name != "self"]
    arguments = str(signature.replace(parameters=values, return_annotation=inspect.Signature.empty))
    line = f"{name.removeprefix('resnets.')}{arguments} -> {signature.return_annotation}"
    line = re.sub(r": '([^']*)'", r": \1", line)  # annotations are text
    code = f"```python\n{line}\n```"
    return f"{heading} {name}\n\n{code}\n\n{_prose(inspect.getdoc(function) or '')}"


def _prose(text: str) -> str:
    """A docstring as Markdown: sections become lists, indented examples become code blocks."""
    lines: list[str] = []
    section = code = False
    for line in text.splitlines():
        if line.strip() == "::":
            lines.append("```python")
            code = True
        elif code and line and not line.startswith(" "):
            lines[-1:] = ["```", ""]
            code = False
        if line.strip() == "::":
            continue
        if code:
            if line or lines[-1] != "```python":
                lines.append(line.removeprefix("    "))
        elif line in ("Args:", "Returns:", "Raises:", "Yields:"):
            lines += [f"**{line.removesuffix(':').replace('Args', 'Arguments')}**", ""]
            section = True
        elif section and (match := re.match(r"    (\w+): (.*)", line)):
            lines.append(f"- `{match[1]}`: {match[2]}")
        else:
            lines.append(line.removeprefix("    ") if section and line.strip() else line)
            section = section and (line.startswith(" ") or not line)
    if code:
        lines.append("```")
    return "\n".join(lines)


def recipes() -> str:
    """Every key of a recipe: type, default and meaning, from the pydantic model."""
    from resnets.training import recipe

    parts = [
        "# Recipe keys\n\n"
        "A recipe is a TOML file. Keys without a table come first; `--set KEY=VALUE` changes any\n"
        "of them: `--set batch=64 --set schedule.lr=0.05`. Recipes that this package ships are in\n"
        "`resnets/training/recipes/`. `none` means that the key is absent."
    ]
    meanings = _attribute_docstrings(inspect.getsource(recipe))
    schema = recipe.Recipe.model_json_schema()
    sections = {"Recipe": schema, **schema["$defs"]}
    for prefix, name in _sections(sections, "Recipe", ""):
        rows = []
        for key, facts in sections[name]["properties"].items():
            if _section(facts):
                continue
            default = facts.get("default", "required")
            if name != "Recipe" and "default" not in facts:
                default = "required"
            rows.append(
                [_code(prefix + key), _type(facts), _default(default), _cell(meanings[name][key])]
            )
        title = f"[{prefix[:-1]}]" if prefix else "Keys without a table"
        about = re.sub(r"\s+", " ", sections[name].get("description", "")) if prefix else ""
        parts.append(f"## {title}")
        parts += [about] if about else []
        parts.append(table(("key", "type", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _sections(sections: Any, name: str, prefix: str) -> Iterator[tuple[str, str]]:
    """The tables of a recipe, each before those in it: prefix of its keys, and its class."""
    yield prefix, name
    for key, facts in sections[name]["properties"].items():
        if inner := _section(facts):
            yield from _sections(sections, inner, f"{prefix}{key}.")


def _section(facts: Any) -> str:
    """The class of the table that a key holds; empty for a value."""
    for choice in (facts, *facts.get("anyOf", ())):
        if "$ref" in choice:
            return str(choice["$ref"]).rpartition("/")[2]
    return ""


def _type(facts: Any) -> str:
    """A type of JSON schema in words, with its limits."""
    if "anyOf" in facts:
        kinds = [_type(choice) for choice in facts["anyOf"]]
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "whole number"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in facts or "const" in facts:
        return " or ".join(f"`{value}`" for value in facts.get("enum", [facts.get("const")]))
    names = {
        "integer": "whole number", "number": "number", "boolean": "`true` or `false`",
        "string": "text", "null": "none", "array": "list of numbers", "object": "table of numbers",
    }  # fmt: skip
    bounds = [
        f"{word} {facts[key]:g}" if isinstance(facts[key], float) else f"{word} {facts[key]:,}"
        for key, word in (
            ("minimum", "at least"), ("exclusiveMinimum", "above"),
            ("maximum", "at most"), ("exclusiveMaximum", "below"),
        )
        if key in facts
    ]  # fmt: skip
    return " ".join([names[facts["type"]], ", ".join(bounds)]).strip()


def _default(value: Any) -> str:
    if value == "required" or value is None:
        return "none" if value is None else "required"
    if isinstance(value, bool):
        return _code(str(value).lower())
    if isinstance(value, float):
        return _code(f"{value:.6g}")
    return _code(str(list(value)) if isinstance(value, tuple | list) else str(value) or '""')


def _attribute_docstrings(source: str) -> dict[str, dict[str, str]]:
    """For each class the text below each annotated attribute."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            texts = found.setdefault(node.name, {})
            for one, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(one, ast.AnnAssign) and isinstance(after, ast.Expr):
                    name = cast(ast.Name, one.target).id
                    texts[name] = str(cast(ast.Constant, after.value).value)
    return found


def http() -> str:
    """The routes of the server with their parameters and responses, from its OpenAPI schema."""
    api = _schema()
    parts = [
        "# HTTP API\n\n"
        "[The guide](../serve.md) shows requests and responses. A running server has this\n"
        "description at `/openapi.json`, and at `/docs` a page to try it."
    ]
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            parts.append(f"## {method.upper()} {path}\n\n{operation.get('description', '')}")
            if found := operation.get("parameters"):
                rows = [
                    [_code(p["name"]), _type(p["schema"]), _cell(p.get("description", "")),
                     _default(p["schema"]["default"]) if "default" in p["schema"] else ""]
                    for p in found
                ]  # fmt: skip
                parts.append(table(("query", "type", "meaning", "default"), rows))
            if body := operation.get("requestBody"):
                parts.append("Body: " + ", ".join(f"`{kind}`" for kind in body["content"]) + ".")
            rows = [[f"`{s}`", _response(r)] for s, r in operation["responses"].items()]
            parts.append(table(("status", "response"), rows))
    parts.append("## Objects")
    for name, facts in sorted(api["components"]["schemas"].items()):
        rows = [
            [_code(key), _json_type(value)] for key, value in facts.get("properties", {}).items()
        ]
        about = re.sub(r"\s+", " ", facts.get("description", ""))
        parts.append(f"### {name}\n\n{about}\n\n{table(('key', 'type'), rows)}")
    return "\n\n".join(parts)


def _schema() -> dict[str, Any]:
    """The OpenAPI schema of a server, which no model changes."""
    from resnets.serve import app, limits, middleware, static_files

    model: Any = SimpleNamespace(name="", decoders=SimpleNamespace(abandoned_bytes=lambda: 0))
    made = app.create_app(
        [model],
        limits=limits.Limits(),
        metrics=middleware.Metrics(),
        samples=static_files.SampleImages({}, {}),
    )
    return made.openapi()


def _response(facts: Any) -> str:
    for content in facts.get("content", {}).values():
        name = _section(content.get("schema", {}))
        if name and name != "ProblemDocument":
            return f"`{name}`"
    return _cell(facts["description"])


def _json_type(facts: Any) -> str:
    if name := _section(facts):
        return f"`{name}`"
    if facts.get("type") == "array":
        inner = facts["items"]
        names = [_section(one) for one in inner.get("anyOf", [inner])]
        return "list of " + (
            " or ".join(f"`{n}`" for n in names) if all(names) else inner.get("type", "objects")
        )
    if "anyOf" in facts:
        return " or ".join(_json_type(one) for one in facts["anyOf"])
    return str(facts.get("type", "any")).replace("null", "none")


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "http.md": http,
    "python.md": python,
    "recipes.md": recipes,
}


def page(name: str) -> str:
    """The content of a page of `docs/reference/`."""
    title, _, rest = PAGES[name]().partition("\n")
    return f"{title}\n\n{NOTE}\n{rest}\n"


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them; returns the exit code."""
    stale = []
    for name in PAGES:
        path, text = FOLDER / name, page(name)
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, "utf-8")
    if stale and "--check" in arguments:
        print(f"out of date: {', '.join(stale)}; run: python -m tools.reference", file=sys.stderr)
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
