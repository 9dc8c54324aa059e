"""The structure that CONTRIBUTING.md promises: what imports what, and what imports without MLX."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from without import without

PACKAGE = Path(__file__).parents[1] / "mlx_moebench"
RANK = {
    "routing": 0,
    "pair": 1,
    "families": 1,
    "checkpoints": 2,
    "instrument": 2,
    "data": 2,
    "models": 3,
    "measure": 4,
    "evaluate": 5,
    "analysis": 6,
    "train": 7,
    "lab": 8,
    "show": 9,
    "web": 9,
    "demo": 10,
    "serve": 10,
    "cli": 11,
}


def imports(path: Path) -> set[str]:
    """First-level packages of mlx_moebench that a file imports, wherever in it."""
    found = set()
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level] if node.level else ()
            module = (*base, *(node.module or "").split("."))
            names = [(*module, alias.name) for alias in node.names]
            found |= {name[1] for name in names if name[0] == "mlx_moebench" and len(name) > 1}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mlx_moebench.")}
    return found


@pytest.mark.parametrize("folder", sorted(RANK))
def test_imports_go_one_way(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        for other in imports(path) & RANK.keys() - {folder}:
            assert RANK[other] < RANK[folder], f"{path.relative_to(PACKAGE)} imports {other}"


BLOCKED = ("mlx", "mlx_lm", "torch", "transformers", "lm_eval", "gradio")

NEED_A_LIBRARY = (
    *("models", "instrument", "train", "lab", "measure.on_mlx", "analysis.selftest", "analysis.changed", "demo.app"),
    *("analysis.contributed", "analysis.expert_weights", "analysis.tested"),
    *("analysis.merging", "analysis.prune", "analysis.reweight", "analysis.speed"),
    *(
        "evaluate.harness",
        "vlm",
        "serve.generator",
        "serve.handler",
        "serve.library",
        "serve.models",
        "serve.provider",
        "serve.run",
    ),
    *("serve.stats", "serve.answers", "serve.keep", "serve.prometheus"),
)

"""What runs a model, or another library, and may import it. All else imports without."""


def test_imports_without_mlx_torch_and_transformers() -> None:
    files = [path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    modules = sorted(".".join(parts).removesuffix(".__init__") for parts in files if parts[-1] != "__main__")
    needless = [m for m in modules if not any(m == need or m.startswith(need + ".") for need in NEED_A_LIBRARY)]
    code = (
        f"{without(*BLOCKED)}import importlib\n"
        f"for module in {needless!r}:\n"
        "    try:\n"
        "        importlib.import_module('mlx_moebench.' + module if module != '__init__' else 'mlx_moebench')\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(module, 'needs', error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_torch_fallback_is_thin() -> None:
    """It needs nothing of this package that needs MLX."""
    allowed = {"allocator", "checkpoints", "cli", "data", "environment", "errors", "families", "files", "measure"}
    allowed |= {"options", "pair", "routing", "types"}
    for path in (PACKAGE.parent / "torch_fallback").glob("*.py"):
        text = path.read_text()
        assert set(re.findall(r"from mlx_moebench\.(\w+)", text)) <= allowed, path
        assert "import mlx." not in text


def test_every_cli_file_is_a_command_with_examples() -> None:
    from click.testing import CliRunner

    from mlx_moebench.cli import group

    names = [p.stem.removesuffix("_") for p in (PACKAGE / "cli").glob("*.py") if not p.stem.startswith("_")]
    assert {"analyze", "doctor"} <= set(names)
    for name in names:
        result = CliRunner().invoke(group, [name, "--help"])
        assert result.exit_code == 0
        assert "Examples:" in result.output


def test_nothing_is_unpickled_or_run_as_code() -> None:
    """What others wrote is read as data: no pickle in any of its forms, no `eval`, no YAML with objects."""
    refused = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for package in (PACKAGE, PACKAGE.parent / "torch_fallback"):
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    assert not refused & {alias.name.split(".")[0] for alias in node.names}, path
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    assert str(node.module).split(".")[0] not in refused, path
                elif isinstance(node, ast.Call):
                    called, keys = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
                    assert called not in ("torch.load", "eval", "exec", "yaml.unsafe_load", "pandas.read_pickle"), path
                    assert keys.get("allow_pickle", "False") == "False", path
                    assert called != "yaml.load" or len(node.args) + len(keys) == 2, path


def test_browser_tests_wait_by_asking_again() -> None:
    """playwright's own waiting lets the page make code of a string, which our pages refuse once it has to wait."""
    for path in (PACKAGE.parent / "tests" / "browser").glob("*.py"):
        assert ".wait_for_function(" not in path.read_text(encoding="utf-8"), path
