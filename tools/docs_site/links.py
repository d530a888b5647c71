"""Links that work in the repository's view and in the site: to files outside ``docs/``, and to source code."""

import inspect
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "reference/"
SOURCES = "source"
"""The folder of the pages that show a file of the repository."""
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}

_PIPE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
_CODE = re.compile(r"(?<![`\[])`([^`\n]+)`(?![`\]])")
_NO_PROSE = re.compile(r"(^```.*?^```$|^#.*?$|\[[^\]]*\]\([^)]*\))", flags=re.DOTALL | re.MULTILINE)
"""Fences, headings, and what is a link already."""
_wanted: set[str] = set()


def source_page(file: str, line: int | None = None) -> str:
    """The page that shows ``file`` (a path below the repository); it will be among ``source_pages()``."""
    _wanted.add(file)
    return f"{SOURCES}/{file}.html" + (f"#__codelineno-0-{line}" if line else "")


def source_link(cls: type, page: str) -> str:
    """A link from ``page`` to the line where ``cls`` begins, as HTML: MkDocs does not see the anchors of lines."""
    file = Path(inspect.getsourcefile(cls) or "").resolve().relative_to(ROOT).as_posix()
    line = inspect.getsourcelines(cls)[1]
    address = posixpath.relpath(source_page(file, line), posixpath.dirname(page))
    return f'<a href="{address}">`{file}:{line}`</a>'


def source_pages() -> dict[str, str]:
    """The pages of the files that links lead to."""
    return {f"{SOURCES}/{file}.md": _shown(file) for file in sorted(_wanted)}


def _shown(file: str) -> str:
    kind = {".py": "python", ".yaml": "yaml"}.get(Path(file).suffix, "bash" if file.endswith("sbatch") else "text")
    text = (ROOT / file).read_text()
    head = f"---\ntitle: {file}\nsearch:\n  exclude: true\n---\n\n# {file}\n\n"
    return f'{head}``````{{.{kind} linenums="1"}}\n{text}\n``````\n'


def rewritten(markdown: str, page: str, folder: str) -> str:
    """``markdown``, which stands in ``folder`` of the repository, as ``page`` of the site needs it.

    Links are relative to the page, and ``\\|`` in the code of a table is the ``|`` that the repository's view shows.
    """

    def address(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        target = page_for(path)
        return posixpath.relpath(target, posixpath.dirname(page)) if target else match[1]

    return _LINK.sub(address, _PIPE.sub(lambda match: match[0].replace("\\|", "|"), markdown))


def with_references(markdown: str, page: str, targets: Mapping[str, str]) -> str:
    """``markdown`` with every code that is a key of ``targets`` led to its page, or to its Python name."""

    def link(match: re.Match[str]) -> str:
        target = targets.get(match[1])
        if target is None:
            return match[0]
        if target.startswith(FOLDER):
            return f"[{match[0]}]({posixpath.relpath(target, posixpath.dirname(page))})"
        return f"[{match[0]}][{target}]"

    parts = _NO_PROSE.split(markdown)
    parts[::2] = [_CODE.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def page_for(path: str) -> str | None:
    """The page for a file or folder of the repository; None where there is no such thing."""
    if not (ROOT / path).exists():
        return None
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.startswith("docs/") and path.endswith(".md"):
        return path.removeprefix("docs/")
    if path.startswith("configs"):
        folder, _, _ = path.partition("/")[2].partition("/")
        return f"reference/configs/{folder}.md" if folder else "reference/configs/index.md"
    return source_page(path).removesuffix(".html") + ".md" if (ROOT / path).is_file() else None
