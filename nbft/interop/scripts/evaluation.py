"""What a Python program computes, found by following its assignments. Nothing is executed.

Statements are read in the order in which they would run: constants are computed, functions of the file
are followed into, branches under a false condition are left out, and what cannot be known is `Code`.
Every call of a function from elsewhere is kept. Called by `read`; the values are in `values`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

from nbft.interop.scripts.expressions import MOST_STEPS, Expressions, Left
from nbft.interop.scripts.operations import (
    element_of,
    extends_a_library,
    merged,
    rounds_of,
)
from nbft.interop.scripts.values import (
    Call,
    Class,
    Code,
    Function,
    Imported,
    Scope,
    either,
    plain,
)


class Program(Expressions):
    """A program, after following it.

    Attributes:
        scope: The names of the file, at its end.
    """

    def __init__(self, body: Iterable[ast.stmt]) -> None:
        super().__init__()
        self.scope = Scope()
        self.scope.names["__name__"] = "__main__"
        for node in body:
            try:
                left = self._statement(node, self.scope)
                if left is not None and left.how == "stop":  # exit() restarts a kernel
                    break
            except RecursionError:
                self._loops, self._branches, self._called = [], 0, []
                self.remarks["a statement is nested too deeply to be read."] = node.lineno

    def __deepcopy__(self, _memo: object) -> Program:
        """Return itself: it does not change once it is read."""
        return self

    def follow_unused(self) -> None:
        """Follow the functions and methods that nothing in the file calls."""
        for value in list(self.scope.names.values()):
            if isinstance(value, Function) and id(value.node) not in self._ever_called:
                self.result(value)
            elif isinstance(value, Class) and not extends_a_library(value):
                made = self._instance(value, (), {}, value.line)
                for name, method in value.names.items():
                    if isinstance(method, Function) and id(method.node) not in self._ever_called:
                        self.result(self._attribute_of_instance(made, name, value.line))

    # Statements

    def _block(self, body: Iterable[ast.stmt], scope: Scope) -> Left | None:
        for node in body:
            if (left := self._statement(node, scope)) is not None:
                return left
        return None

    def _statement(self, node: ast.stmt, scope: Scope) -> Left | None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            self.remarks["what follows is not read: the file is too long."] = node.lineno
            return Left("stop")
        method = getattr(self, f"_do_{type(node).__name__.lower()}", None)
        return method(node, scope) if method else None

    def _do_expr(self, node: ast.Expr, scope: Scope) -> Left | None:
        value = self._value(node.value, scope)
        if isinstance(value, Call) and value.function in ("sys.exit", "exit", "quit", "os._exit"):
            return Left("exit")
        return None

    def _do_assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self._value(node.value, scope)
        for target in node.targets:
            self._assign(target, value, scope)

    def _do_annassign(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self._assign(node.target, self._value(node.value, scope), scope)

    def _do_augassign(self, node: ast.AugAssign, scope: Scope) -> None:
        before, more = self._value(node.target, scope), self._value(node.value, scope)
        if isinstance(before, list) and isinstance(node.op, ast.Add) and isinstance(more, list):
            self._extend(before, more)
        else:
            self._assign(node.target, self._operated(node.op, before, more, node), scope)

    def _do_if(self, node: ast.If, scope: Scope) -> Left | None:
        truth = self._truth(node.test, scope)
        if truth is not None:
            return self._block(node.body if truth else node.orelse, scope)
        return self._either_way([node.body, node.orelse], scope, node)

    def _do_match(self, node: ast.Match, scope: Scope) -> Left | None:
        self._value(node.subject, scope)
        return self._either_way([*(case.body for case in node.cases), []], scope, node)

    def _either_way(self, ways: list[list[ast.stmt]], scope: Scope, node: ast.stmt) -> Left | None:
        """Follow every way through a statement, and keep what each makes of the names."""
        before, ends, lefts = scope.names, [], []
        self._branches += 1
        for way in ways:
            scope.names = dict(before)
            left = self._block(way, scope)
            if left is None:
                ends.append(scope.names)
            else:
                lefts.append(left)
        self._branches -= 1
        before.clear()
        before.update(merged(ends, node.lineno) if ends else scope.names)
        scope.names = before
        self.skips += any(left.how in ("continue", "break", "return") for left in lefts)
        returned = [left.value for left in lefts if left.how == "return"]
        if ends:
            scope.returned += returned
            return None
        if returned:
            return Left("return", either(returned, line=node.lineno))
        return lefts[0]

    def _do_for(self, node: ast.For, scope: Scope) -> Left | None:
        source = self._value(node.iter, scope)
        rounds = rounds_of(source)
        if rounds is not None:
            for item in rounds:
                self._assign(node.target, item, scope)
                left = self._block(node.body, scope)
                if left is not None and left.how != "continue":
                    return None if left.how == "break" else left
            return self._block(node.orelse, scope)
        item, source = element_of(source)
        before = dict(scope.names)
        self._loops.append(source)
        self._assign(node.target, item, scope)
        left = self._block(node.body, scope)
        self._loops.pop()
        for name, value in before.items():
            if scope.names.get(name) is not value:
                text = f"{name}, which a loop changes"
                scope.names[name] = Code(text, node.lineno, (value, scope.names.get(name)))
        return left if left is not None and left.how in ("return", "exit", "stop") else None

    _do_asyncfor = _do_for

    def _do_while(self, node: ast.While, scope: Scope) -> Left | None:
        if self._truth(node.test, scope) is False:
            return None
        left = self._block(node.body, scope)
        return left if left is not None and left.how not in ("break", "continue") else None

    def _do_with(self, node: ast.With, scope: Scope) -> Left | None:
        for item in node.items:
            value = self._value(item.context_expr, scope)
            if item.optional_vars is not None:
                self._assign(item.optional_vars, value, scope)
        return self._block(node.body, scope)

    _do_asyncwith = _do_with

    def _do_try(self, node: ast.Try, scope: Scope) -> Left | None:
        left = self._block(node.body, scope)
        if left is not None and left.how == "raise":
            left = None
        if left is None:
            left = self._block(node.orelse, scope)
        return self._block(node.finalbody, scope) or left

    _do_trystar = _do_try

    def _do_return(self, node: ast.Return, scope: Scope) -> Left:
        return Left("return", self._value(node.value, scope) if node.value else None)

    def _do_raise(self, node: ast.Raise, scope: Scope) -> Left:
        return Left("raise")

    def _do_break(self, node: ast.Break, scope: Scope) -> Left:
        return Left("break")

    def _do_continue(self, node: ast.Continue, scope: Scope) -> Left:
        return Left("continue")

    def _do_global(self, node: ast.Global | ast.Nonlocal, scope: Scope) -> None:
        scope.global_names.update(node.names)

    _do_nonlocal = _do_global

    def _do_delete(self, node: ast.Delete, scope: Scope) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                scope.names.pop(target.id, None)

    def _do_import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            scope.bind(name, Imported(alias.name if alias.asname else name, node.lineno))

    def _do_importfrom(self, node: ast.ImportFrom, scope: Scope) -> None:
        for alias in node.names:
            path = f"{node.module}.{alias.name}" if node.module else alias.name
            scope.bind(alias.asname or alias.name, Imported(path, node.lineno))

    def _do_functiondef(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope
    ) -> Left | None:
        decorators = [ast.unparse(one) for one in node.decorator_list]
        if any(re.match(r"app\.(cell|setup)\b", text) for text in decorators):  # marimo
            left = self._block(node.body, scope)
            return left if left is not None and left.how == "stop" else None
        scope.bind(node.name, self._function(node, node.name, scope))
        return None

    _do_asyncfunctiondef = _do_functiondef

    def _do_classdef(self, node: ast.ClassDef, scope: Scope) -> None:
        inside = Scope(scope)
        self._block(node.body, inside)
        fields = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
        names = tuple(target.id for target in fields if isinstance(target, ast.Name))
        bases = tuple(self._value(base, scope) for base in node.bases)
        found = Class(node.name, node.lineno, bases=bases, names=inside.names, fields=names)
        scope.bind(node.name, found)


def blocks(program: Program) -> Iterator[tuple[str, Call]]:
    """Yield the calls of a program by the name that their settings are looked up under."""
    for call in program.calls:
        if call.name == "print":
            continue
        yield call.name, call
        if call.owner and call.name.endswith(("pretrained", "peft_model")):
            yield f"{call.owner}.{call.name}", call


def block_of(call: Call) -> dict[str, Any]:
    """Return the arguments of a call as plain values; a positional one is named "[0]"."""
    positional = {f"[{number}]": plain(value) for number, value in enumerate(call.arguments)}
    named = {name: value for name, value in call.keywords.items() if not name.startswith("**")}
    changed = {
        name: value for name, value in call.changed.items() if name in named or name.isidentifier()
    }
    return positional | {name: plain(value) for name, value in (named | changed).items()}
