"""Build any ONNX face network as an OpenVINO graph, through OpenVINO's own reader.

The bytes must have passed `embedder.weights.onnx_check`: OpenVINO's reader would follow paths in a hostile file.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from facegallery.embedder.errors import ModelError, reason

if TYPE_CHECKING:
    import openvino

LEAST_SIDE, MOST_SIDE, USUAL_SIDE = 8, 1024, 112  # pixels of the input
LEAST_DIMENSION, MOST_DIMENSION = 16, 4096
CHANNELS = 3
PLACES = {1: "NCHW", 3: "NHWC"}  # the axis of the three colours -> the layout of the input
NOISE = (  # beginnings of lines of OpenVINO's messages that tell a user nothing
    *("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't fully", "While validating", "Summary:"),
    *("-- Conversion is failed", "To facilitate"),
)


def read(data: bytes, name: str) -> openvino.Model:
    """Read the bytes of a file; raise ModelError unless OpenVINO finds a network of one input and one output in them.

    name: of the file, for the message.
    """
    from openvino.frontend import FrontEndManager

    try:
        frontend = FrontEndManager().load_by_framework("onnx")
        graph = frontend.convert(frontend.load(io.BytesIO(data)))
    except Exception as error:  # OpenVINO's own classes have no common one
        raise ModelError(f"expected an ONNX network that OpenVINO reads, {name} is none ({why(error)})") from None
    for what, found in (("input of images", len(graph.inputs)), ("output of vectors", len(graph.outputs))):
        if found != 1:
            raise ModelError(f"expected an ONNX network with one {what}, {name} has {found}: export it with that alone")
    return graph


def layout_of(graph: openvino.Model, name: str) -> str:
    """Return 'NCHW' or 'NHWC' from the input's shape; raise ModelError where the shape does not say."""
    shape = graph.input().get_partial_shape()
    if not shape.rank.is_dynamic and len(shape) == 4:
        for axis, layout in PLACES.items():
            if shape[axis].is_static and shape[axis].get_length() == CHANNELS:
                return layout
    raise ModelError(
        f"expected an input of images (n, 3, size, size) or (n, size, size, 3), {name} takes {shape}: "
        "not a face network, or export it with 3 colours stated"
    )


def stated_side(graph: openvino.Model, layout: str, name: str) -> int | None:
    """Return the height and width of the input in pixels, None where the file leaves them open.

    Raise ModelError for images that are not square.
    """
    sides = {_length(graph.input().get_partial_shape()[layout.index(axis)]) for axis in "HW"} - {None}
    if len(sides) > 1:
        raise ModelError(f"expected square images as input, {name} takes {sorted(map(str, sides))}: not supported")
    return sides.pop() if sides else None


def _length(axis: Any) -> int | None:
    return axis.get_length() if axis.is_static else None


def build(data: bytes, name: str, side: int, batch: int) -> openvino.Model:
    """Build the network: standardised float32 (batch, side, side, 3) -> float32 (batch, d), of any length.

    Raise ModelError where the network does not take such images, or does not give `batch` vectors for them.
    """
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    graph = read(data, name)
    layout = layout_of(graph, name)
    stated = stated_side(graph, layout, name)
    if side != (stated or side) or not LEAST_SIDE <= side <= MOST_SIDE:
        raise ModelError(
            f"expected --size {stated or f'{LEAST_SIDE} to {MOST_SIDE}'} for {name}, received {side}: give that size"
        )
    try:
        graph.reshape([batch, CHANNELS, side, side] if layout == "NCHW" else [batch, side, side, CHANNELS])
        process = PrePostProcessor(graph)
        process.input().tensor().set_layout(Layout("NHWC")).set_element_type(Type.f32)
        process.input().model().set_layout(Layout(layout))
        process.output().tensor().set_element_type(Type.f32)
        graph = process.build()
    except Exception as error:
        raise ModelError(
            f"expected a network of {batch} x {side} x {side} pixels, {name} is none ({why(error)})"
        ) from None
    found = graph.output().get_partial_shape()
    if found.is_dynamic or len(found) != 2 or found[0].get_length() != batch:
        raise ModelError(f"expected one vector an image as output, {name} gives {found} for {batch}: not supported")
    if not LEAST_DIMENSION <= found[1].get_length() <= MOST_DIMENSION:
        raise ModelError(
            f"expected vectors of {LEAST_DIMENSION} to {MOST_DIMENSION} numbers, {name} gives {found[1].get_length()}: "
            "not a face network"
        )
    return graph


def why(error: Exception) -> str:
    """Return the last line of OpenVINO's message that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line.removeprefix("-- ") for line in lines if line and not line.startswith(NOISE)]
    return ascii(told[-1])[1:-1][:160] if told else reason(error)
