"""What a tapped model is used for outside of `analyze`: whether all of it counts, is warned of, or refused by mlx-lm.

``python tests/live_situations.py`` writes the table of all model types into docs/live.md.
"""

from __future__ import annotations

import copy
import pickle
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
from conftest import build_tiny
from family_rows import BY_TYPE, CONFIGS
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.tuner.trainer import grad_checkpoint
from watching import is_tapped

import mlx_moebench
from mlx_moebench.instrument import attach

PAGE = Path(__file__).parents[1] / "docs" / "live.md"

PROMPT = [5, 17, 250, 3, 88, 41, 9, 60, 7]
BATCH = [[5, 17, 250, 3, 88, 41, 9], [301, 2, 2, 76, 130, 4, 12]]

Make = Callable[..., Any]
"""``make(seed=0)``: a fresh tiny model."""


class Outcome(NamedTuple):
    """word: counted, warned, refused or unheard. why: what the warning or the error says."""

    word: str
    why: str = ""


COUNTED = Outcome("counted")


class Situation(NamedTuple):
    """title: the head of its column. says: what it is. run: raises AssertionError where something else is counted."""

    title: str
    says: str
    run: Callable[[Make], Outcome]


class Refused(Exception):  # noqa: N818
    """What was asked for is refused without taps, too."""


# -- counting --------------------------------------------------------------------------------------------------------


def counted(stats: Any) -> np.ndarray:
    """Selections [L, E] of all routers, over all phases."""
    every = [stats.phase_stats(phase) for phase in ("prefill", "decode", "unsplit")]
    return np.array([sum(one.totals(n).counts for one in every if one.clusters) for n in range(len(stats.specs))])


def lengths(stats: Any, phase: str) -> list[int]:
    """Tokens of each sequence."""
    one = stats.phase_stats(phase)
    return one.sums(0).n_tokens.tolist() if one.clusters else []


def of_texts(model: Any, *texts: list[int]) -> np.ndarray:
    """Selections of texts that are run whole, one after the other."""
    with attach(model) as stats:
        for ids in texts:
            mx.eval(model(mx.array([ids])))  # some keep products of their weights from the first forward on
    return counted(stats)


def same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_array_equal(a, b)


def said(error: BaseException) -> str:
    """The first sentence of an error, the same in every run: sets have no order."""
    text = re.sub(r"\{[^{}]*\}", lambda m: "{" + ", ".join(sorted(m[0][1:-1].split(", "))) + "}", str(error))
    return f"{type(error).__name__}: {text.splitlines()[0].split('. ')[0].rstrip('.')}"


def refusal(work: Callable[[], Any]) -> str | None:
    """What the error says that ends ``work``."""
    try:
        work()
    except (ValueError, RuntimeError, TypeError, NotImplementedError, AttributeError, pickle.PicklingError) as error:
        return said(error)
    return None


def plainly(work: Callable[[Any], Any], make: Make) -> Any:
    """What ``work`` gives on a model without taps; raises `Refused` if nothing."""
    try:
        return work(make())
    except (ValueError, RuntimeError, TypeError, NotImplementedError, AttributeError, pickle.PicklingError) as error:
        why = said(error)
    with attach(model := make()):
        assert refusal(lambda: work(model)) == why
    raise Refused(why)


def in_thread(work: Callable[[], Any]) -> Any:
    """What ``work`` gives in another thread."""
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(work()))
    thread.start()
    thread.join(120)
    assert box, "the thread failed"
    return box[0]


@cache
def tokenizer() -> Any:
    return mlx_moebench.load()[1]


# -- situations ------------------------------------------------------------------------------------------------------


@contextmanager
def checkpointed_layers(model: Any) -> Iterator[None]:
    """The layers of every class recompute themselves on the way back."""
    kinds = {type(layer): layer for layer in model.layers}
    before = {kind: vars(kind).get("__call__") for kind in kinds}
    for layer in kinds.values():
        grad_checkpoint(layer)
    try:
        yield
    finally:
        for kind, call in before.items():
            if call is None:
                del kind.__call__
            else:
                kind.__call__ = call


def _loss(model: Any) -> mx.array:
    return (model(mx.array(BATCH)) ** 2).mean()


def layers_checkpointed(make: Make) -> Outcome:
    def work(model: Any) -> None:
        mx.eval(nn.value_and_grad(model, _loss)(model))

    with checkpointed_layers(make()):
        plainly(work, make)
        with attach(model := make()) as stats:
            work(model)
            work(model)
    same(counted(stats), 2 * of_texts(make(), *BATCH))
    assert not stats.dropped
    return COUNTED


def model_checkpointed(make: Make) -> Outcome:
    def work(model: Any) -> None:
        # Around the loss: with token ids as an argument MLX asks for their gradient.
        mx.eval(nn.value_and_grad(model, nn.utils.checkpoint(model, lambda: _loss(model)))())

    plainly(work, make)
    with attach(model := make()) as stats:
        work(model)
        work(model)
    same(counted(stats), 2 * of_texts(make(), *BATCH))
    assert not stats.dropped
    return COUNTED


def _speculative(make: Make, wrong: bool) -> Outcome:
    draft = make()
    if wrong:
        base = type(draft)
        draft.__class__ = type(
            "Contrary", (base,), {"__call__": lambda self, *args, **kw: -base.__call__(self, *args, **kw)}
        )
    options: dict[str, Any] = {"draft_model": draft, "num_draft_tokens": 3, "prefill_step_size": 4}

    def bare(model: Any) -> list[tuple[int, bool]]:
        steps = speculative_generate_step(mx.array(PROMPT), model, max_tokens=8, **options)
        return [(int(token), from_draft) for token, _, from_draft in steps]

    def announced(model: Any) -> list[tuple[int, bool]]:
        steps = mlx_moebench.stream_generate(model, tokenizer(), PROMPT, 8, **options)
        return [(step.token, step.from_draft) for step in steps]

    expected = plainly(bare, make)
    assert any(from_draft for _, from_draft in expected) != wrong
    warning = ""
    for run in (bare, announced):
        with attach(model := make()) as stats, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert run(model) == expected
        if caught:
            assert len(caught) == 1
            warning = str(caught[0].message)
            continue
        kept = sum(sum(lengths(stats, phase)) for phase in ("prefill", "decode", "unsplit"))
        # The last token that the model itself gave was never run.
        assert kept in (len(PROMPT) + 7, len(PROMPT) + 8)
        if run is announced:
            assert lengths(stats, "prefill") == [len(PROMPT)]
        same(counted(stats), of_texts(make(), (PROMPT + [token for token, _ in expected])[:kept]))
        assert not stats.dropped
    return Outcome("warned", warning.rstrip(".")) if warning else COUNTED


def draft_accepted(make: Make) -> Outcome:
    return _speculative(make, wrong=False)


def draft_rejected(make: Make) -> Outcome:
    return _speculative(make, wrong=True)


def quantised_cache(make: Make) -> Outcome:
    def work(model: Any) -> list[int]:
        options: dict[str, Any] = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 4, "prefill_step_size": 4}
        return [int(token) for token, _ in generate_step(mx.array(PROMPT), model, max_tokens=6, **options)]

    expected = plainly(work, make)
    with attach(model := make()) as stats:
        assert work(model) == expected
        assert work(model) == expected
    assert lengths(stats, "unsplit") == [len(PROMPT) + 6] * 2
    assert not stats.dropped
    return COUNTED


def rotating_cache(make: Make) -> Outcome:
    def work(model: Any) -> list[int]:
        options: dict[str, Any] = {"max_kv_size": 8, "prefill_step_size": 4}
        run = mlx_moebench.stream_generate if is_tapped(model) else mlx_lm.stream_generate
        return [step.token for step in run(model, tokenizer(), PROMPT, 6, **options)]

    expected = plainly(work, make)
    with attach(model := make()) as stats:
        assert work(model) == expected
    assert lengths(stats, "prefill") == [len(PROMPT)]
    assert lengths(stats, "decode") == [6]
    assert not stats.dropped
    return COUNTED


def batched(make: Make) -> Outcome:
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]

    def work(model: Any) -> Any:
        made = mlx_lm.batch_generate(model, tokenizer(), prompts, max_tokens=[2, 4], return_token_ids=True)
        return made.token_ids

    expected = plainly(work, make)
    with attach(model := make()) as stats:
        assert work(model) == expected
    assert sorted(lengths(stats, "prefill")) == [3, 5]
    assert sorted(lengths(stats, "decode")) == [2, 4]
    assert not stats.dropped
    return COUNTED


def read_elsewhere(make: Make) -> Outcome:
    expected = of_texts(model := make(), PROMPT)
    with attach(model) as stats:
        for run in (1, 2):
            in_thread(lambda: mx.eval(model(mx.array([PROMPT]))))
            same(counted(stats), run * expected)
            assert in_thread(lambda: stats.report()["data"]["n_tokens"]) == run * len(PROMPT)
    return COUNTED


def two_threads(make: Make) -> Outcome:
    expected = of_texts(model := make(), *BATCH)
    barrier, errors = threading.Barrier(2), []

    def run(prompt: list[int]) -> None:
        try:
            barrier.wait(60)
            for _ in range(4):
                mx.eval(model(mx.array([prompt])))
        except BaseException as error:  # noqa: BLE001  # a thread's own would be lost
            errors.append(error)

    with attach(model) as stats:
        threads = [threading.Thread(target=run, args=(prompt,)) for prompt in BATCH]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert not errors
    same(counted(stats), 4 * expected)
    assert not stats.dropped
    return COUNTED


def _copied(make: Make, duplicate: Callable[[Any], Any]) -> Outcome:
    def work(model: Any) -> Any:
        return duplicate(model)(mx.array(BATCH))

    plainly(work, make)
    model = make()
    with attach(model) as stats:
        other = duplicate(model)
        assert not is_tapped(other)
        assert is_tapped(model)
        assert mx.array_equal(other(mx.array(BATCH)), make()(mx.array(BATCH)))
        assert stats.n_tokens == 0
        model(mx.array(BATCH))
        assert stats.n_tokens == 14
    return COUNTED


def deep_copied(make: Make) -> Outcome:
    return _copied(make, copy.deepcopy)


def pickled(make: Make) -> Outcome:
    return _copied(make, lambda model: pickle.loads(pickle.dumps(model)))


@contextmanager
def compiling() -> Iterator[None]:
    """mx.compile compiles; what it compiled need not run, which takes a C++ compiler."""
    mx.enable_compile()
    try:
        yield
    finally:
        mx.disable_compile()


def compiled_after(make: Make) -> Outcome:
    def work(model: Any) -> None:
        mx.compile(lambda ids: model(ids))(mx.array(BATCH))

    with compiling():
        plainly(work, make)
        with attach(model := make()) as stats, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work(model)
            work(model)
    (warning,) = caught
    assert stats.n_tokens == 0
    assert [lost.forwards for lost in stats.dropped.values()] == [2]
    return Outcome("warned", str(warning.message).rstrip("."))


def compiled_before(make: Make) -> Outcome:
    def work(model: Any) -> Any:
        run = mx.compile(lambda ids: model(ids))
        run(mx.array(BATCH))
        return run

    with compiling():
        plainly(work, make)
        run = work(model := make())
        with attach(model) as stats:
            run(mx.array(BATCH))
    assert stats.n_tokens == 0
    return Outcome(
        "unheard", "No Python of the model runs, so nothing can be heard or warned of: `stats.n_tokens` stays 0"
    )


def quantised(make: Make) -> Outcome:
    def convert(model: Any) -> None:
        own = getattr(model, "quant_predicate", lambda path, module: True)  # what mlx-lm's quantising leaves alone
        packs = lambda path, module: _packs(module) and bool(own(path, module))  # noqa: E731
        nn.quantize(model, group_size=32, bits=8, class_predicate=packs)

    def work(model: Any) -> Any:
        convert(model)
        return model(mx.array(BATCH))

    plainly(work, make)
    convert(other := make())
    with attach(other) as expected:
        other(mx.array(BATCH))
    with attach(model := make()) as stats:
        convert(model)
        model(mx.array(BATCH))
    same(counted(stats), counted(expected))
    assert [spec.router_bits for spec in stats.specs] == [spec.router_bits for spec in expected.specs]
    return COUNTED


def _packs(module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


SITUATIONS = (
    Situation(
        "layers checkpointed", "`mlx_lm.tuner.trainer.grad_checkpoint`, two steps of training", layers_checkpointed
    ),
    Situation(
        "model checkpointed", "`nn.utils.checkpoint` around model and loss, two steps of training", model_checkpointed
    ),
    Situation("draft accepted", "speculative decoding with the model itself as draft", draft_accepted),
    Situation("draft rejected", "speculative decoding with a draft that guesses wrong", draft_rejected),
    Situation("kv_bits", "`generate_step(kv_bits=8)`, each one sequence; heads 32 wide", quantised_cache),
    Situation("max_kv_size", "a cache of 8 positions, prompt and generated tokens apart", rotating_cache),
    Situation("batch_generate", "two prompts of different lengths, which end at different times", batched),
    Situation("read elsewhere", "one thread runs the model, another reads", read_elsewhere),
    Situation("two threads", "two threads run the model at the same time", two_threads),
    Situation("deepcopy", "the copy has no taps and the same outputs", deep_copied),
    Situation("pickle", "likewise", pickled),
    Situation("quantised", "`nn.quantize` after attach", quantised),
    Situation("compiled after", "`mx.compile` of a function that runs the model, after attach", compiled_after),
    Situation("compiled before", "such a function that ran before attach", compiled_before),
)


def outcome(situation: Situation, model_type: str) -> Outcome:
    """What comes of it for one model type; raises AssertionError where it is none of the four."""
    change = wide(model_type, heads=situation.run is quantised_cache)
    try:
        return situation.run(partial(build_tiny, model_type=model_type, **change))
    except Refused as refused:
        return Outcome("refused", str(refused))


def wide(model_type: str, heads: bool = False, **change: Any) -> dict[str, Any]:
    """Settings with which a tiny model knows every token of the embedded model's tokenizer, and whose heads are 32 wide
    if asked for: fewer values MLX does not quantise. change: of those settings that the row has."""

    def of(section: dict[str, Any]) -> dict[str, Any]:
        changed = {key: 4096 for key in ("vocab_size", "num_vocab") if key in section}
        changed |= {key: value for key, value in change.items() if key in section}
        if heads:
            widths = ("head_dim", "kv_channels")
            changed |= {key: 32 for key, value in section.items() if key.endswith(widths) and value == 16}
            if not any(key.endswith("head_dim") for key in section):
                names = ("num_attention_heads", "num_key_value_heads", "n_heads", "num_heads")
                changed |= {key: 2 for key in names if key in section}
        return changed

    config = BY_TYPE[model_type].config
    changed = of(config)
    if section := config.get("text_config"):
        changed["text_config"] = section | of(section)
    return changed


# -- the page --------------------------------------------------------------------------------------------------------

WORDS = {"counted": "yes", "warned": "warned", "refused": "refused", "unheard": "no"}

INTRO = """# A model in use: what is recorded

`stats = mlx_moebench.attach(model)` counts every forward pass of the whole model, whoever runs it, until it is closed.
Below is what that means where a model is trained, generates, is copied, compiled or run by several threads. The
page is written by the tests (`python tests/live_situations.py`), which try each cell on a tiny random model.

- yes: every position of the text that remains is counted, once, and the model gives what it gives without taps.
- warned: one `RuntimeWarning`, and `stats.dropped` says how many forwards and positions are missing, if any are.
- refused: the library refuses it, with taps and without, with the error below.
- no: nothing is recorded, and nothing can be said.
"""

NOTES = """
## Notes

- Speculative decoding: positions that the draft guessed wrong are taken back, and do not count. The draft model's own
  routing is that of another model; attach to it, too, if it matters. What is drafted and not yet decided is in no
  reading.
- Under gradient checkpointing layers run again on the way back, which does not count. Call `grad_checkpoint` before
  `attach`: it changes a class, after `attach` that of the taps. `mx.checkpoint` itself around a function that runs the
  whole model cannot be told from two forwards, and counts twice; `nn.utils.checkpoint` counts once.
- With token ids as an argument of what is checkpointed MLX refuses (`Cannot calculate VJP with respect to indices`),
  with taps or without: close over them.
- Threads: any thread may run the model and any may read, at any time. Arrays that were made and not evaluated in one
  thread cannot be used in another (MLX: `There is no Stream(cpu, 0) in current thread`); that holds for what a model
  keeps from its first forward on as well, so evaluate what the first one gives. Nor may two threads evaluate the same
  arrays at a time, which crashes MLX: taps share none, and `stats` wait for each other where they must.
- Copies and pickles have no taps; the original keeps its own.
- Quantising after `attach` carries the taps over. Tokens that were counted before are those of another model, which a
  warning says.
- A function that `mx.compile` traced before `attach` runs no Python, so no tap: make it after the measurement, or
  run the model outside of it.
"""


Table = dict[str, dict[str, Outcome]]
"""Outcomes by model type and title."""


def page(table: Table) -> str:
    """docs/live.md."""
    reasons = sorted({one.why for row in table.values() for one in row.values() if one.why})
    lines = [INTRO, "| situation | what was done |", "|---|---|"]
    lines += [f"| {one.title} | {one.says} |" for one in SITUATIONS]
    titles = [one.title for one in SITUATIONS]
    lines += ["", "## Every model type", "", "| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for model_type in sorted(table):
        row = [table[model_type][title] for title in titles]
        cells = [WORDS[one.word] + (f" [{reasons.index(one.why) + 1}]" if one.why else "") for one in row]
        lines.append(f"| {model_type} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {why}." for number, why in enumerate(reasons, 1))]
    return "\n".join(lines) + "\n" + NOTES


def read_page() -> Table:
    """What the page says."""
    text = PAGE.read_text(encoding="utf-8")
    reasons = dict(re.findall(r"^(\d+)\. (.*)\.$", text, re.MULTILINE))
    words = {shown: word for word, shown in WORDS.items()}
    head, _, *rows = text.partition("## Every model type")[2].partition("\n1. ")[0].strip().splitlines()
    titles = [cell.strip() for cell in head.split("|")[2:-1]]
    table: Table = {}
    for row in rows:
        model_type, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        found = [re.fullmatch(r"(\w+)(?: \[(\d+)\])?", cell) for cell in cells]
        outcomes = [Outcome(words[one[1]], reasons[one[2]] if one[2] else "") for one in found if one]
        table[model_type] = dict(zip(titles, outcomes, strict=True))
    return table


def main() -> None:
    from mlx_moebench.models import select_device

    select_device("cpu")
    table = {}
    for model_type in CONFIGS:
        table[model_type] = {one.title: outcome(one, model_type) for one in SITUATIONS}
        sys.stderr.write(f"{model_type}\n")
    PAGE.write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main()
