"""Sums that no measurement gives, well sealed: each kind is refused, and what is wrong is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import make_stats, reseal

from mlx_moebench import RoutingStats
from mlx_moebench.errors import StatsError
from mlx_moebench.routing import Plan, RouterSpec
from mlx_moebench.routing.sums import FIELDS
from mlx_moebench.routing.tally import SCALARS

NAME = "layer.1.mlp"
E, K = 6, 2
SPECS = (RouterSpec(0, 0, "mlp", 8, 2), RouterSpec(1, 1, "mlp", E, K), RouterSpec(2, 2, "mlp", 3, 3))

Arrays = dict[str, Any]


def scalar(name: str, change: Callable[[Any, Any], Any], router: str = NAME) -> Callable[[Arrays], None]:
    """Change a sum of one number a token; ``change`` is given it and the tokens, both [N]."""

    def changed(arrays: Arrays) -> None:
        values = arrays[f"{router}.scalars"].copy()
        column = SCALARS.index(name)
        values[:, column] = change(values[:, column], arrays[f"{router}.n_tokens"])
        arrays[f"{router}.scalars"] = values

    return changed


def array(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    """Change one array of the router; ``change`` is given a copy, and returns it or another."""

    def changed(arrays: Arrays) -> None:
        arrays[f"{NAME}.{name}"] = change(arrays[f"{NAME}.{name}"].copy())

    return changed


def at(index: Any, value: Any) -> Callable[[Any], Any]:
    """Add ``value`` at ``index``."""

    def changed(values: Any) -> Any:
        values[index] += value
        return values

    return changed


def twice(arrays: Arrays) -> None:
    """An expert with more selections than there are tokens, of as many selections in all."""
    counts = arrays[f"{NAME}.counts"].copy()
    tokens = arrays[f"{NAME}.n_tokens"][0]
    counts[0] = 0
    counts[0, :2] = tokens + 1, tokens - 1
    arrays[f"{NAME}.counts"] = counts


def together(change: int) -> Callable[[Any], Any]:
    """Two experts more or less often together, symmetrically."""

    def changed(values: Any) -> Any:
        values[0, 1] += change
        values[1, 0] += change
        return values

    return changed


ARRAYS: dict[str, tuple[Callable[[Arrays], None], str]] = {
    "n_tokens negative": (array("n_tokens", lambda a: -a), "negative"),
    "n_tokens of floats": (array("n_tokens", lambda a: a + 0.0), "is of float64"),
    "n_tokens of the wrong shape": (array("n_tokens", lambda a: a[:-1]), "shape"),
    "n_tokens more than selected": (array("n_tokens", at(0, 1)), "are not 2 of every token"),
    "counts negative": (array("counts", at((0, slice(2)), (-99, 99))), "negative"),
    "counts of floats": (array("counts", lambda a: a + 0.5), "is of float64"),
    "counts one too many": (array("counts", at((0, 0), 1)), "are not 2 of every token"),
    "counts of the wrong shape": (array("counts", lambda a: a[:, :-1]), "shape"),
    "counts beyond 64 bit": (array("counts", at((0, 0), 2**62)), "beyond 64 bit"),
    "an expert twice in one token": (twice, "chosen twice by one token"),
    "top1 above counts": (array("top1_counts", lambda a: a * 100), "first more often than it is chosen"),
    "top1 negative": (array("top1_counts", at((0, slice(2)), (-99, 99))), "negative"),
    "top1 in part": (array("top1_counts", lambda a: a // 2), "not one first choice a token"),
    "top1 of the wrong shape": (array("top1_counts", lambda a: a[:1]), "shape"),
    "p negative": (array("p_sum", lambda a: a - 2 * a.max()), "p_sum is negative"),
    "p twice 1": (array("p_sum", lambda a: 2 * a), "p_sum is not 1 a token"),
    "p half of 1": (array("p_sum", lambda a: a / 2), "p_sum is not 1 a token"),
    "p a token too much": (array("p_sum", at((0, 0), 0.5)), "p_sum is not 1 a token"),
    "p of some experts": (array("p_sum", at((0, 0), np.nan)), "for some experts only"),
    "p infinite": (array("p_sum", at((0, 0), np.inf)), "infinite"),
    "p of integers": (array("p_sum", lambda a: np.rint(a).astype(np.int64)), "is of int64"),
    "p without its entropy": (scalar("entropy", lambda x, t: x * np.nan), "p or its entropy, and not both"),
    "entropy without p": (array("p_sum", lambda a: a * np.nan), "p or its entropy, and not both"),
    "entropy above ln E": (scalar("entropy", lambda x, t: t * np.log(E) * 1.01), "entropy is above"),
    "entropy above that of the mean": (scalar("entropy", lambda x, t: t * 1.79), "above that of the mean of p"),
    "entropy negative": (scalar("entropy", lambda x, t: -x), "entropy is out of its range"),
    "entropy infinite": (scalar("entropy", lambda x, t: x + np.inf), "infinite"),
    "entropy above what its margin leaves": (scalar("margin_prob", lambda x, t: t * 0.99), "margin_prob leaves"),
    "entropy of weights above ln K": (scalar("topk_entropy", lambda x, t: t * 0.70), "topk_entropy"),
    "entropy of weights negative": (scalar("topk_entropy", lambda x, t: -x), "topk_entropy is out of its range"),
    "entropy of one weight": (scalar("topk_entropy", lambda x, t: t * 1.2, "layer.2.mlp"), "topk_entropy"),
    "entropy of weights above its margin": (scalar("margin_weight", lambda x, t: t * 0.99), "margin_weight leaves"),
    "margin of p above 1": (scalar("margin_prob", lambda x, t: t * 1.01), "margin_prob"),
    "margin of p negative": (scalar("margin_prob", lambda x, t: -x), "margin_prob is out of its range"),
    "margin of weights above 1": (scalar("margin_weight", lambda x, t: t * 1.01), "margin_weight"),
    "margin of weights negative": (scalar("margin_weight", lambda x, t: -x), "margin_weight is out of its range"),
    "margin where all are chosen": (scalar("selection_margin", lambda x, t: t * 0.1, "layer.2.mlp"), "has a rival"),
    "margin where all is tied": (scalar("tied", lambda x, t: t), "selection_margin is not 0"),
    "ties where all are chosen": (scalar("tied", lambda x, t: t, "layer.2.mlp"), "tied is out of its range"),
    "more ties than tokens": (scalar("tied", lambda x, t: t + 1), "tied is out of its range"),
    "ties negative": (scalar("tied", lambda x, t: x - 1), "tied is out of its range"),
    "half a tie": (scalar("tied", lambda x, t: x + 0.5), "tied counts no whole tokens"),
    "squared z negative": (scalar("z_squared", lambda x, t: -x), "z_squared is out of its range"),
    "more neighbours than tokens": (scalar("adjacent_pairs", lambda x, t: t + 1), "adjacent_pairs"),
    "neighbours negative": (scalar("adjacent_pairs", lambda x, t: -x), "adjacent_pairs is out of its range"),
    "half a neighbour": (scalar("adjacent_pairs", lambda x, t: x - 0.5), "adjacent_pairs counts no whole"),
    "more shared than K": (scalar("adjacent_shared", lambda x, t: K * t), "adjacent_shared is out of its range"),
    "shared negative": (scalar("adjacent_shared", lambda x, t: -x - 1), "adjacent_shared is out of its range"),
    "fewer shared than must be": (
        scalar("adjacent_shared", lambda x, t: x - 1, "layer.2.mlp"),
        "adjacent_shared is out of its range",
    ),
    "half a shared expert": (scalar("adjacent_shared", lambda x, t: x + 0.5), "adjacent_shared counts no whole"),
    "pairs asymmetric": (array("pairs", at((0, 1), 1)), "pairs is not symmetric"),
    "pairs without the counts": (array("pairs", at((0, 0), 1)), "counts on its diagonal"),
    "pairs with a wrong row": (array("pairs", together(1)), "pairs"),
    "pairs negative": (array("pairs", together(-999)), "together too often or not often enough"),
    "pairs of half the tokens": (array("pairs", lambda a: a // 2), "pairs"),
    "pairs of the wrong shape": (array("pairs", lambda a: a[:2, :2]), "shape"),
    "pairs of floats": (array("pairs", lambda a: a + 0.0), "is of float64"),
    "transition with a wrong row": (array("transition", at((0, 0), 1)), "does not fit the counts"),
    "transition with wrong columns": (
        lambda arrays: arrays.update({"layer.0.mlp.transition": arrays["layer.0.mlp.transition"][:, ::-1]}),
        "does not fit the counts",
    ),
    "transition negative": (array("transition", lambda a: -a), "transition has negative"),
    "transition of half the tokens": (array("transition", lambda a: a // 2), "does not fit the counts"),
    "transition of the wrong shape": (array("transition", lambda a: a[:-1]), "shape"),
    "routers that saw different tokens": (
        lambda arrays: [arrays.update({key: arrays[key][::-1]}) for key in [f"{NAME}.{name}" for name in FIELDS]],
        "recorded in part",
    ),
    "a sequence twice": (lambda arrays: arrays.update({"clusters.row": arrays["clusters.row"] * 0}), "there twice"),
    "a sequence with a negative number": (
        lambda arrays: arrays.update({"clusters.row": arrays["clusters.row"] - 1}),
        "negative number",
    ),
    "a sequence without a source": (
        lambda arrays: arrays.update({"clusters.source": arrays["clusters.source"] + 1}),
        "no source",
    ),
    "an array left out": (lambda arrays: arrays.pop(f"{NAME}.counts"), "counts"),
}


def spec(number: int, **fields: Any) -> Callable[[Arrays], None]:
    return lambda facts: facts["specs"][number].update(fields)


FACTS: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "no routers": (lambda facts: facts["specs"].clear(), "length >= 1 - at `$.specs`"),
    "two routers of one name": (spec(1, layer=0), "one name"),
    "more chosen than there are": (spec(1, top_k=7), "chooses 7 of 6"),
    "none chosen": (spec(1, top_k=0), ">= 1 - at `$.specs[1].top_k`"),
    "a fraction of an expert chosen": (spec(1, top_k=1.5), "`float` - at `$.specs[1].top_k`"),
    "a negative layer": (spec(1, layer=-1), ">= 0 - at `$.specs[1].layer`"),
    "no such distribution": (spec(1, distribution="uniform"), "'uniform' - at `$.specs[1].distribution`"),
    "bits below 0": (spec(1, router_bits=-4), "> 0.0 - at `$.specs[1].router_bits`"),
    "kinds of other experts": (spec(1, kinds=["ffn"]), "what 6 experts are"),
    "no such phase": (lambda facts: facts.update(phase="train"), "'train' - at `$.phase`"),
    "tau above 1": (lambda facts: facts.update(tau=1.5), "tau"),
    "collapse on something else": (lambda facts: facts.update(collapse_on="luck"), "luck"),
    "a scalar that is not there": (lambda facts: facts["scalars"].append("luck"), "no numbers of their own"),
    "a scalar twice": (lambda facts: facts["scalars"].__setitem__(1, "entropy"), "no numbers of their own"),
    "lost forwards below 0": (lambda facts: facts.update(dropped={"x": [-1, 0]}), ">= 1 - at `$.dropped[...][0]`"),
    "fewer truncated than none": (
        lambda facts: next(iter(facts["sources"].values())).update(truncated_sequences=-1),
        "truncated",
    ),
    "more sequences than were measured": (lambda facts: parts(facts, sequences_done=3), "12 sequences where 3"),
    "more done than there are": (lambda facts: parts(facts, sequences_done=40), "40 of 12 sequences"),
    "more batches than there are": (lambda facts: parts(facts, batches_done=40), "40 of 12 batches"),
    "another version": (lambda facts: facts.update(schema_version="9"), "schema version 9"),
}


def parts(facts: Arrays, **fields: int) -> None:
    whole = dict.fromkeys(("documents", "sequences", "sequences_done", "batches", "batches_done"), 12)
    (source,) = facts["sources"].values()
    source.update(documents=12, parts=[{"shard": None, "batch_size": 1} | whole | fields])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Sums of three routers, the last of which chooses all its experts."""
    _, path = make_stats(specs=SPECS).save(tmp_path_factory.mktemp("sums") / "x", Plan(resamples=100))
    return path.read_bytes()


def test_there_are_fifty_kinds() -> None:
    assert len(ARRAYS) + len(FACTS) >= 50


def test_what_was_measured_is_read(tmp_path: Path, saved: bytes) -> None:
    """So that what is refused below is refused for what was changed."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved)
    reseal(path, facts=lambda facts: parts(facts))
    assert RoutingStats.load(path).n_tokens


@pytest.mark.parametrize("kind", ARRAYS)
def test_impossible_arrays_are_refused(tmp_path: Path, saved: bytes, kind: str) -> None:
    change, words = ARRAYS[kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved)
    reseal(path, change)
    with pytest.raises(StatsError, match=words):
        RoutingStats.load(path)


@pytest.mark.parametrize("kind", FACTS)
def test_impossible_facts_are_refused(tmp_path: Path, saved: bytes, kind: str) -> None:
    change, words = FACTS[kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved)
    reseal(path, facts=change)
    with pytest.raises(StatsError, match=re.escape(words)):
        RoutingStats.load(path)
