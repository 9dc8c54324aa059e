"""Colours: told apart by every reader, on light and on dark, and the same in every view."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_moebench.show import colours
from mlx_moebench.show.colours import domain_colours, expert_colours, mixed

Floats = NDArray[np.float64]

# Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency, IEEE TVCG
# 15(6), 2009: table 1 at severity 1.0, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
GROUNDS = {"light": "#ffffff", "dark": "#0f1318"}
FLOOR = 12.5
"""CIEDE2000 between any two colours of a set: some 5 are seen side by side, 10 at a glance."""


def linear(colour: str) -> Floats:
    """Linear RGB of sRGB."""
    c = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    """CIELAB of linear RGB, white at D65."""
    t = XYZ @ rgb / XYZ.sum(axis=1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(first: Floats, second: Floats) -> float:
    """Sharma, Wu and Dalal, The CIEDE2000 Color-Difference Formula, Color Research and Application 30(1), 2005."""
    (l1, a1, b1), (l2, a2, b2) = map(tuple, (first, second))
    seventh = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1 + 0.5 * (1 - np.sqrt(seventh / (seventh + 25.0**7)))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    h = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    cosines = zip((-0.17, 0.24, 0.32, -0.2), (h - 30, 2 * h, 3 * h + 6, 4 * h - 63), strict=True)
    t = 1 + sum(weight * np.cos(np.radians(angle)) for weight, angle in cosines)
    by_light = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    by_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    by_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    blue = 60 * np.exp(-(((h - 275) / 25) ** 2))
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(blue))
    return float(np.sqrt(by_light**2 + by_chroma**2 + by_hue**2 + rotation * by_chroma * by_hue))


def distance(first: str, second: str, vision: str) -> float:
    seen = (lab(np.clip(VISIONS[vision] @ linear(colour), 0, 1)) for colour in (first, second))
    return ciede2000(*seen)


def contrast(first: str, second: str) -> float:
    """As WCAG 2 has it."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_is_that_of_its_authors(
    first: tuple[float, ...], second: tuple[float, ...], expected: float
) -> None:
    """Rows of table 1 of Sharma, Wu and Dalal."""
    assert ciede2000(np.array(first), np.array(second)) == pytest.approx(expected, abs=5e-5)
    assert ciede2000(np.array(second), np.array(first)) == pytest.approx(expected, abs=5e-5)


SETS = {
    ("domains", "light"): [*colours.DOMAINS, colours.ALL],
    ("domains", "dark"): [*colours.DOMAINS_DARK, colours.ALL_DARK],
    ("experts", "light"): [*colours.EXPERTS, colours.OTHER, colours.CHOSEN],
    ("experts", "dark"): [*colours.EXPERTS_DARK, colours.OTHER_DARK, colours.CHOSEN_DARK],
    ("findings", "light"): list(colours.FINDINGS.values()),
    ("findings", "dark"): list(colours.FINDINGS_DARK.values()),
}


@pytest.mark.parametrize("of", SETS, ids=" on ".join)
def test_every_reader_tells_all_colours_apart(of: tuple[str, str]) -> None:
    smallest = {vision: min((distance(a, b, vision), a, b) for a, b in combinations(SETS[of], 2)) for vision in VISIONS}
    for vision, (least, a, b) in smallest.items():
        print(f"{' on '.join(of)}, {vision}: smallest CIEDE2000 {least:.1f}, {a} and {b}")  # noqa: T201
    assert min(least for least, _, _ in smallest.values()) >= FLOOR


@pytest.mark.parametrize("of", SETS, ids=" on ".join)
def test_every_colour_stands_out_from_its_ground(of: tuple[str, str]) -> None:
    ratios = {colour: contrast(colour, GROUNDS[of[1]]) for colour in SETS[of]}
    least = 1.9 if of == ("findings", "light") else 3.0  # yellow and pale grey, of areas beside words
    assert min(ratios.values()) >= least, ratios


@pytest.mark.parametrize("stops", [colours.DIVERGING, colours.DIVERGING_DARK], ids=["light", "dark"])
def test_less_and_more_are_told_apart_and_grow_away_from_even(stops: colours.Stops) -> None:
    for vision in VISIONS:
        for far in (0.25, 0.5, 0.75, 1.0):
            assert distance(mixed(stops, -far), mixed(stops, far), vision) >= FLOOR, (vision, far)
    for side in (-1, 1):
        light = [lab(linear(mixed(stops, side * far)))[0] for far in np.linspace(0, 1, 21)]
        steps = np.diff(light) * (1 if stops is colours.DIVERGING_DARK else -1)
        assert (steps > 0).all(), "lightness alone says how far"


def test_the_sequential_map_grows_in_lightness_for_every_reader() -> None:
    for vision in VISIONS.values():
        light = [lab(np.clip(vision @ linear(mixed(colours.SEQUENTIAL, x)), 0, 1))[0] for x in np.linspace(0, 1, 21)]
        assert (np.diff(light) > 0).all()


def test_domains_keep_their_colour_by_first_naming() -> None:
    named = domain_colours(["code", "math", "code", "general"])
    assert named == dict(zip(("code", "math", "general"), colours.DOMAINS, strict=False))
    assert list(domain_colours(map(str, range(10))).values())[8:] == list(colours.DOMAINS[:2])
    assert domain_colours(["code"], dark=True) == {"code": colours.DOMAINS_DARK[0]}


def test_the_eight_busiest_experts_have_a_colour_and_the_others_are_grey() -> None:
    counts = np.arange(12)
    every = expert_colours(counts)
    assert every[::-1] == [*colours.EXPERTS, *[colours.OTHER] * 4]
    assert expert_colours([5, 0, 5, 0]) == [colours.EXPERTS[0], colours.OTHER, colours.EXPERTS[1], colours.OTHER]
    assert expert_colours([1], dark=True) == [colours.EXPERTS_DARK[0]]


def test_maps_mix_and_hold_their_ends() -> None:
    assert mixed(colours.DIVERGING, -3) == "#084081"
    assert mixed(colours.DIVERGING, 0) == "#f6f6f6"
    assert mixed(colours.DIVERGING, 9) == "#732e00"
    assert mixed(((0.0, "#000000"), (1.0, "#ffffff")), 0.5) == "#808080"
    for dark, stops in ((False, colours.DIVERGING), (True, colours.DIVERGING_DARK)):
        of_plots = colours.diverging_map(dark)
        for place in np.linspace(-1, 1, 9):
            drawn = [round(255 * part) for part in of_plots((place + 1) / 2)[:3]]
            ours = [int(mixed(stops, place)[start : start + 2], 16) for start in (1, 3, 5)]
            np.testing.assert_allclose(drawn, ours, atol=2)
    assert colours.sequential_map()(0.0)[:3] == pytest.approx(np.array([0x44, 0x01, 0x54]) / 255)


def test_scripts_get_the_same_colours() -> None:
    data = colours.as_json(["math", "code", "math"])
    assert data["names"] == ["math", "code"]
    assert data["light"]["experts"] == list(colours.EXPERTS)
    assert data["dark"]["findings"] == colours.FINDINGS_DARK
    assert data["light"]["diverging"][2] == [0.0, "#f6f6f6"]
