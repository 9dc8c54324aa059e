"""Export of what was measured: Markdown, one tidy table, the block of a model card; any name stays text."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from routing_reference import make_stats

from mlx_moebench.errors import StatsError
from mlx_moebench.routing import Plan, RouterSpec
from mlx_moebench.routing.metrics import METRICS
from mlx_moebench.show.export import COLUMNS, to_card, to_csv, to_markdown
from mlx_moebench.show.inputs import Inputs, Training, read_inputs
from mlx_moebench.show.markdown import code, text

RESULTS = Path(__file__).parents[1] / "results"
PLAN = Plan(resamples=100)
HOSTILE = (
    "a|b `c` ``d`` \n---\n# e </script><img src=x onerror=1> *f* [g](http://h.i) \u2028 \x85 : - 'j' \"k\" {l} & $m$ @n"
    " שלום 中"
)
TWO_KINDS = tuple(RouterSpec(layer, layer, kind, 8, 2) for layer in range(2) for kind in ("attention", "mlp"))


def measured(folder: Path, name: str = "data", model: str = "test/tiny", **options: object) -> Inputs:
    for letter in "ab":
        stats = make_stats(sha=letter * 64, **options)  # type: ignore[arg-type]
        stats.model["id"] = model
        stats.sources[letter * 64]["name"] = f"{letter} {name}"
        stats.environment["command"] = f"mlx-moebench analyze --dataset '{name}'"
        stats.save(folder / f"{letter}.json", PLAN)
    return read_inputs([folder / "a.json", folder / "b.json"], plan=PLAN)


@pytest.fixture
def results() -> Inputs:
    """A run, a profile, a comparison and an uncertainty report of the embedded model."""
    names = ("routing_stats_nano_math", "profiles/nano", "comparisons/nano_4bit", "uncertainty/nano_math")
    return read_inputs([RESULTS / f"{name}.json" for name in names])


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of every table as a reader of Markdown sees them."""
    parser = MarkdownIt("commonmark").enable("table")
    found: list[list[list[str]]] = []
    inside = False
    for token in parser.parse(markdown):
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            found += [[]] if inside else []
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            children = token.children or []
            assert {child.type for child in children} <= {"text", "code_inline", "text_special"}, token.content
            found[-1][-1].append("".join(child.content for child in children))
    return found


def seen(value: str) -> str:
    """``value`` as text of Markdown reads."""
    (token,) = [t for t in MarkdownIt("commonmark").parse(text(value)) if t.type == "inline"]
    return "".join(child.content for child in token.children or [])


def test_markdown_has_every_part(results: Inputs) -> None:
    page = to_markdown(results)
    for heading in ("# Routing report", "## moebench-nano on math", "## Between the domains", "## A: moebench-nano"):
        assert heading in page
    assert "## Loss by routing uncertainty" in page
    assert "## Provenance" in page
    report = results.runs[0].report
    entropy = report["summary"]["mean_entropy"]
    shown = f"{entropy['value']:.3f} [{entropy['low']:.3f}, {entropy['high']:.3f}]"
    assert f"| Mean entropy of a token's routing | {shown} | nats |" in page
    every = tables(page)
    assert all(len({len(row) for row in table}) == 1 for table in every), "rows of a table are equally long"
    routers = next(table for table in every if table[0][:2] == ["layer", "entropy, nats"])
    assert [row[0] for row in routers[1:]] == [str(r["layer"]) for r in report["routers"]]
    provenance = every[-1]
    assert report["data"]["sha256"][:12] in provenance[1]
    assert report["environment"]["command"] in provenance[1]


def test_numbers_without_an_interval_say_why(tmp_path: Path) -> None:
    make_stats(range(1)).save(tmp_path / "one.json", PLAN)
    page = to_markdown(read_inputs([tmp_path / "one.json"]))
    assert "(a)" in page
    assert "1 sequence is too few for an interval" in page
    (tmp_path / "one.safetensors").unlink()
    page = to_markdown(read_inputs([tmp_path / "one.json"]))
    assert "one.safetensors with the sums is missing" in page


def test_two_kinds_of_router_are_told_apart(tmp_path: Path) -> None:
    inputs = measured(tmp_path, specs=TWO_KINDS)
    page, card = to_markdown(inputs), to_card(inputs)
    assert "| attention routers |" in page
    assert "| mlp routers |" in page
    assert "Mean entropy of a token's routing, attention routers" in card
    results = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert [(r["dataset"]["name"], r["dataset"]["args"]["router"]) for r in results] == [
        ("a data", "attention"),
        ("a data", "mlp"),
        ("b data", "attention"),
        ("b data", "mlp"),
    ]


def test_csv_is_tidy_and_complete(results: Inputs) -> None:
    # Python reads digits exactly, pandas by default only in its newer versions.
    exact = {name: lambda text: float(text or "nan") for name in ("value", "low", "high")}
    table = pd.read_csv(io.StringIO(to_csv(results)), keep_default_na=False, na_values=[""], converters=exact)
    assert tuple(table.columns) == COLUMNS
    report = results.runs[0].report
    own = table[(table.n_sequences == 40) & table.layer.notna() & ~table.metric.str.contains(r"\.")]
    for router in report["routers"]:
        rows = own[own.layer == router["layer"]].set_index("metric")
        kept = METRICS.keys() & router.keys()  # a kept report may lack a later one
        assert set(rows.index) == {*kept, "collapsed"}
        for name in kept:
            assert rows.loc[name, "value"] == pytest.approx(router[name], rel=1e-15)
            assert rows.loc[name, "unit"] == METRICS[name].unit
            low = router["ci"][name]["low"]
            assert pd.isna(rows.loc[name, "low"]) if low is None else rows.loc[name, "low"] == low
    without = table[table.low.isna()]
    assert without.reason.notna().all(), "a number without an interval says why"
    assert without.level.isna().all()
    assert set(table[table.low.notna()].level) == {0.95}
    assert {"domain_information", "mixture_spread", "difference.mean_entropy", "loss_by_entropy.rho"} <= set(
        table.metric
    )
    effect = results.comparisons[0]["routers"][2]["effects"]["gini"]["effect"]
    rows = table[(table.metric == "difference.gini") & (table.layer == 2)]
    assert rows.value.tolist() == [effect]
    assert not table.duplicated(["model", "data", "phase", "layer", "router", "metric", "n_sequences"]).any()


def test_undefined_numbers_are_empty_cells_with_the_reason(tmp_path: Path) -> None:
    make_stats(specs=(RouterSpec(0, 0, "mlp", 8, 1),)).save(tmp_path / "k1.json", PLAN)
    table = pd.read_csv(io.StringIO(to_csv(read_inputs([tmp_path / "k1.json"]))))
    row = table[table.metric == "ewa"].iloc[0]
    assert pd.isna(row.value)
    assert row.reason


def test_a_card_is_what_the_hub_reads(results: Inputs) -> None:
    card = ModelCard(to_card(results))
    assert card.data.model_name == "moebench-nano"
    assert card.data.tags == ["mixture-of-experts", "routing", "mlx_moebench"]
    entropy = results.runs[0].report["summary"]["mean_entropy"]
    (found,) = [e for e in card.data.eval_results if e.metric_type == "mean_entropy"]
    assert (found.task_type, found.dataset_type, found.dataset_name) == ("text-generation", "math", "math")
    assert found.metric_name == "Mean entropy of a token's routing (nats)"
    assert found.metric_value == entropy["value"]
    assert found.metric_args["low"] == entropy["low"]
    assert found.metric_args["unit"] == "nats"
    assert found.dataset_args["n_sequences"] == 40
    assert "## Routing" in card.text
    (table,) = tables(card.text)
    assert table[0] == ["", "unit", "math"]
    assert "&id" not in str(card), "the Hub's reader gets no YAML anchors"


def test_a_card_leaves_out_what_has_no_value_and_needs_a_run(tmp_path: Path) -> None:
    make_stats(specs=(RouterSpec(0, 0, "mlp", 4, 2),)).save(tmp_path / "even.json", PLAN)  # K/E >= tau: no flag
    card = ModelCard(to_card(read_inputs([tmp_path / "even.json"])))
    types = [found.metric_type for found in card.data.eval_results]
    assert "mean_entropy" in types
    assert "collapsed_fraction" not in types
    assert "not defined (" in card.text
    with pytest.raises(StatsError, match="needs a stats pair"):
        to_card(read_inputs([RESULTS / "uncertainty" / "nano_math.json"]))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    inputs = measured(tmp_path, HOSTILE, HOSTILE)
    for page in (to_markdown(inputs), to_card(inputs).split("\n---\n", 1)[1]):
        every = tables(page)
        assert all(len({len(row) for row in table}) == 1 for table in every)
        html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
        for tag in ("<script", "</script", "<img", "<a ", "<em>"):
            assert tag not in html
        assert html.count("<h1>") <= 1
    card = to_card(inputs)
    front = yaml.safe_load(card.split("\n---\n", 1)[0].removeprefix("---\n"))
    (entry,) = front["model-index"]
    assert entry["name"] == HOSTILE, "YAML keeps the name as it is"
    assert entry["results"][0]["dataset"]["name"] == f"a {HOSTILE}"
    assert ModelCard(card).data.model_name == HOSTILE
    rows = to_csv(inputs).split("\n")
    table = pd.read_csv(io.StringIO(to_csv(inputs)))
    assert len(rows) == len(table) + 2, "a row is one line whatever a name holds"


@pytest.mark.parametrize(
    "value", ["a|b", "`x`", "*a* _b_ ~c~", "[a](b) <i> &amp;", "\\", "# x", "http://a.b www.c.d @e", "$x$"]
)
def test_escaped_text_reads_as_it_was(value: str) -> None:
    assert seen(f"x {value}") == f"x {value}"


@pytest.mark.parametrize("value", ["a", "`", "a``b`c", "``` x", "x|y"])
def test_code_reads_as_it_was(value: str) -> None:
    (token,) = [t for t in MarkdownIt("commonmark").parse(code(value)) if t.type == "inline"]
    (child,) = token.children or []
    assert (child.type, child.content) == ("code_inline", value)


def test_quantised_arms_are_told() -> None:
    inputs = read_inputs([RESULTS / "quant_drift" / "nano_math.json"])
    (report,) = inputs.quants
    shown, rows = to_markdown(inputs), pd.read_csv(io.StringIO(to_csv(inputs)))
    assert tuple(rows) == COLUMNS
    for arm in report["arms"]:
        kept = arm["overall"]["mlp"]["own"]["exact_set_rate"]
        assert f"{kept['value']:.3f} [{kept['low']:.3f}, {kept['high']:.3f}]" in shown
        (row,) = rows[rows["layer"].isna() & (rows["metric"] == f"quant.{arm['arm']}.exact_set_rate")].to_dict(
            "records"
        )
        assert (row["value"], row["low"], row["router"]) == (kept["value"], kept["low"], "mlp")
    measures, routers = len(report["measures"]), len(report["arms"][0]["routers"])
    assert len(rows) == len(report["arms"]) * 2 * measures * (routers + 1)


def test_trainings_are_told(results: Inputs) -> None:
    unfinished = Inputs(trainings=(Training("floor|x", {}, [{"step": 1}]),))
    assert "Not finished: 1 line" in to_markdown(unfinished)
    assert "floor\\|x" in to_markdown(unfinished)
    summary = {"value": 1.5, "low": 1.0, "high": 2.0}
    keys = ("load_entropy", "n_eff", "dead_experts", "peak_top_share_token", "marginal_entropy", "mean_entropy")
    report = {
        "model": "tiny",
        "settings": {"routing_loss": None},
        "tokens_trained": 10,
        "ce": {"validation_before": 3.0, "validation_after": None},
        **{f"routing_{when}": {key: json.loads(json.dumps(summary)) for key in keys} for when in ("before", "after")},
    }
    page = to_markdown(Inputs(trainings=(Training("t", report, ()),)))
    assert "| Effective number of experts, experts | 1.5 [1.0, 2.0] | 1.5 [1.0, 2.0] |" in page
    assert "| Validation CE, nats per token | 3.0000 | not defined |" in page
