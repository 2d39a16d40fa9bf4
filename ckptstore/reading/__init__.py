"""A checkpoint that stays open: its nodes, its arrays and slices of them, its verified pieces.

No framework is imported here, ever.
"""

from ckptstore.reading.nodes import ArrayNode, Node
from ckptstore.reading.pieces import Piece
from ckptstore.reading.reader import Reader, open_checkpoint

__all__ = ["ArrayNode", "Node", "Piece", "Reader", "open_checkpoint"]
