"""Documents of reports: nothing in them is markup, the page stands alone, plots are small and repeatable."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.report import night_plots, plots
from tasks.report.document import Document, Facts, Figure, Section, Table, Text, to_html, to_markdown
from tests.support.html_pages import Seen


def drawn(seed: int = 0) -> str:
    values = np.random.default_rng(seed).lognormal(5, 1, 20_000)
    edges = plots.log_edges(values, 40)
    counts = np.histogram2d(values, values[::-1], bins=(edges, edges))[0]
    with plots.drawing(3.0) as figure:
        plots.heat_map(figure, figure.add_subplot(), counts, edges, edges, "requests")
        return plots.svg(figure)


def document(text: str, svg: str = "<svg/>") -> Document:
    blocks = [
        Text(text),
        Facts([(text, text, text)]),
        Table(text, (text, text), [(text, text)]),
        Figure(svg, text, text),
    ]
    return Document(text, text, [Section(text, blocks)])


HOSTILE = st.text(st.sampled_from("<>&\"'`*_[]()|#\\\n ax"), min_size=1, max_size=40)


@given(HOSTILE)
def test_no_text_is_markup(text):
    tags = [tag for tag, _ in Seen(to_html(document("plain"))).tags]
    page = Seen(to_html(document(text)))
    assert [tag for tag, _ in page.tags] == tags
    lines = to_markdown(document(text)).splitlines()
    assert len(lines) <= len(to_markdown(document("plain")).splitlines())
    for line in lines:
        if line.startswith("|"):
            cells = line.replace("\\\\", "").replace("\\|", "").count("|")
            assert cells in {3, 4}


def test_the_page_stands_alone():
    page = to_html(document("A night", drawn()))
    for tag, attributes in Seen(page).tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    assert "@import" not in page
    assert "url(" not in page.partition("</style>")[0]


def test_a_plot_is_small_repeatable_and_has_no_ids_that_clash():
    one, again, other = drawn(), drawn(), drawn(1)
    assert one == again != other
    assert len(one) < 60_000
    found = [
        {node.get("id"): ET.tostring(node) for node in ET.fromstring(text).iter() if node.get("id")}
        for text in (one, other)
    ]
    assert found[0]
    assert all(found[1].get(name, content) == content for name, content in found[0].items())
    assert "<text" in one


def labels(text: str) -> list[str]:
    return [
        "".join(node.itertext()).strip() for node in ET.fromstring(text).iter() if node.tag.endswith("text")
    ]


def test_axes_shorter_than_a_power_of_ten_have_plain_numbers():
    edges, counts = np.geomspace(150, 700, 5), np.arange(16.0).reshape(4, 4)
    with plots.drawing(3.0) as figure:
        plots.heat_map(figure, figure.add_subplot(), counts, edges, edges, "requests")
        text = plots.svg(figure)
    found = labels(text)
    assert found.count("200") >= 2, "one for each axis"
    assert "10" in found, "of the colours"
    assert all(re.fullmatch(r"[\d.]+[kMG]?|requests", label) for label in found)


@pytest.mark.parametrize("name", ["$x^2$", "$x^{$", "costs $5 or $6"])
def test_a_dollar_sign_is_no_formula(name):
    found = night_plots.densities([{"workload": name, "requests": 1, "p10": 0.5, "p50": 1.0, "p90": 2.0}])
    assert name in labels(found.svg)


def test_numbers_are_short():
    assert [plots.short(v) for v in (0.5, 12, 1500, 2e7, 3.21e9)] == ["0.5", "12", "1.5k", "20M", "3.21G"]
    edges = plots.log_edges(np.array([3.0, 300.0]), 10)
    assert len(edges) == 11
    assert edges[0] < 3
    assert edges[-1] > 300
    assert np.all(np.diff(plots.log_edges(np.zeros(0), 4)) > 0)


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match="has not 2 cells"):
        Table("Two columns", ("a", "b"), [("1", "2"), ("1",)])


def test_a_table_whose_columns_have_no_names_has_no_head():
    table = Table("Facts", ("", ""), [("requests", "7")], words=2)
    page = to_html(Document("A night", "", [Section("In short", [table])]))
    assert "<thead>" not in page
    assert '<td class="word">requests</td><td class="word">7</td>' in page
