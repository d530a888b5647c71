"""What the pages of docs/ say is so: their files, code and commands run, in order, in one folder a page."""

import json
import re
import shlex
from pathlib import Path

import pytest
from processes import run_file

from detkit.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "getting_started",
    "extending",
    "checkpoints",
    "training",
    "monitoring",
    "prediction",
    "deploy",
    "detectors",
    "troubleshooting",
    "distributed",
    "performance",
    "reference_implementation",
    "design",
    "performance_data",
    "data_formats",
    "own_data",
]
"""But docs/config.md, which has a test of its own in tests/config/."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def run_block(kind: str, text: str, folder: Path) -> None:
    """A block that begins with ``# file: NAME`` is written; python and bash blocks are run."""
    name = re.match(r"# file: (\S+)\n", text)
    if name:
        (folder / name[1]).write_text(text)
    elif kind == "python":
        (folder / "block.py").write_text(text)
        code, said = run_file(folder / "block.py", folder=folder)
        assert code == 0, said
    elif kind == "bash":
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[0] in ("detkit", "python"), f"a page's commands are detkit's own; use a text block for: {line}"
            words = words if words[0] == "detkit" else words[1:]
            code, said = run_file(folder / words[0], *words[1:], folder=folder)
            assert code == 0, said


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_it_stands(page, tmp_path):
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "detkit").write_text("import sys\nfrom detkit.commands import main\n\nsys.exit(main())\n")
    blocks = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text())
    assert any(kind == "python" for kind, _ in blocks)
    for kind, text in blocks:
        run_block(kind, text, tmp_path)
    if page == "extending":
        assert (tmp_path / "output/my_experiment/model_final.pth").is_file()


def test_a_larger_vit_begins_with_weights_of_its_size():
    row = re.search(r"^\| ViT-L, ViT-H \| `([^`]+)`(.*)$", (ROOT / "docs/detectors.md").read_text(), re.MULTILINE)
    experiment = load_experiment("coco/mask_rcnn_vitdet_b_100ep", row[1].split())
    known = {entry["name"] for entry in json.loads((ROOT / "detkit/zoo/weights.json").read_text())["weights"]}
    large = experiment.train.init_weights
    assert large.endswith("vit_large")
    assert {large, large.replace("vit_large", re.search(r"mae_pretrain_(vit_huge\w+)", row[2])[1])} <= known


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_ci_runs_the_readmes_own_test_command():
    readme = (ROOT / "README.md").read_text()
    for marker in ("quick start", "tests"):
        assert re.search(rf"<!-- {marker} -->\n```bash\n.+?```", readme, flags=re.DOTALL)
    assert "block tests" in (ROOT / ".ci/run").read_text()
