"""Make docs/gallery.md, the pictures that it shows, and the README's, from results/ and a training of a minute.

    python scripts/make_gallery.py             # or make gallery
    python scripts/make_gallery.py --only-page # the page, with the pictures that are there

Two runs on one machine write the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from mlx_moebench.files import write_aside
from mlx_moebench.show.plots import plots

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WIDE = 1050
"""Pixels of the pictures on the page, so that all of them together stay small."""

DOMAINS = [f"results/routing_stats_nano_{name}.json" for name in ("math", "general", "code")]
TRAINING = "adapters/floor"
PRETRAINING = ["--steps", "100", "--batch-size", "8", "--vocab-size", "512", "--snapshot-every", "20"]
"""Of a model of the lab on the bundled prompts, for the picture of its course."""
INPUTS = {
    "card": [*DOMAINS, "twenty_trace", "--card", "4-12"],
    "coactivation": DOMAINS[:1],
    "comparison": ["results/comparisons/nano_4bit.json"],
    "dead": ["few/math.json", "few/general.json", "few/code.json"],
    "domains": ["results/profiles/nano.json"],
    "dynamics": ["course.json"],
    "entropy": DOMAINS,
    "load": DOMAINS,
    "quant": ["results/quant_drift/nano_math.json"],
    "river": ["twenty_trace", "--sequence", "2"],
    "shares": DOMAINS,
    "specialisation": ["results/profiles/nano.json"],
    "testbed": ["results/testbed/testbed.json"],
    "tokens": ["twenty_trace"],
    "training": [TRAINING],
    "uncertainty": ["results/uncertainty/nano_math.json"],
}
"""What each kind is drawn from."""

FLOOR = """\
iters: 120
batch_size: 4
max_seq_length: 96
num_layers: -1
learning_rate: 1e-4
steps_per_eval: 30
routing_samples: 20
routing_loss: {name: entropy_floor, weight: 0.1, signal: load, floor: {fraction: 0.97}}
"""
INTRODUCTION = """\
# Pictures

`mlx-moebench plot KIND INPUTS... -o FILE` draws what was measured as PNG, SVG or PDF, for papers: one column of text
wide, colours that colour-blind readers tell apart, units on every axis, intervals or the reason why there are none, and
the same bytes each time. Several runs, domains or trainings in one picture share their scales. INPUTS are recognised
by their content; `NAME=PATH` names a run in the picture, `--title` replaces the title (`--title ''` leaves it out).
A picture is at most 7 x 9 inches: what does not fit goes on further pages, in one PDF or in numbered files, of which
`--page` takes one; `--layers A-B` draws some layers.

In Python, `mlx_moebench.show.plots.get_plot(KIND).draw(read_inputs(INPUTS))` gives the matplotlib figure, to change
what you like, and `.every(...)` all pages. A new kind is one file in `mlx_moebench/show/plots/`. The pictures below
show the embedded model (dead experts on 16 tokens of each domain; tokens, and those of the card, from a trace of 20
texts; of `dynamics` a model of the lab after 100 updates), reduced to three quarters of the pixels and to 256 colours;
`make gallery` draws them again.
"""


DEMO = """\
## The demo

`mlx-moebench demo` shows every token in every layer while the embedded model goes on with a sentence, and plays it; one
expert's cells stay bright when one of them is clicked. `python scripts/make_demo_gif.py` records it.

![The demo plays a sentence: tokens down, layers across, cells in the colours of first experts](demo.gif)
"""


SCREENS = """\
## First screens

What a report shows on opening, in a window of 1440 x 900, and what its answer says there, word for word.
`python scripts/make_first_screens.py` makes them. The training is of the embedded model, with a learning rate that
ruins it; what is made up has random routing, or loads of random unevenness on 48 layers.
"""


def first_screens() -> str:
    """Each first screen with its answer."""
    every = json.loads((DOCS / "gallery" / "first_screens.json").read_text(encoding="utf-8"))
    parts = [
        f"### {one['title']}\n\n> {one['said']}\n\n![First screen: {one['title']}](gallery/first_{name}.png)\n"
        for name, one in every.items()
    ]
    return "\n".join([SCREENS, *parts])


def page() -> str:
    """docs/gallery.md: each kind with its command and picture, first screens, and the demo."""
    parts = [INTRODUCTION]
    for name, plot in plots().items():
        command = f"mlx-moebench plot {name} {' '.join(INPUTS[name])} -o {name}.pdf"
        parts.append(f"## {name}\n\n{plot.summary} From {plot.needs}.\n\n```\n{command}\n```\n\n")
        parts[-1] += f"![{plot.summary}](gallery/{name}.png)\n"
    return "\n".join([*parts, first_screens(), DEMO])


def run(folder: Path, *arguments: str) -> None:
    """One command of the package, on one thread, so that rounding is the same each time."""
    print(f"mlx-moebench {' '.join(arguments)}", flush=True)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlx_moebench", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def small(picture: Path) -> bytes:
    """The picture in fewer pixels and colours."""
    out = io.BytesIO()
    with Image.open(picture) as image:
        size = (WIDE, round(image.height * WIDE / image.width))
        scaled = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        # Maximum coverage, or the colours of thin lines would turn into those of large areas.
        few = scaled.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        few.save(out, format="png", optimize=True)
    return out.getvalue()


def draw(folder: Path) -> None:
    """Every picture, drawn in ``folder``, where results/ is to be found."""
    (folder / "results").symlink_to(ROOT / "results", target_is_directory=True)
    (folder / "floor.yaml").write_text(FLOOR, encoding="utf-8")
    run(folder, "train", "-c", "floor.yaml", "--adapter-path", TRAINING, "--quiet")
    run(folder, "lab", "train", *PRETRAINING, "-o", "runs/smoe", "--quiet")
    course = ["--dataset", "general", "--max-length", "128", "-o", "course.json"]
    run(folder, "dynamics", "runs/smoe", *course, "--quiet")
    run(folder, "analyze", "--output", "math.json", "--plot", "load.svg", "--quiet")
    twenty = ["--max-samples", "20", "--max-length", "64", "--output", "twenty.json", "--trace", "twenty_trace"]
    run(folder, "analyze", "--dataset", "general", *twenty, "--quiet")
    for name in ("math", "general", "code"):
        few = ["--dataset", name, "--max-samples", "1", "--max-length", "16"]
        run(folder, "analyze", *few, "--output", f"few/{name}.json", "--quiet")
    pictures = {DOCS / "load.svg": (folder / "load.svg").read_bytes()}
    for name in plots():
        run(folder, "plot", name, *INPUTS[name], "-o", f"{name}.png")
        pictures[DOCS / "gallery" / f"{name}.png"] = small(folder / f"{name}.png")
    write_aside(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only-page", action="store_true", help="Leave the pictures as they are.")
    if not parser.parse_args().only_page:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder))
    write_aside({DOCS / "gallery.md": page().encode()})


if __name__ == "__main__":
    main()
