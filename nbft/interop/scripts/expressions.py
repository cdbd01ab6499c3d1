"""Expressions of a Python program as values. Nothing is executed.

Called by `evaluation`, which follows the statements.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from nbft.interop.scripts.operations import (
    COMPARISONS,
    MUTATORS,
    NUMBER_TYPE,
    OF_NUMBERS,
    PATHS,
    SUMS,
    TEXT_METHODS,
    TEXTS,
    compared,
    each_of,
    element_of,
    extends_a_library,
    fixed,
    formatted,
    is_hashable,
    is_of_row,
    is_text,
    may_be_text,
    of_numbers,
    of_one_row,
    parser_of,
    percent,
    rounds_of,
    source_of,
    truth_of,
)
from nbft.interop.scripts.values import (
    LARGEST,
    MISSING,
    SCALARS,
    Attribute,
    Call,
    Class,
    Code,
    Column,
    Each,
    Either,
    Function,
    Imported,
    Instance,
    Item,
    Items,
    Number,
    Row,
    Scope,
    Text,
    brief,
    either,
    found_in,
    is_known,
    joined,
)

MOST_STEPS = 300_000
"""Expressions and statements that are evaluated; the longest notebooks need a tenth of it."""

_DEEPEST_CALL = 12


class Left(NamedTuple):
    """How a block was left before its end: by return, break, continue or an error."""

    how: str
    value: Any = None


class Expressions:
    """Evaluates expressions, assigns names and follows calls.

    Attributes:
        calls: Calls of functions that the file does not define, in order.
        remarks: What was assumed, with its line.
        skips: Number of unknown conditions so far under which a loop or a function is left early.
        asked: Columns on which unknown conditions depend.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.remarks: dict[str, int] = {}
        self.skips = 0
        self.asked: dict[str, None] = {}
        self._steps = 0
        self._loops: list[Any] = []
        self._branches = 0
        self._called: list[ast.AST] = []
        self._ever_called: set[int] = set()

    def _block(self, body: Iterable[ast.stmt], scope: Scope) -> Left | None:
        raise NotImplementedError

    def result(self, function: Any, *arguments: Any, **keywords: Any) -> Any:
        """Return what a function of the file returns for some arguments."""
        return self._called_with(function, arguments, keywords, getattr(function, "line", 0))

    def _truth(self, node: ast.expr, scope: Scope) -> bool | None:
        """Return whether a condition is true; None if that is unknown."""
        value = self._value(node, scope)
        truth = truth_of(value)
        if truth is None:
            columns = found_in(value, lambda one: isinstance(one, Column))
            self.asked |= dict.fromkeys(column.text for column in columns)
        return truth

    # Assignments

    def _assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope.bind(target.id, value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, scope)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, value, scope)
        elif isinstance(target, ast.Attribute):
            self._set_attribute(self._value(target.value, scope), target.attr, value)
        elif isinstance(target, ast.Subscript):
            self._set_item(
                self._value(target.value, scope), self._value(target.slice, scope), value
            )

    def _unpack(self, targets: list[ast.expr], value: Any, scope: Scope) -> None:
        if isinstance(value, (list, tuple)) and not any(isinstance(v, Each) for v in value):
            starred = [n for n, target in enumerate(targets) if isinstance(target, ast.Starred)]
            items = list(value)
            if starred and len(items) >= len(targets) - 1:
                first, after = starred[0], len(targets) - starred[0] - 1
                rest = items[first : len(items) - after]
                items = [*items[:first], self._items(rest), *items[len(items) - after :]]
            if len(items) == len(targets):
                for target, item in zip(targets, items, strict=True):
                    self._assign(target, item, scope)
                return
        for number, target in enumerate(targets):
            self._assign(target, self._item(value, number, target.lineno), scope)

    def _set_attribute(self, owner: Any, name: str, value: Any) -> None:
        if isinstance(owner, Instance):
            before = owner.attributes.get(name, value)
            owner.attributes[name] = either([before, value]) if self._branches else value
        elif isinstance(owner, Call):
            before = owner.changed.get(name, value)
            owner.changed[name] = either([before, value]) if self._branches else value
        elif isinstance(owner, Class):
            owner.names[name] = value
        elif isinstance(owner, Item) and isinstance(owner.value, Call):  # model, tokenizer = …
            owner.value.changed[f"[{owner.key}].{name}"] = value

    def _set_item(self, owner: Any, key: Any, value: Any) -> None:
        if isinstance(owner, Row) and isinstance(key, str):
            owner.columns[key] = of_one_row(value) if owner.is_batch else value
        elif isinstance(owner, dict) and is_known(key):
            before = owner.get(key, value)
            owner[key] = either([before, value]) if self._branches else value
        elif isinstance(owner, list) and isinstance(key, int) and -len(owner) <= key < len(owner):
            owner[key] = value
        elif isinstance(owner, Call) and isinstance(key, str):
            owner.changed[f"[{key}]"] = value
        elif is_of_row(owner):
            self.skips += 1  # what the column holds is no longer known

    def _items(self, items: Iterable[Any] = ()) -> Items:
        return Items(items, len(self._loops), self._branches)

    def _append(self, items: list[Any], value: Any) -> None:
        loops = getattr(items, "loops", 0)
        if getattr(items, "branches", 0) < self._branches:
            value = Code("an item that is not always there", parts=(value,))
        for source in reversed(self._loops[loops:]):
            value = Each(f"each {brief(value)}", value=value, source=source)
        if len(items) < LARGEST:
            items.append(value)

    def _extend(self, items: list[Any], more: Iterable[Any]) -> None:
        for value in list(more):
            self._append(items, value)

    # Expressions

    def _value(self, node: ast.expr, scope: Scope) -> Any:
        self._steps += 1
        if self._steps > MOST_STEPS:
            return Code("code that was not followed", getattr(node, "lineno", 0))
        method = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        return method(node, scope) if method else self._unknown(node, scope)

    def _unknown(self, node: ast.expr, scope: Scope) -> Code:
        """Return an expression as code, with the values of the expressions in it."""
        inside = [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr)]
        parts = tuple(self._value(one, scope) for one in inside)
        return Code(source_of(node), node.lineno, parts)

    def _of_constant(self, node: ast.Constant, scope: Scope) -> Any:
        value = node.value
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return Code(source_of(node), node.lineno)

    def _of_name(self, node: ast.Name, scope: Scope) -> Any:
        value = scope.find(node.id)
        if value is MISSING:
            return False if node.id == "TYPE_CHECKING" else Imported(node.id, node.lineno)
        return value

    def _of_namedexpr(self, node: ast.NamedExpr, scope: Scope) -> Any:
        value = self._value(node.value, scope)
        self._assign(node.target, value, scope)
        return value

    def _of_await(self, node: ast.Await, scope: Scope) -> Any:
        return self._value(node.value, scope)

    def _of_starred(self, node: ast.Starred, scope: Scope) -> Any:
        return self._value(node.value, scope)

    def _of_lambda(self, node: ast.Lambda, scope: Scope) -> Function:
        return self._function(node, source_of(node), scope)

    def _of_joinedstr(self, node: ast.JoinedStr, scope: Scope) -> Any:
        return joined([self._value(value, scope) for value in node.values], node.lineno)

    def _of_formattedvalue(self, node: ast.FormattedValue, scope: Scope) -> Any:
        value = self._value(node.value, scope)
        if node.format_spec is None and node.conversion in (-1, ord("s")):
            return value
        spec = self._value(node.format_spec, scope) if node.format_spec else ""
        if isinstance(value, SCALARS) and isinstance(spec, str) and not re.search(r"\d{4}", spec):
            try:
                return format(repr(value) if node.conversion == ord("r") else value, spec)
            except (ValueError, TypeError):
                pass
        return Code(source_of(node.value), node.lineno, (value,))

    def _of_list(self, node: ast.List, scope: Scope) -> Any:
        return self._items(self._elements(node.elts, scope))

    def _of_tuple(self, node: ast.Tuple, scope: Scope) -> Any:
        return tuple(self._elements(node.elts, scope))

    def _of_set(self, node: ast.Set, scope: Scope) -> Any:
        items = self._elements(node.elts, scope)
        return set(items) if is_known(items) and is_hashable(items) else self._items(items)

    def _elements(self, nodes: list[ast.expr], scope: Scope) -> list[Any]:
        items: list[Any] = []
        for node in nodes:
            value = self._value(node, scope)
            if isinstance(node, ast.Starred):
                items += value if isinstance(value, (list, tuple)) else [value]
            else:
                items.append(value)
        return items

    def _of_dict(self, node: ast.Dict, scope: Scope) -> Any:
        made: dict[Any, Any] = {}
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self._value(value_node, scope)
            if key_node is None:
                made |= value if isinstance(value, dict) else {Code(f"**{brief(value)}"): value}
                continue
            key = self._value(key_node, scope)
            made[key if is_hashable(key) else str(key)] = value
        return made

    def _of_attribute(self, node: ast.Attribute, scope: Scope) -> Any:
        return self._attribute(self._value(node.value, scope), node.attr, node)

    def _attribute(self, value: Any, name: str, node: ast.expr) -> Any:
        if name == "value" and isinstance(value, SCALARS):  # of an Enum
            return value
        if isinstance(value, Imported):
            path = f"{value.text}.{name}"
            return name if NUMBER_TYPE.fullmatch(path) else Imported(path, node.lineno)
        if isinstance(value, Instance):
            return self._attribute_of_instance(value, name, node.lineno)
        if isinstance(value, Class) and (found := value.find(name)) is not MISSING:
            return found
        if isinstance(value, Call) and name in value.changed:
            return value.changed[name]
        if isinstance(value, Call) and name in value.keywords:
            return value.keywords[name]  # args.output_dir
        if isinstance(value, Either):
            options = [self._attribute(one, name, node) for one in value.options]
            return either(options, source_of(node), node.lineno)
        return Attribute(source_of(node), node.lineno, value=value, name=name)

    def _attribute_of_instance(self, value: Instance, name: str, line: int) -> Any:
        if name in value.attributes:
            return value.attributes[name]
        found = value.kind.find(name) if value.kind else MISSING
        if isinstance(found, Function):
            bound = Function(
                found.text,
                found.line,
                node=found.node,
                scope=found.scope,
                defaults=found.defaults,
                receiver=value,
            )
            decorators = getattr(found.node, "decorator_list", [])
            names = {ast.unparse(one).rpartition(".")[2] for one in decorators}
            if names & {"property", "cached_property"}:
                return self.result(bound)
            return found if "staticmethod" in names else bound
        if found is not MISSING:
            return field_default(found, self)
        return Attribute(f"{value.text}.{name}", line, value=value, name=name)

    def _of_subscript(self, node: ast.Subscript, scope: Scope) -> Any:
        value = self._value(node.value, scope)
        if isinstance(node.slice, ast.Slice):
            ends = [
                self._value(one, scope) if one else None
                for one in (node.slice.lower, node.slice.upper, node.slice.step)
            ]
            if isinstance(value, (str, list, tuple)) and is_known(ends):
                try:
                    return value[slice(*ends)]
                except (TypeError, ValueError):
                    pass
            return Item(source_of(node), node.lineno, value=value, key=slice(*ends))
        return self._item(value, self._value(node.slice, scope), node.lineno, node)

    def _item(self, value: Any, key: Any, line: int, node: ast.expr | None = None) -> Any:
        if isinstance(value, Row) and isinstance(key, str):
            return value.column(key)
        if isinstance(each := each_of(value), Each) and isinstance(key, Number):
            return each.value
        if isinstance(value, (dict, list, tuple, str)) and isinstance(key, SCALARS):
            try:
                return value[key]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                pass
        if isinstance(value, Either):
            return either([self._item(one, key, line, node) for one in value.options], line=line)
        if isinstance(value, Call) and isinstance(key, str) and f"[{key}]" in value.changed:
            return value.changed[f"[{key}]"]
        text = source_of(node) if node else f"{brief(value)}[{brief(key)}]"
        return Item(text, line, value=value, key=key)

    def _of_unaryop(self, node: ast.UnaryOp, scope: Scope) -> Any:
        value = self._value(node.operand, scope)
        if isinstance(node.op, ast.Not) and (truth := truth_of(value)) is not None:
            return not truth
        if isinstance(value, (int, float)) and isinstance(node.op, (ast.USub, ast.UAdd)):
            return -value if isinstance(node.op, ast.USub) else value
        return Code(source_of(node), node.lineno, (value,))

    def _of_binop(self, node: ast.BinOp, scope: Scope) -> Any:
        left, right = self._value(node.left, scope), self._value(node.right, scope)
        return self._operated(node.op, left, right, node)

    def _operated(self, op: ast.operator, left: Any, right: Any, node: ast.AST) -> Any:
        line = getattr(node, "lineno", 0)
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if numbers and type(op) in SUMS and abs(left) < 1e15 and abs(right) < 1e15:
            try:
                return SUMS[type(op)](left, right)
            except (ZeroDivisionError, OverflowError, ValueError):
                return Code(source_of(node), line)
        if isinstance(op, ast.Add):
            if isinstance(left, list) and isinstance(right, list):
                return (
                    self._items([*left, *right]) if len(left) + len(right) < LARGEST else Code("")
                )
            if isinstance(left, tuple) and isinstance(right, tuple):
                return left + right
            if may_be_text(left) and may_be_text(right) and (is_text(left) or is_text(right)):
                return joined([left, right], line)
        if isinstance(op, ast.Mult):
            items, times = (left, right) if isinstance(right, int) else (right, left)
            is_repeated = isinstance(items, (str, list, tuple)) and isinstance(times, int)
            if is_repeated and 0 <= times * len(items) < LARGEST:
                made = items * times
                return self._items(made) if isinstance(made, list) else made
        if isinstance(op, ast.Mod) and isinstance(left, str):
            return percent(left, right, line)
        if isinstance(op, ast.BitOr) and isinstance(left, dict) and isinstance(right, dict):
            return left | right
        if isinstance(op, ast.Div) and isinstance(left, str) and isinstance(right, str):
            return str(PurePosixPath(left, right))
        return Code(source_of(node), line, (left, right))

    def _of_boolop(self, node: ast.BoolOp, scope: Scope) -> Any:
        is_or, unknown = isinstance(node.op, ast.Or), []
        for one in node.values:
            value = self._value(one, scope)
            truth = truth_of(value)
            if truth is None:
                unknown.append(value)
            elif truth is is_or:
                return either([*unknown, value], source_of(node), node.lineno)
            elif one is node.values[-1]:
                unknown.append(value)
        if is_or and len(unknown) == 2 and isinstance(unknown[0], Column) and unknown[1] == "":
            return unknown[0]  # a missing text is an empty one
        return either(unknown, source_of(node), node.lineno)

    def _of_compare(self, node: ast.Compare, scope: Scope) -> Any:
        values = [self._value(one, scope) for one in (node.left, *node.comparators)]
        if len(values) == 2 and type(node.ops[0]) in COMPARISONS:
            left, right = values
            kind = type(node.ops[0])
            if (known := compared(kind, left, right)) is not None:
                return known
            if kind in (ast.Is, ast.IsNot) and right is None and not isinstance(left, Code):
                return (left is None) is (kind is ast.Is)
            if is_known(left) and is_known(right):
                try:
                    return bool(COMPARISONS[kind](left, right))
                except TypeError:
                    pass
        return Code(source_of(node), node.lineno, tuple(values))

    def _of_ifexp(self, node: ast.IfExp, scope: Scope) -> Any:
        truth = self._truth(node.test, scope)
        if truth is not None:
            return self._value(node.body if truth else node.orelse, scope)
        options = [self._value(node.body, scope), self._value(node.orelse, scope)]
        return either(options, source_of(node), node.lineno)

    def _of_listcomp(
        self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, scope: Scope
    ) -> Any:
        inside = Scope(scope)
        results = self._comprehended(node.generators, inside, lambda: self._value(node.elt, inside))
        return self._items(results) if results is not None else self._unknown(node, scope)

    _of_generatorexp = _of_setcomp = _of_listcomp

    def _of_dictcomp(self, node: ast.DictComp, scope: Scope) -> Any:
        inside = Scope(scope)

        def pair() -> tuple[Any, Any]:
            return self._value(node.key, inside), self._value(node.value, inside)

        pairs = self._comprehended(node.generators, inside, pair)
        if pairs is not None and all(isinstance(p, tuple) and is_hashable(p[0]) for p in pairs):
            return dict(pairs)
        return Code(source_of(node), node.lineno)

    def _comprehended(
        self, generators: list[ast.comprehension], scope: Scope, make: Callable[[], Any]
    ) -> list[Any] | None:
        """Return the items of a comprehension; one `Each` where the loop is over unknown items."""
        first, *rest = generators
        source = self._value(first.iter, scope)
        rounds = rounds_of(source)
        if rounds is None:
            item, source = element_of(source)
            self._loops.append(source)
            self._assign(first.target, item, scope)
            conditions = [self._truth(test, scope) for test in first.ifs]
            value = self._comprehended(rest, scope, make) if rest else make()
            self._loops.pop()
            if not all(conditions):
                value = Code("an item that is not always there", parts=(value,))
            return [Each(f"each {brief(value)}", value=value, source=source)]
        results: list[Any] = []
        for item in rounds:
            self._assign(first.target, item, scope)
            conditions = [self._truth(test, scope) for test in first.ifs]
            if False in conditions:
                continue
            if None in conditions:
                return None
            if not rest:
                results.append(make())
            elif (more := self._comprehended(rest, scope, make)) is not None:
                results += more
        return results

    # Calls

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, name: str, scope: Scope
    ) -> Function:
        given = node.args
        positional = [*given.posonlyargs, *given.args]
        pairs = [
            *zip(reversed(positional), reversed(given.defaults), strict=False),
            *(
                (one, value)
                for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)
                if value
            ),
        ]
        defaults = {one.arg: self._value(value, scope) for one, value in pairs}
        return Function(name, node.lineno, node=node, scope=scope, defaults=defaults)

    def _of_call(self, node: ast.Call, scope: Scope) -> Any:
        function = self._callee(node.func, scope)
        arguments = tuple(self._elements(node.args, scope))
        keywords: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for keyword in node.keywords:
            value = self._value(keyword.value, scope)
            if keyword.arg is not None:
                keywords[keyword.arg] = value
                lines[keyword.arg] = keyword.value.lineno
            elif isinstance(value, dict):
                keywords |= {str(name): item for name, item in value.items()}
                lines |= {str(name): keyword.value.lineno for name in value}
            else:
                keywords[f"**{keyword.value.lineno}"] = value
        known = self._known_result(function, arguments, keywords, node)
        if known is not MISSING:
            return known
        if isinstance(function, Either):
            function = function.options[0]
        if isinstance(function, Function):
            return self._called_with(function, arguments, keywords, node.lineno)
        if isinstance(function, Class) and not extends_a_library(function):
            return self._instance(function, arguments, keywords, node.lineno)
        return self._call(node, function, arguments, keywords, lines, scope)

    def _callee(self, node: ast.expr, scope: Scope) -> Any:
        """Return what is called; a method of a value stays an `Attribute` of it."""
        if not isinstance(node, ast.Attribute):
            return self._value(node, scope)
        value = self._value(node.value, scope)
        if isinstance(value, (Imported, Instance, Class)):
            return self._attribute(value, node.attr, node)
        if isinstance(value, Call) and isinstance(own := value.changed.get(node.attr), Function):
            return own
        return Attribute(source_of(node), node.lineno, value=value, name=node.attr)

    def _call(
        self,
        node: ast.Call,
        function: Any,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        lines: dict[str, int],
        scope: Scope,
    ) -> Call:
        receiver, own_class, path = None, "", str(function)
        if isinstance(function, Attribute):
            receiver, path = function.value, f".{function.name}"
        elif isinstance(function, (Item, Instance)):
            receiver, path = function, ".__call__"
        elif isinstance(function, Class):
            own_class, base = function.text, function.imported_base
            path = base.text if base else function.text
            fields = {name: function.find(name) for name in function.fields}
            keywords = {n: v for n, v in fields.items() if v is not MISSING} | keywords
        elif isinstance(function, Call) and function.name == "partial" and function.arguments:
            inner = function.arguments[0]
            path, arguments = str(inner), (*function.arguments[1:], *arguments)
            keywords, lines = function.keywords | keywords, function.lines | lines
        elif isinstance(function, Call):
            receiver, path = function, ".__call__"
        has_function = any(isinstance(v, Function) for v in (*arguments, *keywords.values()))
        call = Call(
            source_of(node)[:200],
            node.lineno,
            function=path,
            receiver=receiver,
            arguments=arguments,
            keywords=keywords,
            lines=lines,
            own_class=own_class,
        )
        if has_function:  # what its names mean now; they may be assigned again before it is called
            for name, value in keywords.items():
                keywords[name] = fixed(value)
            object.__setattr__(call, "arguments", tuple(map(fixed, arguments)))
        self.calls.append(call)
        return call

    def callable_of(self, value: Any) -> Any:
        """Return the function that calling an object of the file calls."""
        if (
            isinstance(value, Instance)
            and value.kind
            and value.kind.find("__call__") is not MISSING
        ):
            return self._attribute_of_instance(value, "__call__", value.line)
        return value

    def _called_with(
        self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], line: int
    ) -> Any:
        """Follow a function of the file with its arguments, and return its result."""
        if not isinstance(function, Function):
            return Code(f"{function}(…)", line, (*arguments, *keywords.values()))
        node = function.node
        self._ever_called.add(id(node))
        if len(self._called) >= _DEEPEST_CALL or node in self._called:
            return Code(f"{function.text}(…)", line, (*arguments, *keywords.values()))
        scope = Scope(function.scope)
        given = node.args
        names = [one.arg for one in (*given.posonlyargs, *given.args)]
        values = arguments if function.receiver is None else (function.receiver, *arguments)
        if "classmethod" in {ast.unparse(one) for one in getattr(node, "decorator_list", ())}:
            values = (Code("cls", line), *arguments)
        bound = dict(zip(names, values, strict=False)) | {
            name: value for name, value in keywords.items() if not name.startswith("**")
        }
        spread = [value for name, value in keywords.items() if name.startswith("**")]
        for name in (*names, *(one.arg for one in given.kwonlyargs)):
            missing = Code(name, line, tuple(spread))
            scope.names[name] = bound.pop(name, function.defaults.get(name, missing))
        if given.vararg:
            scope.names[given.vararg.arg] = tuple(values[len(names) :])
        if given.kwarg:
            scope.names[given.kwarg.arg] = bound
        self._called.append(node)
        loops, self._loops = self._loops, []
        if isinstance(node, ast.Lambda):
            result = self._value(node.body, scope)
        else:
            left = self._block(node.body, scope)
            last = [left.value] if left is not None and left.how == "return" else []
            results = [*scope.returned, *(last or ([None] if left is None else []))]
            result = either(results, line=line) if results else None
        self._loops = loops
        self._called.pop()
        return result

    def _instance(
        self, kind: Class, arguments: tuple[Any, ...], keywords: dict[str, Any], line: int
    ) -> Instance:
        made = Instance(f"{kind.text}(…)", line, kind=kind)
        start = kind.find("__init__")
        if isinstance(start, Function):
            self.result(self._attribute_of_instance(made, "__init__", line), *arguments, **keywords)
        else:
            given = dict(zip(kind.fields, arguments, strict=False)) | keywords
            made.attributes.update(given)
        return made

    # Functions whose result is known

    def _known_result(
        self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], node: ast.Call
    ) -> Any:
        if isinstance(function, Imported):
            return self._known_function(function.text, arguments, keywords, node)
        if not isinstance(function, Attribute):
            return MISSING
        owner, name = function.value, function.name
        if name in MUTATORS and is_of_row(owner):
            self.skips += 1  # what the column holds is no longer known
        if isinstance(owner, (str, Text, Column)):
            return self._method_of_text(owner, name, arguments, keywords, node)
        if isinstance(owner, dict):
            return self._method_of_dict(owner, name, arguments, keywords)
        if isinstance(owner, list):
            return self._method_of_list(owner, name, arguments)
        if isinstance(owner, Row) and arguments and name in ("get", "pop", "update"):
            if name == "update" and isinstance(arguments[0], dict):
                owner.columns.update(arguments[0])
                return None
            if isinstance(arguments[0], str):
                return owner.column(arguments[0])
        if isinstance(owner, Either) and all(isinstance(one, (str, dict)) for one in owner.options):
            return MISSING
        if name == "add_argument":
            return self._add_option(owner, arguments, keywords, node)
        if name in ("parse_args", "parse_known_args"):
            return self._options(owner, name, node.lineno)
        return MISSING

    def _method_of_text(
        self,
        text: Any,
        name: str,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        node: ast.Call,
    ) -> Any:
        if name in ("format", "format_map") and isinstance(text, str):
            mapping = arguments[0] if name == "format_map" and arguments else keywords
            return formatted(text, arguments, mapping, node)
        if name == "join" and isinstance(text, str) and arguments:
            items = arguments[0]
            if isinstance(items, (list, tuple)) and not any(isinstance(v, Each) for v in items):
                pieces = [piece for item in items for piece in (text, item)][1:]
                return joined(pieces, node.lineno) if all(map(may_be_text, pieces)) else MISSING
        if name in TEXT_METHODS and isinstance(text, str) and is_known(arguments):
            sizes = [len(one) for one in arguments if isinstance(one, str)]
            if name == "replace" and len(text) * max(1, *sizes) > LARGEST:
                return MISSING
            try:
                result = getattr(text, name)(*arguments)
            except (TypeError, ValueError):
                return MISSING
            return self._items(result) if isinstance(result, list) else result
        return MISSING

    def _method_of_dict(
        self, owner: dict[Any, Any], name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        if name in ("get", "pop", "setdefault") and arguments and is_hashable(arguments[0]):
            if isinstance(arguments[0], Code):
                return MISSING
            found = owner.get(arguments[0], arguments[1] if len(arguments) > 1 else None)
            if name == "setdefault":
                owner.setdefault(arguments[0], found)
            return found
        if name == "update":
            for more in (*(one for one in arguments if isinstance(one, dict)), keywords):
                owner.update(more)
            return None
        if name == "copy":
            return dict(owner)
        if name in ("keys", "values", "items"):
            return self._items(getattr(owner, name)())
        return MISSING

    def _method_of_list(self, owner: list[Any], name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "append" and len(arguments) == 1:
            self._append(owner, arguments[0])
            return None
        if name == "extend" and arguments and isinstance(arguments[0], (list, tuple)):
            self._extend(owner, arguments[0])
            return None
        if name == "insert" and len(arguments) == 2 and isinstance(arguments[0], int):
            owner.insert(arguments[0], arguments[1])
            return None
        if name == "copy":
            return self._items(owner)
        return MISSING

    def _known_function(
        self, path: str, arguments: tuple[Any, ...], keywords: dict[str, Any], node: ast.Call
    ) -> Any:
        first = arguments[0] if arguments else MISSING
        if path in ("dict", "collections.OrderedDict"):
            if not arguments or isinstance(first, dict):
                return dict(first if arguments else {}) | keywords
        elif path in ("list", "tuple", "set") and not keywords:
            items = rounds_of(first) if arguments else []
            if items is not None:
                return tuple(items) if path == "tuple" else self._items(items)
            if isinstance(each_of(first), Each):
                return first
        elif path == "str" and len(arguments) == 1:
            return first if isinstance(first, (Text, Column)) else of_numbers(path, arguments)
        elif path == "len" and len(arguments) == 1:
            if isinstance(each_of(first), Each) or isinstance(first, Row):
                return Number(source_of(node), node.lineno)
            return len(first) if isinstance(first, (str, list, dict, tuple)) else MISSING
        elif path == "range" and any(isinstance(one, Number) for one in arguments):
            return Each("numbers", value=Number("a number", node.lineno))
        elif path == "zip":
            return self._zipped(arguments, node)
        elif path == "enumerate" and arguments:
            each, items = each_of(first), rounds_of(first)
            if isinstance(each, Each):
                pair = (Number("a number", node.lineno), each.value)
                return Each("numbered", value=pair, source=each.source)
            return self._items(enumerate(items)) if items is not None else MISSING
        elif path in ("os.getenv", "os.environ.get"):
            if len(arguments) > 1 or "default" in keywords:
                said = "environment variables have the defaults that stand in the file."
                self.remarks[said] = node.lineno
                return keywords.get("default", arguments[1] if len(arguments) > 1 else None)
        elif path in ("getattr", "torch.get_default_dtype") and len(arguments) > 1:
            if isinstance(arguments[1], str):
                return self._attribute(first, arguments[1], node)
        elif path in TEXTS and isinstance(first, str) and len(arguments) == 1:
            return TEXTS[path](first)
        elif path == "json.loads" and isinstance(first, str):
            try:
                return json.loads(first)
            except (ValueError, RecursionError):
                return MISSING
        elif (
            path in PATHS
            and arguments
            and not keywords
            and all(isinstance(p, str) for p in arguments)
        ):
            return PATHS[path](arguments)
        elif path in OF_NUMBERS and not keywords:
            return of_numbers(path, arguments)
        return MISSING

    def _zipped(self, arguments: tuple[Any, ...], node: ast.Call) -> Any:
        each = [each_of(one) for one in arguments]
        if arguments and all(isinstance(one, Each) for one in each):
            values = tuple(one.value for one in each)
            return Each("pairs", value=values, source=each[0].source)
        items = [rounds_of(one) for one in arguments]
        if all(one is not None for one in items):
            return self._items(zip(*items, strict=False))
        return MISSING

    def _add_option(
        self, parser: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], node: ast.Call
    ) -> Any:
        root = parser_of(parser)
        names = [one for one in arguments if isinstance(one, str)]
        if root is None or not names:
            return MISSING
        long = next((one for one in names if one.startswith("--")), names[0])
        dest = keywords.get("dest") or long.lstrip("-").replace("-", "_")
        value = keywords.get("default", MISSING)
        if value is MISSING:
            action = keywords.get("action")
            value = {"store_true": False, "store_false": True}.get(str(action), MISSING)
        if value is MISSING:
            value = Code(f"the option {long}", node.lineno)
            if keywords.get("required") is not True and long.startswith("-"):
                value = None
        root.changed[f"option {dest}"] = value
        return Code("an option", node.lineno)

    def _options(self, parser: Any, name: str, line: int) -> Any:
        root = parser_of(parser)
        if root is None:
            return MISSING
        found = {
            key.removeprefix("option "): value
            for key, value in root.changed.items()
            if key.startswith("option ")
        }
        if found:
            said = "options of the command line have their defaults."
            self.remarks[said] = line
        made = Instance("the command line", line, attributes=found)
        return made if name == "parse_args" else (made, Code("other options", line))


def field_default(value: Any, program: Expressions) -> Any:
    """Return the default of a dataclass's field."""
    if isinstance(value, Call) and value.name in ("field", "Field"):
        if "default" in value.keywords or value.arguments:
            return value.get("default", 0)
        factory = value.get("default_factory")
        if isinstance(factory, Function):
            return program.result(factory)
    return value
