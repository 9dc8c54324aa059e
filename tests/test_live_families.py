"""Every model type in use: what docs/live.md says comes of it, comes of it."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import DAY_OR_NIGHT, FEW_FORMS
from family_rows import BY_TYPE, CONFIGS
from live_situations import COUNTED, PAGE, SITUATIONS, Situation, draft_rejected, outcome, page, read_page, wide

pytestmark = pytest.mark.usefixtures("cpu")

WINDOWS = ("sliding_window", "sliding_window_size")


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: one.title.replace(" ", "_"))
@pytest.mark.parametrize("model_type", DAY_OR_NIGHT)
def test_what_the_page_says_comes_of_it(model_type: str, situation: Situation) -> None:
    assert outcome(situation, model_type) == read_page()[model_type][situation.title]


def test_the_page_is_current() -> None:
    table = read_page()
    assert sorted(table) == sorted(CONFIGS)
    assert page(table) == PAGE.read_text(encoding="utf-8"), "run python tests/live_situations.py"


def windowed() -> list[str]:
    return [name for name in CONFIGS if any(key in BY_TYPE[name].config for key in WINDOWS)]


@pytest.mark.parametrize("model_type", [param for param in FEW_FORMS if param.values[0] in windowed()])
def test_drafts_are_taken_back_while_a_window_is_not_full(model_type: str) -> None:
    """The page's rows are of full ones, of which mlx-lm takes nothing back."""
    from functools import partial

    from conftest import build_tiny

    change = wide(model_type, **dict.fromkeys(WINDOWS, 64))
    refused = read_page()[model_type]["draft rejected"].word == "refused"
    if not refused:
        assert draft_rejected(partial(build_tiny, model_type=model_type, **change)) == COUNTED
