"""``mlx-moebench import``: rows that are no text are refused, and what each refusal advises works."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import validate

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.data.importers._rows import common_start, continued, row_hashes, runs_of

pytestmark = pytest.mark.filterwarnings("always::UserWarning")  # what is told, on stderr

E, K, LAYERS, TOKENS = 16, 2, 3, 30
VLLM = ("vllm", "--experts", E)
SGLANG = ("sglang", "--experts", E, "--top-k", K)


def make_ids(seed: int, tokens: int = TOKENS, layers: int = LAYERS, experts: int = E, top_k: int = K) -> np.ndarray:
    """[tokens, layers, K] int16, K different experts each, in no order."""
    scores = np.random.default_rng(seed).random((tokens, layers, experts))
    return np.argsort(scores, axis=-1)[..., :top_k].astype(np.int16)


def several(n: int, **shape: Any) -> list[np.ndarray]:
    return [make_ids(seed, **{"tokens": TOKENS + seed, **shape}) for seed in range(n)]


def folder(path: Path, sequences: Sequence[np.ndarray]) -> str:
    path.mkdir()
    for number, ids in enumerate(sequences):
        np.save(path / f"{number}.npy", ids)
    return f"m={path}"


class Importing:
    """Imports into one output, and reads what was refused, warned of and counted."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys

    def stats(self, *arguments: object) -> RoutingStats:
        main(["import", *map(str, arguments), "-o", str(self.path / "out.json"), "--quiet"])
        self.warned = self.capsys.readouterr().err
        stats = RoutingStats.load(self.path / "out")
        validate(stats.report())
        return stats

    def refused(self, *arguments: object, lines: int = 1) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["import", *map(str, arguments), "-o", str(self.path / "out.json"), "--quiet"])
        error = self.capsys.readouterr().err.split("Error: ")[-1]
        assert stop.value.code == 1, error
        assert error.count("\n") == lines, error
        return error

    def notes(self) -> list[str]:
        data = json.loads((self.path / "out.json").read_text())["data"]
        return [note for source in data.get("sources", [data]) for note in source.get("imported", [])]


@pytest.fixture
def importing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importing:
    return Importing(tmp_path, capsys)


# -- padding and stale rows ------------------------------------------------------------------------------------------


def padded(ids: np.ndarray, rows: int, row: np.ndarray, front: bool) -> np.ndarray:
    padding = np.tile(row, (rows, 1, 1))
    return np.concatenate([padding, ids] if front else [ids, padding]).astype(row.dtype)


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("value", ["0 to K - 1", 0, E, E - 1, 65535])
def test_padding_is_refused_and_left_out(importing: Importing, value: Any, n: int, front: bool) -> None:
    row = np.zeros((LAYERS, K), dtype=np.uint16)
    row[:] = np.arange(K) if isinstance(value, str) else value
    clean = several(n)
    files = folder(importing.path / "x", [padded(ids, 60 - len(ids), row, front) for ids in clean])
    missing = sum(60 - len(ids) for ids in clean)
    error = importing.refused(*VLLM, files)
    assert error.startswith(f"{missing} rows in {n} of {n} sequences are no text but padding")
    assert "leave them out with --skip-padding" in error
    stats = importing.stats(*VLLM, files, "--skip-padding")
    assert stats.sums(0).n_tokens.tolist() == [len(ids) for ids in clean]
    assert importing.notes() == [f"{missing} rows of padding left out"]
    assert f"{missing} rows of padding in {n} sequences are left out" in importing.warned
    assert stats.totals(1).counts.tolist() == np.bincount(np.concatenate(clean)[:, 1].ravel(), minlength=E).tolist()


def test_a_prompt_is_counted_from_behind_the_padding(importing: Importing) -> None:
    row = np.tile(np.arange(K, dtype=np.int16), (LAYERS, 1))
    files = folder(importing.path / "x", [padded(ids, 10, row, True) for ids in several(4)])
    stats = importing.stats(*VLLM, files, "--skip-padding", "--phase", "prefill", "--prompt-tokens", 7)
    assert stats.sums(0).n_tokens.tolist() == [7] * 4


@pytest.mark.parametrize(("at", "place"), [(-1, "the end"), (0, "the start"), (12, "the middle")])
def test_stale_rows(importing: Importing, at: int, place: str) -> None:
    """One real row again and again: it is counted once."""
    clean = several(5)
    stale = [np.insert(ids, at if at >= 0 else len(ids), np.repeat(ids[at][None], 40, 0), axis=0) for ids in clean]
    files = folder(importing.path / "x", stale)
    error = importing.refused(*VLLM, files)
    assert "200 rows in 5 of 5 sequences are no text but padding or a stale buffer" in error
    assert f"(at {place})" in error
    stats = importing.stats(*VLLM, files, "--skip-padding")
    assert stats.sums(0).n_tokens.tolist() == [len(ids) for ids in clean]
    assert float(stats.totals(0).scalar("adjacent_pairs")) == stats.n_tokens - 5 - 5 * (place == "the middle")
    assert importing.stats(*VLLM, files, "--allow", "repeats").n_tokens == stats.n_tokens + 200


def test_a_text_may_repeat_itself(importing: Importing) -> None:
    """20 equal rows, the most that text was seen to have, are told; a collapsed router's runs are no padding."""
    ids = several(4)
    ids[2] = np.insert(ids[2], 9, np.repeat(ids[2][9][None], 19, 0), axis=0)
    stats = importing.stats(*VLLM, folder(importing.path / "x", ids))
    assert stats.n_tokens == sum(map(len, ids))
    assert "20 equal rows of ids follow each other" in importing.warned
    rng = np.random.default_rng(0)
    collapsed = [np.where(rng.random((200, 1, 1)) < 0.93, 5, rng.integers(0, E, (200, 1, 1))) for _ in range(6)]
    stats = importing.stats(*VLLM, folder(importing.path / "y", collapsed))
    assert stats.n_tokens == 1200
    assert max(runs_of(row_hashes(ids)).length.max() for ids in collapsed) > 24


def test_nothing_was_captured(importing: Importing) -> None:
    for n in (1, 3):
        files = folder(importing.path / f"zero{n}", [np.zeros((50, LAYERS, K), np.uint8)] * n)
        for more in ((), ("--skip-padding",)):
            assert "the same ids everywhere: the engine recorded nothing" in importing.refused(*VLLM, files, *more)
    same = folder(importing.path / "same", [np.tile(make_ids(0)[:1], (40 + n, 1, 1)) for n in range(3)])
    assert "count them with --allow repeats" in importing.refused(*VLLM, same)
    assert "--cumulative" not in importing.refused(*VLLM, same)
    assert importing.stats(*VLLM, same, "--allow", "repeats").n_tokens == 123


# -- conversations ---------------------------------------------------------------------------------------------------


def test_a_conversation_counts_once(importing: Importing) -> None:
    """Only some are cumulative; a shorter one than a rule needs is left out with the others, too."""
    whole = several(5, tokens=80)
    turns = [ids[:n] for ids in whole[:3] for n in (5, 20, 50)]
    files = folder(importing.path / "x", [*turns, *whole])
    error = importing.refused(*VLLM, files)
    assert error.startswith("9 of 14 sequences are the beginning of another one, or the same")
    stats = importing.stats(*VLLM, files, "--cumulative", "last")
    assert stats.sums(0).n_tokens.tolist() == [80] * 5
    assert importing.notes() == ["9 sequences that others begin with left out"]
    assert len(importing.stats(*VLLM, files, "--cumulative", "all").clusters) == 14


def test_equal_sequences_count_once(importing: Importing) -> None:
    """In one archive and in a file of another form; which the hash of a file does not tell."""
    a, b = several(2)
    np.savez(importing.path / "x.npz", a=a, b=b, again=a.astype(np.uint8))
    error = importing.refused(*VLLM, importing.path / "x.npz")
    assert "1 of 3 sequences" in error
    assert len(importing.stats(*VLLM, importing.path / "x.npz", "--cumulative", "last").clusters) == 2


def test_rows_that_all_sequences_begin_with_are_told(importing: Importing) -> None:
    prompt = make_ids(99, tokens=11)
    files = folder(importing.path / "x", [np.concatenate([prompt, ids]) for ids in several(3)])
    importing.stats(*VLLM, files)
    assert "All 3 sequences begin with the same 11 rows, as under one system prompt" in importing.warned


def test_hashes_know_beginnings() -> None:
    a, b = make_ids(0, tokens=9), make_ids(1, tokens=9)
    sequences = [a[:3], b, a, a[:3].astype(np.uint8), a[:0], a[1:], np.concatenate([a[:8], b])]
    assert continued([row_hashes(ids) for ids in sequences]).tolist() == [6, -1, -1, 0, -1, -1, -1]
    assert common_start([row_hashes(ids) for ids in (a, sequences[-1], a[:5])]) == 5
    assert runs_of(row_hashes(np.repeat(a, [1, 3, 1, 1, 1, 1, 1, 1, 2], axis=0))).length.tolist() == [1, 3, *[1] * 6, 2]
    assert [len(x) for x in runs_of(row_hashes(a[:0]))] == [0, 0]


# -- shared experts --------------------------------------------------------------------------------------------------


def with_shared(ids: np.ndarray, experts: Sequence[int], first: bool) -> np.ndarray:
    shared = np.broadcast_to(np.array(experts, dtype=ids.dtype), (*ids.shape[:2], len(experts)))
    return np.concatenate([shared, ids] if first else [ids, shared], axis=-1)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shared", [[E], [E, E + 1]])
def test_a_fused_shared_expert(importing: Importing, shared: list[int], first: bool) -> None:
    clean = several(3)
    files = folder(importing.path / "x", [with_shared(ids, shared, first) for ids in clean])
    expected = importing.stats(*VLLM, folder(importing.path / "clean", clean))
    for given in (E, E + len(shared)):
        error = importing.refused("vllm", "--experts", given, files)
        advice = re.findall(r"--shared-expert \d+", error)
        assert advice == [f"--shared-expert {expert}" for expert in shared]
        stats = importing.stats("vllm", "--experts", given, files, *shlex.split(" ".join(advice)))
        assert importing.notes() == [f"shared expert {expert} left out" for expert in shared]
        assert (stats.specs[0].n_experts, stats.specs[0].top_k) == (E, K)
        np.testing.assert_array_equal(stats.totals(2).counts, expected.totals(2).counts)
        np.testing.assert_array_equal(stats.pairs(1), expected.pairs(1))
        allowed = re.search(r"--allow shared( --experts \d+)?", error)
        assert allowed
        assert importing.stats("vllm", "--experts", given, files, *allowed[0].split()).specs[0].top_k == K + len(shared)
    assert importing.stats(*SGLANG, files, *shlex.split(" ".join(advice))).specs[0].top_k == K
    assert "in no token" in importing.refused(*VLLM, files, "--shared-expert", E + 9)
    assert "a shared expert is in every token" in importing.refused(*VLLM, files, "--shared-expert", 1)


def test_refusals_of_one_file_lead_on(importing: Importing) -> None:
    """Padding, a block without a router and a shared expert in one file: each refusal's option leads to the next."""
    files = [with_shared(ids, [E], False) for ids in several(4)]
    for x in files:
        x[:, 0] = 0
    row = np.tile(np.arange(K + 1, dtype=np.int16), (LAYERS, 1))
    path = folder(importing.path / "x", [padded(x, 50 - len(x), row, False) for x in files])
    options: list[str] = []
    for advice in ("--skip-padding", f"--shared-expert {E}", "--layers 1,2"):
        assert advice in importing.refused(*VLLM, path, *options)
        options += advice.split()
    stats = importing.stats(*VLLM, path, *options)
    assert (stats.n_tokens, stats.specs[0].top_k, len(stats.specs)) == (sum(map(len, files)), K, 2)


def test_a_shared_expert_within_the_ids_is_renumbered(importing: Importing) -> None:
    """The first of 17: those above it fall by one, so that no expert is dead for having been left out."""
    clean = several(3)
    files = folder(importing.path / "x", [with_shared(ids + 1, [0], True) for ids in clean])
    assert "--shared-expert 0" in importing.refused("vllm", "--experts", E + 1, files)
    stats = importing.stats("vllm", "--experts", E + 1, files, "--shared-expert", 0)
    expected = np.bincount(np.concatenate(clean)[:, 0].ravel(), minlength=E)
    assert stats.totals(0).counts.tolist() == expected.tolist()


def test_a_collapsed_router_is_imported(importing: Importing) -> None:
    """In one layer every token has expert 3: nobody else fuses in one layer alone."""
    ids = several(3)
    for x in ids:
        x[:, 1] = np.stack([np.full(len(x), 3), 4 + np.arange(len(x)) % 9], axis=1)
    stats = importing.stats(*VLLM, folder(importing.path / "x", ids))
    assert stats.totals(1).counts[3] == stats.n_tokens


def test_a_fused_shared_expert_in_answers_of_sglang(importing: Importing) -> None:
    ids = with_shared(make_ids(0, tokens=9, layers=2), [E], False)  # 9 x 2 x 3 ids are 9 x 3 x 2, too
    text = base64.b64encode(ids.astype("<i4").tobytes()).decode()
    path = importing.path / "x.json"
    path.write_text(json.dumps({"meta_info": {"prompt_tokens": 4, "completion_tokens": 6, "routed_experts": text}}))
    assert f"--shared-expert {E} leaves out" in importing.refused(*SGLANG, path)
    assert len(importing.stats(*SGLANG, path, "--shared-expert", E).specs) == 2


# -- types and sizes -------------------------------------------------------------------------------------------------


def test_a_type_that_cannot_name_the_last_expert(importing: Importing) -> None:
    for dtype, experts in ((np.uint8, 257), (np.int8, 129), (np.int8, 512)):
        files = folder(importing.path / f"{np.dtype(dtype)}{experts}", [make_ids(0).astype(dtype)])
        error = importing.refused("vllm", "--experts", experts, files)
        assert f"holds {np.dtype(dtype)}, which ends at {np.iinfo(dtype).max}" in error
        assert f"go to {experts - 1}" in error
    assert importing.stats("vllm", "--experts", 256, folder(importing.path / "y", [make_ids(0).astype(np.uint8)]))
    large = make_ids(0).astype(np.uint64)
    large[3, 1, 0] = 2**63 + 5
    assert f"has the id {2**63 + 5}" in importing.refused(*VLLM, folder(importing.path / "z", [large]))


def test_counts_too_large_to_be_exact(importing: Importing) -> None:
    path = importing.path / "x.csv"
    for huge in (2**53, 2**63, 2**64, 10**40):
        path.write_text(f"layer,expert,count\n0,0,{huge}\n0,1,{huge}\n")
        assert "more than the 2^53" in importing.refused("csv", path, "--experts", 8, "--top-k", 2)
    (importing.path / "x.json").write_text(json.dumps([{"0": 2**70, "1": 2**70}]))
    assert "more than the 2^53" in importing.refused(
        "olmoe", importing.path / "x.json", "--layers", 0, "--experts", 8, "--top-k", 2
    )
    for number in (2**63, 2**64 + 1):
        (importing.path / "c.json").write_text(json.dumps({"logical_count": [[number, number]]}))
        error = importing.refused("sglang", importing.path / "c.json", "--experts", 2, "--top-k", 1)
        assert "above 2^63" in error
    np.savez(importing.path / "c.npz", logical_count=np.full((4, 1, 2), 2**62))
    assert "above 2^63" in importing.refused("sglang", importing.path / "c.npz", "--experts", 2, "--top-k", 1)


def test_what_is_no_file(importing: Importing) -> None:
    pipe, loop = importing.path / "pipe.npy", importing.path / "loop.npy"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for name in formats_of_files():
        more = ("--experts", 8) if name not in ("olmoe", "trace") else ()
        more += ("--top-k", 2) if name in ("csv", "sglang") else ()
        assert "is no file but a pipe" in importing.refused(name, *more, pipe)
        assert "symbolic links" in importing.refused(name, *more, loop)
        assert "is no file but a pipe, socket or device" in importing.refused(name, *more, "/dev/zero")
    loop.unlink()
    assert "is no file but a pipe" in importing.refused(*VLLM, f"m={importing.path}")


def formats_of_files() -> list[str]:
    from mlx_moebench.data.importers import formats

    return formats()


# -- rows of a cached prefix -----------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def int32(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<i4").tobytes()).decode()


@pytest.mark.parametrize("told", [True, False])
def test_answers_without_the_rows_of_a_cached_prefix(importing: Importing, told: bool) -> None:
    ids = [make_ids(seed, tokens=39) for seed in range(4)]
    usage: dict[str, Any] = {"prompt_tokens": 25, "completion_tokens": 15}
    if told:
        usage["prompt_tokens_details"] = {"cached_tokens": 16}
    answers = [{"choices": [{"routed_experts": npy(x[16:])}], "usage": usage} for x in ids]
    path = importing.path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, answers)))
    error = importing.refused(*VLLM, path)
    assert "--enable-omit-prefix-routed-experts" in error
    assert "read what there is with --omitted-prefix" in error
    assert ("routed_experts_prompt_start" in error) != told
    for phase, tokens in (("prefill", 9), ("decode", 14), ("unsplit", 23)):
        stats = importing.stats(*VLLM, path, "--omitted-prefix", "--phase", phase)
        assert stats.sums(0).n_tokens.tolist() == [tokens] * 4
        assert "counts as several sequences" in importing.warned
    answers[0]["usage"] = usage | {"prompt_tokens_details": {"cached_tokens": 20}}
    path.write_text(json.dumps(answers[0]))
    assert "20 cached tokens, but 16 rows are missing" in importing.refused(*VLLM, path, "--omitted-prefix")


def test_answers_of_sglang_without_their_first_rows(importing: Importing) -> None:
    ids = make_ids(0, tokens=39)
    facts = {"prompt_tokens": 25, "completion_tokens": 15, "cached_tokens": 16, "routed_experts": int32(ids[16:])}
    path = importing.path / "x.json"
    path.write_text(json.dumps({"meta_info": facts}))
    error = importing.refused(*SGLANG, path)
    assert "ask for routed_experts_start_len = 0, or read what there is with --omitted-prefix" in error
    assert importing.stats(*SGLANG, path, "--omitted-prefix").n_tokens == 23
    path.write_text(json.dumps({"meta_info": facts | {"routed_experts": int32(ids)}}))
    assert importing.stats(*SGLANG, path, "--omitted-prefix").n_tokens == 39, "the cache kept them"


# -- ranks and selections --------------------------------------------------------------------------------------------


def write_counts(path: Path, ids: np.ndarray, header: str = "layer_id,expert_id,count", first: int = 3) -> Path:
    rows = [
        f"{first + layer},{expert},{count}"
        for layer, experts in enumerate(ids.transpose(1, 0, 2))
        for expert, count in enumerate(np.bincount(experts.ravel()))
        if count
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


CSV = ("csv", "--experts", E, "--top-k", K)


def test_ranks_are_added(importing: Importing) -> None:
    ids = several(3)
    names = [f"expert_distribution_rank{n}_timestamp17.{n}5.csv" for n in range(3)]
    files = [write_counts(importing.path / name, x) for name, x in zip(names, ids, strict=True)]
    assert "add them with --ranks add" in importing.refused(*CSV, *files)
    stats = importing.stats(*CSV, *files, "--ranks", "add")
    expected = np.bincount(np.concatenate(ids)[:, 2].ravel(), minlength=E)
    assert stats.totals(2).counts.tolist() == expected.tolist()
    assert (stats.strata, len(stats.clusters)) == (["expert_distribution"], 1)
    assert importing.notes() == ["counts of 3 ranks added"]
    assert not importing.warned
    importing.stats(*CSV, f"run={files[0]}", f"run={files[2]}", "--ranks", "add")
    assert importing.notes() == ["counts of 2 ranks added", "no file of rank 1"]
    assert "files of rank 0, 2, but none of 1" in importing.warned
    renamed = [file.rename(importing.path / f"{letter}.csv") for file, letter in zip(files, "abc", strict=True)]
    assert len(importing.stats(*CSV, *renamed).clusters) == 3, "as the refusal says"


def test_ranks_that_are_not_of_one_run(importing: Importing) -> None:
    a = write_counts(importing.path / "rank0.csv", make_ids(0))
    b = write_counts(importing.path / "rank1.csv", make_ids(1, layers=2))
    add = ("--ranks", "add")
    assert "has layers 3, 4, but" in importing.refused(*CSV, a, b, *add)
    assert "the same counts as" in importing.refused(
        *CSV, a, write_counts(importing.path / "rank2.csv", make_ids(0)), *add
    )
    assert importing.stats(*CSV, a).n_tokens == TOKENS, "as the refusal says"
    assert "is one: leave it out" in importing.refused(*CSV, a, *add)
    (importing.path / "later").mkdir()
    again = write_counts(importing.path / "later" / "rank0.csv", make_ids(2))
    assert "Rank 0 is there twice" in importing.refused(*CSV, a, again, *add)
    np.savez(importing.path / "d_rank0.npz", logical_count=np.full((2, E), 4))
    np.savez(importing.path / "d_rank1.npz", logical_count=np.full((2, E), 6))
    dumps = [importing.path / f"d_rank{n}.npz" for n in range(2)]
    assert "--ranks add" in importing.refused(*SGLANG, *dumps)
    assert importing.stats(*SGLANG, *dumps, *add).totals(0).counts.tolist() == [10.0] * E
    np.savez(dumps[1], logical_count=np.full((2, E - 1), 6))
    assert f"counts {E - 1} experts a layer" in importing.refused(*SGLANG, *dumps, *add)


@pytest.mark.parametrize("header", ["layer,expert\n", "layer_id,expert_id\n", ""])
def test_a_row_for_each_selection(importing: Importing, header: str) -> None:
    """As llama-moe-trace writes them; joined files repeat the header."""
    ids = make_ids(0)
    rows = [f"{layer},{expert}\n" for layer in range(LAYERS) for expert in ids[:, layer].ravel()]
    path = importing.path / "moe_trace.csv"
    path.write_text((header + "".join(rows)) * 2)
    stats = importing.stats(*CSV, path)
    assert stats.totals(1).counts.tolist() == (2 * np.bincount(ids[:, 1].ravel(), minlength=E)).tolist()
    path.write_text(header + "".join(rows[:-K]))
    error = importing.refused(*CSV, path)
    assert error.rstrip().endswith("leave it out with --layers 0,1.")
    assert len(importing.stats(*CSV, path, "--layers", "0,1").specs) == 2
    assert "has no layer 9, but 0, 1, 2" in importing.refused(*CSV, path, "--layers", "0,9")


# -- rollouts --------------------------------------------------------------------------------------------------------

ROLLOUTS = ("rollouts", "--experts", E)


def batch_of(sequences: Sequence[np.ndarray], prompts: Sequence[int], fill: Callable[[], int], left: bool) -> Any:
    """(ids [B, S, layers, K], attention_mask, response_mask): one token more than there are rows, as trainers pad."""
    width = max(map(len, sequences)) + 4
    ids = np.full((len(sequences), width, LAYERS, K), fill(), dtype=np.int16)
    mask, response = np.zeros((2, len(sequences), width), dtype=int)
    for number, (x, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        start = width - len(x) - 1 if left else 2
        ids[number, start : start + len(x)] = x
        mask[number, start : start + len(x) + 1] = 1
        response[number, start + prompt : start + len(x) + 1] = 1
    return ids, mask, response


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("fill", [0, -1, 3])
def test_batches_are_read_by_their_masks(importing: Importing, left: bool, fill: int) -> None:
    clean, prompts = several(4), [3, 9, 12, 5]
    ids, mask, response = batch_of(clean, prompts, lambda: fill, left)
    path = importing.path / "batch.npz"
    np.savez(path, rollout_expert_indices=ids, attention_mask=mask, response_mask=response)
    for phase, part in (("prefill", 0), ("decode", 1)):
        stats = importing.stats(*ROLLOUTS, f"m={path}", "--phase", phase)
        expected = [(n, len(x) - n)[part] for n, x in zip(prompts, clean, strict=True)]
        assert stats.sums(0).n_tokens.tolist() == expected
    assert importing.stats(*ROLLOUTS, f"m={path}").n_tokens == sum(map(len, clean))
    np.savez(path, routed_experts=ids)
    assert "has no attention_mask, which says where the padding" in importing.refused(*ROLLOUTS, path)
    np.savez(path, routed_experts=ids, attention_mask=mask[:, 1:])
    assert "save both of one batch" in importing.refused(*ROLLOUTS, path)
    np.savez(path, routed_experts=ids, attention_mask=np.where(np.arange(mask.shape[1]) == 15, 0, mask))
    assert "a mask with holes in row 0" in importing.refused(*ROLLOUTS, path)


def test_samples_are_read_by_their_lengths(importing: Importing) -> None:
    clean = several(3)
    rows = [np.concatenate([ids, np.zeros((5, LAYERS, K), int)]) for ids in clean]  # what a trainer pads behind
    slime = [
        {"tokens": list(range(len(x) + 1)), "response_length": 8, "rollout_routed_experts": r.tolist()}
        for x, r in zip(clean, rows, strict=True)
    ]
    skyrl = [
        {"prompt_token_ids": [1] * (len(x) - 7), "response_ids": [2] * 8, "rollout_expert_indices": npy(r)}
        for x, r in zip(clean, rows, strict=True)
    ]
    arrays = {f"{n}.{key}": np.asarray(value) for n, sample in enumerate(slime) for key, value in sample.items()}
    np.savez(importing.path / "slime.npz", **arrays)
    (importing.path / "slime.json").write_text(json.dumps(slime))
    (importing.path / "skyrl.jsonl").write_text("\n".join(map(json.dumps, skyrl)))
    for name in ("slime.npz", "slime.json", "skyrl.jsonl"):
        stats = importing.stats(*ROLLOUTS, f"m={importing.path / name}", "--phase", "prefill")
        assert stats.sums(0).n_tokens.tolist() == [len(ids) - 7 for ids in clean]
    for change, message in (
        ({"rollout_routed_experts": None}, "have the trainer keep them"),
        ({"response_length": 99}, "does not fit its response"),
        ({"tokens": list(range(99))}, "not recorded from its first token on"),
    ):
        (importing.path / "slime.json").write_text(json.dumps([slime[0] | change]))
        assert message in importing.refused(*ROLLOUTS, importing.path / "slime.json")
    del slime[0]["response_length"]
    (importing.path / "slime.json").write_text(json.dumps(slime))
    assert "does not tell its length" in importing.refused(*ROLLOUTS, importing.path / "slime.json")


@pytest.mark.slow
def test_the_two_lines_convert_samples(importing: Importing) -> None:
    """The message's own lines, run, make of slime's .pt what is imported; the pickle is never opened here."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    ids = several(2)
    samples = [
        {
            "tokens": [1] * (len(x) + 1),
            "response_length": 4,
            "rollout_routed_experts": x.astype(np.int32),
            "reward": 1.0,
        }
        for x in ids
    ]
    path = importing.path / "0.pt"
    torch.save({"rollout_id": 0, "samples": samples}, path)
    lines = [importing.refused(*ROLLOUTS, path).partition(" makes a .npz: ")[2].strip()]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=importing.path)
    assert importing.stats(*ROLLOUTS, f"m={path.with_suffix('.npz')}").n_tokens == sum(map(len, ids))
