"""`RoutingStats`, its report and the schema of its report."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import permutations
from typing import Any

import jsonschema
import numpy as np
import pytest
from routing_reference import SCHEMA, assert_same, make_stats, random_routing, validate

from mlx_moebench import RoutingStats
from mlx_moebench.errors import MoebenchError, RoutingError, StatsError
from mlx_moebench.pair.format import FILES, FOLDER, schema_text
from mlx_moebench.routing import METRICS, Plan, RouterSpec, tally

PLAN = Plan(resamples=200)

# -- adding and merging --------------------------------------------------------------------------------------------


def test_sums_are_kept_per_sequence_and_sorted() -> None:
    stats = RoutingStats([RouterSpec(0, 0, "mlp", 6, 2)])
    r = random_routing(0, (3, 10))
    t = tally(r)
    stats.add(0, [("b", 1), ("a", 7), ("b", 1)], t)  # the third row continues the first
    assert stats.clusters == [("a", 7), ("b", 1)]
    np.testing.assert_array_equal(stats.sums(0).counts, [t.counts[1], t.counts[0] + t.counts[2]])
    np.testing.assert_allclose(stats.sums(0).scalars[1], t.scalars[0].astype(float) + t.scalars[2])
    assert stats.n_tokens == stats.totals(0).n_tokens == 30
    stats.check()


def test_batches_do_not_matter() -> None:
    specs = (RouterSpec(0, 0, "mlp", 6, 2),)
    r = random_routing(1, (8, 12))
    whole, parts = RoutingStats(specs), RoutingStats(specs)
    whole.add(0, [("x", row) for row in range(8)], tally(r))
    for row in reversed(range(8)):
        one = type(r)(r.logits[[row]], r.indices[[row]], r.weights[[row]], r.mask[[row]])
        parts.add(0, [("x", row)], tally(one))
    assert_same(whole, parts)


def test_bad_counts_add_nothing() -> None:
    stats = RoutingStats([RouterSpec(5, 0, "mlp", 6, 2)])
    with pytest.raises(
        RoutingError, match=r"Layer 5 \(mlp\) gave counts of shape \(2, 6\), but 3 sequences and 6 experts"
    ):
        stats.add(0, [("x", 0), ("x", 1), ("x", 2)], tally(random_routing(0, (2, 4))))
    with pytest.raises(RoutingError, match="counted 12 selections for 4 tokens x 2 experts"):
        stats.add(0, [("x", 0)], tally(random_routing(0, (1, 4), 6, 3)))
    assert stats.clusters == []
    assert stats.totals(0).n_tokens == 0


def test_shards_merge_to_one_run_in_any_order() -> None:
    whole = make_stats(range(12))
    shards = [make_stats(rows) for rows in (range(0, 5), range(5, 6), range(6, 12))]
    for order in permutations(shards):
        assert_same(RoutingStats.merge(order), whole)
    left = RoutingStats.merge([RoutingStats.merge(shards[:2]), shards[2]])
    assert_same(left, whole)
    assert left.report(PLAN) == whole.report(PLAN)


def test_merging_leaves_the_parts_alone() -> None:
    a, b = make_stats(range(3)), make_stats(range(3, 6))
    before = a.sums(0).counts.copy()
    RoutingStats.merge([a, b])
    np.testing.assert_array_equal(a.sums(0).counts, before)
    assert len(a.clusters) == 3


def test_domains_merge() -> None:
    a, b = make_stats(range(11)), make_stats(range(11), sha="b" * 64, max_length=32)
    merged = RoutingStats.merge([a, b])
    assert merged.strata == ["data-a"] * 11 + ["data-b"] * 11
    data = merged.report(PLAN)["data"]
    assert data["name"] == "data-a+data-b"
    assert [s["max_length"] for s in data["sources"]] == [64, 32]
    assert "max_length" not in data
    assert data["sha256"] == RoutingStats.merge([b, a]).report(PLAN)["data"]["sha256"]
    validate(merged.report(PLAN))


WIDER = tuple(RouterSpec(layer, layer, "mlp", 8, 3) for layer in range(3))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_stats(range(3, 5), model={"id": "other"}), "their models differ"),
        (make_stats(range(3, 5), phase="decode"), "their phases differ: prefill and decode"),
        (make_stats(range(3, 5), specs=WIDER), "their routers differ"),
        (make_stats(range(3, 5), tau=0.5), "their values of tau differ"),
        (make_stats(range(3, 5), max_length=32), "the same data was read with max_length 64 and 32"),
        (make_stats(range(3, 5), reading={"unit": "line"}), "the same data was read with unit 'row' and 'line'"),
        (make_stats(range(3, 5), reading={"format": "txt"}), "the same data was read with unit 'row' and 'blank'"),
        (make_stats(range(3, 5), reading={"long": "windows"}), "was read with long 'truncate' and 'windows'"),
        (make_stats(range(2, 5)), r"Row 2 of data-a \(1 rows in all\) is in two"),
    ],
)
def test_what_cannot_be_merged(other: RoutingStats, message: str) -> None:
    with pytest.raises(StatsError, match=message):
        RoutingStats.merge([make_stats(range(3)), other])


def test_merging_nothing() -> None:
    with pytest.raises(StatsError, match="nothing to merge"):
        RoutingStats.merge([])


def test_the_flag_is_checked() -> None:
    with pytest.raises(MoebenchError, match="tau is a share of tokens and lies between 0 and 1, got 40"):
        make_stats(range(1), tau=40)
    with pytest.raises(MoebenchError, match="Cannot decide collapse on 'gini'"):
        make_stats(range(1), collapse_on="gini")


# -- reading -------------------------------------------------------------------------------------------------------


def test_dataframe() -> None:
    stats = make_stats()
    frame = stats.to_dataframe()
    wanted = {"layer", "moe_layer", "router", "n_tokens", "mean_entropy", "top_share_token", "collapsed"}
    assert wanted | set(METRICS) <= set(frame.columns)
    assert len(frame) == 3
    assert frame["n_tokens"].tolist() == [stats.n_tokens] * 3
    assert frame["top_share_token"][1] == stats.values(1)["top_share_token"]


def test_collapsed() -> None:
    stats = make_stats(tau=0.40)
    assert stats.collapsed(0, 0.4001) == (True, None)
    assert stats.collapsed(0, 0.40) == (False, None)
    assert stats.collapsed(0, math.nan) == (None, "top_share_token is not defined")
    flag, reason = make_stats(tau=0.25).collapsed(0, 0.9)
    assert flag is None
    assert reason == "even routing already gives 0.25 >= tau = 0.25"
    # A share of selections compares with 1/E, not K/E.
    assert make_stats(tau=0.25, collapse_on="top_share_selection").collapsed(0, 0.3) == (True, None)


# -- report --------------------------------------------------------------------------------------------------------


def test_schema_is_a_schema_and_describes_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, field in node.get("properties", {}).items():
                assert "description" in field or "$ref" in field, f"{path}.{name}"
            for key, value in node.items():
                if key not in ("if", "then", "else", "anyOf"):  # conditions on fields described elsewhere
                    walk(value, f"{path}.{key}")
        elif isinstance(node, list):
            for value in node:
                walk(value, path)

    walk(SCHEMA, "")
    described = SCHEMA["$defs"]["Router"]["properties"]
    assert set(METRICS) <= set(described)
    assert all("description" in described[name] for name in METRICS)


def test_report() -> None:
    stats = make_stats()
    report = stats.report(PLAN)
    validate(report)
    assert report["data"]["n_sequences"] == 12
    assert report["data"]["phase"] == "prefill"
    assert report["settings"]["ci"] == {"method": "bca", "resamples": 200, "seed": 0, "level": 0.95}
    for number, router in enumerate(report["routers"]):
        assert sum(router["selection_counts"]) == router["n_tokens"] * router["top_k"]
        assert sum(router["top1_counts"]) == router["n_tokens"] == stats.n_tokens
        assert isinstance(router["dead_experts"], int)
        assert set(router["ci"]) == set(METRICS)
        for name, value in stats.values(number).items():
            ci = router["ci"][name]
            assert ci.get("plugin", router[name]) == pytest.approx(value, abs=1e-8), name
            assert ci["low"] is None or ci["low"] <= router[name] <= ci["high"], name
            corrected = METRICS[name].interval in {"plugin", "distance"} and ci["low"] is not None
            assert ("plugin" in ci) == corrected, name
        ci = router["ci"]["mean_entropy"]
        assert ci["low"] < router["mean_entropy"] < ci["high"]
    entropies = [router["mean_entropy"] for router in report["routers"]]
    assert report["summary"]["mean_entropy"]["value"] == pytest.approx(np.mean(entropies))
    shares = [router["top_share_token"] for router in report["routers"]]
    assert report["summary"]["peak_top_share_token"]["value"] == max(shares)
    fraction = report["summary"]["collapsed_fraction"]
    assert fraction["value"] == np.mean([share > 0.40 for share in shares])
    assert fraction["over"] == 3
    assert report["summary"] == report["summary_by_router"]["mlp"]


def test_report_of_few_sequences() -> None:
    report = make_stats(range(9)).report(PLAN)
    validate(report)
    for router in report["routers"]:
        for name, ci in router["ci"].items():
            assert ci["low"] is None
            few = METRICS[name].interval != "none"
            assert ("9 sequences are too few" if few else "says nothing") in ci["reason"], name
    assert all(entry["low"] is None and entry["reason"] for entry in report["summary"].values())
    assert report["summary"]["mean_entropy"]["value"] > 0


@pytest.mark.parametrize("method", ["percentile", "layer"])
def test_report_of_other_methods(method: Any) -> None:
    report = make_stats().report(Plan(method, 200))
    validate(report)
    assert method in report["summary"]["mean_entropy"]["method"].replace("layers", "layer")


def test_report_where_no_flag_can_be_raised() -> None:
    specs = (RouterSpec(0, 0, "mlp", 4, 2, router_bits=4), RouterSpec(1, 1, "mlp", 16, 2))
    report = make_stats(specs=specs).report(PLAN)
    validate(report)
    first, second = report["routers"]
    assert first["collapsed"] is None
    assert first["collapsed_reason"] == "even routing already gives 0.5 >= tau = 0.4"
    assert second["collapsed"] is False
    assert report["summary"]["collapsed_fraction"]["over"] == 1
    report = make_stats(specs=specs[:1]).report(PLAN)
    validate(report)
    assert report["summary"]["collapsed_fraction"]["value"] is None


def test_kinds_of_router_are_never_pooled() -> None:
    specs = (RouterSpec(0, 0, "attention", 16, 2), RouterSpec(0, 0, "mlp", 8, 2), RouterSpec(1, 1, "mlp", 8, 2))
    stats = make_stats(specs=specs)
    report = stats.report(PLAN)
    validate(report)
    assert set(report["summary_by_router"]) == {"attention", "mlp"}
    assert report["summary"] == report["summary_by_router"]["mlp"]
    entropy = [stats.values(i)["mean_entropy"] for i in range(3)]
    by_router = report["summary_by_router"]
    assert by_router["attention"]["mean_entropy"]["value"] == pytest.approx(entropy[0])
    assert by_router["mlp"]["mean_entropy"]["value"] == pytest.approx(np.mean(entropy[1:]))


def test_undefined_is_null_in_json() -> None:
    specs = (RouterSpec(0, 0, "mlp", 6, 1, "sigmoid_normalised"), RouterSpec(1, 1, "mlp", 6, 6))
    stats = make_stats(specs=specs)
    report = stats.report(PLAN)
    validate(report)
    for number, names in ((0, ("ewa", "margin_weight", "router_z")), (1, ("selection_margin", "tied_selections"))):
        for name in names:
            assert report["routers"][number][name] is None
            assert report["routers"][number]["ci"][name] == {
                "low": None,
                "high": None,
                "reason": "the metric is not defined here",
            }
    assert "NaN" not in json.dumps(report)


def test_report_of_nothing() -> None:
    report = RoutingStats(make_stats().specs, model=make_stats().model, environment=make_stats().environment).report(
        PLAN
    )
    assert report["data"]["n_tokens"] == 0
    assert report["routers"][0]["mean_entropy"] is report["routers"][0]["dead_experts"] is None
    json.dumps(report, allow_nan=False)


def test_data_without_declared_source_is_named_by_its_hash() -> None:
    stats = RoutingStats([RouterSpec(0, 0, "mlp", 6, 2)])
    stats.add(0, [("f" * 64, 0)], tally(random_routing(0, (1, 4))))
    data = stats.report(PLAN)["data"]
    assert (data["name"], data["sha256"], data["n_sequences"]) == ("f" * 12, "f" * 64, 1)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("routers", 0, "mean_entropy"), "NaN"),
        (("routers", 0, "dead_experts"), 1.5),
        (("routers", 0, "selection_counts", 0), -1),
        (("routers", 0, "router"), "gate"),
        (("routers", 0, "collapsed"), None),  # without collapsed_reason
        (("routers", 0, "ci", "gini"), {"low": None, "high": None}),
        (("routers", 0, "ci", "gini"), {"low": 0.1, "high": None, "method": "m"}),
        (("routers", 0, "a_later_metric"), "text"),
        (("data", "phase"), "both"),
        (("summary", "mean_entropy"), {"low": 0.1, "high": 0.2, "method": "m", "level": 0.95}),
        (("settings", "tau"), 40),
    ],
)
def test_schema_refuses(where: tuple[Any, ...], value: Any) -> None:
    report = make_stats().report(PLAN)
    node = report
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(report)


@pytest.mark.parametrize(
    "where",
    [
        ("schema_version",),
        ("model", "router_bits"),
        ("data", "bos"),
        ("data", "sha256"),
        ("environment", "blas"),
        ("routers", 0, "n_eff"),
        ("routers", 0, "ci"),
        ("summary", "peak_top_share_token"),
    ],
)
def test_schema_requires(where: tuple[Any, ...]) -> None:
    report = make_stats().report(PLAN)
    node = report
    for key in where[:-1]:
        node = node[key]
    del node[where[-1]]
    with pytest.raises(jsonschema.ValidationError, match=r"is a required property|is not valid under any"):
        validate(report)


def test_schema_takes_a_new_metric() -> None:
    report = make_stats().report(PLAN)
    report["routers"][0]["a_later_metric"] = 0.5
    report["routers"][1]["a_later_metric"] = None
    validate(report)


# -- imports -------------------------------------------------------------------------------------------------------


def test_routing_needs_only_numpy_and_scipy() -> None:
    code = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mlx", "mlx_lm", "torch", "transformers", "pandas", "safetensors", "click", "rich"}:
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Block())
import numpy as np
from mlx_moebench import routing
from mlx_moebench.routing.intervals.measured import measured

sums = routing.Sums.from_counts(np.ones((12, 4)), np.full(12, 2.0), 2)
print(measured([sums], np.zeros(12), routing.Plan(resamples=100)).routers[0]["top_share_token"].interval.low)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "0.5"


@pytest.mark.parametrize("name", FILES)
def test_schemas_are_made_from_the_classes(name: str) -> None:
    text = (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    assert text == schema_text(name), "run python scripts/make_schemas.py"


def test_the_band_of_every_expert_is_in_the_report() -> None:
    stats = make_stats(range(12))
    report = stats.report(PLAN)
    for number, router in enumerate(report["routers"]):
        band, total = router["token_share"], stats.totals(number)
        shares = total.counts / total.n_tokens
        assert all(low <= share <= high for low, share, high in zip(band["low"], shares, band["high"], strict=True))
        busiest, ci = int(np.argmax(shares)), router["ci"]["top_share_token"]
        assert band["high"][busiest] >= ci["high"] > router["top_share_token"], "that of the maximum is over fewer"
        assert band["low"][busiest] > 0
    few = make_stats(range(3)).report(PLAN)["routers"][0]["token_share"]
    assert few["low"] is few["high"] is None
    assert "too few" in few["reason"]
