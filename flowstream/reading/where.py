"""Conditions on records: ``dst_port == 443 and packets > 10``.

The language is a part of Python's expressions: comparisons, ``and``, ``or``, ``not``,
``in``, and ``+ - * / % & |`` on numbers. Python's own parser reads a condition, and this
module builds functions from the tree; nothing is compiled or evaluated. Any other
expression is an error: calls, attributes, subscripts, powers, shifts. Fields have types,
so a misspelt field or a comparison of an address with a number is an error before
anything is read.
"""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flowstream.errors import UsageError
from flowstream.reading.terms import TCP_FLAGS, Address, constant_of, syntax_hint
from flowstream.records.counters import CountersRecord
from flowstream.records.describe import fields
from flowstream.records.fields import Kind
from flowstream.records.flow import FlowRecord
from flowstream.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    Record = FlowRecord | CountersRecord
    Function = Callable[[Record], Any]

MAX_LENGTH: Final = 2_000
"""Characters of a condition."""
_MAX_DEPTH: Final = 40
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_BITS: Final = (ast.BitAnd, ast.BitOr)
_NUMBERS: Final = (Kind.U8, Kind.U16, Kind.U32, Kind.U64)
_NUMERIC: Final = ("number", "fraction")
_RECORDS: Final = (FlowRecord, CountersRecord)
FIELDS: Final = {
    field.name: field for record in _RECORDS for field in fields(record) if field.record is None
}
"""Fields that a condition may name."""


class _Term(NamedTuple):
    """Part of a condition: its type, and its value by record.

    The type is "number", "fraction", "text", "truth", or a Kind whose text has to be converted.
    ``field`` is the name of a field alone; ``constant`` is None for a field.
    """

    type: str
    value: Function
    field: str = ""
    constant: Any = None


class Condition:
    """A condition on records; ``matches(record)`` says whether it holds.

    A record that lacks one of the fields, as counters lack ports, does not match, nor
    does one for which it divides by zero. Raises UsageError for a text that is no
    condition.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._used: set[str] = set()
        term = self._term(self._parsed(text), 0)
        if term.type != "truth":
            raise self._error(f"is {_an(term.type)}, not a condition; compare it with something")
        test = term.value
        self._tests: dict[type, Function] = {
            record: test if self._used <= set(record.__struct_fields__) else _never
            for record in _RECORDS
        }

    def matches(self, record: Record) -> bool:
        """Whether the condition holds for ``record``."""
        try:
            return bool(self._tests[type(record)](record))
        except ArithmeticError:
            return False

    def _parsed(self, text: str) -> ast.expr:
        if len(text) > MAX_LENGTH:
            raise self._error(f"has more than {MAX_LENGTH:,} characters")
        try:
            return ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as err:
            why = err.msg if isinstance(err, SyntaxError) else str(err) or type(err).__name__
            raise self._error(f"is not a condition: {why}{syntax_hint(text)}") from err

    def _error(self, what: str) -> UsageError:
        shown = self._text if len(self._text) <= 80 else f"{self._text[:77]}..."
        return UsageError(f"--where {shown!r} {what}")

    def _term(self, node: ast.expr, depth: int) -> _Term:
        if depth > _MAX_DEPTH:
            raise self._error(f"is nested more than {_MAX_DEPTH} deep")
        match node:
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()) | ast.Compare():
                return _Term("truth", self._test(node, depth + 1))
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return self._arithmetic(node, depth + 1)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return _literal(-number)
            case ast.Name(id=name):
                return self._name(name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return _literal(value)
        shown = ast.get_source_segment(self._text.strip(), node) or type(node).__name__
        raise self._error(f"has {shown!r}, which is not allowed in a condition")

    def _test(self, node: ast.BoolOp | ast.UnaryOp | ast.Compare, depth: int) -> Function:
        match node:
            case ast.BoolOp(op=op, values=values):
                tests = [self._truth(each, depth) for each in values]
                return _all(tests) if isinstance(op, ast.And) else _any(tests)
            case ast.UnaryOp(operand=operand):
                return _negated(self._truth(operand, depth))
        return self._comparison(node, depth)

    def _name(self, name: str) -> _Term:
        if name in TCP_FLAGS:
            return _constant("number", TCP_FLAGS[name])
        field = FIELDS.get(name)
        if field is None and name in CountersRecord.__struct_fields__:
            raise self._error(f"names {name}, which is not a single value")
        if field is None:
            hint = did_you_mean(name, [*FIELDS, *TCP_FLAGS])
            raise self._error(f"names {name}, which is not a field{hint}")
        self._used.add(name)
        return _Term(_type(field.kind), _reader(name, field.kind), name)

    def _truth(self, node: ast.expr, depth: int) -> Function:
        term = self._term(node, depth)
        # tcp_flags & SYN: a number that is not 0.
        if term.type not in ("truth", "number"):
            raise self._error(f"uses {_an(term.type)} as a condition; compare it with something")
        return term.value

    def _arithmetic(self, node: ast.BinOp, depth: int) -> _Term:
        one, two = self._term(node.left, depth), self._term(node.right, depth)
        for term in (one, two):
            if term.type not in _NUMERIC:
                raise self._error(f"calculates with {_an(term.type)}; use numbers")
        is_whole = one.type == two.type == "number"
        if isinstance(node.op, _BITS) and not is_whole:
            raise self._error("applies & or | to a fraction; use whole numbers")
        is_whole = is_whole and not isinstance(node.op, ast.Div)
        return _Term(_NUMERIC[not is_whole], _apply(_ARITHMETIC[type(node.op)], one, two))

    def _comparison(self, node: ast.Compare, depth: int) -> Function:
        tests = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                test = self._membership(left, right, depth)
                tests.append(_negated(test) if isinstance(op, ast.NotIn) else test)
            elif type(op) in _COMPARISONS:
                tests.append(self._compared(left, op, right, depth))
            else:
                raise self._error('compares by "is"; use == or !=')
            left = right
        return _all(tests)

    def _membership(self, left: ast.expr, right: ast.expr, depth: int) -> Function:
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            tests = [self._member(left, each, depth) for each in right.elts]
            return _any(tests)
        return self._member(left, right, depth, alone=True)

    def _member(
        self, left: ast.expr, right: ast.expr, depth: int, *, alone: bool = False
    ) -> Function:
        """Test that ``left`` equals a list's member or is in a network, or ``alone`` in a text."""
        one, two = self._term(left, depth), self._term(right, depth)
        for address, other in ((one, two), (two, one)):
            if address.type == Kind.ADDRESS and other.type == "text":
                network = self._converted(address, other, network=True)
                return _apply_one(network.contains, address)
        if alone and one.type == two.type == "text":
            return _apply(operator.contains, two, one)
        if alone:
            raise self._error("has neither a list, a network nor a text after in")
        return self._equal(operator.eq, one, two)

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> Function:
        one, two = self._term(left, depth), self._term(right, depth)
        is_ordered = not isinstance(op, ast.Eq | ast.NotEq)
        if is_ordered and not (one.type in _NUMERIC and two.type in _NUMERIC):
            raise self._error(
                f"orders {_an(one.type)} and {_an(two.type)}; only numbers can be ordered"
            )
        return self._equal(_COMPARISONS[type(op)], one, two)

    def _equal(self, compare: Callable[[Any, Any], bool], one: _Term, two: _Term) -> Function:
        if one.field and two.constant is not None:
            two = _constant(one.type, self._converted(one, two))
        elif two.field and one.constant is not None:
            one = _constant(two.type, self._converted(two, one))
        if one.type != two.type and not (one.type in _NUMERIC and two.type in _NUMERIC):
            raise self._error(f"compares {_an(one.type)} with {_an(two.type)}")
        return _apply(compare, one, two)

    def _converted(self, field: _Term, constant: _Term, *, network: bool = False) -> Any:
        """Value of a constant that is compared with a field."""
        is_number = field.type == "number" and constant.type in _NUMERIC
        if field.type == constant.type or is_number:
            return constant.constant
        if constant.type != "text":
            raise self._error(
                f"compares {field.field}, {_an(field.type)}, with {constant.constant!r}"
            )
        try:
            return constant_of(FIELDS[field.field], constant.constant, network=network)
        except ValueError as err:
            raise self._error(f"compares {field.field} with {err}") from err


def _an(kind: str) -> str:
    return f"an {kind}" if kind == Kind.ADDRESS else f"a {kind}"


def _type(kind: Kind) -> str:
    if kind in _NUMBERS:
        return "number"
    return {Kind.TEXT: "text", Kind.BOOL: "truth"}.get(kind, kind)


def _reader(name: str, kind: Kind) -> Function:
    read = operator.attrgetter(name)
    if kind is not Kind.ADDRESS:
        return read
    if name == "sampler_address":
        return lambda record: Address(read(record))
    return lambda record: Address(read(record), record.etype)  # type: ignore[union-attr]


def _literal(value: bool | float | str) -> _Term:
    kinds = {bool: "truth", int: "number", float: "fraction", str: "text"}
    return _constant(kinds[type(value)], value)


def _constant(kind: str, value: Any) -> _Term:
    return _Term(kind, lambda _: value, constant=value)


def _negated(test: Function) -> Function:
    return lambda record: not test(record)


def _all(tests: list[Function]) -> Function:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        one, two = tests
        return lambda record: one(record) and two(record)
    return lambda record: all(test(record) for test in tests)


def _any(tests: list[Function]) -> Function:
    return lambda record: any(test(record) for test in tests)


def _apply(function: Callable[[Any, Any], Any], one: _Term, two: _Term) -> Function:
    left, right, constant = one.value, two.value, two.constant
    if constant is not None:
        return lambda record: function(left(record), constant)
    return lambda record: function(left(record), right(record))


def _apply_one(function: Callable[[Any], bool], term: _Term) -> Function:
    value = term.value
    return lambda record: function(value(record))


def _never(_: object) -> bool:
    return False
