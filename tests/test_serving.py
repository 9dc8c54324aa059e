"""``mlx-moebench import vllm|sglang``: what serving engines record, what it gives, what it cannot, and mistakes."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import validate
from without import without

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import METRICS

E, K, LAYERS = 8, 2, 3


def make_ids(seed: int, tokens: int = 20, layers: int = LAYERS, experts: int = E, top_k: int = K) -> np.ndarray:
    """[tokens, layers, K] int16, K different experts each, in no order."""
    scores = np.random.default_rng(seed).random((tokens, layers, experts))
    return np.argsort(scores, axis=-1)[..., :top_k].astype(np.int16)


def imports(*arguments: object) -> None:
    main(["import", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, lines: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        imports(*arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 1, error
    assert error.startswith("Error: ")
    assert error.count("\n") == lines, error
    return error


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


VLLM = ("vllm", "--experts", E)
SGLANG = ("sglang", "--experts", E, "--top-k", K)


# -- the counts of a run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model over prompts and 6 tokens after each, with the ids of both as vLLM gives them."""
    from mlx_moebench.data.trace import Trace

    folder = tmp_path_factory.mktemp("run")
    arguments = (
        f"analyze --dataset math --max-samples 12 --max-length 40 --generate 6 --quiet --output {folder / 'run'}"
    )
    main([*arguments.split(), "--trace", str(folder / "trace")])
    trace = Trace(folder / "trace")
    whole: dict[int, list[np.ndarray]] = {}
    for phase in ("prefill", "decode"):
        for shard in trace.shards(phase):
            ids = np.stack([shard.arrays[f"{spec.name}.experts"] for spec in trace.specs], axis=1)
            for number, row in enumerate(shard.arrays["sequence.row"].tolist()):
                whole.setdefault(row, []).append(ids[shard.sequence == number].astype(np.int16))
    for row, parts in whole.items():
        rng = np.random.default_rng(row)
        ids = rng.permuted(np.concatenate(parts), axis=-1)  # engines do not order a token's ids
        save(folder / "ids" / f"{row}.npy", ids)
    prompts = [len(parts[0]) for _, parts in sorted(whole.items())]
    (folder / "prompts").write_text(",".join(map(str, prompts)))
    return folder


def assert_same_counts(a: RoutingStats, b: RoutingStats) -> None:
    """Everything that ids tell, sequence by sequence."""
    assert a.n_tokens == b.n_tokens > 0
    for number in range(len(a.specs)):
        x, y = a.sums(number), b.sums(number)
        np.testing.assert_array_equal(x.n_tokens, y.n_tokens)
        np.testing.assert_array_equal(x.counts, y.counts)
        np.testing.assert_array_equal(a.pairs(number), b.pairs(number))
        for name in ("adjacent_shared", "adjacent_pairs"):
            np.testing.assert_array_equal(x.scalar(name), y.scalar(name))
        if number:
            np.testing.assert_array_equal(a.transition_counts(number - 1), b.transition_counts(number - 1))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_ids_of_a_run_give_its_counts(run: Path, tmp_path: Path, phase: str) -> None:
    prompts = (run / "prompts").read_text()
    arguments = ("--experts", 16, "--phase", phase, "--prompt-tokens", prompts, "-o", tmp_path / "out")
    imports("vllm", f"math={run / 'ids'}", *arguments)
    measured = RoutingStats.load(run / ("run" if phase == "prefill" else "run.decode"))
    served = RoutingStats.load(tmp_path / "out")
    assert_same_counts(measured, served)
    ours, theirs = measured.report(), served.report()
    validate(theirs)
    assert theirs["data"]["phase"] == phase
    for a, b in zip(ours["routers"], theirs["routers"], strict=True):
        for name in ("load_entropy", "top_share_token", "gini", "n_eff", "adjacent_overlap", "dead_experts"):
            assert a[name] == b[name], name
            assert a["ci"][name] == b["ci"][name], name
        assert a["collapsed"] == b["collapsed"]
        for name in ("mean_entropy", "topk_entropy", "router_z", "margin_prob", "top_share_top1"):
            assert b[name] is None, name
            assert b["ci"][name]["reason"] == "what it is computed from was not recorded"
        assert b["top1_counts"] is None
        assert b["distribution"] is None


def test_unsplit_is_both_phases_and_what_lies_between(run: Path, tmp_path: Path) -> None:
    imports("vllm", f"math={run / 'ids'}", "--experts", 16, "-o", tmp_path / "out")
    served = RoutingStats.load(tmp_path / "out")
    parts = [RoutingStats.load(run / name) for name in ("run", "run.decode")]
    assert served.phase == "unsplit"
    for number in range(len(served.specs)):
        assert (served.totals(number).counts == sum(p.totals(number).counts for p in parts)).all()
        pairs = [float(s.totals(number).scalar("adjacent_pairs")) for s in (served, *parts)]
        assert pairs[0] == sum(pairs[1:]) + len(parts[1].clusters), "one neighbour more where the prompt ends"


def test_served_domains_can_be_profiled_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several folders are several domains, sequences of which are resampled."""
    for domain, experts in (("law", 8), ("news", 5)):
        for number in range(12):
            save(tmp_path / domain / f"{number}.npy", make_ids(number, experts=experts))
    imports(*VLLM, tmp_path / "law", tmp_path / "news", "-o", tmp_path / "both")
    printed = capsys.readouterr().out
    assert "24 sequences, 480 tokens, unsplit, top-2 of 8" in printed
    assert "Findings over law, news" in printed
    report = read_report(tmp_path / "both")
    validate(report)
    assert report["routers"][0]["findings"]["word"] is not None
    main(["profile", str(tmp_path / "both.json"), "--output", str(tmp_path / "profile")])
    (model,) = json.loads((tmp_path / "profile" / "profile.json").read_text())["models"]
    assert model["routers"][0]["domain_information"]["p_value"] < 0.05
    assert model["routers"][0]["adjacent_overlap"]["domains"]["news"]["low"] is not None
    for domain in ("law", "news"):
        imports(*VLLM, tmp_path / domain, "-o", tmp_path / f"{domain}.json")
    capsys.readouterr()
    main(["compare", *(str(tmp_path / f"{d}.json") for d in ("law", "news")), "--allow", "data", "--json"])
    compared = json.loads(capsys.readouterr().out)
    assert compared["routers"][0]["effects"]["dead_experts"]["effect"] == 3


# -- forms of vLLM ---------------------------------------------------------------------------------------------------


def stats_of(tmp_path: Path, *arguments: object) -> RoutingStats:
    imports(*arguments, "-o", tmp_path / "out.json")
    stats = RoutingStats.load(tmp_path / "out")
    validate(stats.report())
    return stats


def test_files_arrays_and_dtypes_are_the_same_sequences(tmp_path: Path) -> None:
    ids = [make_ids(seed, tokens=5 + seed) for seed in range(11)]
    files = [save(tmp_path / "a" / f"{n}.npy", x) for n, x in enumerate(ids)]
    np.savez_compressed(tmp_path / "b.npz", **{str(n): x.astype(np.uint8) for n, x in enumerate(ids)})
    first = stats_of(tmp_path, *VLLM, *files, "--data", "prompts")
    assert [r.sum() for r in first.sums(0).counts] == [K * len(x) for x in ids], "10.npy comes after 9.npy"
    assert first.strata == ["prompts"] * 11
    for other in (tmp_path / "a", tmp_path / "b.npz"):
        assert_same_counts(first, stats_of(tmp_path, *VLLM, f"prompts={other}"))
    assert len(stats_of(tmp_path, *VLLM, *files[:3]).report()["data"]["sources"]) == 3, "each file a domain"


def test_sequences_are_kept_apart(tmp_path: Path) -> None:
    """Those of several archives, and one whose first counted position follows the last one of another."""
    ids = [make_ids(n, tokens=5 + n) for n in range(4)]
    for n in (0, 2):
        np.savez(tmp_path / f"{n}.npz", a=ids[n], b=ids[n + 1])
    archives = [tmp_path / f"{n}.npz" for n in (0, 2)]
    assert stats_of(tmp_path, *VLLM, *archives, "--data", "x").sums(0).n_tokens.tolist() == [5, 6, 7, 8]
    split = ("--phase", "decode", "--prompt-tokens", "2,5,5,5")
    stats = stats_of(tmp_path, *VLLM, *archives, "--data", "x", *split)
    assert stats.sums(0).scalar("adjacent_pairs").tolist() == [2, 0, 1, 2]


def test_batches_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [save(tmp_path / "a" / f"{n}.npy", make_ids(n, tokens=5 + n)) for n in range(7)]
    whole = stats_of(tmp_path, *VLLM, *files, "--data", "x")
    monkeypatch.setattr("mlx_moebench.data.importers._ids.BATCH", 16)
    assert_same_counts(whole, stats_of(tmp_path, *VLLM, *files, "--data", "x"))


def test_blocks_without_a_router(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = make_ids(0, layers=4)
    whole, sparse = ids.copy(), ids[:, 1:]
    whole[:, 0] = 0
    a, b = save(tmp_path / "whole.npy", whole), save(tmp_path / "sparse.npy", sparse)
    error = refused(capsys, *VLLM, a, "-o", tmp_path / "out")
    assert "same id in every token of layer 0" in error
    assert error.rstrip().endswith("--layers 1,2,3.")
    found = [stats_of(tmp_path, *VLLM, "--layers", "1,2,3", f"x={path}") for path in (a, b)]
    assert [(s.layer, s.moe_layer) for s in found[0].specs] == [(1, 0), (2, 1), (3, 2)]
    assert_same_counts(*found)
    whole[:, 0] = -1
    assert "--layers 1,2,3" in refused(capsys, *VLLM, save(a, whole), "-o", tmp_path / "out")
    whole[:, :] = 0
    assert "the engine recorded nothing" in refused(capsys, *VLLM, save(a, whole), "-o", tmp_path / "out")
    top1 = make_ids(0, top_k=1)
    top1[:, 1] = 0
    assert "Layer 1 has expert 0 in every token" in refused(capsys, *VLLM, save(a, top1), "-o", tmp_path / "out")
    assert stats_of(tmp_path, *VLLM, "--layers", "0,1,2", a).totals(1).counts[0] == len(top1), "unless it is named"


def test_positions_without_ids_are_no_tokens_and_break_the_sequence(tmp_path: Path) -> None:
    ids = make_ids(0)
    ids[7:9] = -1
    stats = stats_of(tmp_path, *VLLM, save(tmp_path / "x.npy", ids))
    assert stats.n_tokens == 18
    assert float(stats.totals(0).scalar("adjacent_pairs")) == 16
    assert stats.report()["data"]["padding"] == "2 of 20 positions without ids left out"
    both = sum(
        len({*a} & {*b}) for n, (a, b) in enumerate(zip(ids[:, 0], ids[1:, 0], strict=False)) if n not in (6, 7, 8)
    )
    assert float(stats.totals(0).scalar("adjacent_shared")) == both


def npy(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


def test_responses_of_the_server_know_their_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [make_ids(seed, tokens=9 + seed) for seed in range(3)]
    usage = [{"prompt_tokens": 4, "completion_tokens": 6 + seed} for seed in range(3)]
    whole = [{"choices": [{"routed_experts": npy(x)}], "usage": u} for x, u in zip(ids, usage, strict=True)]
    split = [{"choices": [{"routed_experts": x[4:].tolist()}], "prompt_routed_experts": x[:4].tolist()} for x in ids]
    (tmp_path / "whole.jsonl").write_text("\n".join(map(json.dumps, whole)))
    (tmp_path / "split.json").write_text(json.dumps(split))
    for phase, part in (("prefill", slice(4)), ("decode", slice(4, None)), ("unsplit", slice(None))):
        files = [save(tmp_path / phase / f"{n}.npy", x[part]) for n, x in enumerate(ids)]
        expected = stats_of(tmp_path, *VLLM, *files, "--data", "x", "--phase", phase)
        for name in ("whole.jsonl", "split.json"):
            assert_same_counts(expected, stats_of(tmp_path, *VLLM, f"x={tmp_path / name}", "--phase", phase))
    out = ("-o", tmp_path / "out")
    path = tmp_path / "bad.json"

    def bad(response: Any) -> str:
        path.write_text(json.dumps(response))
        return refused(capsys, *VLLM, path, *out)

    assert "has no choices" in bad({"error": "nothing"})
    assert "neither a server's answer" in bad([1, 2])
    assert "ask for n = 1" in bad({"choices": [{}, {}]})
    assert "--enable-return-routed-experts" in bad({"choices": [{"routed_experts": None}]})
    assert "not a base64-encoded .npy" in bad({"choices": [{"routed_experts": "!!"}]})
    assert "not a base64-encoded .npy" in bad({"choices": [{"routed_experts": npy(ids[0])[:-40]}]})
    assert "lengths differ" in bad({"choices": [{"routed_experts": [[[0, 1]], [[0]]]}]})
    assert "something else than whole numbers" in bad({"choices": [{"routed_experts": [[[0.5, 1]]]}]})
    assert "routed_experts_prompt_start = 0" in bad(whole[0] | {"usage": usage[2]})
    assert "leave --prompt-tokens out" in refused(
        capsys, *VLLM, tmp_path / "split.json", "--phase", "decode", "--prompt-tokens", 4, *out
    )


# -- mistakes ------------------------------------------------------------------------------------------------------


def changed(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(ids: np.ndarray) -> np.ndarray:
        ids[index] = value
        return ids

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed((3, 1, 0), E), "at token 3 and layer 1, expert 8, but there are 8 from 0 on"),
        (changed((3, 1, 0), -2), "at token 3 and layer 1, the id -2"),
        (changed((3, 1), -1), "at token 3 and layer 1, the id -1: only -1 stands for no id, and only in all layers"),
        (changed((5, 2), 4), r"at token 5 and layer 2, the same expert twice, \[4, 4\]"),
        (lambda ids: ids.astype(np.float32), "holds float32, and expert ids are whole numbers"),
        (lambda ids: ids[:, 0], r"has the shape \[20, 2\]: routed experts are \[tokens, layers, K\]"),
        (lambda ids: ids[:0], "is empty: its shape is"),
        (lambda ids: np.full_like(ids, -1), "hold no token with expert ids"),
        (lambda ids: make_ids(0, experts=9, top_k=9), "has 9 experts a token, but there are 8"),
        (lambda ids: np.array([ids, None], dtype=object), "holds Python objects, or is a pickle"),
    ],
)
def test_impossible_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    path = save(tmp_path / "x.npy", change(make_ids(0)))
    assert re.search(message, refused(capsys, *VLLM, path, "-o", tmp_path / "out"))
    assert not (tmp_path / "out.json").exists()


def test_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("-o", tmp_path / "out")
    whole = save(tmp_path / "x.npy", make_ids(0)).read_bytes()
    np.savez(tmp_path / "y.npz", a=make_ids(1), b=make_ids(2))
    packed = (tmp_path / "y.npz").read_bytes()
    for name, content in (
        ("x.npy", whole[:-7]),
        ("x.npy", whole[:20]),
        ("x.npy", b""),
        ("x.npy", whole.replace(b"(20, 3, 2)", b"(20, 3, 999999999999)", 1)),
        ("x.npy", whole.replace(b"(20, 3, 2), }", b"(20, 3, 2)  F", 1)),
        ("y.npz", packed[:-30]),
        ("y.npz", packed[:100] + b"\xff" * 40 + packed[140:]),
        ("y.npz", packed.replace(b"PK\x01\x02", b"PK\x01\x07")),
        ("y.npz", b"not a zip"),
    ):
        (tmp_path / name).write_bytes(content)
        for engine in (VLLM, SGLANG):
            error = refused(capsys, *engine, tmp_path / name, *out)
            assert "is not an array file that can be read, or is cut off" in error or "a pickle" in error, error
    np.savez(tmp_path / "y.npz")
    assert "holds no array" in refused(capsys, *VLLM, tmp_path / "y.npz", *out)
    (tmp_path / "notes.txt").write_text("0")
    assert "is not one of the files that can be read" in refused(capsys, *VLLM, tmp_path / "notes.txt", *out)
    (tmp_path / "ids.pt").write_bytes(b"never opened")
    assert "save the array with numpy.save" in refused(capsys, *VLLM, tmp_path / "ids.pt", *out)
    (tmp_path / "none").mkdir()
    assert "There is no .npy, .npz" in refused(capsys, *VLLM, tmp_path / "none", *out)


def test_sequences_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("-o", tmp_path / "out")
    a, b = save(tmp_path / "a.npy", make_ids(0)), save(tmp_path / "b.npy", make_ids(1, layers=2))
    assert "has 2 layers with 2 experts a token" in refused(capsys, *VLLM, a, b, *out)
    assert "are the same file" in refused(capsys, *VLLM, a, f"b={a}", *out)
    assert "which --layers does not fit" in refused(capsys, *VLLM, a, "--layers", "1,7", *out)
    assert "in ascending order" in refused(capsys, *VLLM, a, "--layers", "2,1,0", *out)
    assert "--prompt-tokens splits sequences" in refused(capsys, *VLLM, a, "--prompt-tokens", 4, *out)
    split = ("--phase", "decode", "--prompt-tokens")
    assert "fewer than its prompt of 21" in refused(capsys, *VLLM, a, *split, 21, *out)
    assert "hold no token of phase decode" in refused(capsys, *VLLM, a, *split, 20, *out)
    assert "has 2 numbers, but there are 1 sequences" in refused(capsys, *VLLM, a, *split, "3,4", *out)
    with pytest.raises(SystemExit):
        imports(*VLLM, a, *split, "3,x", *out)
    assert "give whole numbers joined by commas" in capsys.readouterr().err


def test_needs_no_mlx_and_no_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", make_ids(0))
    code = (
        f"{without('mlx', 'mlx_lm', 'torch', 'transformers')}"
        "from mlx_moebench.cli import main\n"
        f"main({['import', *map(str, VLLM), str(path), '-o', str(tmp_path / 'out')]!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# -- forms of SGLang -------------------------------------------------------------------------------------------------


def count_table(ids: np.ndarray) -> np.ndarray:
    """[layers, E] of ids [T, layers, K]."""
    return np.stack([np.bincount(layer.ravel(), minlength=E) for layer in ids.transpose(1, 0, 2).astype(int)])


def per_token(passes: list[tuple[int, list[np.ndarray], list[int]]], place: np.ndarray) -> dict[str, np.ndarray]:
    """A dump's arrays as converted: (forward_mode, ids of each request [t, layers, K], their first positions)."""
    physical = np.argsort(place, axis=1)  # of a place that is a permutation
    found: dict[str, np.ndarray] = {"last_physical_to_logical_map": place}
    for n, (mode, requests, starts) in enumerate(passes):
        ids = np.concatenate(requests).astype(int).transpose(1, 0, 2)
        slots = np.full((*ids.shape[:2], 8), -1, np.int32)
        slots[..., :K] = np.take_along_axis(physical, ids.reshape(len(ids), -1), axis=1).reshape(ids.shape)
        found[f"{n}.topk_ids_of_layer"] = slots
        found[f"{n}.forward_mode"] = np.array(mode)
        found[f"{n}.positions"] = np.concatenate([s + np.arange(len(r)) for s, r in zip(starts, requests, strict=True)])
        if mode == 1:
            found[f"{n}.extend_seq_lens"] = np.array([len(r) for r in requests])
    return found


def place_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(E) for _ in range(LAYERS)])


def test_counts_of_every_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [make_ids(seed) for seed in range(3)]
    tables = np.stack([count_table(ids) for ids in steps])
    np.savez(tmp_path / "stat.npz", logical_count=np.concatenate([tables, 0 * tables]))  # a buffer that is not full
    (tmp_path / "counts.json").write_text(json.dumps({"logical_count": tables.sum(axis=0).tolist()}))
    # 2 physical copies of the experts 0 and 1; what was counted on both belongs to one.
    place = np.tile([*range(E), 0, 1], (LAYERS, 1))
    halves = [
        np.concatenate([t - np.eye(E, dtype=int)[0] - np.eye(E, dtype=int)[1], 0 * t[:, :2] + 1], 1) for t in tables
    ]
    records = {f"{n}.global_physical_count": half for n, half in enumerate(halves)}
    np.savez(tmp_path / "passes.npz", **records, last_physical_to_logical_map=place)
    for name in ("stat.npz", "counts.json", "passes.npz"):
        stats = stats_of(tmp_path, *SGLANG, f"x={tmp_path / name}")
        for number, counts in enumerate(tables.sum(axis=0)):
            np.testing.assert_array_equal(stats.totals(number).counts, counts)
        assert np.isnan(stats.values(0)["adjacent_overlap"])
        assert np.isnan(stats.coactivation(0)).all()
        assert "1 sequence is too few" in stats.report()["routers"][0]["ci"]["gini"]["reason"]
    assert "x: 1 count file, 60 tokens, unsplit" in capsys.readouterr().out


def test_tokens_of_a_dump(tmp_path: Path) -> None:
    """Prefill passes tell requests apart, a chunk that goes on is of the same one; decode passes do not."""
    a, b, c, token = make_ids(0, 6), make_ids(1, 9), make_ids(2, 4), make_ids(3, 2)
    passes = [(1, [a, b[:5]], [0, 0]), (1, [b[5:], c], [5, 0]), (2, [token[:1], token[1:]], [6, 9])]
    np.savez(tmp_path / "dump.npz", **per_token(passes, place_of(7)))
    dump = f"x={tmp_path / 'dump.npz'}"
    for number, ids in enumerate((a, b[:5], b[5:], c)):
        save(tmp_path / "pieces" / f"{number}.npy", ids)
    pieces = stats_of(tmp_path, *VLLM, f"x={tmp_path / 'pieces'}", "--phase", "prefill")
    prefill = stats_of(tmp_path, *SGLANG, dump, "--phase", "prefill")
    assert len(prefill.clusters) == 3
    np.testing.assert_array_equal(prefill.sums(0).n_tokens, [len(a), len(b), len(c)])
    for number in range(LAYERS):
        np.testing.assert_array_equal(prefill.pairs(number), pieces.pairs(number))
        np.testing.assert_array_equal(prefill.totals(number).counts, pieces.totals(number).counts)
        for name in ("adjacent_shared", "adjacent_pairs"):
            assert prefill.totals(number).scalar(name) == pieces.totals(number).scalar(name)
    for phase, ids in (("decode", token), ("unsplit", np.concatenate([a, b, c, token]))):
        stats = stats_of(tmp_path, *SGLANG, dump, "--phase", phase)
        np.testing.assert_array_equal(stats.totals(1).counts, count_table(ids)[1])
        assert np.isfinite(stats.coactivation(1)).any()
        assert np.isnan(stats.values(1)["adjacent_overlap"])
        assert len(stats.clusters) == 1


def test_answers_of_sglang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [make_ids(seed, tokens=9) for seed in range(2)]
    texts = [base64.b64encode(x.astype("<i4").tobytes()).decode() for x in ids]
    usage = {"prompt_tokens": 4, "completion_tokens": 6}
    native = [{"text": "", "meta_info": usage | {"routed_experts": text}} for text in texts]
    chat = [{"choices": [{"sgl_ext": {"routed_experts": text}}], "usage": usage} for text in texts]
    later = [{"choices": [{}], "sglext": {"routed_experts": text}, "usage": usage} for text in texts]
    for n, x in enumerate(ids):
        save(tmp_path / "ids" / f"{n}.npy", x[4:])
    expected = stats_of(tmp_path, *SGLANG, f"x={tmp_path / 'ids'}", "--phase", "decode")
    path = tmp_path / "x.json"
    for answers in (native, chat, later):
        path.write_text(json.dumps(answers))
        assert_same_counts(expected, stats_of(tmp_path, *SGLANG, path, "--phase", "decode"))

    def bad(answer: Any) -> str:
        path.write_text(json.dumps(answer))
        return refused(capsys, *SGLANG, path, "-o", tmp_path / "out")

    assert "start SGLang with --enable-return-routed-experts" in bad({"text": "", "meta_info": usage})
    assert "does not tell prompt_tokens" in bad({"meta_info": {"routed_experts": texts[0]}})
    assert "routed_experts_start_len = 0" in bad({"meta_info": usage | {"routed_experts": texts[0][:64]}})
    assert "not base64-encoded int32" in bad({"meta_info": usage | {"routed_experts": "A"}})
    assert "ask for n = 1" in bad({"choices": [{}, {}]})


def test_dumps_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("-o", tmp_path / "out")
    table = np.concatenate([np.zeros((1, E), int), count_table(make_ids(0))])
    path, token = tmp_path / "stat.npz", tmp_path / "token.npz"
    np.savez(path, logical_count=table[None])
    assert "no count in layer 0, as blocks without" in (error := refused(capsys, *SGLANG, path, *out))
    assert error.rstrip().endswith("--layers 1,2,3.")
    assert [s.layer for s in stats_of(tmp_path, *SGLANG, path, "--layers", "1,2,3").specs] == [1, 2, 3]
    assert "counts 8 experts a layer, but --experts says 9" in refused(
        capsys, "sglang", "--experts", 9, "--top-k", K, path, "--layers", "1,2,3", *out
    )
    assert "check --top-k" in refused(capsys, "sglang", "--experts", E, "--top-k", 3, path, "--layers", "1,2,3", *out)
    assert "--data is about sequences" in refused(capsys, *SGLANG, path, "--data", "x", *out)
    assert "does not fit: its last is 4" in refused(capsys, *SGLANG, path, "--layers", "3,4", *out)
    passes = {"0.global_physical_count": table[1:], "last_physical_to_logical_map": place_of(0) + 1}
    np.savez(path, **passes)
    assert "to the logical ones up to 8, but --experts says 8" in refused(capsys, *SGLANG, path, *out)
    np.savez(path, logical_count=table.astype(float))
    assert "no counts [layers, experts] of whole numbers" in refused(capsys, *SGLANG, path, *out)
    arrays = per_token([(1, [make_ids(0)], [0])], place_of(0))
    np.savez(token, **arrays)
    assert "import them apart" in refused(capsys, *SGLANG, path, token, *out)
    np.savez(token, **arrays | {"0.forward_mode": np.array(5)})
    assert "is of forward_mode 5" in refused(capsys, *SGLANG, token, "--phase", "decode", *out)
    np.savez(token, **{k: v for k, v in arrays.items() if "extend" not in k})
    assert "has no extend_seq_lens" in refused(capsys, *SGLANG, token, "--phase", "prefill", *out)
    np.savez(token, **arrays | {"0.extend_seq_lens": np.array([12])})
    assert "20 tokens, but sequences of 12 in all" in refused(capsys, *SGLANG, token, "--phase", "prefill", *out)
    np.savez(token, **arrays | {"last_physical_to_logical_map": place_of(0)[:2]})
    assert "which does not fit" in refused(capsys, *SGLANG, token, *out)
    np.savez(token, **arrays)
    assert "does not have 1 experts a token" in refused(capsys, "sglang", "--experts", E, "--top-k", 1, token, *out)


def test_the_line_converts_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message's own line, run, makes of SGLang's .pt what is imported; the pickle is never opened here."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    ids = [make_ids(seed, tokens=9) for seed in range(2)]
    arrays = per_token([(1, [ids[0]], [0]), (2, [ids[1]], [9])], place_of(1))
    records: list[dict[str, Any]] = []
    for n, mode in enumerate((1, 2)):
        lists = {k: arrays[f"{n}.{k}"].tolist() for k in ("positions",)}
        lists["extend_seq_lens"] = [9] if mode == 1 else None  # type: ignore[assignment]
        record = {"forward_pass_id": n, "rank": 0, "gatherer_key": "primary", "input_ids": [1] * 9, **lists}
        record |= {"forward_mode": mode, "misc_objects": [], "global_physical_count": torch.zeros(LAYERS, E)}
        record["topk_ids_of_layer"] = torch.tensor(arrays[f"{n}.topk_ids_of_layer"])
        records.append(record)
    place = torch.tensor(arrays["last_physical_to_logical_map"])
    dumps = {
        "it's stat": {
            "rank": 0,
            "logical_count": torch.tensor(count_table(ids[0]), dtype=torch.int32)[None],
            "average_utilization_rate_over_window": None,
        },
        "per_token": {"records": records, "last_physical_to_logical_map": place},
    }
    lines: list[str] = []
    for name, dump in dumps.items():
        torch.save(dump, tmp_path / f"{name}.pt")
        error = refused(capsys, *SGLANG, tmp_path / f"{name}.pt", "-o", tmp_path / "out")
        assert "is a pickle, which can run code when opened" in error
        lines.append(error.partition(" of it: ")[2].strip())
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=tmp_path)
    for name, first in (("it's stat", "unsplit"), ("per_token", "prefill")):
        stats = stats_of(tmp_path, *SGLANG, f"x={tmp_path / name}.npz", "--phase", first)
        for layer, counts in enumerate(count_table(ids[0])):
            np.testing.assert_array_equal(stats.totals(layer).counts, counts)
    assert stats.values(0)["adjacent_overlap"] >= 0
    assert set(METRICS) <= set(stats.report()["routers"][0])
