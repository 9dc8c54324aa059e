"""Make the first screens of docs/gallery.md: reports of seven kinds, as a window of 1440 x 900 shows them on opening.

    python scripts/make_first_screens.py                # takes playwright and a Chromium, as make browser
    python scripts/make_first_screens.py --only nano    # one of them, or several
    python scripts/make_first_screens.py --keep FOLDER  # with the pages and what they are made of

Pictures go to docs/gallery/, what the pages answer to docs/gallery/first_screens.json. The training is a real one, with
a learning rate that ruins it; the pages of two routers a layer, of one layer and of 48 layers are of made-up counts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from mlx_moebench.files import write_aside
from mlx_moebench.routing import Plan, RouterSpec

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
SENTENCES = GALLERY / "first_screens.json"
SIZE: Any = {"width": 1440, "height": 900}
MOST_BYTES = 120_000

DOMAINS = [f"results/routing_stats_nano_{name}.json" for name in ("math", "general", "code")]
RUINED = """\
iters: 40
batch_size: 4
max_seq_length: 96
num_layers: -1
learning_rate: 3e-2
steps_per_eval: 10
routing_samples: 20
routing_loss: {name: entropy_floor, weight: 0.1, signal: load, floor: {fraction: 0.97}}
"""


def run(folder: Path, *arguments: str) -> None:
    """One command of the package, on one thread."""
    print(f"mlx-moebench {' '.join(arguments)}", flush=True)
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = os.environ | threads | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlx_moebench", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def ruined(folder: Path) -> list[str]:
    """A training of 40 steps with 300 times the learning rate that it bears."""
    (folder / "ruined.yaml").write_text(RUINED, encoding="utf-8")
    run(folder, "train", "-c", "ruined.yaml", "--adapter-path", "adapters/ruined", "--quiet")
    return ["adapters/ruined"]


def large(folder: Path) -> list[str]:
    """48 layers of 128 experts on 5 data sets."""
    from page_inputs import uneven_stats

    names = [f"large_{sha}.json" for sha in "abcde"]
    for name, sha in zip(names, "abcde", strict=True):
        uneven_stats(f"domain {sha}", sha * 64).save(folder / name, Plan(resamples=100))
    return names


def made_up(folder: Path, name: str, specs: Sequence[RouterSpec]) -> list[str]:
    """Random routing of two data sets."""
    from routing_reference import MODEL, make_stats

    names = [f"{name}_{sha}.json" for sha in "ab"]
    for file, sha in zip(names, "ab", strict=True):
        stats = make_stats(specs=tuple(specs), sha=sha * 64, length=60, model=MODEL | {"id": f"made-up/{name}"})
        stats.save(folder / file, Plan(resamples=1000))
    return names


def two_routers(folder: Path) -> list[str]:
    """Four layers with a router of attention and one of the MLP each."""
    kinds = ("attention", "mlp")
    specs = [RouterSpec(layer, layer, kind, 8, 2) for layer in range(4) for kind in kinds]
    return made_up(folder, "two-routers", specs)


def one_layer(folder: Path) -> list[str]:
    """One layer of 8 experts."""
    return made_up(folder, "one-layer", [RouterSpec(0, 0, "mlp", 8, 2)])


SCREENS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "olmoe": ("OLMoE, imported counts", lambda _: ["results/routing_stats_olmoe_counts.json"]),
    "nano": ("The embedded model on three domains", lambda _: DOMAINS),
    "ruined": ("A training that went wrong", ruined),
    "compared": ("Weights of 4 bits against those of 16", lambda _: ["results/comparisons/nano_4bit.json"]),
    "large": ("48 layers of 128 experts on 5 domains, made up", large),
    "two_routers": ("Two routers a layer, made up", two_routers),
    "one_layer": ("One layer of 8 experts, made up", one_layer),
}
"""Of each its title, and what makes the arguments of `report` in a folder where results/ is to be found."""


def small(picture: bytes) -> bytes:
    """A screenshot in 256 colours."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        few.save(out, format="png", optimize=True)
    return out.getvalue()


def said(page: Any) -> str:
    """The answer, verdicts on trainings first."""
    lines = page.locator(".said > p").all_inner_texts()
    return " ".join(" ".join(line.split()) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SCREENS, default=list(SCREENS), metavar="NAME", help="Which.")
    parser.add_argument("--keep", type=Path, help="Leave pages and inputs in this folder.")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    sentences = json.loads(SENTENCES.read_text(encoding="utf-8")) if SENTENCES.exists() else {}
    pictures = {}
    chromium = os.environ.get("MOEBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "results").exists():
            (folder / "results").symlink_to(ROOT / "results", target_is_directory=True)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in options.only:
            title, inputs = SCREENS[name]
            run(folder, "report", *inputs(folder), "-o", f"{name}.html")
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto((folder / f"{name}.html").resolve().as_uri())
            pictures[GALLERY / f"first_{name}.png"] = small(page.screenshot())
            sentences[name] = {"title": title, "said": said(page)}
            page.close()
        browser.close()
    for path, picture in pictures.items():
        print(f"{path.name}: {len(picture):,} bytes")
        if len(picture) > MOST_BYTES:
            sys.exit(f"{path.name} has {len(picture):,} bytes, and at most {MOST_BYTES:,} are allowed.")
    text = json.dumps({name: sentences[name] for name in SCREENS if name in sentences}, indent=1, ensure_ascii=False)
    write_aside(pictures | {SENTENCES: f"{text}\n".encode()})


if __name__ == "__main__":
    main()
