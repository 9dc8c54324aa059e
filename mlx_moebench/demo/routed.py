"""What the page shows of one text, of two, or of one before and after an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, Unpack, get_args

from ..checkpoints import Checkpoint
from ..errors import MoebenchError, did_you_mean
from ..measure.backends import backend_named
from ..measure.text import RoutedText, route_text
from ..options import Loading, LoadingChoices, quiet_step, with_choices
from ..routing.tokens import TokenSequence
from ..show.names import model_name
from ..show.numbers import count
from ..show.tokens import script_json, token_data_of
from ..types import Json
from .heatmap import heatmaps_html
from .table import table_html

Mode = Literal["one text", "two texts", "before and after the adapter"]
MODES: tuple[Mode, ...] = get_args(Mode)

T = TypeVar("T")

MOST_BYTES = 16_000_000
"""Of the arrays of the token view."""

WHY_NO_INTERVAL = (
    "No intervals: what is resampled are sequences, and a text is one sequence. For numbers with intervals, measure a "
    "data set: mlx-moebench analyze, or compare."
)


@dataclass(frozen=True)
class Shown:
    """message: sentences on what was run. tokens: of the token view, as JSON. heatmap, table: HTML."""

    message: str
    tokens: str
    heatmap: str
    table: str


class Models:
    """The models of a demo, each loaded when it is first asked for and then kept.

    models: folders or hub ids; None is the embedded model. choices: how they are loaded; an adapter goes on the only
    model. Raises `MoebenchError` for an adapter and several models, or two models of one name.
    """

    def __init__(
        self,
        models: Sequence[str | None] = (None,),
        loading: Loading | None = None,
        **choices: Unpack[LoadingChoices],
    ) -> None:
        self._loading = with_choices(loading, choices)
        if self._loading.adapter_path is not None and len(models) > 1:
            raise MoebenchError(f"An adapter is applied to one model, not to {len(models)}: give one --model with it.")
        self._models = {model or "moebench-nano": model for model in models}
        if len(self._models) < len(models):
            raise MoebenchError("A model is named twice: give each --model once.")
        self.adapter_path = self._loading.adapter_path
        self._backend = backend_named(self._loading.backend)
        self._loaded: dict[tuple[str, bool], Checkpoint] = {}

    @property
    def names(self) -> list[str]:
        """What each is called on the page."""
        return list(self._models)

    @property
    def modes(self) -> list[Mode]:
        """What can be shown."""
        return list(MODES if self.adapter_path is not None else MODES[:2])

    def get(self, name: str, adapted: bool = False) -> Checkpoint:
        """The model of that name, without the adapter or with it; raises what loading raises."""
        if name not in self._models:
            raise MoebenchError(f"There is no model {name!r} here.{did_you_mean(name, self.names)}")
        if (name, adapted) not in self._loaded:
            loading = self._loading if adapted else replace(self._loading, adapter_path=None)
            self._loaded[name, adapted] = self._backend.load(self._models[name], loading, quiet_step)
        return self._loaded[name, adapted]


@dataclass(frozen=True)
class Side:
    """What one side of a mode runs: a text through a model, and what it is called."""

    checkpoint: Checkpoint
    text: str
    name: str

    def run(self, how: Callable[[Checkpoint, str, str], T]) -> T:
        """``how`` of the model, the text and the name; of two texts an error says which one it is."""
        try:
            return how(self.checkpoint, self.text, self.name)
        except MoebenchError as error:
            if self.name in ("text A", "text B"):
                raise type(error)(f"{self.name[0].upper()}{self.name[1:]}: {error}") from error
            raise


def sides_of(models: Models, name: str, mode: Mode, texts: Sequence[str]) -> list[Side]:
    """The one or two sides of ``mode``; raises `MoebenchError` for an adapter that there is not."""
    if mode == "two texts":
        named = zip(texts, ("text A", "text B"), strict=True)
        return [Side(models.get(name), text, side) for text, side in named]
    if mode == "one text":
        return [Side(models.get(name), texts[0], "the text")]
    if models.adapter_path is None:
        raise MoebenchError("There is no adapter here: start the demo with --adapter-path.")
    return [Side(models.get(name, adapted), texts[0], "after" if adapted else "before") for adapted in (False, True)]


def show(models: Models, name: str, mode: Mode, texts: Sequence[str], max_tokens: int) -> Shown:
    """Run the texts that ``mode`` needs, the first or both, and make what the page shows of them.

    Raises `MoebenchError` subclasses with one sentence.
    """
    sides = [
        side.run(lambda checkpoint, text, called: route_text(checkpoint, text, name=called, max_tokens=max_tokens))
        for side in sides_of(models, name, mode, texts)
    ]
    if mode == MODES[2]:
        sides[1] = replace(sides[1], tokens=replace(sides[1].tokens, against=0))
    return shown_of(sides, [side.tokens for side in sides], mode)


def shown_of(sides: Sequence[RoutedText], sequences: Sequence[TokenSequence], mode: Mode, said: str = "") -> Shown:
    """The page of one side, or of two and what differs, and all ``sequences`` token by token. said: a sentence more."""
    stats = [side.stats for side in sides]
    tokens = token_data_of(
        stats[0].specs,
        sequences,
        model=stats[0].model,
        name="typed text" if mode != MODES[2] else f"typed text, before and after {_adapter(stats[1].model)}",
        max_tokens=sum(len(one.texts) for one in sequences),
        max_bytes=MOST_BYTES,
    )
    return Shown(_message(sides, said), script_json(tokens), heatmaps_html(sides), table_html(sides))


def _adapter(model: Json) -> str:
    return str((model.get("adapter") or {}).get("name", "the adapter"))


def _message(sides: Sequence[RoutedText], said: str) -> str:
    """Who ran what, what was cut off, and why there is no interval."""
    parts = []
    for side in sides:
        specs = side.stats.specs
        forms = ", ".join(sorted({f"top-{s.top_k} of {s.n_experts}" for s in specs}))
        ran = f"{count(side.stats.n_tokens, 'token')} through {count(len(specs), 'router')} ({forms})"
        name = f", {side.tokens.name}" if len(sides) > 1 else ""
        parts.append(f"{model_name(side.stats.model)}{name}: {ran}.")
    parts += dict.fromkeys(side.cut for side in sides if side.cut)
    parts += dict.fromkeys(warning for side in sides for warning in side.stats.model.get("warnings", ()))
    return " ".join(filter(None, [*parts, said, WHY_NO_INTERVAL]))
