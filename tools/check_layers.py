#!/usr/bin/env python3
"""Imports of the server point only downstream, and no modules import each other in a circle.

    tools/check_layers.py [SOURCE_DIR]

A request flows front door -> engine -> tier. `LAYERS` says, for each top-level module of
server/src, which others it may import. Below the top level there is no table, but siblings
(engine/read.rs, engine/flight.rs) must not import each other in a circle either. What a child
takes from its parent and the parent from its child is a module's own affair.

Looked at: every `crate::`, `super::` and `self::` path, in `use` and in the code. Not looked at:
`#[cfg(test)] mod` blocks and files named tests.rs. lib.rs is the map and may name everything;
nobody imports from it (`crate::Thing`): a thing is imported from the module that defines it.
"""

import re
import sys

import rust_source

# A new module gets its line here, between what it needs (above) and what needs it (below).
LAYERS = {}
LAYERS["error"] = set()
LAYERS["clock"] = {"error"}
LAYERS["key"] = {"error"}
LAYERS["glob"] = {"error", "key"}
LAYERS["changes"] = {"clock", "error", "key"}
LAYERS["stamp"] = {"clock", "error"}
LAYERS["entry"] = {"key", "stamp"} | LAYERS["key"] | LAYERS["stamp"]
LAYERS["record"] = {"entry"} | LAYERS["entry"]
LAYERS["config"] = {"glob", "record"} | LAYERS["glob"] | LAYERS["record"]
LAYERS["metrics"] = {"clock"} | LAYERS["clock"]
LAYERS["steps"] = {"config"} | LAYERS["config"]
LAYERS["telemetry"] = {"config", "metrics", "steps"} | LAYERS["config"]
LAYERS["resp"] = {"config"} | LAYERS["config"]
LAYERS["rocks"] = {"error"}
LAYERS["stats"] = set()
LAYERS["tier"] = {"changes", "resp", "rocks", "stats", "telemetry"} | LAYERS["telemetry"]
LAYERS["namespace"] = {"tier"} | LAYERS["tier"]
LAYERS["trace"] = {"stats", "steps"} | LAYERS["steps"]
LAYERS["export"] = {"tier", "trace"} | LAYERS["tier"] | LAYERS["trace"]
LAYERS["journal"] = {"tier"} | LAYERS["tier"]
LAYERS["coherence"] = {"journal"} | LAYERS["journal"]
LAYERS["engine"] = {"coherence", "namespace", "trace"} | LAYERS["coherence"]
LAYERS["observe"] = {"engine"} | LAYERS["engine"]
LAYERS["frontdoor"] = {"observe"} | LAYERS["observe"]
LAYERS["server"] = {"export", "frontdoor"} | LAYERS["export"] | LAYERS["frontdoor"]
LAYERS["main"] = {"server"} | LAYERS["server"]

# The library's name in main.rs, which is a crate of its own.
LIBRARY = "pannier_server"

_VISIBILITY = re.compile(r"\bpub\s*\([^)]*\)")
_USE = re.compile(r"\buse\s+([^;]+);")
_PATH = re.compile(rf"(?<![\w:])(?:crate|super|self|{LIBRARY})(?:\s*::\s*(?:r#)?\w+)+")
_TREE_TOKEN = re.compile(r"\w+|::|[{},*]")


def module_of(path):
    """The module path of a file: engine/read.rs -> (engine, read); lib.rs -> ()."""
    parts = path.removesuffix(".rs").split("/")
    return () if parts == ["lib"] else tuple(parts)


def use_paths(tree):
    """The paths of one `use` tree: a::{b, c::d as e} -> [[a, b], [a, c, d]]."""
    tokens = _TREE_TOKEN.findall(re.sub(r"\br#", "", tree))
    paths, prefix, stack, path, skip = [], [], [], [], False
    for token in tokens + [","]:
        if token == "{":
            stack.append(prefix)
            prefix, path = prefix + path, []
        elif token in (",", "}"):
            if path:
                paths.append(prefix + path)
            path, skip = [], False
            if token == "}":
                prefix = stack.pop()
        elif token == "as":
            skip = True
        elif token not in ("::", "*") and not skip:
            path.append(token)
    return paths


def imports(path, source):
    """(line, module, target) for each import of a file; target is a path from the crate's root."""
    code = rust_source.blank(source)
    for start, end in rust_source.test_spans(code):
        code = code[:start] + re.sub(r"[^\n]", " ", code[start:end]) + code[end:]
    code = _VISIBILITY.sub(lambda found: " " * len(found.group()), code)
    inline = rust_source.inline_modules(code)
    uses = list(_USE.finditer(code))
    named = [(use.start(), names) for use in uses for names in use_paths(use.group(1))]
    for found in _PATH.finditer(code):
        if not any(use.start() <= found.start() < use.end() for use in uses):
            named.append((found.start(), re.findall(r"\w+", found.group().replace("r#", ""))))
    for at, names in named:
        inner = tuple(name for start, end, name in inline if start < at < end)
        module = module_of(path) + inner
        target = _resolve(module, names)
        if target is not None:
            yield rust_source.line_of(code, at), module, target


def _resolve(module, names):
    """The path from the crate's root that `names` means inside `module`; None if not in it."""
    if names[0] == LIBRARY:
        return tuple(names[1:])
    if names[0] == "crate":
        return None if module[:1] == ("main",) else tuple(names[1:])
    if names[0] not in ("super", "self"):
        return None
    base = list(module)
    for index, name in enumerate(names):
        if name == "super":
            del base[-1:]
        elif name != "self":
            return tuple(base + names[index:])
    return tuple(base)


def check(sources, layers):
    """Faults of {path: source}, as lines of text."""
    modules = {module_of(path) for path in sources}
    modules |= {module[:depth] for module in modules for depth in range(1, len(module))}
    faults = _table_faults(modules, layers)
    edges = {}
    for path, source in sorted(sources.items()):
        if path.split("/")[-1] == "mod.rs":
            faults.append(f"{path}: foo.rs beside foo/, no mod.rs")
        elif path.split("/")[-1] != "tests.rs":
            for line, module, target in imports(path, source):
                faults += _edge(f"{path}:{line}", module, target, modules, layers, edges)
    for parent, graph in sorted(edges.items()):
        cycle = find_cycle(graph)
        if cycle:
            faults.append(f"cycle in {'::'.join(('crate',) + parent)}: {' -> '.join(cycle)}")
    return faults


def _table_faults(modules, layers):
    faults = []
    for module in sorted({module[0] for module in modules if module}):
        if module not in layers:
            faults.append(f"{module}: unknown module; add it to LAYERS in tools/check_layers.py")
    cycle = find_cycle(layers)
    if cycle:
        faults.append(f"cycle in LAYERS itself: {' -> '.join(cycle)}")
    return faults


def _edge(where, module, target, modules, layers, edges):
    """Notes one import in `edges`; its fault, if any."""
    if not module:
        return []  # lib.rs is the map.
    if not target:
        return []  # `use super::*` in a top-level file, `use pannier_server`: names nothing.
    if target[:1] not in modules:
        return [f"{where}: crate::{target[0]} is not a module; import it from where it is defined"]
    while target not in modules:
        target = target[:-1]
    depth = 0
    while depth < min(len(module), len(target)) and module[depth] == target[depth]:
        depth += 1
    if depth == min(len(module), len(target)):
        return []  # Parent and child.
    edges.setdefault(module[:depth], {}).setdefault(module[depth], set()).add(target[depth])
    if depth == 0 and target[0] not in layers.get(module[0], {target[0]}):
        return [f"{where}: {module[0]} must not import {target[0]}"]
    return []


def find_cycle(graph):
    """One cycle of {node: nodes} as [a, b, a]; None without."""
    done = set()

    def walk(node, trail):
        if node in trail:
            return trail[trail.index(node):] + [node]
        if node in done:
            return None
        for following in sorted(graph.get(node, ())):
            cycle = walk(following, trail + [node])
            if cycle:
                return cycle
        done.add(node)
        return None

    for node in sorted(graph):
        cycle = walk(node, [])
        if cycle:
            return cycle
    return None


def main(root="server/src"):
    """Checks every .rs file below root; the exit code."""
    sources = {}
    for path in rust_source.rust_files(root):
        with open(f"{root}/{path}", encoding="utf-8") as file:
            sources[path] = file.read()
    faults = check(sources, LAYERS)
    for fault in faults:
        print(f"{root}/{fault}" if ".rs" in fault.split(":")[0] else fault)
    print(f"layers: {len(sources)} files, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
