"""Proposal generators and what they are made of."""

from detkit.modeling.proposals.rpn import RPN
from detkit.modeling.proposals.rpn_heads import ConvRPNHead, SoftmaxRPNHead
from detkit.modeling.proposals.selection import ProposalSelection, SelectionRules

__all__ = ["RPN", "ConvRPNHead", "ProposalSelection", "SelectionRules", "SoftmaxRPNHead"]
