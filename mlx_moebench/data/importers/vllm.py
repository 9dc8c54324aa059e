"""Routed-expert ids of vLLM's --enable-return-routed-experts: arrays saved from Python, or answers of its server.

``CompletionOutput.routed_experts`` is [tokens, layers, K], of prompt and generated tokens but the last one, which no
forward pass has seen (vllm-project/vllm, pull request 28284, merged January 2026; vllm/outputs.py). int32 at first,
int16 and split into ``RequestOutput.prompt_routed_experts`` and generated tokens in v0.21
(docs/training/routed_experts_replay.md), uint8 or uint16 and in one piece after it; layers are all blocks of the model,
those without a router 0, or in v0.21 those with one. v0.21 writes -1 at positions that came from the prefix cache.
The server answers nested lists or base64-encoded .npy bytes. The order of a token's ids is that of
``torch.topk(sorted=False)`` or of a kernel, so the first is not the first choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...pair.stats import RoutingStats
from ...routing.record import Phase
from ...types import Json
from . import Importer, NamedFile
from ._arrays import PICKLES, RESPONSES, Array, cached_of, decoded_npy, integers, responses_of, usage_of
from ._ids import Reading, Recorded, sequences_in, statistics_of_ids
from ._survey import Choices


def read(
    files: Sequence[NamedFile],
    *,
    experts: int,
    layers: tuple[int, ...] | None = None,
    phase: Phase = "unsplit",
    prompt_tokens: tuple[int, ...] | None = None,
    data: str | None = None,
    skip_padding: bool = False,
    cumulative: str | None = None,
    shared_expert: tuple[int, ...] = (),
    omitted_prefix: bool = False,
    allow: tuple[str, ...] = (),
    model_id: str = "imported from vLLM",
    **settings: Any,
) -> RoutingStats:
    """Statistics of arrays [tokens, layers, K], each of which is a sequence, and of saved answers of the server.

    Without the length of the prompts, all tokens of a file are of the phase that is given.
    """
    model = {"id": model_id, "model_type": "unknown", "backend": "vllm"}
    choices = Choices(skip_padding, cumulative, shared_expert, allow, omitted_prefix)
    reading = Reading(experts, layers, phase, prompt_tokens, choices=choices)

    def recorded(path: Path) -> list[Recorded]:
        return recorded_in(path, omitted_prefix)

    return statistics_of_ids(files, recorded, reading, data=data, model=model, form="vllm ids", **settings)


def recorded_in(path: Path, omitted_prefix: bool = False) -> list[Recorded]:
    """The sequences of a .npy, a .npz or a JSON file of responses, some of which may lack rows of a cached prefix."""
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{path} is a pickle, which can run code when opened, and is not read: save the array with numpy.save."
        )
    if path.suffix.lower() in RESPONSES:
        return [_response(number, omitted_prefix, *answer) for number, answer in enumerate(responses_of(path))]
    return sequences_in(path)


def _response(number: int, omitted_prefix: bool, where: str, response: Json) -> Recorded:
    choices = response.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise DataError(f"{where} has no choices: save what vLLM's server answers to a completion.")
    if len(choices) != 1:
        raise DataError(f"{where} has {len(choices)} choices, whose tokens are not independent: ask for n = 1.")
    ids = _decoded(choices[0].get("routed_experts"), where)
    prompt, generated = usage_of(response.get("usage"), where)
    before = response.get("prompt_routed_experts")
    if before is not None:
        head = _decoded(before, where)
        if min(head.ndim, ids.ndim) < 1 or head.shape[1:] != ids.shape[1:]:
            raise DataError(f"{where} has prompts of other layers or another K than what was generated.")
        return Recorded(where, np.concatenate([head, ids]), len(head), number)
    if prompt is None or generated is None or len(ids) == (tokens := prompt + generated - 1):
        return Recorded(where, ids, prompt, number)
    missing, cached = tokens - len(ids), cached_of(response.get("usage"), where)
    if omitted_prefix and max(cached or 0, 1) <= missing <= prompt:
        return Recorded(where, ids, prompt - missing, number, omitted=missing)
    raise DataError(f"{where} has ids of {len(ids)} tokens, but {_shortage(prompt, generated, missing, cached)}")


def _shortage(prompt: int, generated: int, missing: int, cached: int | None) -> str:
    """Why there are fewer rows than tokens, or more, and what helps."""
    what = f"{prompt} prompt and {generated} generated tokens, of which all but the last have some: "
    if missing < 0 or missing > prompt:
        return what + "the ids are those of another answer, or of several; save each answer by itself."
    if cached is not None and missing < cached:
        return what + f"usage tells {cached} cached tokens, but {missing} rows are missing; save the answer again."
    if cached:
        return what + (
            f"the rows of {missing} are missing, and usage tells {cached} cached tokens, which a server with "
            "--enable-omit-prefix-routed-experts leaves out; read what there is with --omitted-prefix, or start the "
            "server without that flag."
        )
    return what + (
        "ask for routed_experts_prompt_start = 0; or, if the server leaves out cached prefixes "
        "(--enable-omit-prefix-routed-experts), read what there is with --omitted-prefix."
    )


def _decoded(value: object, where: str) -> Array:
    if value is None:
        raise DataError(f"{where} has no routed_experts: start vLLM with --enable-return-routed-experts.")
    return decoded_npy(value, where) if isinstance(value, str) else integers(value, where)


IMPORTER = Importer(
    read,
    "Routed-expert ids of vLLM: arrays [tokens, layers, K] in .npy or .npz, or saved responses in JSON.",
    "vllm math=math_ids/ code=code_ids/ --experts 128 --output served.json",
    sequences=True,
)
