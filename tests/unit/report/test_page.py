from pathlib import Path

from irl_vla.report.page import Section, write_page


def test_page_escapes_and_links_relatively(tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "a.png"
    rows = [{"policy": "a&b", "epdms": 0.5}, {"policy": "c", "epdms": float("nan"), "extra": 2}]
    sections = [
        Section("Results <1>", rows=rows),
        Section("Pictures", pictures=[picture]),
    ]
    page = write_page(tmp_path / "index.html", "demo", "generated data", sections).read_text()
    assert "Results &lt;1&gt;" in page
    assert "<td>a&amp;b</td><td>0.500</td><td></td>" in page
    assert "<td>c</td><td>none</td><td>2</td>" in page
    assert 'src="pictures/a.png"' in page
    assert page.index("generated data") < page.index("Results")
