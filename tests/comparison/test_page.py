"""Comparisons as HTML: what stands where, and that nothing is fetched or run."""

from dataclasses import dataclass, replace
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.catalogue.comparisons import CatalogueComparison as Table
from funcprop.catalogue.comparisons import chosen, compare_rows
from funcprop.catalogue.costs import profile_rows
from funcprop.comparison.report.comparison import HEADINGS, Comparison


@dataclass(frozen=True)
class Slip(fp.Tanh):
    """The square is forgotten."""

    def backward(self, params, a, da):
        return da * (1 - a), ()


class Page(HTMLParser):
    """Tags in order, the cells of every row, and whether tags are closed in the right order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append((dict(attributes), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][1][-1] += data


@pytest.fixture(scope="module")
def wrong():
    model = fp.Serial(fp.Dense(3), Slip())
    x = jax.random.normal(jax.random.key(0), (4, 2))
    return fp.compare(model, model.init(jax.random.key(1), x), x)


def test_the_wrong_rows_come_first_and_are_marked(wrong):
    page = Page(wrong.to_html())
    (_, headings), *rows = page.rows
    assert headings == list(HEADINGS)
    marks = [attributes.get("class") == "wrong" for attributes, _ in rows]
    assert marks == sorted(marks, reverse=True) and 0 < sum(marks) < len(marks)
    assert sum(marks) == len(wrong.wrong) and len(rows) == len(wrong.rows)
    assert rows[0][1][0] == "Serial[1] Slip: dx" and "WRONG" in rows[0][1]
    assert wrong.headline in page.words


def test_a_page_is_whole_and_fetches_and_runs_nothing(wrong):
    text = wrong.to_html()
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and "prefers-color-scheme: dark" in text
    names = {tag for tag, _ in page.tags}
    assert names >= {"html", "head", "title", "body", "table"}
    assert not names & {"script", "link", "img", "iframe"}
    assert not any({"src", "href"} & attributes.keys() for _, attributes in page.tags)
    assert "http" not in text and "url(" not in text


def test_a_notebook_gets_the_table_alone(wrong):
    text = wrong._repr_html_()
    names = {tag for tag, _ in Page(text).tags}
    assert "table" in names and not names & {"html", "body", "title"}
    assert "body {" not in text


def test_a_bar_a_gradient(wrong):
    page = wrong.to_html()
    rows = [row for row in wrong.rows if row.dtype == "float64" and row.rule[:8] != "contract"]
    assert page.count("<rect ") == min(60, len(rows))
    assert page.count('fill="#dc2626"></rect>') == sum(not row.ok for row in rows)
    assert "‖by hand − automatic‖" in page


def test_what_is_written_is_escaped(wrong):
    nasty = "<script>alert('&')</script>"
    row = replace(wrong.rows[0], place=nasty, rule='error <= 8 & "more"')
    page = Page(Comparison(nasty, (row,), (nasty,)).to_html())
    assert "script" not in {tag for tag, _ in page.tags}
    assert nasty in page.words and 'error <= 8 & "more"' in page.rows[1][1]


def test_notes_and_a_comparison_without_rows():
    found = fp.compare(fp.Identity(), (), jnp.ones(2, int))
    page = Page(found.to_html())
    assert page.rows == [] and found.notes[0] in page.words


def test_a_whole_table_is_a_summary_and_every_report():
    rows = chosen(["Tanh", "Identity"])
    rows.append(replace(rows[0], name="a <slip>", layer=Slip()))
    table = Table(tuple(compare_rows(rows)))
    page = Page(table.to_html(profile_rows(rows[:1], seconds=0.01)))
    assert page.rows[1][0] == {"class": "wrong"} and page.rows[1][1][0] == "a <slip>"
    assert "2 of 3 rows agree with automatic differentiation" in page.words
    details = [attributes for tag, attributes in page.tags if tag == "details"]
    assert details == [{"open": None}, {}, {}, {}]  # the last one says how to read it
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{target}" for target in targets} and len(links) == 3
    assert any("MB accessed" in words for words in page.words)
