"""The river, the map of tokens by layers and the cards: their numbers, which page and plots both draw."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_inputs import HOSTILE, NANO, QUICK, hostile_pairs, uneven_stats
from routing_reference import MODEL, make_stats
from scipy.stats import hypergeom

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.errors import StatsError, TraceError
from mlx_moebench.routing import RouterSpec, Sums
from mlx_moebench.routing.favourites import favourite_ids
from mlx_moebench.routing.tally import SCALARS
from mlx_moebench.routing.tokens import Choices, TokenSequence
from mlx_moebench.show.figures import domain_series, load_series
from mlx_moebench.show.figures.cards import NEAREST, CardSeries, card_series
from mlx_moebench.show.figures.river import BUSIEST, DEFINITION, POOLED, RiverSeries, _cost, river_series
from mlx_moebench.show.figures.token_map import token_map
from mlx_moebench.show.inputs import Inputs, Run, read_inputs
from mlx_moebench.show.page import SCRIPTS, build_page
from mlx_moebench.show.page.data import page_data
from mlx_moebench.show.plots import get_plot
from mlx_moebench.show.tokens import SCRIPTS as TOKEN_SCRIPTS
from mlx_moebench.show.tokens import assets, token_data_of


@pytest.fixture(scope="module")
def nano() -> Inputs:
    return read_inputs(NANO, plan=QUICK)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of 20 short texts of the embedded model; the pair of the same run lies beside it."""
    pytest.importorskip("mlx.core", reason="needs MLX to make a trace")
    from mlx_moebench.measure import analyze
    from mlx_moebench.models import load_checkpoint

    folder = tmp_path_factory.mktemp("pictures")
    settings: dict[str, Any] = {"max_samples": 20, "max_length": 48, "plan": QUICK}
    analyze(load_checkpoint(None), "general", output=folder / "o", trace=folder / "t", **settings)
    return folder / "t"


def of_pair(path: Path, stats: Any) -> Inputs:
    stats.save(path, QUICK)
    return read_inputs([path], plan=QUICK)


# -- the river ---------------------------------------------------------------------------------------------------------


def test_moves_of_the_river_are_the_transitions_of_the_statistics(nano: Inputs) -> None:
    run = nano.runs[0]
    series = river_series(run)
    assert run.stats is not None
    for gap, moves in enumerate(series.moves):
        here, there = (np.array(column.experts, dtype=int) for column in series.columns[gap : gap + 2])
        np.testing.assert_array_equal(moves, run.stats.transition_counts(gap)[np.ix_(here, there)])
        even = run.stats.transition(gap)[np.ix_(here, there)]
        shares = series.columns[gap + 1].loads / series.columns[gap + 1].loads.sum()
        np.testing.assert_allclose(series.lift(gap), even / shares)
    assert [sorted(map(int, column.experts)) for column in series.columns] == [list(range(16))] * 6


def test_experts_of_a_large_router_are_merged_and_no_move_is_lost(tmp_path: Path) -> None:
    inputs = of_pair(tmp_path / "a.json", uneven_stats("a", "a" * 64, layers=3, experts=40, top_k=4, sequences=3))
    series, stats = river_series(inputs.runs[0]), inputs.runs[0].stats
    assert stats is not None
    for gap, moves in enumerate(series.moves):
        assert moves.shape == (BUSIEST + 1, BUSIEST + 1)
        assert moves.sum() == stats.transition_counts(gap).sum()
    for number, column in enumerate(series.columns):
        assert column.experts[-1] is None
        assert column.others == 40 - BUSIEST
        counts = stats.totals(number).counts
        shown = [e for e in column.experts if e is not None]
        assert column.loads[-1] == counts.sum() - counts[shown].sum()
        assert counts[shown].min() >= np.delete(counts, shown).max(), "the busiest are shown"


def cost_of(series: RiverSeries, orders: list[Any]) -> float:
    excess = []
    for gap, moves in enumerate(series.moves):
        lift = np.nan_to_num(series.lift(gap))
        excess.append(np.maximum(0.0, moves - moves / np.where(lift > 0, lift, np.inf)))
    return _cost(series, excess, orders)


def test_strong_moves_run_straight() -> None:
    """A model that sends every expert's tokens to one expert of the next router is drawn without a crossing."""
    rng = np.random.default_rng(0)
    paths = rng.integers(0, 8, 4000)
    turns = [np.arange(8), *(rng.permutation(8) for _ in range(3))]
    specs = [RouterSpec(layer, layer, "mlp", 8, 1) for layer in range(4)]
    stats = RoutingStats(specs, model=MODEL, sources={"a" * 64: {"name": "made-up"}})
    for number, turn in enumerate(turns):
        counts = np.bincount(turn[paths], minlength=8)[None, :]
        scalars = np.zeros((1, len(SCALARS)))
        sums = Sums(8, 1, "softmax", np.array([4000]), counts, counts, counts.astype(float), scalars)
        stats.add_sums(number, [("a" * 64, 0)], sums, np.diag(counts[0]))
    for gap in range(3):
        moves = np.zeros((8, 8), dtype=int)
        np.add.at(moves, (turns[gap][paths], turns[gap + 1][paths]), 1)
        stats.add_transition(gap, moves)
    series = river_series(Run("made-up", stats.report(QUICK), stats, {}))
    assert series.reason is None
    assert cost_of(series, [np.arange(8)] * 4) == pytest.approx(0, abs=1e-6)
    by_number = [np.argsort(np.array(column.experts, dtype=int)) for column in series.columns]
    assert cost_of(series, by_number) > 1000


def test_ordering_lowers_the_cost_of_a_real_model(nano: Inputs) -> None:
    series = river_series(nano.runs[0])
    by_number = [np.argsort(np.array(column.experts, dtype=int)) for column in series.columns]
    assert cost_of(series, [np.arange(16)] * 6) < 0.9 * cost_of(series, by_number)


def test_one_router_and_missing_sums_have_no_river_and_say_why(tmp_path: Path) -> None:
    single = of_pair(tmp_path / "one.json", make_stats(specs=(RouterSpec(0, 0, "mlp", 8, 2),)))
    assert river_series(single.runs[0]).reason == "the model has one router, and a river needs a next one"
    notes = [part["note"] for part in section(single, "river")["parts"]]
    assert notes == ["There are no moves to draw: the model has one router, and a river needs a next one."]
    with pytest.raises(StatsError, match="one router"):
        get_plot("river").draw(single)
    report_path, sums = make_stats().save(tmp_path / "a.json", QUICK)
    sums.unlink()
    assert "the sums beside the report" in str(river_series(read_inputs([report_path]).runs[0]).reason)
    counts = read_inputs([Path(NANO[0]).with_name("routing_stats_olmoe_counts.json")])
    assert river_series(counts.runs[0]).reason == "moves between routers were not recorded"


def test_two_routers_of_a_layer_follow_each_other(tmp_path: Path) -> None:
    specs = tuple(RouterSpec(layer, layer, kind, 8, 2) for layer in range(2) for kind in ("attention", "mlp"))
    inputs = of_pair(tmp_path / "two.json", make_stats(specs=specs))
    figure = section(inputs, "river")["parts"][0]["drawings"][""]
    assert [column["name"] for column in figure["columns"]] == ["0 attention", "0 mlp", "1 attention", "1 mlp"]
    assert len(figure["moves"]) == 3


def test_page_and_plot_say_why_moves_have_no_interval(nano: Inputs) -> None:
    (drawing,) = section(nano, "river")["parts"][0]["drawings"].values()
    heading = str(get_plot("river").draw(nano).get_suptitle()).replace("\n", " ")
    assert POOLED.startswith("no interval: ")
    assert drawing["pooled"] == POOLED
    assert POOLED in DEFINITION, "which the caption begins with"
    assert POOLED in heading


def section(inputs: Inputs, name: str, **settings: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(page_data(inputs, **settings)))
    return next(one for one in data["sections"] if one["id"] == name)


# -- favourite tokens --------------------------------------------------------------------------------------------------


def test_the_bound_of_one_text_is_above_the_exact_tail_and_close_to_it() -> None:
    """In one text the null is hypergeometric, and its exact tail is known."""
    rng = np.random.default_rng(0)
    ids, experts = rng.integers(0, 12, 600), np.argsort(rng.random((600, 8)), axis=1)[:, :2]
    experts[ids == 3, 0], experts[ids == 3, 1] = 5, 6
    found = favourite_ids(ids, experts, np.zeros(600), 8)
    taken = np.bincount(experts.ravel(), minlength=8)
    exact = hypergeom.sf(found.chosen - 1, 600, taken[None, :], found.n_tokens[:, None])
    assert (found.p >= exact - 1e-12).all()
    np.testing.assert_allclose(found.expected, np.outer(found.n_tokens, taken) / 600)
    place = (list(found.ids).index(3), 5)
    assert found.chosen[place] == found.n_tokens[place[0]]
    assert exact[place] <= found.p[place] < 1e-15
    far = (found.chosen >= found.expected + 1) & (exact > 1e-3)
    assert np.median(found.p[far] / exact[far]) < 2.5


def test_words_and_experts_that_only_share_texts_are_no_favourites() -> None:
    """Texts have words and experts of their own, and inside each the two have nothing to do with each other."""
    rng = np.random.default_rng(1)
    below = []
    for _ in range(20):
        texts = np.repeat(np.arange(12), 60)
        own = rng.normal(0, 1.5, (12, 10))
        experts = np.argsort(rng.gumbel(size=(720, 10)) + own[texts], axis=1)[:, -2:]
        ids = (rng.zipf(1.6, 720) + 3 * (texts % 4)) % 30
        found = favourite_ids(ids, experts, texts, 10)
        below.append((found.p < 0.05).mean())
    assert 0 < np.mean(below) <= 0.05


def test_tokens_that_do_not_count_are_left_out() -> None:
    ids = np.array([1] * 6 + [-1] * 6)
    found = favourite_ids(ids, np.array([[0]] * 6 + [[1]] * 6), np.zeros(12), 2)
    assert found.ids.tolist() == [1]
    assert found.expected.tolist() == [[6.0, 0.0]], "expert 1 has no token that counts"
    assert favourite_ids(np.array([-1]), np.array([[0]]), np.array([0]), 2).p.shape == (0, 2)


def test_favourites_of_a_trace(trace: Path) -> None:
    from mlx_moebench.analysis.favourites import trace_favourites

    found = trace_favourites(trace)
    assert found.tests > 1_000
    assert len(found.experts) > 20
    for those in found.experts.values():
        excess = [one.chosen - one.expected for one in those]
        assert excess == sorted(excess, reverse=True)
        assert all(one.q < 0.05 and 0 < one.chosen <= one.n_tokens for one in those)


# -- cards -------------------------------------------------------------------------------------------------------------


def cards_of(inputs: Inputs) -> CardSeries:
    run = inputs.runs[0]
    profile = inputs.profiles.get(run.name)
    return card_series(run, load_series(run), None if profile is None else domain_series(run.name, profile))


def test_partners_and_next_experts_are_those_of_the_statistics(nano: Inputs) -> None:
    series, stats = cards_of(nano), nano.runs[0].stats
    assert stats is not None
    chance = 16 * 1 / (2 * 15)
    for router in range(6):
        lift = stats.coactivation_lift(router) / chance
        for expert, partners in enumerate(series.partners[router]):
            assert len(partners) <= NEAREST
            for one in partners:
                assert one.expert != expert
                assert one.lift == pytest.approx(lift[expert, one.expert])
                assert one.lift > 1
                assert one.count == stats.pairs(router)[expert, one.expert]
    counts = stats.transition_counts(0)
    for expert, following in enumerate(series.following[0]):
        for one in following:
            assert one.count == counts[expert, one.expert]
    assert len(series.following) == 5


def test_the_index_begins_with_what_is_surest(nano: Inputs) -> None:
    findings = cards_of(nano).findings
    times = [one.times for one in findings]
    assert times == sorted(times, reverse=True)
    assert len({(one.router, one.expert) for one in findings}) == len(findings), "one line an expert"
    first = findings[0]
    (profile,) = nano.profiles.values()
    of = domain_series("nano", profile).routers[first.router]
    top = int(np.argmax(of.shares[:, first.expert]))
    others = np.delete(of.high[:, first.expert], top)
    assert first.times == pytest.approx(of.low[top, first.expert] / others.max())
    assert f"{100 * of.shares[top, first.expert]:.1f} [" in first.words


def test_even_loads_are_no_findings(tmp_path: Path) -> None:
    inputs = of_pair(tmp_path / "a.json", make_stats(range(40)))
    assert len(cards_of(inputs).findings) <= 2, "24 experts at random, in simultaneous bands of 95%"


def test_a_card_of_counts_and_of_one_expert_a_token_has_no_partners(tmp_path: Path) -> None:
    single = of_pair(tmp_path / "k1.json", make_stats(specs=(RouterSpec(0, 0, "mlp", 8, 1),)))
    assert cards_of(single).partners == ((),)
    assert cards_of(single).following == ()
    widget = section(single, "cards")["parts"][1]
    assert widget["partners_known"] is False
    assert widget["favourites"] is None


# -- the map -----------------------------------------------------------------------------------------------------------

SPECS = [RouterSpec(layer, layer, "mlp", 16, 2) for layer in range(6)]


def tokens_of(texts: list[str], seed: int = 0, names: tuple[str, ...] = ("row 0", "row 1")) -> dict[str, Any]:
    """A view of sequences of random choices by routers like those of the embedded model."""
    rng = np.random.default_rng(seed)

    def choices() -> list[Choices]:
        n = len(texts)
        return [
            Choices(np.argsort(rng.random((n, 16)))[:, :2], rng.random((n, 2)), rng.random(n), rng.random(n))
            for _ in SPECS
        ]

    sequences = [TokenSequence(name, texts, choices()) for name in names]
    return token_data_of(SPECS, sequences, model={"id": "moebench-nano"}, name="data")


def test_the_map_is_the_first_experts_of_the_view() -> None:
    rng = np.random.default_rng(0)
    expected = [np.argsort(rng.random((3, 16)))[:, :2] for _ in SPECS]
    sequence = TokenSequence(
        "s", ["a", "b", "a"], [Choices(e, rng.random((3, 2)), rng.random(3), rng.random(3)) for e in expected]
    )
    view = token_data_of(SPECS, [sequence], model={"id": "m"}, name="d")
    found = token_map(view, 0, 2)
    np.testing.assert_array_equal(found.experts, np.stack([e[:2, 0] for e in expected], axis=1))
    np.testing.assert_allclose(found.weights[:, 2], sequence.choices[2].weights[:2, 0], rtol=1e-3)
    assert (found.texts, found.total, found.layers) == (("a", "b"), 3, tuple("012345"))
    np.testing.assert_array_equal(found.first[1], np.bincount(expected[1][:, 0], minlength=16))
    with pytest.raises(TraceError, match="no sequence 1"):
        token_map(view, 1, 2)


def test_only_the_same_token_at_the_same_place_can_have_changed() -> None:
    one, other = token_map(tokens_of(["a", "b", "c"]), 0, 9), token_map(tokens_of(["a", "x"], seed=1), 0, 9)
    changed = one.changed(other)
    np.testing.assert_array_equal(changed[0], one.experts[0] != other.experts[0])
    assert changed[0].any()
    assert not changed[1:].any()
    assert not one.changed(one).any()


# -- inputs, page, command line ----------------------------------------------------------------------------------------


def test_a_trace_alone_is_a_run_and_beside_its_pair_it_is_none(trace: Path) -> None:
    alone = read_inputs([trace], plan=QUICK)
    assert alone.traces == (trace,)
    pair = read_inputs([trace.parent / "o.json", trace], plan=QUICK)
    assert len(alone.runs) == len(pair.runs) == 1
    counts = [[r["selection_counts"] for r in one.runs[0].report["routers"]] for one in (alone, pair)]
    assert counts[0] == counts[1]
    assert pair.comparisons == ()


def test_cards_of_a_trace_have_tokens_and_the_null(trace: Path) -> None:
    from mlx_moebench.show.tokens import token_data

    inputs = read_inputs([trace], plan=QUICK)
    widget = section(inputs, "cards", tokens=token_data(trace))["parts"][1]
    assert len(widget["favourites"]) > 20
    assert "Hoeffding" in widget["null"]
    of_others = section(read_inputs(NANO, plan=QUICK), "cards", tokens=token_data(trace))["parts"][1]
    assert of_others["favourites"] is None, "a trace that was not given as an input says nothing of the run"


def test_hostile_names_and_tokens_are_data(tmp_path: Path) -> None:
    inputs = read_inputs(hostile_pairs(tmp_path), plan=QUICK)
    page = build_page(inputs, tokens=tokens_of([HOSTILE, " a"]))
    assert HOSTILE not in page
    assert page.count("</script>") == 2


def test_the_command_takes_two_traces_and_no_third(trace: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "page.html"
    main(["report", str(trace), "--trace", str(trace), "-o", str(out), "--quiet"])
    assert '"sections"' in out.read_text(encoding="utf-8")
    both = tmp_path / "both.html"
    second = tmp_path / "again"
    second.mkdir()
    for file in trace.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    main(["report", str(trace), str(second), "-o", str(both), "--quiet"])
    assert '"beside": {"version"' in both.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["report", str(trace), *["--trace", str(trace)] * 3, "-o", str(out)])
    assert "one trace, or two side by side" in capsys.readouterr().err


def test_a_picture_of_a_card_is_named_as_its_anchor(nano: Inputs, trace: Path) -> None:
    figure = get_plot("card").draw(nano, card="4-12")
    assert "layer 4, expert 12: " in str(figure.get_suptitle())
    with pytest.raises(StatsError, match="no card '6-0': they are called LAYER-EXPERT, 0-0 to 5-15"):
        get_plot("card").draw(nano, card="6-0")
    with pytest.raises(StatsError, match="give a folder of analyze --trace"):
        get_plot("tokens").draw(nano)
    titles = [axis.get_title(loc="left") for axis in get_plot("card").draw(read_inputs([trace])).axes]
    assert "Favourite tokens (q < 0.05)" in titles


def test_some_layers_of_a_river(nano: Inputs, tmp_path: Path, capsys: Any) -> None:
    figure = get_plot("river").draw(nano, span=(2, 4))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["2", "3", "4"]
    with pytest.raises(StatsError, match="fewer than two routers in those layers: it has layers 0 to 5"):
        get_plot("river").draw(nano, span=(5, 9))
    with pytest.raises(SystemExit):
        main(["plot", "river", NANO[0], "--layers", "four", "-o", str(tmp_path / "p.png")])
    assert "give the first and the last one, as in 0-15" in capsys.readouterr().err


def test_no_two_scripts_of_the_page_declare_one_name() -> None:
    """They share one script element, in which a second declaration of a name stops all of them."""
    declared = [
        name
        for script in (*SCRIPTS, *TOKEN_SCRIPTS, "map_view.js", "start.js")
        for name in re.findall(r"^(?:const|let|class|function)\s+(\w+)", assets(script), re.MULTILINE)
    ]
    assert len(declared) > 20
    assert sorted(declared) == sorted(set(declared))
