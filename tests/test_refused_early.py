"""What needs no model to be refused is refused before torch, transformers or MLX is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"mlx.core", "mlx_lm", "torch", "transformers", "gradio", "datasets", "lm_eval"}

REFUSED = {
    "analyze --output x.txt": "name x.json",
    "analyze --output . --plot load.png": "name a file, such as out.json",
    "analyze --plot load.jpg": "ends in .png, .svg or .pdf",
    "analyze --dataset no-such.jsonl": "neither a bundled data set nor a file or folder",
    "analyze --dataset maths": "Did you mean 'math'?",
    "analyze --model moebench-nan": "Did you mean 'moebench-nano'?",
    "analyze --model ./no-such --backend torch": "No such folder",
    "analyze --model m.gguf": "GGUF",
    "analyze --adapter-path no-such": "no adapter folder",
    "analyze --generate 3 --batch-size 2": "leave out --batch-size",
    "analyze --bits 8 --4bit": "contradicts",
    "analyze --shard 5/4": "There is no shard",
    "profile --domain math --domain x=no-such.csv": "neither a bundled data set",
    "profile --model a=moebench-nan": "Did you mean 'moebench-nano'?",
    "loss --dataset no-such": "neither a bundled data set",
    "loss --output x.txt": "ends in .json",
    "evaluate --model moebench-nan": "Did you mean 'moebench-nano'?",
    "evaluate --task arc_easy --subjects anatomy": "--subjects belongs to --task mmlu",
    "experts prune --keep 1.0": "0<x<1",
    "experts reweight --strength 0": "x>0",
    "train --model moebench-nan": "Did you mean 'moebench-nano'?",
    "demo --model moebench-nan": "Did you mean 'moebench-nano'?",
    "compare a.json b.json": "No stats pair at a.json",
    "compare a.json b.json --metric ginni": "Did you mean 'gini'?",
    "compare moebench-nano --backends mlx,nope": "backend 'nope'",
    "metrics ginni": "Did you mean 'gini'?",
    "merge a.json -o x.json": "No stats pair",
    "report a.json": "a.json",
    "plot load a.json -o load.png": "a.json",
    "vocabulary no-such": "No trace in no-such",
}
"""A command line, and what its sentence says."""


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """All in one process, so that one import by any of them is seen and named."""
    code = f"""
import contextlib, io, sys
from mlx_moebench.cli import main
for line, words in {REFUSED!r}.items():
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        main(line.split())
        print(line, "was not refused")
    if words not in errors.getvalue():
        print(line, "said", errors.getvalue())
    if heavy := {HEAVY!r} & set(sys.modules):
        print(line, "imported", sorted(heavy))
        break
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.v2", "run-0.5", "out.json", "out.safetensors", "out"])
def test_other_dots_belong_to_the_name(name: str, tmp_path: Path) -> None:
    from mlx_moebench.pair.storage import check_writable

    check_writable(tmp_path / name)
