"""Just enough Rust for the checks: where comments, strings, braces and test modules are.

Not a parser. `blank` turns comments and literals into spaces of the same shape, after which
regular expressions and counting braces are safe.
"""

import os
import re

# Folders that hold no source of ours, at any depth.
SKIPPED_DIRS = {"target", "node_modules", "__pycache__"}

_RAW_STRING = re.compile(r'(?:b|c)?r(#*)"')
_PREFIXED_QUOTE = re.compile(r"(?:b|c)?\"|b?'")
_COMMENT_MARK = re.compile(r"/\*|\*/")
_TEST_CFG = re.compile(r"#\[cfg\(([^\]]*)\)\]")
_INLINE_MOD = re.compile(
    r"(?:\s*#\[[^\]]*\])*\s*(?:pub(?:\s*\([^)]*\))?\s+)?mod\s+(?:r#)?(\w+)\s*\{")


def rust_files(root):
    """Paths of all .rs files below root, relative to it, sorted."""
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if name not in SKIPPED_DIRS and not name.startswith("."))
        for name in files:
            if name.endswith(".rs"):
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return sorted(found)


def blank(source):
    """The source with comments and the insides of literals replaced by spaces, line for line."""
    out = []
    at = 0
    while at < len(source):
        end, code = _next_piece(source, at)
        piece = source[at:end]
        out.append(piece if code else re.sub(r"[^\n]", " ", piece))
        at = end
    return "".join(out)


def _next_piece(source, at):
    """(end, is code) of the piece that begins at `at`."""
    char = source[at]
    if source.startswith("//", at):
        end = source.find("\n", at)
        return (len(source) if end < 0 else end), False
    if source.startswith("/*", at):
        return _block_comment_end(source, at), False
    if char.isalnum() or char == "_":
        quote = _RAW_STRING.match(source, at)
        if quote:
            return _find_end(source, '"' + quote.group(1), quote.end()), False
        quote = _PREFIXED_QUOTE.match(source, at)
        if quote:
            return _quoted_end(source, quote.end() - 1), False
        return _word_end(source, at), True
    if char == '"':
        return _quoted_end(source, at), False
    if char == "'":
        return _quoted_end(source, at), not _is_char_literal(source, at)
    return at + 1, True


def _word_end(source, at):
    while at < len(source) and (source[at].isalnum() or source[at] == "_"):
        at += 1
    return at


def _find_end(source, closing, start):
    found = source.find(closing, start)
    return len(source) if found < 0 else found + len(closing)


def _block_comment_end(source, at):
    """Block comments nest."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(source, at):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(source)


def _is_char_literal(source, at):
    """Whether the ' at `at` opens 'x' or '\\n' and not a lifetime or label."""
    return source[at + 1:at + 2] == "\\" or source[at + 2:at + 3] == "'"


def _quoted_end(source, at):
    """End of the literal whose opening quote is at `at`; just past the quote of a lifetime."""
    quote = source[at]
    if quote == "'" and not _is_char_literal(source, at):
        return at + 1
    if quote == "'" and source[at + 1:at + 2] != "\\":
        return at + 3
    at += 1
    while at < len(source) and source[at] != quote:
        at += 2 if source[at] == "\\" else 1
    return min(at + 1, len(source))


def closing_brace(code, opening):
    """Index of the } that closes the { at `opening`, in blanked code."""
    depth = 0
    for brace in re.finditer(r"[{}]", code[opening:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return opening + brace.start()
    return len(code) - 1


def test_spans(code):
    """(start, end) of each `#[cfg(test)] mod … { }` in blanked code, attribute included."""
    spans = []
    for attribute in _TEST_CFG.finditer(code):
        if not _is_test_condition(attribute.group(1)):
            continue
        module = _INLINE_MOD.match(code, attribute.end())
        if module:
            spans.append((attribute.start(), closing_brace(code, module.end() - 1) + 1))
    return spans


def _is_test_condition(condition):
    return bool(re.search(r"\btest\b", condition)) and "not" not in condition


def inline_modules(code):
    """(start, end, name) of each `mod name { }` in blanked code, outer ones first."""
    return [
        (found.start(), closing_brace(code, found.end() - 1), found.group(1))
        for found in _INLINE_MOD.finditer(code)
    ]


def line_of(text, at):
    """Number of the line that holds the character at `at`, from 1."""
    return text.count("\n", 0, at) + 1
