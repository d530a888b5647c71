"""Evaluators, and the loop that gives them predictions."""

from detkit.evaluation.coco import CocoEvaluator
from detkit.evaluation.coco_results import RowFile, coco_results
from detkit.evaluation.errors import DetectionErrors
from detkit.evaluation.inference import FirstPredictions, Pair, evaluate, write_evaluation
from detkit.evaluation.interfaces import EVALUATORS, Evaluator
from detkit.evaluation.lvis import LvisEvaluator
from detkit.evaluation.panoptic_quality import PanopticEvaluator
from detkit.evaluation.panoptic_results import PanopticWriter, categories_of, maps_file
from detkit.evaluation.semantic_iou import SemanticEvaluator

__all__ = [
    "EVALUATORS",
    "CocoEvaluator",
    "DetectionErrors",
    "Evaluator",
    "FirstPredictions",
    "LvisEvaluator",
    "Pair",
    "PanopticEvaluator",
    "PanopticWriter",
    "RowFile",
    "SemanticEvaluator",
    "categories_of",
    "coco_results",
    "evaluate",
    "maps_file",
    "write_evaluation",
]
