"""What `RoutingStats` show of themselves: a line, a table with pictures, and a data frame with intervals."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from routing_reference import MODEL, make_stats, random_routing

from mlx_moebench import RoutingStats, StatsError
from mlx_moebench.routing import METRICS, Plan, RouterSpec
from mlx_moebench.routing.recorder import Recorder

PLAN = Plan(resamples=200)
PNG = b"\x89PNG"


class Text(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_frame_with_intervals_is_the_report() -> None:
    stats = make_stats(range(12))
    frame, report = stats.to_dataframe(intervals=True, plan=PLAN), stats.report(PLAN)
    assert len(frame) == len(stats.specs) * (len(METRICS) + 1)
    for router in report["routers"]:
        rows = frame[frame.layer == router["layer"]].set_index("metric")
        for name, metric in METRICS.items():
            row, entry = rows.loc[name], router["ci"][name]
            for key, expected in (("value", router[name]), ("low", entry["low"]), ("high", entry["high"])):
                assert math.isnan(row[key]) if expected is None else row[key] == expected
            assert row.plugin == entry.get("plugin", router[name]) or math.isnan(row.plugin)
            assert row.unit == metric.unit
            assert (row.low <= row.value <= row.high) or row.reason
        assert rows.loc["collapsed", "value"] == router["collapsed"]
    corrected = frame[(frame.metric == "load_entropy")]
    assert (corrected.value != corrected.plugin).all()
    plain = stats.to_dataframe()
    assert list(corrected.plugin) == list(plain.load_entropy)
    assert stats.to_dataframe(plan=PLAN).equals(frame)


def test_few_sequences_have_a_reason_and_no_interval() -> None:
    frame = make_stats(range(3)).to_dataframe(intervals=True)
    assert frame.low.isna().all()
    assert frame[frame.metric == "mean_entropy"].reason.str.contains("3 sequences are too few").all()


def test_repr_is_one_line_and_ends_no_forward() -> None:
    assert repr(make_stats(range(4))) == "RoutingStats(test/tiny on data-a: 4 sequences, 62 tokens, 3 routers, prefill)"
    assert repr(RoutingStats([])) == "RoutingStats(a model on no data: 0 sequences, 0 tokens, 0 routers, prefill)"
    specs = [RouterSpec(layer, layer, "mlp", 6, 2) for layer in range(2)]

    class Live(Recorder):
        def routing_of(self, number: int, logits: object, indices: object, mask: object) -> object:  # type: ignore[override]
            return random_routing(number, (2, 5))

    live, r = Live(specs), random_routing(0, (2, 5))
    live.begin()
    live.record(0, r.logits, r.indices, (2, 5))
    assert " 0 tokens" in repr(live)
    live.record(1, r.logits, r.indices, (2, 5))
    live.end()
    assert " 10 tokens" in repr(live)


def test_a_notebook_gets_a_table_and_a_picture_of_escaped_text() -> None:
    name = '<script>alert(1)</script> & "co"'
    stats = make_stats(range(12), model=MODEL | {"id": name})
    page = stats._repr_html_()
    shown = Text(page)
    assert "<script" not in page
    assert name in "".join(shown.texts)
    assert shown.tags.count("tr") == 1 + len(stats.specs)
    assert shown.tags.count("img") == 1
    entropy = stats.report()["routers"][0]["ci"]["mean_entropy"]
    assert f"[{entropy['low']:.3f}, {entropy['high']:.3f}]" in page
    assert "data:image/png;base64,iVBOR" in page


def test_a_notebook_shows_words_of_several_domains_and_nothing_of_none() -> None:
    both = RoutingStats.merge([make_stats(range(12)), make_stats(range(12), sha="b" * 64)])
    page = both._repr_html_()
    assert "<th>word</th>" in page
    assert both.report()["routers"][0]["findings"]["word"] in Text(page).texts
    assert RoutingStats([])._repr_html_() == f"<p>{RoutingStats([])!r}</p>"


def test_plots_are_shown_and_saved(tmp_path: Path) -> None:
    stats = make_stats(range(12))
    shown = stats.plot("entropy", plan=PLAN)
    assert shown.png.startswith(PNG)
    assert stats.plot("load", tmp_path / "load.svg", plan=PLAN).png.startswith(PNG)
    assert (tmp_path / "load.svg").read_text().startswith("<?xml")
    assert shown.save(tmp_path / "entropy.pdf").read_bytes().startswith(b"%PDF")
    both = RoutingStats.merge([stats, make_stats(range(12), sha="b" * 64)])
    assert both.plot("domains", plan=PLAN).png.startswith(PNG)
    first, all_three = (stats.plot("coactivation", layers=layers, plan=PLAN).png for layers in ([0], [0, 1, 2]))
    assert first != all_three


def test_plots_that_cannot_be_are_one_sentence(tmp_path: Path) -> None:
    stats = make_stats(range(12))
    with pytest.raises(StatsError, match=r"kind 'entropi'\. Did you mean 'entropy'"):
        stats.plot("entropi")
    with pytest.raises(StatsError, match="ends in"):
        stats.plot("load", tmp_path / "load.gif", plan=PLAN)
    for kind in ("training", "comparison", "domains"):
        with pytest.raises(StatsError):
            stats.plot(kind, plan=PLAN)
