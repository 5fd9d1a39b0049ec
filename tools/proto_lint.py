"""The style of the protos, in the manner of buf's standard rules.

- a file: syntax proto3; a comment opens it; its name is lower_snake_case; its folder is its
  package, version last (pannier/v1 = pannier.v1); file options are equal within a package
- an import: exists and is used
- names: PascalCase messages, enums, services (ending in Service) and RPCs; lower_snake_case fields
  and oneofs; enum values in UPPER_SNAKE_CASE with the enum's name before it, zero _UNSPECIFIED
- every message, field, oneof, enum, value, service and RPC has a comment right above it
- an RPC X takes XRequest and returns XResponse (with or without the service's name before it),
  which no other RPC uses
- field numbers and names: unique, in range, not reserved; no `required`
- a type is one that exists
"""

import re

import proto_parse

SCALARS = {
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32",
    "fixed64", "sfixed32", "sfixed64", "bool", "string", "bytes",
}

# What is known without reading Google's files. The empty list: options only, use not traceable.
WELL_KNOWN = {
    "google/protobuf/any.proto": ["Any"],
    "google/protobuf/descriptor.proto": [],
    "google/protobuf/duration.proto": ["Duration"],
    "google/protobuf/empty.proto": ["Empty"],
    "google/protobuf/field_mask.proto": ["FieldMask"],
    "google/protobuf/struct.proto": ["Struct", "Value", "ListValue", "NullValue"],
    "google/protobuf/timestamp.proto": ["Timestamp"],
    "google/protobuf/wrappers.proto": [
        "BoolValue", "BytesValue", "DoubleValue", "FloatValue", "Int32Value", "Int64Value",
        "StringValue", "UInt32Value", "UInt64Value",
    ],
}

# The file options that each file of a package has for itself.
OWN_OPTIONS = {"java_outer_classname"}

_PASCAL = re.compile(r"^[A-Z][A-Za-z0-9]*$")
_LOWER_SNAKE = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
_UPPER_SNAKE = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$")
_VERSION = re.compile(r"^v[1-9][0-9]*((alpha|beta)[1-9][0-9]*)?$")
_MAP = re.compile(r"^map<(\S+), (\S+)>$")


class Names:
    """Every type of a set of files, to find what a name means where it stands."""

    def __init__(self, files):
        self.file_of = {}
        for path, types in WELL_KNOWN.items():
            self.file_of.update({f"google.protobuf.{name}": path for name in types})
        for file in files:
            for declared in file.messages + file.enums:
                self.file_of[declared.full_name] = file.path

    def resolve(self, name, scope):
        """The full name: innermost scope first. As written when it is a scalar or unknown."""
        if name in SCALARS:
            return name
        if name.startswith("."):
            return name[1:]
        parts = scope.split(".")
        for depth in range(len(parts), -1, -1):
            candidate = ".".join(parts[:depth] + [name])
            if candidate in self.file_of:
                return candidate
        return name

    def resolve_field_type(self, written, scope):
        """As `resolve`, for the inside of a map too."""
        found = _MAP.match(written)
        if found:
            return f"map<{found.group(1)}, {self.resolve(found.group(2), scope)}>"
        return self.resolve(written, scope)

    def known(self, full_name):
        """Whether it is a scalar, a map key or a declared type."""
        return full_name in SCALARS or full_name in self.file_of


def lint(files):
    """Faults of a set of files that may import each other, as lines of text."""
    names = Names(files)
    faults = []
    for file in files:
        linter = _Linter(file, names)
        linter.lint({other.path for other in files})
        faults += sorted(linter.faults, key=lambda fault: fault[0])
    lines = [f"{path}:{line}: {text}" for (path, line), text in faults]
    return lines + _unequal_options(files) + _shared_messages(files, names)


def _unequal_options(files):
    """Stubs of one package end up in one place."""
    first = {}
    faults = []
    for file in files:
        options = {key: value for key, value in file.options.items() if key not in OWN_OPTIONS}
        path, reference = first.setdefault(file.package, (file.path, options))
        if options != reference:
            faults.append(f"{file.path}:1: file options differ from those of {path}")
    return faults


def _shared_messages(files, names):
    """A message is request or response of one RPC, so that each can grow alone."""
    users = {}
    faults = []
    for file in files:
        for service in file.services:
            for rpc in service.rpcs:
                for written in {rpc.request, rpc.response}:
                    user = users.setdefault(names.resolve(written, service.full_name), rpc)
                    if user is not rpc:
                        faults.append(f"{file.path}:{rpc.line}: {written} is already used by "
                                      f"rpc {user.name}")
    return faults


class _Linter:
    """Collects ((path, line), text) for one file."""

    def __init__(self, file, names):
        self.file = file
        self.names = names
        self.faults = []
        self.used = set()

    def fault(self, line, text):
        self.faults.append(((self.file.path, line), text))

    def name(self, node, kind, pattern, style):
        """A declaration's name and its comment."""
        if not pattern.match(node.name):
            self.fault(node.line, f"{kind} {node.name}: name is not {style}")
        if not node.comment:
            self.fault(node.line, f"{kind} {node.name}: no comment above it")

    def lint(self, paths):
        self.header()
        for message in self.file.messages:
            self.message(message)
        for enum in self.file.enums:
            self.enum(enum)
        for service in self.file.services:
            self.service(service)
        self.imports(paths)

    def header(self):
        folder, _, base = self.file.path.rpartition("/")
        if self.file.syntax != "proto3":
            self.fault(1, 'syntax is not "proto3"')
        if not self.file.comment:
            self.fault(1, "no comment opens the file")
        if not _LOWER_SNAKE.match(base.removesuffix(".proto")):
            self.fault(1, "file name is not lower_snake_case.proto")
        if self.file.package != folder.replace("/", "."):
            self.fault(1, f"package {self.file.package or '(none)'} is not the folder "
                          f"{folder or '(root)'}")
        if not _VERSION.match(self.file.package.split(".")[-1]):
            self.fault(1, f"package {self.file.package} does not end in a version")

    def imports(self, paths):
        seen = set()
        for item in self.file.imports:
            if item.path in seen:
                self.fault(item.line, f"{item.path}: imported twice")
            seen.add(item.path)
            if item.path not in paths and item.path not in WELL_KNOWN:
                self.fault(item.line, f"{item.path}: no such file")
            elif item.kind != "public" and WELL_KNOWN.get(item.path) != [] \
                    and item.path not in self.used:
                self.fault(item.line, f"{item.path}: imported and not used")
        for path in sorted(self.used - seen - {self.file.path}):
            self.fault(1, f"{path}: used and not imported")

    def type(self, written, scope, line):
        """A type that is used: it exists and its file is imported."""
        for part in re.findall(r"[\w.]+", written.removeprefix("map<")):
            full_name = self.names.resolve(part, scope)
            if not self.names.known(full_name):
                self.fault(line, f"{part}: unknown type")
            elif full_name in self.names.file_of:
                self.used.add(self.names.file_of[full_name])

    def message(self, message):
        self.name(message, "message", _PASCAL, "PascalCase")
        for oneof in message.oneofs:
            self.name(oneof, "oneof", _LOWER_SNAKE, "lower_snake_case")
        numbers, words = {}, set()
        for field in message.fields:
            self.name(field, "field", _LOWER_SNAKE, "lower_snake_case")
            self.type(field.type, message.full_name, field.line)
            if field.label == "required":
                self.fault(field.line, f"field {field.name}: `required` cannot be taken back")
            if field.label and field.oneof:
                self.fault(field.line, f"field {field.name}: {field.label} inside a oneof")
            if not 1 <= field.number <= proto_parse.NUMBER_MAX or 19000 <= field.number <= 19999:
                self.fault(field.line, f"field {field.name}: number {field.number} not allowed")
            if field.number in numbers:
                self.fault(field.line, f"field {field.name}: number {field.number} is already "
                                       f"{numbers[field.number]}")
            numbers[field.number] = field.name
            self.unreserved(field, "field", message.reserved)
            if field.name in words:
                self.fault(field.line, f"field {field.name}: declared twice")
            words.add(field.name)

    def unreserved(self, node, kind, reserved):
        if reserved.has(node.number):
            self.fault(node.line, f"{kind} {node.name}: number {node.number} is reserved")
        if node.name in reserved.names:
            self.fault(node.line, f"{kind} {node.name}: the name is reserved")

    def enum(self, enum):
        self.name(enum, "enum", _PASCAL, "PascalCase")
        prefix = upper_snake(enum.name) + "_"
        if not enum.values or enum.values[0].number != 0 \
                or enum.values[0].name != f"{prefix}UNSPECIFIED":
            self.fault(enum.line, f"enum {enum.name}: the first value is not "
                                  f"{prefix}UNSPECIFIED = 0")
        numbers = {}
        for value in enum.values:
            self.name(value, "value", _UPPER_SNAKE, "UPPER_SNAKE_CASE")
            if not value.name.startswith(prefix):
                self.fault(value.line, f"value {value.name}: does not begin with {prefix}")
            if value.number in numbers:
                self.fault(value.line, f"value {value.name}: number {value.number} is already "
                                       f"{numbers[value.number]}")
            numbers[value.number] = value.name
            self.unreserved(value, "value", enum.reserved)

    def service(self, service):
        self.name(service, "service", _PASCAL, "PascalCase")
        if not service.name.endswith("Service"):
            self.fault(service.line, f"service {service.name}: name does not end in Service")
        for rpc in service.rpcs:
            self.name(rpc, "rpc", _PASCAL, "PascalCase")
            for written, suffix in [(rpc.request, "Request"), (rpc.response, "Response")]:
                self.type(written, service.full_name, rpc.line)
                allowed = [f"{rpc.name}{suffix}", f"{service.name}{rpc.name}{suffix}"]
                if written.rpartition(".")[2] not in allowed:
                    self.fault(rpc.line, f"rpc {rpc.name}: {written} is not {allowed[0]}")


def upper_snake(name):
    """TierOutcome -> TIER_OUTCOME, HTTPCode2 -> HTTP_CODE2."""
    words = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", name)
    return words.upper()
