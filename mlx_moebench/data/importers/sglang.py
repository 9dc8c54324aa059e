"""What SGLang records of expert choices: dumps of its expert distribution recorder, and routed experts in its answers.

The recorder (``--expert-distribution-recorder-mode``; python/sglang/srt/eplb/expert_distribution.py of
sgl-project/sglang) writes expert_distribution_recorder_TIME.pt at /dump_expert_distribution_record, a pickle:

- stat, stat_approx: ``logical_count`` [steps, layers, experts], of all ranks together;
- per_pass: ``records``, one a forward pass, with ``global_physical_count`` [layers, physical experts] of one rank, and
  ``last_physical_to_logical_map`` [layers, physical experts];
- per_token: the same with ``topk_ids_of_layer`` [layers, tokens, 8], physical ids, -1 beyond K and for padding,
  ``positions`` and ``extend_seq_lens``. Which request a token belongs to is not recorded: a prefill pass tells its
  stretches apart, a decode pass nothing.

Layers are all blocks of the model; those without a router have no count. Counts are also read from JSON with
``logical_count``, as ``--init-expert-location`` takes it. Answers hold ``routed_experts``: base64 of int32
[tokens, blocks, K], prompt and generated tokens but the last one (pull requests 17434 and 24851).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...pair.stats import RoutingStats
from ...routing.record import Phase
from ...types import Json
from . import Importer, NamedFile
from ._arrays import (
    PICKLES,
    RESPONSES,
    Array,
    cached_of,
    decoded_int32,
    files_in,
    json_of,
    names_of,
    responses_of,
    usage_of,
)
from ._counts import routers_of, statistics_of_counts
from ._ids import Reading, Recorded, sequences_in, statistics_of_ids
from ._recorder import PER_PASS, PER_TOKEN, STAT, counts_of, sequences_of
from ._survey import Choices

CONVERT = (
    "import numpy, torch; dump = torch.load({path!r}, map_location='cpu', weights_only=True); "
    "numpy.savez({target!r}, **{{k: v for k, v in dump.items() if torch.is_tensor(v)}}, **{{f'{{i}}.{{k}}': v "
    "for i, r in enumerate(dump.get('records', [])) for k, v in r.items() if v is not None and k != 'misc_objects'}})"
)
"""The line that makes a .npz of the recorder's pickle, of any mode."""


def read(
    files: Sequence[NamedFile],
    *,
    experts: int,
    top_k: int,
    layers: tuple[int, ...] | None = None,
    phase: Phase = "unsplit",
    prompt_tokens: tuple[int, ...] | None = None,
    data: str | None = None,
    skip_padding: bool = False,
    cumulative: str | None = None,
    shared_expert: tuple[int, ...] = (),
    omitted_prefix: bool = False,
    allow: tuple[str, ...] = (),
    ranks: str | None = None,
    model_id: str = "imported from SGLang",
    **settings: Any,
) -> RoutingStats:
    """Statistics of dumps converted to .npz, of JSON counts, of saved answers, and of arrays [tokens, layers, K]."""
    every = [NamedFile(file.name, path) for file in files for path in files_in(file.path)]
    counted = [file.path for file in every if _is_counts(file.path)]
    if len(counted) not in (0, len(every)):
        other = next(file.path for file in every if file.path not in counted)
        raise DataError(f"{counted[0]} holds counts and {other} the ids of tokens: import them apart.")
    model = {"id": model_id, "model_type": "unknown"}
    if not counted:
        choices = Choices(skip_padding, cumulative, shared_expert, allow, omitted_prefix)
        reading = Reading(experts, layers, phase, prompt_tokens, top_k, choices)
        if ranks:
            raise DataError(f"--ranks adds counts, but {files[0].path} holds the ids of tokens: leave it out.")
        return statistics_of_ids(
            files,
            lambda path: _recorded(path, reading),
            reading,
            data=data,
            model={**model, "backend": "sglang"},
            form="sglang ids",
            **settings,
        )
    about: dict[str, object] = {
        "--prompt-tokens": prompt_tokens,
        "--skip-padding": skip_padding,
        "--cumulative": cumulative,
    }
    about |= {"--data": data, "--shared-expert": shared_expert, "--omitted-prefix": omitted_prefix, "--allow": allow}
    for option, value in about.items():
        if value:
            raise DataError(f"{option} is about sequences, but {counted[0]} holds counts, without any: leave it out.")

    return statistics_of_counts(
        every,
        lambda path: counts_of(path, experts, layers),
        lambda numbers: routers_of(numbers, experts, top_k),
        top1=None,
        ranks=bool(ranks),
        model=model,
        form="sglang counts",
        phase=phase,
        **settings,
    )


def _is_counts(path: Path) -> bool:
    """Whether a file holds counts, rather than ids of tokens; raises `DataError` for a pickle, unopened."""
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{path} is a pickle, which can run code when opened, and is not read: this line of Python makes a .npz of "
            "it: " + CONVERT.format(path=str(path), target=str(path.with_suffix(".npz")))
        )
    if path.suffix.lower() == ".json":
        content = json_of(path)
        return isinstance(content, dict) and STAT in content
    names = {name.rpartition(".")[2] for name in names_of(path)}
    return STAT in names or (PER_PASS in names and PER_TOKEN not in names)


def _recorded(path: Path, reading: Reading) -> list[Recorded]:
    """The sequences of a dump of mode per_token, of saved answers, or of arrays [tokens, layers, K]."""
    if path.suffix.lower() in RESPONSES:
        return [_response(number, reading, *answer) for number, answer in enumerate(responses_of(path))]
    if any(name.endswith(f".{PER_TOKEN}") for name in names_of(path)):
        return sequences_of(path, reading.width, reading.phase)
    return sequences_in(path)


def _response(number: int, reading: Reading, where: str, response: Json) -> Recorded:
    """An answer of /generate, with ``meta_info``, or of the OpenAI endpoints, with ``usage`` and ``sgl_ext``."""
    text, facts = _routed_experts(where, response), response.get("meta_info") or response.get("usage")
    prompt, generated = usage_of(facts, where)
    if prompt is None or generated is None:
        raise DataError(f"{where} does not tell prompt_tokens and completion_tokens, from which its ids get a shape.")
    flat, tokens, top_k = decoded_int32(text, where), prompt + generated - 1, reading.width
    cached = cached_of(facts, where) or 0
    omitted = min(cached, prompt) if reading.choices.omitted_prefix and not _fits(flat, tokens, top_k) else 0
    if fused := _fused(flat, tokens - omitted, reading):
        raise DataError(
            f"{where} has {top_k + 1} experts a token, the last of which is always {fused}: a shared expert that the "
            f"server fused into the routed ones, which --shared-expert {fused} leaves out."
        )
    if not _fits(flat, tokens - omitted, top_k):
        start = f"ask for routed_experts_start_len = 0{', or ' if cached else ', and check --top-k'}"
        raise DataError(
            f"{where} has {flat.size} ids, which are not those of {tokens} tokens (all but the last) with {top_k} "
            f"experts in every layer: {start}"
            + (
                f"read what there is with --omitted-prefix, where the rows of the {cached} cached tokens are missing."
                if cached
                else "."
            )
        )
    ids = flat.reshape(tokens - omitted, -1, top_k)
    return Recorded(where, ids, prompt - omitted, number, omitted=omitted)


def _fits(flat: Array, tokens: int, top_k: int) -> bool:
    """Whether ids are those of whole layers."""
    return tokens > 0 and flat.size > 0 and flat.size % (tokens * top_k) == 0


def _fused(flat: Array, tokens: int, reading: Reading) -> int | None:
    """The shared expert that ids have as one more than K, if they have one and none is left out."""
    top_k = reading.width + 1
    if reading.choices.shared or not _fits(flat, tokens, top_k):
        return None
    last = flat.reshape(tokens, -1, top_k)[..., -1]
    return int(last.flat[0]) if (last == last.flat[0]).all() and last.flat[0] >= reading.experts else None


def _routed_experts(where: str, response: Json) -> str:
    """Their text, wherever a version of SGLang puts it."""
    choices = response.get("choices", [{}])
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise DataError(f"{where} does not have one choice (those of several are not independent): ask for n = 1.")
    extensions = [part.get(key) for part in (response, *choices) for key in ("sglext", "sgl_ext")]
    places = [place for place in (response.get("meta_info"), *extensions) if isinstance(place, dict)]
    text = next(filter(None, (place.get("routed_experts") for place in places)), None)
    if not isinstance(text, str):
        raise DataError(
            f"{where} has no routed_experts: start SGLang with --enable-return-routed-experts, and ask for them with "
            "return_routed_experts."
        )
    return text


IMPORTER = Importer(
    read,
    "Expert distribution dumps of SGLang (.npz, or JSON counts), and routed experts in its answers.",
    "sglang math=math_dump.npz code=code_dump.npz --experts 128 --top-k 8 --output served.json",
    sequences=True,
)
