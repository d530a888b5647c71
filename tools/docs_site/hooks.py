"""What MkDocs calls while it builds the site (mkdocs.yml): adds the generated pages, and rewrites links."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # MkDocs runs this file by its path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from docs_site import api, commands, components, configs, links

_pages: dict[str, str] = {}
_targets: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the pages of the reference, and adds them to the navigation."""
    components.import_everything()
    found = configs.read_configs()
    _targets.update({**api.targets(), **configs.targets(found), **components.targets(), **commands.targets()})
    _pages.update(configs.pages(found))
    _pages.update(components.pages(configs.used_by(found)))
    _pages.update(commands.pages())
    _pages.update(api.pages())
    folders = {"Components": components.FOLDER, "Configs": configs.FOLDER, "Python API": api.FOLDER}
    parts = [{title: [page for page in _pages if page.startswith(folder)]} for title, folder in folders.items()]
    config.nav = [*(config.nav or []), {"Reference": [{"Commands": commands.PAGE}, *parts]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages; README and CONTRIBUTING are pages too."""
    for name, page in links.ROOT_PAGES.items():
        text = re.sub(r"^## Documentation\n.*?(?=^## )", "", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
        _pages[page] = links.rewritten(text, page, "")
    for file in files.documentation_pages():
        links.rewritten(file.content_string, file.src_uri, "docs")  # notes which source files are wanted
    for uri, text in _pages.items():
        boost = 2 if uri.startswith((components.FOLDER, commands.PAGE)) else 1
        files.append(File.generated(config, uri, content=f"---\nsearch:\n  boost: {boost}\n---\n\n{text}"))
    for uri, text in links.source_pages().items():
        files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrites the links of a page that a person wrote, and adds those to the reference."""
    uri = page.file.src_uri
    if page.file.generated_by:
        named = uri in links.ROOT_PAGES.values() or uri.startswith(components.FOLDER)
        return links.with_references(markdown, uri, _targets) if named else markdown
    return links.with_references(links.rewritten(markdown, uri, "docs"), uri, _targets)
