"""Causes of loss that the sources can produce, found in their syntax trees."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_METHOD = ("self", "cls")


def causes(sources: Iterable[str]) -> set[str]:
    """Return every text that is passed, returned or stored as a cause of loss.

    A cause is an argument for a parameter ``cause``, the second of a returned pair,
    the value of ``cause`` or ``discard``, or a key of ``losses``. Names of module
    constants stand for their values.
    """
    trees = [ast.parse(source) for source in sources]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    takers = dict(taker for node in nodes for taker in _takers(node))
    constants = dict(constant for tree in trees for constant in _constants(tree))
    expressions = (each for node in nodes for each in _expressions(node, takers))
    texts = (_text(each, constants) for each in expressions)
    # Other returned pairs end with texts that cannot be keys of a record.
    return {text for text in texts if text and text.isidentifier()}


def _takers(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Name of a function with a parameter ``cause``, and its position in calls."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = [argument.arg for argument in node.args.args if argument.arg not in _METHOD]
        if "cause" in names:
            yield node.name, names.index("cause")


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield from ((each.id, value.value) for each in targets if isinstance(each, ast.Name))


def _expressions(node: ast.AST, takers: dict[str, int]) -> Iterator[ast.expr | None]:
    match node:
        case ast.Call(func=function, args=arguments, keywords=keywords):
            place = takers.get(_name(function))
            if place is not None and place < len(arguments):
                yield arguments[place]
            yield from (each.value for each in keywords if each.arg == "cause")
            yield from _keys(each.value for each in keywords if each.arg == "losses")
        case ast.Return(value=ast.Tuple(elts=[_, second])):
            yield second
        case ast.Assign(targets=[target], value=value):
            names = [_name(each) for each in getattr(target, "elts", [target])]
            if {"cause", "discard"} & set(names):
                yield value
                pairs = (each for each in ast.walk(value) if isinstance(each, ast.Tuple))
                yield from (pair.elts[-1] for pair in pairs)
            if "losses" in names:
                yield from _keys([value])


def _keys(values: Iterable[ast.expr]) -> Iterator[ast.expr | None]:
    for value in values:
        if isinstance(value, ast.Dict):
            yield from value.keys


def _name(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _text(node: ast.expr | None, constants: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return constants.get(_name(node)) if node is not None else None
