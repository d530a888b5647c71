"""The documentation site builds without a warning, and its pages lead somewhere and load nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

from detkit.commands.parsers import COMMANDS
from detkit.config.schema import schema
from detkit.data import Dataset
from detkit.registry import Registry

MISSING = 'the site needs the extra docs: pip install "detkit[docs]"'
for _package in ("mkdocs", "material"):
    pytest.importorskip(_package, reason=MISSING)
components = pytest.importorskip("docs_site.components", reason=MISSING)

ROOT = Path(__file__).resolve().parents[1]


class Page(HTMLParser):
    """The links, the anchors, what is loaded, the words and the code of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.code: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors.update(values[key] for key in ("id", "name") if values.get(key))
        if "href" in values and (tag == "a" or values.get("rel") in ("prev", "next", "canonical")):
            self.links.append(values["href"])
        else:
            self.loaded += [values[key] for key in ("src", "href", "data") if values.get(key)]
        if tag in ("code", "pre", "script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        (self.code if self.inside else self.words).append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: file -> Page. MkDocs runs as a user runs it, with warnings as errors; once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, said = shared / "site", shared / "site.txt"
    with FileLock(shared / "site.lock"):
        if not said.exists():
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
            environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            said.write_text(f"{done.returncode}\n{done.stderr}")
    assert said.read_text().startswith("0\n"), said.read_text()
    assert "WARNING" not in said.read_text()
    return {path.relative_to(folder).as_posix(): Page(path.read_text()) for path in folder.rglob("*.html")}


def target(page: str, link: str) -> tuple[str, str]:
    """The file and the anchor that a link of ``page`` leads to."""
    parts = urlsplit(link)
    path = os.path.normpath(os.path.join(os.path.dirname(page), unquote(parts.path))) if parts.path else page
    return path, unquote(parts.fragment)


def test_every_link_and_anchor_leads_somewhere(site):
    broken = []
    for name, page in site.items():
        for link in page.links:
            if urlsplit(link).scheme or name == "404.html":
                continue
            file, anchor = target(name, link)
            if file not in site or (anchor and anchor not in site[file].anchors):
                broken.append(f"{name}: {link}")
    assert not broken


def test_nothing_is_loaded_from_another_host(site):
    loaded = {link for page in site.values() for link in page.loaded}
    assert loaded
    assert not {link for link in loaded if urlsplit(link).netloc}


def test_no_markdown_is_left_in_the_words_of_a_page(site):
    left = [
        f"{name}: {w}" for name, page in site.items() for w in page.words if any(m in w for m in ("``", "**", "]("))
    ]
    assert not left


def test_every_component_has_its_options_on_the_page_of_its_registry(site):
    components.import_everything()
    assert Registry.of
    for registry in Registry.of.values():
        page = site[components.page_of(registry).replace(".md", ".html")]
        for name, cls in registry:
            file = getattr(sys.modules.get(cls.__module__), "__file__", None)
            if file is None or not Path(file).is_relative_to(ROOT / "detkit"):
                continue  # of another test
            assert name.lower() in page.anchors
            assert set(schema(cls).options) <= set(page.code)


def test_every_config_is_on_a_page_and_with_the_components_that_it_uses(site):
    for path in sorted((ROOT / "configs").glob("*/*.yaml")):
        link = f"{path.parent.name}.html#{path.parent.name}-{path.stem}".lower()
        assert link in [each.lower() for each in site["reference/configs/index.html"].links]
        for name in set(re.findall(r"\bname: (\w+)", path.read_text())):
            pages = [components.page_of(registry) for registry in Registry.of.values() if name in registry]
            assert all(any(link in each.lower() for each in site[page.replace(".md", ".html")].links) for page in pages)


def test_every_command_is_there_with_its_help(site):
    page = site["reference/commands.html"]
    for words in COMMANDS:
        assert f"detkit-{words.replace(' ', '-')}" in page.anchors
        assert any(text.startswith(f"usage: detkit {words} ") for text in page.code)


def test_a_component_that_a_page_names_is_a_link_to_its_options(site):
    named = {name for name, _ in Registry.of[Dataset]} & set(site["data_formats.html"].code)
    assert "AutoDataset" in named
    page = components.page_of(Registry.of[Dataset]).replace(".md", ".html")
    assert {f"{page}#{name.lower()}" for name in named} <= set(site["data_formats.html"].links)
