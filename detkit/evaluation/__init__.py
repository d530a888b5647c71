"""What predictions are worth: evaluators and the loop that feeds them."""

from detkit.evaluation.coco import CocoEvaluator
from detkit.evaluation.coco_results import coco_results
from detkit.evaluation.inference import FirstPredictions, Pair, evaluate
from detkit.evaluation.interfaces import EVALUATORS, Evaluator
from detkit.evaluation.output import write_evaluation

__all__ = [
    "EVALUATORS",
    "CocoEvaluator",
    "Evaluator",
    "FirstPredictions",
    "Pair",
    "coco_results",
    "evaluate",
    "write_evaluation",
]
