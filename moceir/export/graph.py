"""Builds a graph of ONNX operators with names, constants, and branches, and without unused nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Later versions have operators that ONNX Runtime rejects within branches.
OPSET = 18

#: Placeholder for an unsupported operation; it causes an error only if the graph needs its result.
UNKNOWN = "Unknown"


class Graph:
    """A list of operators in execution order; a branch can read its parent's values.

    Args:
        parent: graph that contains this branch; None for the whole graph.
    """

    def __init__(self, parent: Graph | None = None) -> None:
        self.parent = parent
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[Any, list[str]] = {}
        self._counter: list[int] = parent._counter if parent is not None else [0]

    def emit(self, operator: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Add an operator and return its results' names, or those of an equal operator that exists."""
        key = operator, tuple(inputs), outputs, repr(sorted(attributes.items()))
        return self._find(key) or self._add(key, operator, inputs, outputs, attributes)

    def emit_branches(self, condition: str, branches: Sequence[Graph], kept: Sequence[str]) -> str:
        """Return the name of ``kept`` from the first branch if the condition holds, else from the second."""
        graphs = {
            name: branch.proto(name, [], [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)])
            for name, branch, result in zip(("then_branch", "else_branch"), branches, kept, strict=True)
        }
        return self._add(object(), "If", [condition], 1, graphs)[0]

    def emit_as(self, name: str, result: str) -> None:
        """Give a result a name."""
        self.nodes.append(helper.make_node("Identity", [result], [name]))

    def constant(self, value: np.ndarray) -> str:
        """Return the name of a constant."""
        key = value.dtype.str, value.shape, value.tobytes()
        known = self._find(key)
        if known:
            return known[0]
        name = self._name("c")
        self.constants[name] = value
        self._known[key] = [name]
        return name

    def proto(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """Return the model's graph, with only the operators that the outputs need.

        Raises:
            ValueError: when the outputs need an operation that this package cannot translate to ONNX.
        """
        needed = {output.name for output in outputs}
        nodes = []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.output):
                continue
            if node.op_type == UNKNOWN:
                raise ValueError(
                    f"the network uses {node.name}, which moceir.export does not know; add it to "
                    "moceir/export/operations.py"
                )
            nodes.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                needed |= _outer(attribute.g) if attribute.HasField("g") else set()
        constants = [numpy_helper.from_array(value, key) for key, value in self.constants.items() if key in needed]
        return helper.make_graph(nodes[::-1], name, list(inputs), list(outputs), constants)

    def _find(self, key: Any) -> list[str] | None:
        graph: Graph | None = self
        while graph is not None:
            if key in graph._known:
                return graph._known[key]
            graph = graph.parent
        return None

    def _add(
        self, key: Any, operator: str, inputs: Sequence[str], outputs: int, attributes: dict[str, Any]
    ) -> list[str]:
        names = [self._name("v") for _ in range(outputs)]
        about = attributes.pop("about", None)
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=about, **attributes))
        self._known[key] = names
        return names

    def _name(self, letter: str) -> str:
        self._counter[0] += 1
        return f"{letter}{self._counter[0]}"


def _outer(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a branch reads from the enclosing graph."""
    used = {output.name for output in graph.output}
    own = {constant.name for constant in graph.initializer}
    for node in graph.node:
        used.update(node.input)
        own.update(node.output)
        for attribute in node.attribute:
            used |= _outer(attribute.g) if attribute.HasField("g") else set()
    return used - own
