#!/usr/bin/env python3
"""Checks the API in proto/: style, and that a released API is never broken.

    tools/proto_check.py lint [PROTO_DIR]
    tools/proto_check.py breaking [PROTO_DIR]
    tools/proto_check.py snapshot [PACKAGE] [PROTO_DIR]

`lint` keeps the rules in proto_lint.py. `breaking` compares with proto/released/PACKAGE.json, the
API as it was at the last release; before the first release there is none. A release writes it:

    tools/proto_check.py snapshot pannier.v1 > proto/released/pannier.v1.json

Compatible: new messages, fields, values, RPCs, comments. Breaking: whatever makes an old client's
bytes mean something else, or its code not compile against the new stubs: anything removed,
renamed, renumbered, retyped. A field or enum value may go when its number and its name are
`reserved`; a reservation never goes.
"""

import json
import os
import sys

import proto_lint
import proto_parse


def load(root):
    """All .proto files below root, parsed; raises ParseError."""
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".proto"):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    relative = os.path.relpath(path, root).replace(os.sep, "/")
                    files.append(proto_parse.parse(relative, file.read()))
    return files


# --- the snapshot --------------------------------------------------------------------------------

def describe(files, package):
    """What of a package an old client depends on, as plain JSON values."""
    names = proto_lint.Names(files)
    described = {"package": package, "messages": {}, "enums": {}, "services": {}}
    for file in files:
        if file.package != package:
            continue
        for message in file.messages:
            described["messages"][message.full_name] = {
                "fields": {str(item.number): _field(item, message, names)
                           for item in message.fields},
                "reserved": _reserved(message.reserved),
            }
        for enum in file.enums:
            described["enums"][enum.full_name] = {
                "values": {value.name: value.number for value in enum.values},
                "reserved": _reserved(enum.reserved),
            }
        for service in file.services:
            described["services"][service.full_name] = {
                rpc.name: _rpc(rpc, service, names) for rpc in service.rpcs}
    return described


def _field(item, message, names):
    return {
        "name": item.name,
        "type": names.resolve_field_type(item.type, message.full_name),
        "label": item.label,
        "oneof": item.oneof,
    }


def _rpc(rpc, service, names):
    return {
        "request": names.resolve(rpc.request, service.full_name),
        "response": names.resolve(rpc.response, service.full_name),
        "client_streaming": rpc.client_streaming,
        "server_streaming": rpc.server_streaming,
    }


def _reserved(reserved):
    return {"ranges": [list(pair) for pair in sorted(reserved.ranges)],
            "names": sorted(reserved.names)}


# --- breaking changes ----------------------------------------------------------------------------

def breaking(old, new):
    """What of the released description `old` the current one `new` breaks, as lines of text."""
    faults = []
    for kind, compare in [("messages", _compare_message), ("enums", _compare_enum),
                          ("services", _compare_service)]:
        for name, was in sorted(old[kind].items()):
            now = new[kind].get(name)
            if now is None:
                faults.append(f"{name}: {kind[:-1]} removed")
            else:
                faults += compare(name, was, now)
    return faults


def _compare_message(name, was, now):
    faults = _compare_reserved(name, was["reserved"], now["reserved"])
    for number, field in sorted(was["fields"].items(), key=lambda item: int(item[0])):
        where = f"{name}.{field['name']} = {number}"
        current = now["fields"].get(number)
        if current is None:
            faults += _removed(where, int(number), field["name"], now["reserved"])
            continue
        for aspect in ["name", "type", "label", "oneof"]:
            if current[aspect] != field[aspect]:
                faults.append(f"{where}: {aspect} changed from {field[aspect] or 'none'} "
                              f"to {current[aspect] or 'none'}")
    return faults


def _compare_enum(name, was, now):
    faults = _compare_reserved(name, was["reserved"], now["reserved"])
    for value, number in sorted(was["values"].items(), key=lambda item: item[1]):
        where = f"{name}.{value} = {number}"
        if value not in now["values"]:
            faults += _removed(where, number, value, now["reserved"])
        elif now["values"][value] != number:
            faults.append(f"{where}: number changed to {now['values'][value]}")
    return faults


def _compare_service(name, was, now):
    faults = []
    for rpc, shape in sorted(was.items()):
        if rpc not in now:
            faults.append(f"{name}.{rpc}: rpc removed")
            continue
        for aspect, value in shape.items():
            if now[rpc][aspect] != value:
                faults.append(f"{name}.{rpc}: {aspect} changed from {value} to {now[rpc][aspect]}")
    return faults


def _removed(where, number, name, reserved):
    if _covered(number, number, reserved) and name in reserved["names"]:
        return []
    return [f'{where}: removed; reserve both: `reserved {number};` and `reserved "{name}";`']


def _compare_reserved(name, was, now):
    faults = [f"{name}: reserved {first} to {last} is no longer reserved"
              for first, last in was["ranges"] if not _covered(first, last, now)]
    faults += [f'{name}: reserved "{word}" is no longer reserved'
               for word in was["names"] if word not in now["names"]]
    return faults


def _covered(first, last, reserved):
    """Whether every number from first to last is in the ranges, which are sorted."""
    for low, high in reserved["ranges"]:
        if low <= first <= high:
            first = high + 1
    return first > last


# --- commands ------------------------------------------------------------------------------------

def run_lint(root="proto"):
    """Prints the faults of style; the exit code."""
    files = load(root)
    faults = proto_lint.lint(files)
    for fault in faults:
        print(f"{root}/{fault}")
    print(f"proto lint: {len(files)} files, {len(faults)} faults")
    return 1 if faults or not files else 0


def run_breaking(root="proto"):
    """Prints the breaking changes; the exit code."""
    files = load(root)
    released = os.path.join(root, "released")
    names = sorted(os.listdir(released)) if os.path.isdir(released) else []
    snapshots = [name for name in names if name.endswith(".json")]
    if not snapshots:
        print("proto breaking: no released API yet")
        return 0
    faults = []
    for name in snapshots:
        with open(os.path.join(released, name), encoding="utf-8") as file:
            old = json.load(file)
        faults += breaking(old, describe(files, old["package"]))
    for fault in faults:
        print(fault)
    print(f"proto breaking: {len(snapshots)} released packages, {len(faults)} breaking changes")
    return 1 if faults else 0


def run_snapshot(package=None, root="proto"):
    """Prints the description of one package; the exit code."""
    files = load(root)
    packages = sorted({file.package for file in files})
    if package is None and len(packages) == 1:
        package = packages[0]
    if package not in packages:
        print(f"which package? {', '.join(packages) or 'there is none'}", file=sys.stderr)
        return 2
    json.dump(describe(files, package), sys.stdout, indent=2, sort_keys=True)
    print()
    return 0


def main(arguments):
    """Runs one command; the exit code."""
    commands = {"lint": run_lint, "breaking": run_breaking, "snapshot": run_snapshot}
    if not arguments or arguments[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return commands[arguments[0]](*arguments[1:3])
    except proto_parse.ParseError as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
