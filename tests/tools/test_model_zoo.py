"""docs/model_zoo.md names every config, and what it says of models is so."""

import json

import pytest
import torch

from detkit.config.named import config_names
from docs_site.model_zoo import DATA, PAGE, CountMultiplyAdds, parameters

MODELS = json.loads(DATA.read_text(encoding="utf-8"))["models"]
FIX = "python tools/docs_site/model_zoo.py writes the page again"


@pytest.fixture(autouse=True)
def _any_datasets(monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")


def test_the_page_names_every_config():
    page = PAGE.read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    missing = [n for n in config_names() if f"| `{n.partition('/')[2]}` |" not in sections.get(n.partition("/")[0], "")]
    assert not missing, FIX
    assert MODELS.keys() == set(config_names()), FIX


@pytest.mark.parametrize("name", {row["model"]: name for name, row in MODELS.items()}.values())
def test_parameters_are_those_of_the_model(name):
    assert parameters(name) == MODELS[name]["parameters"], FIX
    assert f"{MODELS[name]['parameters'] / 1e6:.2f} M" in PAGE.read_text(encoding="utf-8")


def test_multiply_adds_of_convolutions_and_products_are_counted_without_computing_them():
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1), torch.nn.Flatten())
    linear = torch.nn.Linear(8 * 16 * 16, 10)
    with torch.no_grad(), CountMultiplyAdds() as counter:
        assert linear(layers(torch.zeros(2, 3, 32, 32))).shape == (2, 10)
    assert counter.total == 2 * (8 * 16 * 16 * 3 * 9 + 8 * 16 * 16 * 10)
