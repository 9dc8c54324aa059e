"""The routing testbed: sequences of one domain, bounds, scopes of balance, measures, the command from end to end."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import signal
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")
import mlx.optimizers as optim  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from mlx_moebench.cli import main  # noqa: E402
from mlx_moebench.cli._lab_testbed import METHODS as LISTED  # noqa: E402
from mlx_moebench.errors import DataError, MoebenchError, RoutingError, TrainingError  # noqa: E402
from mlx_moebench.lab import keep, ladder  # noqa: E402
from mlx_moebench.lab.decoder import Model, of_domains  # noqa: E402
from mlx_moebench.lab.domains import DomainBlocks, DomainOrder, check_repeats, domains_of, repeats  # noqa: E402
from mlx_moebench.lab.initial import initialise  # noqa: E402
from mlx_moebench.lab.ladder import interval  # noqa: E402
from mlx_moebench.lab.methods import BREAKING, METHODS, method_named  # noqa: E402
from mlx_moebench.lab.objective import GLOBAL, Objective  # noqa: E402
from mlx_moebench.lab.presets import Preset, model_args  # noqa: E402
from mlx_moebench.lab.pretrain import pretrain  # noqa: E402
from mlx_moebench.lab.routers import FIXED, router_names  # noqa: E402
from mlx_moebench.lab.steps import Updater  # noqa: E402
from mlx_moebench.lab.testbed import MEASURED, RESULT, Testbed, prepare, run_all, run_folder  # noqa: E402
from mlx_moebench.pair.format import checked  # noqa: E402
from mlx_moebench.routing.domains.information import domain_information, matched, purity  # noqa: E402
from mlx_moebench.show.export import to_csv, to_markdown  # noqa: E402
from mlx_moebench.show.figures.testbed import map_heat, ranked, sentences  # noqa: E402
from mlx_moebench.show.inputs import read_inputs  # noqa: E402
from mlx_moebench.show.numbers import with_interval  # noqa: E402
from mlx_moebench.show.page import build_page  # noqa: E402
from mlx_moebench.show.tables.testbed import notes  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")

SMALL = Preset(2, 16, 2, 8, 6, 2, 6, 1, 50, 12, 4, 2, 3, 0, 1.0, 1e-3)
ROWS = np.random.default_rng(0).integers(0, 50, (6, 13)).astype(np.int32)
DOMAINS = np.array([0, 0, 1, 1, 2, 2])


def code_of(arguments: list[str]) -> int:
    """The exit status of the command."""
    try:
        main(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def small(router: str = "smoe", **axes: Any) -> Model:
    args = replace(model_args(SMALL, router), num_domains=3, **axes)
    model = Model(args)
    initialise(model, args, 0)
    model.train()
    mx.eval(model.parameters())
    return model


def updater(model: Model, micro_batch_size: int) -> Updater:
    group = mx.distributed.init()
    return Updater(model, Objective(model, 0.0, group), optim.SGD(0.5), 1e9, micro_batch_size, group)


# -- text of one domain ------------------------------------------------------------------------------------------------


def blocks_of(sizes: tuple[int, ...], length: int = 4, held_out: int = 5) -> DomainBlocks:
    """Blocks of domains whose every token is the number of its domain."""
    starts, labels, ids, before = [], [], [], 0
    for domain, n in enumerate(sizes):
        ids.append(np.full(n * length + 1, domain, dtype=np.int32))
        starts.append(before + length * np.arange(n))
        labels.append(np.full(n, domain))
        before += n * length + 1
    names = tuple(f"d{n}" for n in range(len(sizes)))
    return DomainBlocks(np.concatenate(ids), length, held_out, names, np.concatenate(starts), np.concatenate(labels))


def test_every_block_is_of_one_domain_and_each_domain_has_held_out_ones() -> None:
    blocks = blocks_of((5, 11, 8))
    for n in range(blocks.n_blocks):
        assert set(blocks.rows(np.array([n]))[0]) == {blocks.labels[n]}
    assert sorted([*blocks.train, *blocks.valid]) == list(range(24))
    assert [len(blocks.of_domain(blocks.valid, d)) for d in range(3)] == [1, 3, 2]
    assert blocks.sha256 != replace(blocks, labels=blocks.labels[::-1].copy()).sha256


def test_every_update_has_as_many_of_each_domain_and_all_are_seen_equally_often() -> None:
    blocks = blocks_of((5, 10, 15))
    order = DomainOrder(blocks, seed=3, batch_size=6)
    batches = [order.batch(6 * n, 6) for n in range(12)]
    for batch in batches:
        assert np.bincount(blocks.domains(batch), minlength=3).tolist() == [2, 2, 2]
    seen = np.bincount(np.concatenate(batches), minlength=30)
    for domain, n_train in enumerate((4, 8, 12)):
        own = seen[blocks.of_domain(blocks.train, domain)]
        assert own.sum() == 24
        assert set(own) <= {24 // n_train, 24 // n_train + 1}
    assert not seen[blocks.valid].any()
    again = DomainOrder(blocks, seed=3, batch_size=6)
    assert [again.batch(6 * n, 6).tolist() for n in (7, 2)] == [batches[n].tolist() for n in (7, 2)]
    mixed = [tuple(blocks.domains(batch)) for batch in batches]
    assert len(set(mixed)) > 6, "a micro-batch is of the domains that chance gives it"


def test_a_domain_seen_too_often_is_refused_with_what_fits() -> None:
    blocks = blocks_of((5, 50))
    assert repeats(blocks, 4, 10)["d0"].times == 5.0
    with pytest.raises(
        TrainingError, match=r"'d0' has 4 sequences to train on .* 5.0 times.* train 8 --steps or fewer"
    ):
        check_repeats(blocks, 4, 10, 4.0)
    check_repeats(blocks, 4, 8, 4.0)
    with pytest.raises(TrainingError, match="batch_size is 5, which 2 domains cannot share evenly"):
        check_repeats(blocks, 5, 1, 4.0)


# -- routers that are fixed --------------------------------------------------------------------------------------------


def chosen(model: Model, ids: np.ndarray, domains: np.ndarray | None = None) -> list[np.ndarray]:
    """[B, S, K] of each layer, sorted by expert."""
    made, keys = [], None
    with of_domains(model, domains):
        keys = model.model._keys(mx.array(ids), None)
        for layer in model.layers:
            x = mx.zeros((*ids.shape, 16))
            made.append(np.sort(np.array(layer.mlp.routing(x, keys).indices), axis=-1))
    return made


def test_the_reference_router_sends_each_domain_to_its_block_and_uses_all_of_it_evenly() -> None:
    model = small("reference", num_experts=12, num_experts_per_tok=2)
    for layer in chosen(model, ROWS[:, :12], DOMAINS):
        for row, domain in zip(layer, DOMAINS, strict=True):
            assert np.bincount(row.reshape(-1), minlength=12).tolist() == [
                6 if 4 * domain <= e < 4 * domain + 4 else 0 for e in range(12)
            ]
    counts = np.stack(
        [np.bincount(chosen(model, ROWS, DOMAINS)[0][d == DOMAINS].reshape(-1), minlength=12) for d in range(3)]
    )
    assert domain_information(counts) == pytest.approx(math.log(3))
    with pytest.raises(RoutingError, match="was not told the domain"):
        model(mx.array(ROWS))


def test_a_random_router_is_even_and_looks_back_only() -> None:
    model = small("random", num_experts=6, num_experts_per_tok=2)
    ids = np.random.default_rng(1).integers(0, 50, (64, 128)).astype(np.int32)
    for layer in chosen(model, ids):
        assert (np.diff(layer, axis=-1) > 0).all(), "no expert twice"
        load = np.bincount(layer.reshape(-1), minlength=6) / layer.size
        assert np.abs(load - 1 / 6).max() < 0.01
    other = ids.copy()
    other[:, 60:] = 7
    before, after = chosen(model, ids)[0], chosen(model, other)[0]
    np.testing.assert_array_equal(before[:, :60], after[:, :60])
    assert (before[:, 64:] != after[:, 64:]).any(-1).mean() > 0.8
    same_text = chosen(model, np.tile(ids[:1, :1], (2, 40)))[0]
    assert len({tuple(pair) for pair in same_text[0]}) > 8, "one token goes elsewhere at another place"
    np.testing.assert_array_equal(same_text[0], same_text[1])


def test_a_hash_router_goes_by_the_token_alone() -> None:
    model = small("hash", num_experts=6, num_experts_per_tok=2)
    ids = np.array([[3, 9, 3, 3], [9, 3, 9, 9]], dtype=np.int32)
    first, _ = chosen(model, ids)
    assert len({tuple(pair) for pair in first[ids == 3]}) == 1
    assert len({tuple(pair) for pair in chosen(model, np.arange(50, dtype=np.int32)[None])[0][0]}) > 8
    many = chosen(model, np.arange(50, dtype=np.int32)[None])
    assert (many[0] != many[1]).any(-1).mean() > 0.5


@pytest.mark.parametrize("router", sorted(FIXED))
def test_fixed_routers_train_all_but_the_gate(router: str) -> None:
    model = small(router)
    before = dict(tree_flatten(model.parameters()))
    said = updater(model, 3)(ROWS, 0.5, DOMAINS)
    assert said.counts.sum() == 2 * 6 * 12 * 2
    changed = {name for name, value in tree_flatten(model.parameters()) if not mx.array_equal(value, before[name])}
    assert not any("gate" in name for name in changed)
    assert any("experts.output_linear" in name for name in changed)
    assert router not in router_names()


# -- scopes of balance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["sequence", "switch", "global", "floor_sequence", "floor", "floor_global"])
def test_unequal_micro_batches_are_weighted_by_their_tokens(balance: str) -> None:
    """5 rows as 2, 2 and 1. Where the scope is a sequence the gradient is that of one batch; else cross-entropy is."""
    models = [small(balance=balance, balance_weight=0.1 if "sequence" in balance else 0.0) for _ in range(2)]
    for model, size in zip(models, (5, 2), strict=True):
        updater(model, size)(ROWS[:5], 0.5)
    whole, parts = (dict(tree_flatten(model.parameters())) for model in models)
    for name, value in whole.items():
        np.testing.assert_allclose(value, parts[name], atol=3e-6, err_msg=name)


@pytest.mark.parametrize(("windowed", "exact"), [("global", "switch"), ("floor_global", "floor")])
def test_a_full_window_is_exactly_global(windowed: str, exact: str) -> None:
    """Once the window holds the whole batch, the gradients of its parts add up to that of the batch in one forward."""
    axes: dict[str, Any] = {"balance_weight": 1.0, "floor": 1.0}
    part, whole = small(balance=windowed, window=3, **axes), small(balance=exact, **axes)
    updater(part, 2)(ROWS, 0.0)  # fills the window; nothing moves
    before = dict(tree_flatten(part.parameters()))
    filled = Updater(
        part, objective := Objective(part, 0.0, mx.distributed.init()), optim.SGD(0.5), 1e9, 2, mx.distributed.init()
    )
    filled(ROWS, 0.0)
    assert len(objective.state()) > 0
    said, one = filled(ROWS, 0.5), updater(whole, 6)(ROWS, 0.5)
    np.testing.assert_allclose(said.balance, one.balance, rtol=1e-5)
    a, b = (dict(tree_flatten(model.parameters())) for model in (part, whole))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=3e-6, err_msg=name)
    assert max(float(mx.abs(a[name] - before[name]).max()) for name in a if "gate" in name) > 1e-4


def test_a_window_of_one_is_the_micro_batch_and_one_of_none_the_update() -> None:
    one, alone = small(balance="global", window=1), small(balance="switch")
    a, b = (updater(model, 2)(ROWS, 0.0) for model in (one, alone))
    np.testing.assert_allclose(a.balance, b.balance, rtol=1e-6)
    model = small(balance="global", window=0)
    update = updater(model, 2)
    np.testing.assert_allclose(update(ROWS, 0.0).balance, update(ROWS, 0.0).balance, rtol=1e-6)
    longer = small(balance="global", window=5)
    update = updater(longer, 2)
    assert (np.abs(update(ROWS, 0.0).balance - update(ROWS[::-1].copy(), 0.0).balance) > 1e-7).any()


@pytest.mark.parametrize("balance", GLOBAL)
def test_a_window_is_remembered_and_restored(balance: str) -> None:
    model = small(balance=balance, window=4)
    group = mx.distributed.init()
    objective = Objective(model, 0.0, group)
    Updater(model, objective, optim.SGD(0.0), 1e9, 2, group)(ROWS, 0.0)
    again = Objective(small(balance=balance, window=4), 0.0, group)
    again.restore(objective.state())
    assert objective.state().keys() == again.state().keys()
    assert len(objective.state()) == 3 * 2 * 5, "three micro-batches before the next, two routers, five sums"


def test_an_entropy_floor_that_is_reached_pulls_at_nothing() -> None:
    low, high = small(balance="floor", floor=0.0, balance_weight=9.0), small(balance="none", balance_weight=0.0)
    for model in (low, high):
        updater(model, 6)(ROWS, 0.5)
    for (name, a), (_, b) in zip(tree_flatten(low.parameters()), tree_flatten(high.parameters()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7, err_msg=name)


# -- measures ----------------------------------------------------------------------------------------------------------


def test_matching_is_the_best_of_all_ways() -> None:
    counts = np.random.default_rng(5).integers(0, 30, (3, 6)).astype(float)
    load = counts / counts.sum(axis=1, keepdims=True)
    best = max(sum(load[d, e] for e, d in enumerate(way)) for way in set(permutations([0, 0, 1, 1, 2, 2]))) / 3
    found = matched(counts)
    assert found.precision == pytest.approx(best)
    assert sorted(found.owner) == [0, 0, 1, 1, 2, 2]
    assert matched(counts[:, :2]).owner.tolist() == [-1, -1], "fewer experts than domains own nothing"
    left_over = matched(np.eye(2, 5))
    assert sorted(left_over.owner) == [-1, 0, 0, 1, 1]


def test_even_routing_is_pure_by_chance_only() -> None:
    assert float(purity(np.ones((4, 8)))) == pytest.approx(0.25)
    assert float(purity(np.kron(np.eye(4), np.ones((1, 2))))) == pytest.approx(1.0)
    assert matched(np.ones((4, 8))).precision == pytest.approx(0.25)


def test_an_interval_over_seeds_stays_in_range_and_needs_two() -> None:
    made = interval([0.0, 0.2], (0.0, 1.0))
    assert (made["value"], made["low"]) == (0.1, 0.0)
    assert made["high"] == 1.0
    assert interval([0.5])["reason"] == "one seed gives no interval"
    known = interval([1.0, 2.0, 3.0])
    assert known["high"] - 2.0 == pytest.approx(4.302652729911275 / math.sqrt(3)), (
        "Student's t with 2 degrees of freedom"
    )


# -- methods -----------------------------------------------------------------------------------------------------------


def test_the_command_lists_the_methods_that_there_are() -> None:
    assert sorted(LISTED) == sorted(METHODS)


@pytest.mark.parametrize("name", [*BREAKING, "Expert_Choice"])
def test_what_breaks_counts_is_refused_by_name(name: str) -> None:
    with pytest.raises(TrainingError, match="tokens x K"):
        method_named(name)


# -- from end to end ---------------------------------------------------------------------------------------------------

WORDS = {
    "red": "rose ruby blood fire brick",
    "blue": "sky sea ink denim sapphire",
    "grün": "Gras Blatt Moos <b>Wald</b>",
}
"""Domains of words of their own: a router could tell them apart."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(0)
    for name, words in WORDS.items():
        lines = [" ".join(rng.choice(words.split(), 40)) for _ in range(60)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def small_bed(texts: Path, **changes: Any) -> Testbed:
    sizes: dict[str, Any] = {"steps": 8, "seq_length": 16, "vocab_size": 280, "held_out": 4, "window": 4}
    return Testbed(domains=domains_of(texts), **sizes | changes)


def short(folder: Path) -> list[str]:
    return ["--data", str(folder), "--steps", "8", "--seq-length", "16", "--vocab-size", "280", "--held-out", "4"]


@pytest.fixture(scope="module")
def finished(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of four methods."""
    folder = tmp_path_factory.mktemp("testbed")
    methods = [option for name in ("reference", "random", "global", "lossfree") for option in ("--method", name)]
    assert code_of(["lab", "testbed", *short(texts), *methods, "--seeds", "2", "-o", str(folder), "--quiet"]) == 0
    return folder


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))
    return content


def size_of(folder: Path) -> dict[str, Any]:
    (size,) = read(folder)["sizes"]
    return dict(size)


def test_the_bounds_are_where_they_must_be(finished: Path) -> None:
    report = read(finished)
    checked("testbed", report)
    (size,) = report["sizes"]
    methods = {one["name"]: one for one in size["methods"]}
    assert set(methods) == {"reference", "random", "global", "lossfree"}
    reference, random = methods["reference"]["values"], methods["random"]["values"]
    for name, value in (("specialisation", 1), ("precision", 1), ("purity", 1), ("eae", 1), ("spec_score", 1)):
        assert reference[name]["value"] == pytest.approx(value, abs=1e-6), name
    assert reference["dead_experts"]["value"] == 0
    assert random["spec_score"]["value"] == pytest.approx(0, abs=1e-9)
    assert all(one["inside"] == one["of"] for one in methods["random"]["independent"]), "MI inside its null"
    assert not any(one["inside"] for one in methods["reference"]["independent"])
    assert methods["reference"]["flips"][-1]["top1_flip"]["value"] == 0
    assert set(methods["global"]["losses"]) == set(WORDS)
    assert size["settings"]["n_experts"] == 6
    assert [len(router["shares"][0]) for router in methods["global"]["routers"]] == [6, 6]
    orders = {(one["quantity"], one["method"], one["other"]) for one in size["orders"]}
    assert orders == {("loss", "reference", "global")}


def test_the_same_command_keeps_what_is_finished_and_adds_to_it(finished: Path, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bed"
    bed = small_bed(texts, steps=4)
    run_all(bed, folder, ["random"], 1, device="cpu")
    measured = run_folder(folder, "random", 0) / MEASURED
    before = measured.stat().st_mtime_ns
    report = run_all(bed, folder, ["random", "none"], 1, device="cpu")
    assert measured.stat().st_mtime_ns == before
    assert [one["name"] for one in report["sizes"][0]["methods"]] == ["none", "random"]
    assert report["sizes"][0]["methods"][0]["values"]["spec_score"]["reason"] == "a bound was not run"
    for method in ("random", "z-loss"):  # one that is finished, and one that would stand beside it
        with pytest.raises(TrainingError, match=r"run with other settings \(steps = 4, not 5\)"):
            run_all(replace(bed, steps=5), folder, [method], 1, device="cpu")
    with pytest.raises(TrainingError, match="tokenizer has 280 tokens, not 270; give --vocab-size 280"):
        run_all(replace(bed, vocab_size=270), folder, ["random"], 1, device="cpu")
    moved = tmp_path / "moved"
    shutil.copytree(texts, moved)
    elsewhere = replace(bed, domains=domains_of(moved), most_repeats=5.0)
    run_all(elsewhere, folder, ["random"], 1, device="cpu")
    with (moved / "red.txt").open("a", encoding="utf-8") as file:
        file.write("\nrose")
    with pytest.raises(TrainingError, match=r"The text changed since .* was run"):
        run_all(elsewhere, folder, ["z-loss"], 1, device="cpu")
    hidden = run_folder(folder, "random", 0) / "steps" / ".DS_Store"
    hidden.write_text("a file manager's")
    flips = json.loads(measured.read_text("utf-8"))["flips"]
    measured.unlink()
    run_all(bed, folder, ["random"], 1, device="cpu")
    assert json.loads(measured.read_text("utf-8"))["flips"] == flips
    measured.write_text(measured.read_text("utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"measured.json is damaged; remove it"):
        run_all(bed, folder, ["random"], 1, device="cpu")


def test_stopped_and_resumed_is_never_stopped_with_a_window(texts: Path, tmp_path: Path) -> None:
    """The window of the balance spans updates, and so is part of what a checkpoint has to hold."""
    bed = small_bed(texts, steps=6, window=5)
    settings = bed.settings(METHODS["global"], 0, prepare(bed, tmp_path))
    pretrain(settings, tmp_path / "whole", device="cpu")

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training smoe") and done == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, tmp_path / "parts", device="cpu", step=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    pretrain(settings, tmp_path / "parts", device="cpu", resume=True)
    whole, parts = (mx.load(str(tmp_path / name / "model.safetensors")) for name in ("whole", "parts"))
    assert all(mx.array_equal(value, parts[name]) for name, value in whole.items())


def test_a_copy_is_kept_before_the_checkpoint_that_goes_on_behind_it(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed between the two makes the copy again."""
    bed = small_bed(texts, steps=4)
    settings = bed.settings(METHODS["none"], 0, prepare(bed, tmp_path))
    whole = keep.save_checkpoint

    def killed(*arguments: Any) -> None:
        if arguments[3]["iteration"] == 4:
            raise KeyboardInterrupt
        whole(*arguments)

    monkeypatch.setattr(keep, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, tmp_path / "run", device="cpu")
    assert (keep.snapshot_folder(tmp_path / "run", 4) / "model.safetensors").is_file()


def test_it_is_shown_in_a_page_a_table_and_a_picture(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = read_inputs([finished])
    assert len(inputs.testbeds) == 1
    page = build_page(inputs)
    assert "<b>Wald</b>" not in page
    assert "the most specialised of 2 trained methods is" in page
    loss = size_of(finished)["methods"][0]["losses"]["red"]
    for words in (
        *("Every method of the testbed", "Specialisation against utilisation", "First choices that flip"),
        *("Held-out loss of each domain", with_interval(loss["value"], loss), "expert {expert:0}"),
    ):
        assert words in page
    report = read(finished)
    size = report["sizes"][0]
    assert ranked(size)[0]["name"] == "reference"
    heat = map_heat(report, size, ranked(size)[0], 0)
    ratios = np.stack(heat.measures["ratio"].values)
    np.testing.assert_allclose(
        ratios, 3 * np.kron(np.eye(3), np.ones((1, 2))), atol=1e-3, err_msg="blocks on a diagonal"
    )
    assert code_of(["plot", "testbed", str(finished), "-o", str(finished / "picture.svg")]) == 0
    capsys.readouterr()
    assert code_of(["report", str(finished), "--format", "md", "-o", str(finished / "report.md")]) == 0


def test_every_number_of_a_testbed_is_exported(finished: Path) -> None:
    inputs, size = read_inputs([finished]), read(finished)["sizes"][0]
    rows = [row for row in csv.DictReader(io.StringIO(to_csv(inputs))) if row["metric"].startswith("testbed.")]
    told = {(row["router"], row["data"], row["metric"]): row for row in rows}
    assert len(told) == len(rows)
    for method in size["methods"]:
        for name, entry in method["values"].items():
            row = told[method["name"], "+".join(read(finished)["domains"]), f"testbed.{name}"]
            assert [float(row[key]) for key in ("value", "low", "high")] == [entry[k] for k in ("value", "low", "high")]
            assert (row["method"], row["level"]) == ("t over seeds", "0.95")
        assert float(told[method["name"], "red", "testbed.loss"]["value"]) == method["losses"]["red"]["value"]
    assert ("reference minus global", "blue+grün+red", "testbed.difference.loss") in told
    written = to_markdown(inputs)
    assert "## Routing testbed: " in written
    for words in (
        "| reference (upper bound) | 2 | ",
        "MI / ln D",
        "| method | blue | grün | red |",
        "- loss of reference less global: ",
    ):
        assert words in written


def test_the_answer_names_a_method_by_what_it_does(finished: Path) -> None:
    """`none` alone would read as if no method did."""
    report = read(finished)
    size = report["sizes"][0]
    size["methods"] = [one | {"name": "none", "title": METHODS["none"].title} for one in size["methods"][1:2]]
    assert next(sentences(report)).startswith(
        "On 3 domains with experts for each, the most specialised of 1 trained method is none (no balancing): MI / ln D"
    )


def test_too_few_held_out_sequences_are_said_and_not_called_outside_the_null(finished: Path) -> None:
    report = read(finished)
    size = report["sizes"][0]
    assert not any("too few held-out sequences" in note for note in notes(report, size))
    assert any("Random routing: MI inside its null in 2 of 2 routers" in note for note in notes(report, size))
    untested: dict[str, Any] = {"value": 0.3, "low": None, "high": None, "p_value": None}
    run = {"seed": 0, "routers": [{"information": untested}] * 2}
    for method in size["methods"]:
        method["independent"] = [ladder._inside_null(run)]
        method["routers"] = [one | {"information": untested} for one in method["routers"]]
    assert size["methods"][0]["independent"] == [{"seed": 0, "inside": 0, "of": 0}]
    told = list(notes(report, size))
    assert not any("inside its null" in note for note in told)
    assert any("too few held-out sequences" in note for note in told)


def test_what_is_damaged_is_said_with_what_to_do(finished: Path, texts: Path, tmp_path: Path) -> None:
    folder, bed = tmp_path / "bed", small_bed(texts)
    shutil.copytree(finished, folder)
    run = run_folder(folder, "random", 0)
    (folder / RESULT).write_text("{}")
    with pytest.raises(TrainingError, match=r"testbed.json is damaged .* makes it again from the runs"):
        run_all(replace(bed, window=12), folder, ["random"], device="cpu")
    (folder / RESULT).unlink()
    (run / MEASURED).unlink()
    (run / "training_log.jsonl").write_text("")
    with pytest.raises(TrainingError, match=r"training_log.jsonl is damaged; remove .*random-seed0"):
        run_all(replace(bed, window=12), folder, ["random"], device="cpu")
    (run / "model.safetensors").write_bytes(b"xx")
    with pytest.raises(TrainingError, match=r"random-seed0 is damaged \(.*\); remove the run"):
        run_all(replace(bed, window=12), folder, ["random"], device="cpu")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda d: (d / "one.txt").write_text("a b c " * 200), "has 1 domain (one)"),
        (
            lambda d: [(d / f"{n}.txt").write_text(t) for n, t in (("a", "a b " * 400), ("b", ""))],
            "no document with text",
        ),
        (
            lambda d: [(d / f"{n}.txt").write_text(t) for n, t in (("a", "one two " * 400), ("b", "two"))],
            "Domain 'b' has 3 tokens, which is less than two sequences of 16",
        ),
        (lambda d: None, "has 0 domains"),
        (
            lambda d: [(d / f"{n}.csv").write_text("x,y\n1,2\n") for n in "ab"],
            "Of a domain that is --domain NAME=DATA@FIELD",
        ),
    ],
)
def test_bad_domains_are_one_clear_sentence(make: Any, sentence: str, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "domains"
    folder.mkdir()
    make(folder)
    assert (
        code_of(["lab", "testbed", *short(folder), "--vocab-size", "258", "-o", str(tmp_path / "out"), "--quiet"]) == 1
    )
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--experts-per-domain", "3"], "no multiple of the 2 that a token chooses"),
        (["--steps", "5000"], "would be seen"),
        (["--method", "expert-choice"], "tokens x K"),
        (["--method", "globl"], "Did you mean 'global'?"),
        (["--window", "0"], "window is 0; give 1 or more"),
        (["--experts-per-domain", "0"], "experts_per_domain is 0; give 1 or more"),
    ],
)
def test_bad_settings_are_one_clear_sentence(
    options: list[str], sentence: str, texts: Path, tmp_path: Path, capsys: Any
) -> None:
    assert code_of(["lab", "testbed", *short(texts), *options, "-o", str(tmp_path / "out"), "--quiet"]) == 1
    assert sentence in capsys.readouterr().err


def test_a_folder_names_each_domain_once(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "b.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match="two domains 'a'"):
        domains_of(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        domains_of(tmp_path / "nowhere")
    with pytest.raises(MoebenchError):
        domains_of(tmp_path / "a.txt")
