import base64
import re
from html.parser import HTMLParser

import pytest

from scattervae.science.paper.comparison import Claim, Table
from scattervae.show.registry import FIGURES, save_figures
from scattervae.show.report import ReportFigure, number, render_report, report_figures

from .toys import data_of

HOSTILE = """<script>alert("x")</script> & 'y' "><img src=http://evil.example/a.png onerror=alert(1)> \x00"""
CLAIM = Claim(
    id="errors",
    title="Errors of BP 1-10",
    paper="2 % larger",
    measured=1.1873,
    interval=(1.17, 1.2049),
    verdict="does not hold",
    note="Larger by 19 %.",
    details=(Table("By band", ("band", "ratio"), (("BP", "1.19"), ("RP", "1.21"))),),
)


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page(**given):
    parts = {"title": "Report", "claims": [CLAIM], "figures": {}, "facts": {"stars": "39,851"}, **given}
    return render_report(**parts)


def test_no_string_becomes_markup():
    hostile = Claim(
        id=HOSTILE,
        title=HOSTILE,
        paper=HOSTILE,
        measured=None,
        interval=None,
        verdict=HOSTILE,
        note=HOSTILE,
        details=(Table(HOSTILE, (HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),)),),
    )
    figure = ReportFigure(b"png", HOSTILE, HOSTILE)
    text = page(title=HOSTILE, claims=[hostile], figures={HOSTILE: figure}, facts={HOSTILE: HOSTILE})
    found = Page(text)
    assert not found.open
    assert not found.all("script")
    assert [image["src"][:22] for image in found.all("img")] == ["data:image/png;base64,"]
    assert all(not name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert found.text.count("""<script>alert("x")</script> & 'y'""") >= 10
    assert "\x00" not in text


def test_the_page_needs_nothing_but_itself(tmp_path):
    paths = save_figures(data_of(n_stars=60), tmp_path, ["training"], formats=("png", "pdf"))
    figures = report_figures(paths)
    text = render_report(title="Report", claims=[CLAIM], figures=figures, facts={})
    found = Page(text)
    references = [
        attributes[name]
        for _, attributes in found.elements
        for name in ("src", "href", "action", "data", "srcset")
        if name in attributes
    ]
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in references)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    ((image, *_),) = [found.all("img")]
    assert base64.b64decode(image["src"].partition(",")[2]) == paths[0].read_bytes()
    assert image["alt"] == FIGURES["training"].title
    assert FIGURES["training"].caption.split(".")[0] in found.text
    assert list(figures) == ["training"]


def test_numbers_intervals_and_verdicts_stand_in_the_summary_and_with_the_claim():
    found = Page(page())
    assert found.text.count("1.17 to 1.20") == 2
    assert found.text.count(" does not hold") == 3
    assert "Of 1 claims: 1 does not hold." in found.text
    links = {link["href"][1:] for link in found.all("a")}
    assert links <= {a["id"] for _, a in found.elements if "id" in a}
    assert "39,851" in found.text


def test_tables_can_be_read_without_seeing_them():
    found = Page(page())
    assert len(found.all("caption")) == len(found.all("table")) == 2
    assert {cell["scope"] for cell in found.all("th")} == {"col", "row"}
    assert [root["lang"] for root in found.all("html")] == ["en"]
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for a in found.all("section"))


def test_a_page_of_nothing_is_a_page():
    found = Page(page(claims=[], facts={}))
    assert "no claim was tested" in found.text


def test_the_same_values_give_the_same_text():
    assert page() == page()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (0.0, "0"),
        (1.1873, "1.19"),
        (-43.21, "\N{MINUS SIGN}43.2"),
        (35371.0, "35,371"),
        (0.00021, "0.000210"),
        (2.2e8, "2.20e+08"),
        (-3e-7, "\N{MINUS SIGN}3.00e\N{MINUS SIGN}07"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text
