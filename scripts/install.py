"""Make the virtual environment that a make target needs, from the versions in constraints.txt. Standard library only.

    python scripts/install.py .venv core      what `make analyze` needs: the package and MLX
    python scripts/install.py .venv quick     and the tests of the core, without torch, gradio and lm-eval
    python scripts/install.py .venv full      and everything that the tests compare with
    python scripts/install.py .venv-latest full --latest      the newest version of everything
    python scripts/install.py .venv-oldest full --oldest      the oldest versions that pyproject.toml allows

Nothing is done where the environment is current: its stamp holds a hash of what it was made from.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "constraints.txt"
PROFILES = ("core", "quick", "full")
"""In this order: an environment of a later one serves the earlier ones, too."""

EXTRAS = {"core": "", "quick": "quick", "full": "dev,vlm"}
APART = ("vlm",)
"""Extras that the oldest versions go without: mlx-vlm 0.7.10 needs newer transformers and datasets than the others."""

DISK = {"core": "0.7 GB", "quick": "0.8 GB", "full": "2.7 GB"}
CUDA_DISK = "7 GB"
TIME = {"core": "half a minute", "quick": "half a minute", "full": "one to three minutes"}
SILENCE = 15.0
"""Seconds after which a line says how far it is, where the output is no terminal."""

PYTORCH = "torch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("venv", type=Path)
    parser.add_argument("profile", choices=PROFILES)
    versions = parser.add_mutually_exclusive_group()
    versions.add_argument("--latest", action="store_true", help="the newest versions, not those of constraints.txt")
    versions.add_argument("--oldest", action="store_true", help="the lower bounds of pyproject.toml")
    arguments = parser.parse_args()
    which = "latest" if arguments.latest else "oldest" if arguments.oldest else "pinned"
    venv, profile = arguments.venv, arguments.profile
    made_from = fingerprint(which)
    if is_current(venv, profile, made_from):
        return
    try:
        install(venv, profile, which)
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command continues.")
    stamp(venv, profile).write_text(made_from, encoding="utf-8")


def fingerprint(which: str) -> str:
    """What an environment is made from, hashed: requirements, pins, interpreter, and where the tree lies."""
    parts = [which, platform.python_version(), str(ROOT)]
    parts += [path.read_text(encoding="utf-8") for path in (ROOT / "pyproject.toml", PINS, Path(__file__))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def stamp(venv: Path, profile: str) -> Path:
    return venv / f".{profile}"


def is_current(venv: Path, profile: str, made_from: str) -> bool:
    """Whether the environment was made for this profile, or one that has more, from just this."""
    enough = PROFILES[PROFILES.index(profile) :]
    stamps = [stamp(venv, name) for name in enough]
    return python_of(venv).exists() and any(s.is_file() and s.read_text(encoding="utf-8") == made_from for s in stamps)


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def install(venv: Path, profile: str, which: str) -> None:
    if not python_of(venv).exists():
        run([sys.executable, "-m", "venv", "--clear", str(venv)])
    for old in PROFILES:
        stamp(venv, old).unlink(missing_ok=True)
    pip = [str(python_of(venv)), "-m", "pip", "--disable-pip-version-check"]
    constraints = {"pinned": PINS, "latest": None, "oldest": venv / "oldest.txt"}[which]
    if which == "oldest":
        (venv / "oldest.txt").write_text("".join(f"{line}\n" for line in oldest()), encoding="utf-8")
    targets = [["--editable", f"{ROOT}{extras(profile, which)}"]]
    disk = DISK[profile]
    if profile == "full":
        pytorch, disk = torch_requirement(pip, constraints, which)
        targets.insert(0, [pytorch])
    print(
        f"Setting up {venv} ({profile}, {which} versions): {disk} of disk, {TIME[profile]} on a fast line.", flush=True
    )
    fast_blas()
    for target in targets:
        with_progress([*pip, "install", "--progress-bar", "off", *target], constraints)


def extras(profile: str, which: str = "pinned") -> str:
    """MLX comes with an extra where it has no wheel of its own platform; on a Mac it is required anyhow."""
    names = [] if platform.system() == "Darwin" else ["cpu"]
    apart = APART if which == "oldest" else ()
    names += [name for name in EXTRAS[profile].split(",") if name and name not in apart]
    return f"[{','.join(names)}]" if names else ""


def torch_requirement(pip: list[str], constraints: Path | None, which: str) -> tuple[str, str]:
    """(what to ask pip for, disk): on Linux the CPU build of the pinned version where one is offered."""
    version = pinned(PYTORCH)
    if platform.system() == "Darwin" or which == "latest":
        return (PYTORCH if which == "latest" else f"{PYTORCH}=={version}"), DISK["full"]
    wanted = f"{PYTORCH}=={version}+cpu"
    command = [*pip, "install", "--quiet", "--dry-run", "--no-deps", wanted]
    if subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return wanted, DISK["full"]
    print(
        f"No CPU build of PyTorch {version} for Python {platform.python_version()} is offered here, so its CUDA build "
        "comes, with some 4 GB of NVIDIA's libraries. PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL can name a place that has "
        "it (pytorch.org says where).",
        flush=True,
    )
    return f"{PYTORCH}=={version}", CUDA_DISK


def pinned(name: str) -> str:
    """The version of a package in constraints.txt."""
    pin = re.search(rf"^{re.escape(name)}==(\S+)$", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    if pin is None:
        sys.exit(f"constraints.txt pins no version of {name}: run make constraints.")
    return pin[1]


def oldest() -> Iterable[str]:
    """``name==bound`` of the lower bounds in pyproject.toml: not those of torch, of which one version has a CPU build,
    nor of the tools that only look at the code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    named = (name for name in optional if name not in ("dev", *APART))
    lines = [*project["dependencies"], *(line for name in named for line in optional[name])]
    for line in lines:
        bound = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", line)
        if bound and bound[1] != PYTORCH:
            yield f"{bound[1]}=={bound[2]}"


def fast_blas() -> None:
    """OpenBLAS on Debian, where root runs this: with it MLX is many times faster on a CPU. Else a line says so."""
    if platform.system() != "Linux" or shutil.which("nvidia-smi"):
        return
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    if any(name in listed for name in ("libopenblas.so.0", "libmkl_rt", "libblis")):
        return
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        print("Installing OpenBLAS (libopenblas0-pthread), with which MLX is many times faster here.", flush=True)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
        for command in ([apt, "update", "-qq"], [apt, "install", "-qq", "-y", "libopenblas0-pthread"]):
            subprocess.run(command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, **quiet)  # type: ignore[call-overload]
    else:
        print("A fast BLAS makes MLX many times faster on this CPU: apt-get install libopenblas0-pthread", flush=True)


def with_progress(command: list[str], constraints: Path | None) -> None:
    """Run pip, saying how many packages it has seen; all that it printed if it fails.

    The constraints go by environment variables, so that they hold for what builds the package, too.
    """
    settings = dict(os.environ)
    if constraints is not None:
        settings |= {"PIP_CONSTRAINT": str(constraints), "PIP_BUILD_CONSTRAINT": str(constraints)}
    process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    printed = followed(process.stdout)
    if process.wait() != 0:
        sys.stdout.writelines(line for line in printed if not line.startswith("WARNING: Location"))
        full = any("No space left" in line for line in printed)
        sys.exit("The disk is full." if full else f"pip failed: {' '.join(command)}; its last words are above.")


def followed(output: Iterable[str]) -> list[str]:
    """All lines that pip prints; meanwhile its steps are shown, without a terminal one now and then."""
    terminal, printed, packages, shown = sys.stdout.isatty(), [], 0, time.monotonic()
    for line in output:
        printed.append(line)
        step = progress(line)
        packages += line.startswith("Collecting ")
        if step and (terminal or time.monotonic() - shown > SILENCE):
            shown = time.monotonic()
            text = f"  {packages} packages so far: {step}"
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}" if terminal else text, end="", flush=True)
            print("" if terminal else "\n", end="", flush=True)
    print("\r\033[K" if terminal else "", end="", flush=True)
    return printed


def progress(line: str) -> str:
    """What a line of pip says to somebody who waits; empty for all else."""
    for start, words in (
        ("Collecting ", "finding "),
        ("Downloading ", "downloading "),
        ("  Downloading ", "downloading "),
    ):
        if line.startswith(start):
            return words + line.removeprefix(start).split(" (from")[0].rsplit("/", 1)[-1].strip()
    return "unpacking, the longest part" if line.startswith("Installing collected") else ""


def run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"This failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
