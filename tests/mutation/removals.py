"""Takes one thing at a time out of the machines of secure aggregation and asks whether a test notices.

What Cosmic Ray does not do: whole statements, operands of `and`, `or` and `+`, entries of tables, returned
values. Modules and test command are those of `.ci/cosmic-ray.toml`. Changes the sources in place and puts
them back, so run it in a fresh clone, from its root: `python tests/mutation/removals.py`.
"""

import ast
import os
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

SETTINGS = tomllib.loads(Path(".ci/cosmic-ray.toml").read_text(encoding="utf-8"))["cosmic-ray"]


class Source:
    """One module's text, and the changed texts that can be made of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = text.splitlines(keepends=True)

    def _at(self, row: int, column: int) -> int:
        return sum(map(len, self._lines[: row - 1])) + column

    def part(self, node: ast.expr | ast.stmt) -> str:
        return self.text[slice(*self._span(node, node))]

    def _span(self, first: ast.expr | ast.stmt, last: ast.expr | ast.stmt) -> tuple[int, int]:
        assert last.end_lineno is not None and last.end_col_offset is not None
        return self._at(first.lineno, first.col_offset), self._at(last.end_lineno, last.end_col_offset)

    def with_instead(self, node: ast.expr | ast.stmt, new: str, last: ast.expr | None = None) -> str:
        """Return the text with something else in the place of a node, or of all from it to a last one."""
        start, end = self._span(node, last or node)
        return self.text[:start] + new + self.text[end:]

    def mutants(self) -> Iterator[tuple[int, str, str]]:
        """Yield line, what is taken away, and the changed text, where that is Python."""
        assert self.text.isascii()  # ast counts columns in bytes
        for node in ast.walk(ast.parse(self.text)):
            for taken, changed in self._of(node):
                try:
                    compile(changed, "mutant", "exec")
                except SyntaxError:
                    continue
                yield taken.lineno, " ".join(self.part(taken).split())[:100], changed

    def _of(self, node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
        if isinstance(node, ast.FunctionDef):
            yield from self._statements(node)
        elif isinstance(node, ast.BoolOp):
            word = " and " if isinstance(node.op, ast.And) else " or "
            for value in node.values:
                rest = word.join(f"({self.part(other)})" for other in node.values if other is not value)
                yield value, self.with_instead(node, f"({rest})")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield node.left, self.with_instead(node, f"({self.part(node.right)})")
            yield node.right, self.with_instead(node, f"({self.part(node.left)})")
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None:
                    yield key, self.with_instead(key, "**{}", last=value)
        elif isinstance(node, ast.Set):
            yield from ((item, self.with_instead(item, "*()")) for item in node.elts)
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            yield from ((item, self.with_instead(item, "*()")) for item in node.iter.elts)

    def _statements(self, function: ast.FunctionDef) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
        if function.name == "__init__":  # nothing runs without its attributes
            return
        for node in ast.walk(function):
            match node:
                case ast.Return(value=ast.Constant(value=None)):
                    pass
                case ast.Return(value=ast.expr()):
                    yield node, self.with_instead(node, "return None")
                case ast.Expr(value=ast.Constant()):  # a docstring
                    pass
                case ast.Assign(targets=[ast.Tuple(elts=targets)]):
                    kept = [each for each in targets if not isinstance(each, ast.Name)]
                    yield from ((each, self.with_instead(each, "_")) for each in kept)
                case ast.Assign(targets=[ast.Name()]):  # its name would be missing
                    pass
                case ast.Assign() | ast.AugAssign() | ast.Expr() | ast.Raise() | ast.For() | ast.While():
                    yield node, self.with_instead(node, "pass")


def is_noticed() -> bool:
    """Return whether a test fails, or none of them ends."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = shlex.split(SETTINGS["test-command"])
    try:
        run = subprocess.run(command, env=environment, capture_output=True, timeout=SETTINGS["timeout"], check=False)
    except subprocess.TimeoutExpired:
        return True
    return run.returncode != 0


def main() -> None:
    """Print every removal that no test notices, and how many were."""
    if is_noticed():
        raise SystemExit("the tests fail before anything is taken away")
    noticed = total = 0
    for path in map(Path, SETTINGS["module-path"]):
        source = Source(path.read_text(encoding="utf-8"))
        for line, taken, changed in source.mutants():
            path.write_text(changed, encoding="utf-8")
            try:
                killed = is_noticed()
            finally:
                path.write_text(source.text, encoding="utf-8")
            total, noticed = total + 1, noticed + killed
            if not killed:
                print(f"{path}:{line}: unnoticed without `{taken}`", flush=True)
    print(f"{noticed} of {total} noticed")


if __name__ == "__main__":
    main()
