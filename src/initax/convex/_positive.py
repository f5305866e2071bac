"""What `ix.convex` gives of positive weights: the largest sum that they may have, and maps of one's own."""

from initax._math._positive_moments import k_max
from initax._math._positivity import register_positivity

__all__ = ["k_max", "register_positivity"]
