"""A link on a page leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links

LOCAL_LINKS = [(page, link) for page in PAGES for link in links(page) if "://" not in link]


@pytest.mark.parametrize(("page", "link"), LOCAL_LINKS, ids=[f"{page}->{link}" for page, link in LOCAL_LINKS])
def test_a_link_between_pages_leads_to_a_file_and_to_a_heading_in_it(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page.parent / path).resolve() if path else (ROOT / page).resolve()
    assert target.is_relative_to(ROOT), "a page links outside of the checkout"
    assert target.exists(), f"{page} links to {path}, which is not there"
    if anchor:
        assert anchor in anchors(target.relative_to(ROOT)), f"{page} links to #{anchor}, and {target.name} has no such"


def test_every_page_of_the_docs_can_be_reached_from_their_index() -> None:
    index = Path("docs/index.md")
    seen, waiting = {index}, [index]
    while waiting:
        page = waiting.pop()
        for link in links(page):
            target = (ROOT / page.parent / link.partition("#")[0]).resolve()
            if "://" not in link and target.suffix == ".md" and target.exists():
                found = target.relative_to(ROOT)
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)
    lost = [str(page) for page in PAGES if page.parts[0] == "docs" and page not in seen]
    assert not lost, f"no page links to these: {lost}"
