"""Evaluators, and the loop that gives them predictions."""

from detkit.evaluation.coco import CocoEvaluator
from detkit.evaluation.coco_results import RowFile, coco_results
from detkit.evaluation.errors import DetectionErrors
from detkit.evaluation.inference import FirstPredictions, Pair, evaluate, write_evaluation
from detkit.evaluation.interfaces import EVALUATORS, Evaluator
from detkit.evaluation.lvis import LvisEvaluator

__all__ = [
    "EVALUATORS",
    "CocoEvaluator",
    "DetectionErrors",
    "Evaluator",
    "FirstPredictions",
    "LvisEvaluator",
    "Pair",
    "RowFile",
    "coco_results",
    "evaluate",
    "write_evaluation",
]
