"""Decompositions of recurrent layers, torch.nn.LSTM, GRU and RNN, into the functions of their steps.

B batch, N tokens, E size of a step's input, H hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

State = tuple[Tensor, ...]
"""The hidden state `(B, H)`; for an LSTM also the cell state."""

Cell = Callable[[Tensor, State, Sequence[Tensor], Sequence[Any]], State]
"""Returns the next state, given an input `(B, E)`, a state, the weights and the biases."""


def _lstm_cell(input: Tensor, state: State, weights: Sequence[Tensor], biases: Sequence[Any]) -> State:
    hidden, cell = state
    gates = functional.linear(input, weights[0], biases[0]) + functional.linear(hidden, weights[1], biases[1])
    enter, keep, new, leave = gates.chunk(4, 1)
    cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
    hidden = leave.sigmoid() * cell.tanh()
    return (functional.linear(hidden, weights[2]) if len(weights) > 2 else hidden), cell


def _gru_cell(input: Tensor, state: State, weights: Sequence[Tensor], biases: Sequence[Any]) -> State:
    (hidden,) = state
    given = functional.linear(input, weights[0], biases[0]).chunk(3, 1)
    kept = functional.linear(hidden, weights[1], biases[1]).chunk(3, 1)
    reset, update = ((one + other).sigmoid() for one, other in zip(given[:2], kept[:2], strict=True))
    new = (given[2] + reset * kept[2]).tanh()
    return (new + update * (hidden - new),)


def _simple_cell(activation: Callable[[Tensor], Tensor]) -> Cell:
    def cell(input: Tensor, state: State, weights: Sequence[Tensor], biases: Sequence[Any]) -> State:
        given, kept = (functional.linear(*it) for it in zip((input, state[0]), weights, biases, strict=True))
        return (activation(given + kept),)

    return cell


def _direction(
    step: Callable[[Tensor, State], State], inputs: Sequence[Tensor], start: State, reverse: bool
) -> tuple[list[Tensor], State]:
    """Run a layer in one direction over inputs `(b, E)`. In packed sequences b shrinks from step to step.

    Returns:
        The hidden states `(b, H)` in the order of the inputs, and the last state of all sequences.
    """
    made: list[Tensor] = []
    ended: list[State] = []  # the last states of sequences, longest sequence last
    state = tuple(it[: len(inputs[-1])] for it in start) if reverse else start
    for given in reversed(inputs) if reverse else inputs:
        running, now = len(state[0]), len(given)
        if now > running:
            state = tuple(torch.cat([it, new[running:now]]) for it, new in zip(state, start, strict=True))
        elif now < running:
            ended.append(tuple(it[now:] for it in state))
            state = tuple(it[:now] for it in state)
        state = step(given, state)
        made.append(state[0])
    last = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return made[::-1] if reverse else made, last


def _recurrent(cell: Cell) -> Callable[..., Any]:
    """Return the decomposition of a function of torch that runs a recurrent layer, given its cell."""

    def decomposition(depends: Callable[[Any], bool], input: Tensor, *given: Any) -> Any:
        packed = isinstance(given[2], list | tuple)  # flat weights, after the sizes of the batch
        sizes, given = (given[0], (*given[1:], False)) if packed else (None, given)
        states, flat, has_bias, layers, dropout, training, both, batch_first = given
        states = states if isinstance(states, list | tuple) else (states,)
        directions = 2 if both else 1
        count = len(flat) // (layers * directions)
        steps = (
            list(torch.split(input, sizes.tolist()))
            if sizes is not None
            else list(input.unbind(1 if batch_first else 0))
        )
        last: list[State] = []
        for layer in range(layers):
            if layer and training and dropout:
                steps = [functional.dropout(it, dropout) for it in steps]
            outputs = []
            for index in range(layer * directions, (layer + 1) * directions):
                parameters = flat[index * count : (index + 1) * count]
                weights = [*parameters[:2], *parameters[4 if has_bias else 2 :]]
                biases = parameters[2:4] if has_bias else (None, None)

                def step(x: Tensor, state: State, weights: Any = weights, biases: Any = biases) -> State:
                    return cell(x, state, weights, biases)

                start = tuple(it[index] for it in states)
                made, end = _direction(step, steps, start, reverse=index % directions == 1)
                outputs.append(made)
                last.append(end)
            steps = [torch.cat(parts, 1) for parts in zip(*outputs, strict=True)]
        output = torch.cat(steps) if sizes is not None else torch.stack(steps, 1 if batch_first else 0)
        return (output, *(torch.stack(parts) for parts in zip(*last, strict=True)))

    return decomposition


def _one_step(cell: Cell) -> Callable[..., Any]:
    """Return the decomposition of a function of torch that runs a cell, such as torch.nn.LSTMCell's."""

    def decomposition(
        depends: Callable[[Any], bool],
        input: Tensor,
        state: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Any = None,
        b_hh: Any = None,
    ) -> Any:
        single = isinstance(state, Tensor)
        made = cell(input, (state,) if single else tuple(state), (w_ih, w_hh), (b_ih, b_hh))
        return made[0] if single else made

    return decomposition


CELLS: dict[str, Cell] = {
    "lstm": _lstm_cell,
    "gru": _gru_cell,
    "rnn_tanh": _simple_cell(torch.tanh),
    "rnn_relu": _simple_cell(torch.relu),
}

RECURRENT: tuple[tuple[str, Callable[..., Any]], ...] = tuple(
    row
    for name, cell in CELLS.items()
    for row in ((name, _recurrent(cell)), (f"{name}_cell", _one_step(cell)))
)
"""Names of functions, and their decompositions."""
