"""Make docs/demo.gif: the demo that goes on with a sentence, plays it and asks for an expert.

    python scripts/make_demo_gif.py   # takes playwright and a Chromium, as make browser

Frames are screenshots of a real demo of the embedded model; the clock of its page is moved by hand.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from mlx_moebench.files import write_aside

ROOT = Path(__file__).parents[1]
GIF = ROOT / "docs" / "demo.gif"
WIDE, HIGH = 520, 590
TEXT = "Once upon a time there was a farmer who"
COLOURS = 96
A_TOKEN, REST = 220, 1800
"""Milliseconds of a frame, and of one to look at."""

MOST_BYTES = 1_000_000


def frames(page: Any) -> list[tuple[Image.Image, int]]:
    """(picture, milliseconds) of the map: the prompt, what is generated, then played from the start."""
    taken: list[tuple[Image.Image, int]] = []

    def take(milliseconds: int) -> None:
        box = page.locator(".token-map").bounding_box()
        clip = {"x": box["x"] - 8, "y": box["y"] - 8, "width": WIDE, "height": HIGH}
        taken.append((Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB"), milliseconds))

    page.locator("#text-a textarea").fill(TEXT)
    page.locator("#message", has_text="10 tokens").wait_for()
    page.locator(".mp-where", has_text="of 10").wait_for()
    page.locator(".token-map").scroll_into_view_if_needed()
    take(REST)
    page.locator("#generate").click()
    page.locator("#message", has_text="generated: ").wait_for()
    page.locator(".mp-map .mm-made").wait_for(state="attached")
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    slider = page.locator(".mp-controls input")
    slider.evaluate("(e) => { e.value = 10; e.dispatchEvent(new Event('input')); }")
    page.locator(".mp-play").click()
    for _ in range(int(slider.get_attribute("max")) - 11):
        take(A_TOKEN)
        page.clock.run_for(A_TOKEN)
    page.clock.run_for(A_TOKEN)
    take(REST)
    page.locator('.mp-map g[data-token="40"] .mm-cell').nth(3).click()
    take(2 * REST)
    return taken


def gif(taken: list[tuple[Image.Image, int]]) -> bytes:
    """All frames with the colours of the last but one, in which every cell is seen."""
    few = taken[-2][0].quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    pictures = [picture.quantize(palette=few, dither=Image.Dither.NONE) for picture, _ in taken]
    out = io.BytesIO()
    durations = [milliseconds for _, milliseconds in taken]
    pictures[0].save(out, "gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)
    return out.getvalue()


def main() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mlx_moebench", "demo", "--no-browser"]
    demo = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        address = demo.stdout.readline().split("Serving at ")[1].split()[0]
        chromium = os.environ.get("MOEBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 640, "height": 1400})
            page.goto(address)
            page.locator("#message", has_text="through 6 routers").wait_for(timeout=60_000)
            made = gif(frames(page))
            browser.close()
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.wait(30)
    if len(made) > MOST_BYTES:
        sys.exit(f"The GIF has {len(made):,} bytes, and at most {MOST_BYTES:,} are allowed: take fewer frames.")
    write_aside({GIF: made})
    print(f"Wrote {GIF.relative_to(ROOT)}, {len(made):,} bytes")


if __name__ == "__main__":
    main()
