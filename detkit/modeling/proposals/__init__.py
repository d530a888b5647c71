"""Proposal generators and what they are made of."""

from detkit.modeling.proposals.references import MatterportRPN, TorchvisionRPN
from detkit.modeling.proposals.rpn import RPN, ProposalSelection
from detkit.modeling.proposals.rpn_heads import ConvRPNHead, SoftmaxRPNHead

__all__ = ["RPN", "ConvRPNHead", "MatterportRPN", "ProposalSelection", "SoftmaxRPNHead", "TorchvisionRPN"]
