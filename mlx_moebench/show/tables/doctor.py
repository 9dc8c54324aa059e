"""What the machine has and lacks for measuring."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from ...blas import blas_in_use
from ...environment import package_version, threads
from ...machine import machine_facts, public
from ...types import Json
from .base import Terminal, plain_table

PRESENCE = {"True": "present", "False": "missing", "None": "not installed"}
WORDS = {
    "mlx_moebench": "mlx-moebench",
    "mlx_lm": "mlx-lm",
    "memory_gb": "memory, GB",
    "gpu_memory_gb": "GPU working set, GB",
    "embedded_model": "embedded model",
    "blas": "BLAS",
    "cores_allowed": "cores allowed",
    "disk_free_gb": "free disk, GB",
    "freed_memory": "freed memory",
}
EXTRAS = {"data": "datasets", "demo": "gradio", "torch": "torch"}


def examine() -> Json:
    """Versions, device, memory, BLAS and what is missing; ``ready`` says whether a model can be measured."""
    findings: Json = {
        "mlx_moebench": package_version("mlx-moebench"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "memory_gb": memory_gb(),
        "numpy": package_version("numpy"),
        "huggingface_hub": package_version("huggingface_hub"),
        "mlx": package_version("mlx"),
        "mlx_lm": package_version("mlx-lm"),
        "transformers": package_version("transformers"),
        "torch": package_version("torch"),
        "bitsandbytes": package_version("bitsandbytes"),
    }
    missing: list[str] = []
    optional: list[str] = []
    if findings["mlx"] and findings["mlx_lm"]:
        from ...models import NANO, device_facts

        findings |= device_facts()
        findings["embedded_model"] = (NANO / "model.safetensors").is_file()
        if not findings["embedded_model"]:
            missing.append("the embedded model: reinstall the package")
    else:
        extra = "" if platform.system() == "Darwin" else "[cpu]"
        # The torch backend measures without MLX.
        (optional if findings["torch"] and findings["transformers"] else missing).append(
            f'mlx and mlx-lm: pip install "mlx-moebench{extra}" (on Linux with a GPU: [cuda12] or [cuda13])'
        )
    findings["blas"] = public(blas_in_use())
    findings["threads"] = threads()
    findings |= machine_facts()
    findings["ready"] = not missing
    return findings | {"missing": missing, "optional": [*optional, *_more(findings)]}


def _more(findings: Json) -> Iterator[str]:
    """What could be installed beside what is there."""
    for extra, module in EXTRAS.items():
        if not _importable(module):
            yield f'{module}: pip install "mlx-moebench[{extra}]"'
    if platform.system() == "Linux" and findings.get("device") == "cpu" and "slow" in findings["blas"]:
        yield "a fast BLAS makes MLX several times faster on this CPU: apt-get install libopenblas0-pthread"


def print_findings(findings: Json, console: Console | None = None) -> None:
    """One line a finding, then what is missing and what could be added."""
    console = console or Terminal(highlight=False)
    for key, value in findings.items():
        if key not in ("missing", "optional", "ready", "selftest"):
            console.print(f"{WORDS.get(key, key):<22} {_shown(value)}", markup=False)
    for line in findings["missing"]:
        console.print(f"Missing: {line}", style="red", markup=False)
    for line in findings["optional"]:
        console.print(f"Optional: {line}", style="yellow", markup=False)
    how = "" if findings["mlx"] and findings["mlx_lm"] else ", with --backend torch"
    console.print(f"Ready to measure{how}." if findings["ready"] else "Not ready.", markup=False)
    if "selftest" in findings:
        console.print(render_selftest(findings["selftest"]))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items()) or "default"
    return PRESENCE.get(str(value), str(value))


def render_selftest(result: Json) -> Group:
    """One row a check and device, the verdict, and after a failure what to do."""
    table = plain_table()
    for column in ("device", "check", "differences found", "limit", ""):
        table.add_column(column)
    for device in result["devices"]:
        for check in device["checks"]:
            passed = Text("pass", "green") if check["passed"] else Text("FAIL", "bold red")
            table.add_row(device["device"], check["name"], check["found"], f"{check['limit']:g}", passed)
        if device["error"]:
            table.add_row(device["device"], "runs", device["error"], "-", Text("FAIL", "bold red"))
    heading = Text(f"\nSelf-test: {result['texts']} texts, {result['tokens']:,} tokens, float32", "bold")
    return Group(heading, table, *(Text(line) for line in _verdict(result)))


def _verdict(result: Json) -> list[str]:
    lines = []
    for device in result["devices"]:
        name, seconds = f"{device['device']} ({device['name']})", f"{device['seconds']:.1f} s"
        if device["passed"]:
            lines.append(f"Passed on {name}, {seconds}.")
            continue
        lines.append(f"FAILED on {name}, {seconds}: do not trust what is measured there.")
        if first := next((r for r in device["routers"] if r["selections_changed"]), None):
            lines.append(f"First router that chose otherwise: {first['router']}.")
    if not result["passed"]:
        if result["tf32"]:
            lines.append("MLX may round float32 products to TF32 here; try again with MLX_ENABLE_TF32=0.")
        lines += [
            "Until it is mended, measure with --device cpu if that passed. Please report it, and attach the output of",
            "  mlx-moebench doctor --selftest --json",
            "and how mlx and mlx-moebench were installed.",
        ]
    return lines


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def memory_gb() -> float:
    """Physical memory of this machine, in GB of 2^30 bytes."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
