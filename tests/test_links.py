"""The check of the built site, which `make docs` ends with."""

import links
import pytest


PAGE = '<h2 id="here">Here</h2><a href="{}">x</a><img src="data:image/png;base64,AA==">'


@pytest.fixture
def site(tmp_path):
    """Two pages, and a picture."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text('<h1 id="top">Other</h1>')
    (tmp_path / "a b.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("link", ["#here", "other/#top", "/other/", "a%20b.png", ".", "https://captum.ai/"])
def test_links_that_lead_somewhere_pass(site, link):
    (site / "index.html").write_text(PAGE.format(link))
    links.main(site)


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("#there", "nothing is called 'there'"),
        ("other/#here", "nothing is called 'here'"),
        ("gone.html", "no such file"),
        ("//captum.ai/", "not https"),
        ("http://captum.ai/", "not https"),
        ("https://captum.ai/a b", "not a whole address"),
        ("https://packages.example/simple/", "'packages.example' is none of"),
        ("https://user:word@captum.ai/", "is none of"),
    ],
)
def test_a_link_that_leads_nowhere_is_named_with_its_page(site, link, told):
    (site / "index.html").write_text(PAGE.format(link))
    with pytest.raises(SystemExit, match=rf"index\.html: .*{told}"):
        links.main(site)
