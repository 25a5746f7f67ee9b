"""data_parallel, fully_sharded, tensor_parallel, …: the placements one knows."""

from __future__ import annotations

from collections.abc import Iterator

from jax.sharding import PartitionSpec

from funcprop import layers as kinds
from funcprop.composites import Branch, Composite, Parallel, Repeat, Serial
from funcprop.doors import door
from funcprop.layer import Layer
from funcprop.placement.values import Placement, Row


@door
def data_parallel(axis: str = "data") -> Placement:
    """Examples apart, parameters whole on every device: gradients are summed over the devices.

    axis  the mesh axis that the examples lie on

    >>> import funcprop as fp
    >>> fp.placement.data_parallel()
    Placement(rows=(), batch=P('data',), spread=())
    """
    return Placement(batch=PartitionSpec(axis))


@door
def fully_sharded(axis: str = "data") -> Placement:
    """Examples apart, and parameters and optimizer state too, each gathered where it is used.

    axis  the mesh axis that both lie on

    Of a parameter the last axis is cut, or the one before where its size is no multiple of the
    devices; where neither is, the parameter stays whole. Stacks of `Repeat`, whose first axis are
    the steps, are cut like the layers in them.

    source  Rajbhandari et al., 2020, arXiv:1910.02054 (ZeRO, stage 3)

    >>> import funcprop as fp
    >>> placement = fp.placement.fully_sharded()
    >>> placement.spec("[0].w", (8, 64), {"data": 4}), placement.spec("[0].b", (6,), {"data": 4})
    (P(None, 'data'), P())
    """
    return Placement(batch=PartitionSpec(axis), spread=(axis,))


@door
def sequence_parallel(axis: str = "sequence") -> Placement:
    """Positions apart: axis 1 of every array of a batch, [B, T, ...].

    axis  the mesh axis that the positions lie on

    What works position by position stays on its device, and the gradients of its parameters are
    summed; attention and recurrence gather the positions.

    >>> import funcprop as fp
    >>> (fp.placement.data_parallel() | fp.placement.sequence_parallel()).batch
    P('data', 'sequence')
    """
    return Placement(batch=PartitionSpec(None, axis))


@door
def tensor_parallel(model: Layer, axis: str = "model") -> Placement:
    """Features apart, by a row for every parameter that this goes well with.

    model  as it is trained: the model, or the objective whose parameters these are
    axis   the mesh axis that the features lie on

    Of two Dense layers with elementwise ones between them, the first is cut by its columns and the
    second by its rows: what is between never leaves its device, and one sum a pass joins the
    results. So are the projections of attention, head by head, where queries, keys and values have
    a Dense each (`SelfAttention(..., fused=False)`, `gpt(..., fused=False)`, `CrossAttention`) and
    the devices divide the heads. `Embedding` is cut by its rows, and one sum joins what each device
    finds. `Conv` is cut by its output channels, and gathered by what reads them. All else stays
    whole.

    source  Shoeybi et al., 2019, arXiv:1909.08053

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(64), fp.ReLU(), fp.Dense(10))
    >>> for row in fp.placement.tensor_parallel(model).rows:
    ...     print(*row)
    [0].w P(None, 'model')
    [0].b P('model',)
    [2].w P('model', None)
    """
    return Placement(rows=tuple(rows_of(model, "", (), axis)))


@door
def pipeline_parallel(model: Layer, axis: str = "stage") -> Placement:
    """Layers apart: of the steps of the model's Repeat each stage has its own.

    model  as it is trained: the model, or the objective whose parameters these are
    axis   the mesh axis that the stages lie along

    For `fp.pipelines.pipelined`, which gives every stage as many steps of the only Repeat. What is
    before it and behind it stays whole, and so does all of a model with no Repeat or several; the
    batch is whole on every stage, which reads it part by part.

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(8), fp.Repeat(fp.Skip(fp.Dense(8)), 4), fp.Dense(2))
    >>> fp.placement.pipeline_parallel(model).rows
    (('[1][0]*', P('stage',)),)
    """
    paths = list(loops(model, ""))
    rows = ((f"{paths[0]}[0]*", PartitionSpec(axis)),) if len(paths) == 1 else ()
    return Placement(rows=rows)


def loops(layer: Layer, path: str) -> Iterator[str]:
    """The paths of the outermost Repeats."""
    if type(layer) is Repeat:
        yield path
    elif isinstance(layer, Composite) and not layer.owns:
        for i, child in enumerate(layer.layers):
            yield from loops(child, f"{path}[{i}]")


# Of these the output is spread as the input is: each feature, or each head, by itself.
APART = (
    *(kinds.Activation, kinds.Lambda, kinds.Binarize, kinds.Quantize),
    *(kinds.Dropout, kinds.GaussianNoise, kinds.Identity, kinds.Multiply, kinds.Reshape),
    *(kinds.Flatten, kinds.Rotary, kinds.DotProductAttention),
)


def rows_of(layer: Layer, path: str, lead: tuple[None, ...], axis: str) -> Iterator[Row]:
    """The rows of a layer at a path; lead: None for every axis of steps before its own."""
    if type(layer) is kinds.Embedding:
        yield f"{path}.w", PartitionSpec(*lead, axis, None)
    elif isinstance(layer, kinds.Conv):
        if layer.groups == 1:
            taps = (None,) * (layer.axes + 1)
            yield f"{path}.w", PartitionSpec(*lead, *taps, axis)
            if layer.bias:
                yield f"{path}.b", PartitionSpec(*lead, axis)
    elif isinstance(layer, Serial):
        yield from rows_of_series(layer, path, lead, axis)
    elif isinstance(layer, Composite) and not layer.owns:
        lead = (*lead, None) if layer.stacked else lead
        for i, child in enumerate(layer.layers):
            yield from rows_of(child, f"{path}[{i}]", lead, axis)


def rows_of_series(layer: Serial, path: str, lead: tuple[None, ...], axis: str) -> Iterator[Row]:
    """Those of layers in series: columns of what opens a pair, rows of what closes it."""
    opened: list[tuple[str, kinds.Dense]] = []
    for i, child in enumerate(layer.layers):
        place = f"{path}[{i}]"
        if opened and type(child) is kinds.Dense:
            for column, dense in opened:
                yield f"{column}.w", PartitionSpec(*lead, None, axis)
                if dense.bias:
                    yield f"{column}.b", PartitionSpec(*lead, axis)
            yield f"{place}.w", PartitionSpec(*lead, axis, None)
            opened = []
        elif not (opened and isinstance(child, APART)):
            opened = columns(child, place)
            if not opened:
                yield from rows_of(child, place, lead, axis)


def columns(layer: Layer, path: str) -> list[tuple[str, kinds.Dense]]:
    """The Dense layers whose columns make the features of the output; [] where there are others."""
    if type(layer) is kinds.Dense:
        return [(path, layer)]
    if isinstance(layer, Branch | Parallel):
        each = [
            columns(child, f"{path}[{i}]")
            for i, child in enumerate(layer.layers)
            if type(child) is not kinds.Identity
        ]
        return [dense for found in each for dense in found] if all(each) else []
    if isinstance(layer, Serial) and all(isinstance(child, APART) for child in layer.layers[1:]):
        return columns(layer.layers[0], f"{path}[0]")
    return []
