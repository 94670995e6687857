"""The rules that hold the house up: which floor imports what, who reads the environment, how long a
function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ledger", "tasks", "api", "pixeltoll")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LINES_MAX = 70
HEAVIEST = {"torch", "diffusers", "transformers", "peft"}
# What reads the process's environment, by any of its names.
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_imports_go_down_and_torch_stays_in_the_engine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)

    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_only_settings_read_the_environment(path: Path) -> None:
    if path.name == "settings.py":
        return
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute | ast.alias)
    }

    assert not names & ENVIRONMENT


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_functions_are_short_enough_to_read(path: Path) -> None:
    long = {
        function.name: (function.end_lineno or 0) - function.lineno + 1
        for function in functions(ast.parse(path.read_text("utf-8")))
    }

    assert {name: lines for name, lines in long.items() if lines > LINES_MAX} == {}


def loaded_by(module: str, then: str = "") -> set[str]:
    program = f"import sys, {module}\n{then}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(
        (sys.executable, "-c", program), check=True, capture_output=True, text=True, cwd=ROOT
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_api_loads_no_gpu_library_and_no_image_library() -> None:
    heavy = {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "PIL"}

    assert not loaded_by("api.wsgi") & heavy


def test_the_scheduler_loads_no_torch() -> None:
    assert not loaded_by("tasks.scheduler") & HEAVIEST


def test_the_list_of_commands_loads_nothing_of_what_they_need() -> None:
    loaded = loaded_by("pixeltoll.cli", "pixeltoll.cli.program()")

    assert not loaded & {"sqlalchemy", "pydantic", "httpx", "redis", "ledger", "tasks", "api"}


def test_no_command_loads_what_another_process_needs() -> None:
    every = "[one.loaded for one in pixeltoll.cli.program().commands.values()]"

    assert not loaded_by("pixeltoll.cli", every) & {*HEAVIEST, "celery", "boto3", "flask", "PIL"}


def test_the_books_load_neither_the_web_nor_the_queue() -> None:
    assert not loaded_by("ledger.reports") & {*HEAVIEST, "flask", "celery", "boto3", "PIL"}
