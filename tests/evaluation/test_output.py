import json

from detkit.data.interfaces import Dataset
from detkit.evaluation import Evaluator, write_evaluation


class Counter(Evaluator):
    def report(self, results):
        return f"counted {results['count']}"


def test_figures_are_written_and_said(tmp_path):
    timing = {"images": 10, "seconds": 4.0, "model_seconds": 3.0, "images_per_second": 2.5}
    results = {"count": 3, "timing": timing}
    text = write_evaluation(results, [Counter(Dataset())], tmp_path / "new" / "evaluation.json")
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text()) == results
    assert text.startswith("counted 3\n")
    assert "10 images in 4.0 s (2.5 images/s" in text
