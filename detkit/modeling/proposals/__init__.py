"""Proposal generators and what they are made of."""

from detkit.modeling.proposals.rpn import RPN
from detkit.modeling.proposals.rpn_heads import ConvRPNHead
from detkit.modeling.proposals.selection import ProposalSelection

__all__ = ["RPN", "ConvRPNHead", "ProposalSelection"]
