import shutil
import subprocess

import pytest
from pages import Page

from medmerge_hf.evaluation.drawing import Drawing, figure, look
from medmerge_hf.evaluation.page import Grid, Section, render_page


@look()
def drawn(alt):
    picture = figure(2, 2)
    picture.subplots().plot([1, 2])
    return Drawing(picture, alt)


def test_names_are_text_whatever_they_are():
    name = "<b>\"&'</b><script>alert(1)</script>"
    grid = Grid(name, [name, "x"], [[name, name]])
    html = render_page(name, [Section(name, [name], [drawn(name)], [grid], [name], name)], name)
    page = Page(html)
    assert "<b>" not in html
    assert html.count("<script>") == 1
    assert page.headings == page.pictures == [name]
    assert page.tables == {name: [[name, "x"], [name, name]]}
    assert page.fetched == []


def test_headings_of_one_name_have_anchors_of_their_own():
    html = render_page("x", [Section("a", ["1"]), Section("a", ["2"]), Section("ä ?", ["3"])])
    assert [html.count(f'id="{anchor}"') for anchor in ("1-a", "2-a", "3-ä")] == [1, 1, 1]


def test_a_drawing_takes_the_ink_of_the_page_and_is_always_the_same():
    svg = drawn("x").svg
    assert svg == drawn("x").svg
    assert "prefers-color-scheme" in svg
    assert svg.count("currentColor") > 5
    assert "http" not in svg.replace("http://www.w3.org/", "")


SORTED = """
<script>
const order = () => [...document.querySelectorAll("tbody tr")].map(row => row.cells[0].textContent).join("");
const said = [order()], button = document.querySelectorAll("thead button")[1];
for (const press of [1, 2]) { button.click(); said.push(order(), button.parentNode.ariaSort); }
document.title = said.join(" ");
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_table_is_sorted_by_what_its_cells_count(tmp_path):
    rows = [["a", "10 (9 - 11)"], ["b", "-"], ["c", "+9.5"], ["d", "-1"]]
    html = render_page("x", [Section("s", tables=[Grid("t", ["name", "figure"], rows)])])
    (tmp_path / "page.html").write_text(html + SORTED)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(tmp_path / "page.html")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "<title>abcd dcab ascending acdb descending</title>" in found
