#!/usr/bin/env python3
"""Functions fit a screen, files a sitting, lines a window.

    tools/check_size.py [ROOT]

- a function: at most 70 lines, from `fn` to its closing brace. Test functions are exempt.
- a file: at most 400 lines. `#[cfg(test)] mod` blocks do not count; files below a folder `tests`
  and files named tests.rs are exempt.
- a line: at most 100 columns.

An exception carries its reason: `// size: <reason>` right above the function (among its comments
and attributes), or `//! size: <reason>` in the comment that opens the file. A line has no
exception: rustfmt breaks code, and a string can be continued.
"""

import re
import sys

import rust_source

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
COLUMNS_MAX = 100

_FUNCTION = re.compile(r"\bfn\s+(?:r#)?(\w+)")
_FUNCTION_EXCEPTION = re.compile(r"^\s*// size: \S")
_FILE_EXCEPTION = re.compile(r"^//! size: \S")
_TEST_ATTRIBUTE = re.compile(r"^\s*#\[(?:\w+::)*test\b")
_ABOVE = re.compile(r"^\s*(//|#\[|\)\]|\*)")


def check(path, source):
    """Faults of one file as lines of text."""
    code = rust_source.blank(source)
    lines = source.splitlines()
    spans = rust_source.test_spans(code)
    faults = _long_lines(path, lines)
    faults += _long_functions(path, code, lines, spans)
    faults += _long_file(path, code, lines, spans)
    return faults


def _long_lines(path, lines):
    return [
        f"{path}:{number}: {len(line)} columns, at most {COLUMNS_MAX}"
        for number, line in enumerate(lines, 1) if len(line) > COLUMNS_MAX
    ]


def _long_functions(path, code, lines, spans):
    faults = []
    for found in _FUNCTION.finditer(code):
        if any(start <= found.start() < end for start, end in spans):
            continue
        opening = _body(code, found.end())
        if opening is None:
            continue
        first = rust_source.line_of(code, found.start())
        last = rust_source.line_of(code, rust_source.closing_brace(code, opening))
        length = last - first + 1
        if length > FUNCTION_LINES_MAX and not _exempt(lines, first):
            faults.append(f"{path}:{first}: fn {found.group(1)} has {length} lines, "
                          f"at most {FUNCTION_LINES_MAX}")
    return faults


def _body(code, at):
    """Index of the { that opens the body of the function whose name ends at `at`; None without."""
    depth = 0
    while at < len(code):
        char = code[at]
        if char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif depth == 0 and char == ";":
            return None
        elif depth == 0 and char == "{":
            if code[:at].rstrip()[-1:] not in "<,":
                return at
            at = rust_source.closing_brace(code, at)  # A const argument: Array<{ N + 1 }>.
        at += 1
    return None


def _exempt(lines, first):
    """Whether the comments and attributes above line `first` carry a reason, or say it is a test.

    Attributes of several lines are followed as far as they look like one.
    """
    index = first - 2
    while index >= 0 and (_ABOVE.match(lines[index]) or lines[index].startswith("    ")
                          and lines[index].rstrip().endswith(",")):
        if _FUNCTION_EXCEPTION.match(lines[index]) or _TEST_ATTRIBUTE.match(lines[index]):
            return True
        index -= 1
    return False


def _long_file(path, code, lines, spans):
    parts = path.replace("\\", "/").split("/")
    if "tests" in parts[:-1] or parts[-1] == "tests.rs":
        return []
    for line in lines:
        if not line.startswith("//"):
            break
        if _FILE_EXCEPTION.match(line):
            return []
    tests = sum(code.count("\n", start, end) + 1 for start, end in spans)
    length = len(lines) - tests
    if length <= FILE_LINES_MAX:
        return []
    return [f"{path}:1: {length} lines without tests, at most {FILE_LINES_MAX}"]


def main(root="."):
    """Checks every .rs file below root; the exit code."""
    faults = []
    paths = rust_source.rust_files(root)
    for path in paths:
        with open(f"{root}/{path}", encoding="utf-8") as file:
            faults += check(path, file.read())
    for fault in faults:
        print(fault)
    print(f"size: {len(paths)} files, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
