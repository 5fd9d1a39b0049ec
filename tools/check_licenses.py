#!/usr/bin/env python3
"""Licences, sources and banned crates of every dependency, by deny.toml.

    tools/check_licenses.py [WORKSPACE_DIR]

Reads [licenses], [bans].deny and [sources] of deny.toml and asks `cargo metadata` for all packages
of Cargo.lock, those of other platforms and of tests included. A part of what cargo-deny does, with
nothing to install: it believes the licence a crate declares and knows no advisories.
"""

import json
import re
import subprocess
import sys
import tomllib


def satisfied(expression, allowed):
    """Whether the SPDX expression can be met with the allowed licences.

    `/` is the old way to write OR. Raises ValueError for what is no expression.
    """
    tokens = re.findall(r"[()]|[\w.+:-]+", expression.replace("/", " OR "))
    value, rest = _alternatives(tokens, allowed)
    if rest:
        raise ValueError(f"unexpected {rest[0]!r} in {expression!r}")
    return value


def _alternatives(tokens, allowed):
    value, tokens = _conjunction(tokens, allowed)
    while tokens and tokens[0] == "OR":
        right, tokens = _conjunction(tokens[1:], allowed)
        value = value or right
    return value, tokens


def _conjunction(tokens, allowed):
    value, tokens = _licence(tokens, allowed)
    while tokens and tokens[0] == "AND":
        right, tokens = _licence(tokens[1:], allowed)
        value = value and right
    return value, tokens


def _licence(tokens, allowed):
    if not tokens or tokens[0] in (")", "AND", "OR", "WITH"):
        raise ValueError(f"licence expected, found {tokens[0] if tokens else 'the end'}")
    if tokens[0] == "(":
        value, tokens = _alternatives(tokens[1:], allowed)
        if tokens[:1] != [")"]:
            raise ValueError("unbalanced brackets")
        return value, tokens[1:]
    if tokens[1:2] == ["WITH"] and len(tokens) > 2:
        return f"{tokens[0]} WITH {tokens[2]}" in allowed, tokens[3:]
    return tokens[0] in allowed, tokens[1:]


def check(packages, rules):
    """Faults of `cargo metadata`'s packages under deny.toml's rules, as lines of text."""
    faults = []
    for package in sorted(packages, key=lambda package: (package["name"], package["version"])):
        where = f"{package['name']} {package['version']}"
        faults += [f"{where}: {fault}" for fault in
                   _licence_faults(package, rules.get("licenses", {}))
                   + _ban_faults(package, rules.get("bans", {}))
                   + _source_faults(package, rules.get("sources", {}))]
    return faults


def _crate(entry):
    """The crate's name in an entry of deny.toml: "name", "name@1", { crate = … }, { name = … }."""
    if isinstance(entry, dict):
        entry = entry.get("crate") or entry["name"]
    return re.split(r"[@:]", entry)[0]


def _licence_faults(package, rules):
    allowed = set(rules.get("allow", []))
    for exception in rules.get("exceptions", []):
        if _crate(exception) == package["name"]:
            allowed |= set(exception["allow"])
    expression = package["license"]
    if not expression:
        return ["declares no licence"]
    try:
        if satisfied(expression, allowed):
            return []
    except ValueError as error:
        return [f"licence cannot be read: {error}"]
    return [f"licence {expression} is not allowed"]


def _ban_faults(package, rules):
    for entry in rules.get("deny", []):
        if _crate(entry) == package["name"]:
            reason = entry.get("reason") if isinstance(entry, dict) else None
            return [f"banned: {reason or 'see deny.toml'}"]
    return []


def _source_faults(package, rules):
    source = package["source"]
    if source is None:
        return []  # A member of the workspace, or a path that review sees.
    kind, _, url = source.partition("+")
    allowed = rules.get("allow-git" if kind == "git" else "allow-registry", [])
    if any(url.split("?")[0].split("#")[0] == entry for entry in allowed):
        return []
    return [f"source {source} is not allowed"]


def metadata(workspace):
    """The packages of Cargo.lock as cargo describes them."""
    result = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1"],
        cwd=workspace, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if result.returncode != 0:
        sys.exit(f"cargo metadata failed with exit code {result.returncode}")
    return json.loads(result.stdout)["packages"]


def main(workspace="."):
    """Checks a workspace; the exit code."""
    with open(f"{workspace}/deny.toml", "rb") as file:
        rules = tomllib.load(file)
    packages = metadata(workspace)
    faults = check(packages, rules)
    for fault in faults:
        print(fault)
    print(f"licences: {len(packages)} packages, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
