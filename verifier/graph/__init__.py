"""The computation graph, its importers and its simplification passes."""

from verifier.graph.ir import Graph, GraphBuilder, Node

__all__ = ["Graph", "GraphBuilder", "Node"]
