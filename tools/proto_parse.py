"""A small proto3 parser: what proto_check.py needs to know of a .proto file.

Reads messages (nested ones too), fields, maps, oneofs, enums, services, options, reserved ranges
and the comment right above each. Does not read extensions and groups: proto3 has no use for them
here, and they end in a ParseError like any other word in the wrong place.
"""

import re
from dataclasses import dataclass, field

NUMBER_MAX = 2**29 - 1

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+) | (?P<newline>\n)
      | (?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<word>\.?[A-Za-z_][\w.]*)
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|\d[\w.]*))
      | (?P<mark>[{}()\[\]<>=;,:/.-])""", re.VERBOSE | re.DOTALL)


class ParseError(Exception):
    """`path:line: what is wrong`."""


@dataclass
class Token:
    """One token; `comment` is the text of the comment that ends on the line above it."""
    kind: str
    text: str
    line: int
    comment: str


@dataclass
class Node:
    """What every declaration has."""
    name: str
    line: int
    comment: str


@dataclass
class Field(Node):
    """`type` is as written; a map has the label `map` and the type `map<key, value>`."""
    type: str
    number: int
    label: str = ""
    oneof: str = ""


@dataclass
class Oneof(Node):
    """Its fields stand in the message, each with the oneof's name."""


@dataclass
class EnumValue(Node):
    """A constant of an enum."""
    number: int


@dataclass
class Reserved:
    """Numbers as inclusive ranges, and names."""
    ranges: list = field(default_factory=list)
    names: list = field(default_factory=list)

    def has(self, number):
        """Whether the number lies in a range."""
        return any(first <= number <= last for first, last in self.ranges)


@dataclass
class Enum(Node):
    """`full_name` includes the package and the messages around it."""
    full_name: str
    values: list = field(default_factory=list)
    reserved: Reserved = field(default_factory=Reserved)


@dataclass
class Message(Node):
    """Nested messages and enums stand in the file's lists, by full name."""
    full_name: str
    fields: list = field(default_factory=list)
    oneofs: list = field(default_factory=list)
    reserved: Reserved = field(default_factory=Reserved)


@dataclass
class Rpc(Node):
    """Types are as written."""
    request: str
    response: str
    client_streaming: bool
    server_streaming: bool


@dataclass
class Service(Node):
    """A service and its RPCs in order."""
    full_name: str
    rpcs: list = field(default_factory=list)


@dataclass
class Import:
    """`kind` is empty, `public` or `weak`."""
    path: str
    kind: str
    line: int


@dataclass
class File:
    """One .proto file; `path` is relative to the proto root, as in `import`."""
    path: str
    comment: str = ""
    syntax: str = ""
    package: str = ""
    imports: list = field(default_factory=list)
    options: dict = field(default_factory=dict)
    messages: list = field(default_factory=list)
    enums: list = field(default_factory=list)
    services: list = field(default_factory=list)


def tokenize(path, text):
    """The tokens of a file with the comments attached, an `end` token last."""
    tokens, at, line = [], 0, 1
    above, above_ends = "", 0  # The last comment that did not share its line with code before it.
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise ParseError(f"{path}:{line}: unexpected {text[at]!r}")
        kind, piece, at = found.lastgroup, found.group(), found.end()
        last_line = line + piece.count("\n")
        if kind == "comment":
            words = " ".join(piece.strip("/*").replace("\n", " ").split())
            if not tokens or tokens[-1].line != line:
                above = f"{above} {words}".strip() if above_ends == line - 1 else words
                above_ends = last_line
        elif kind not in ("space", "newline"):
            comment = above if above_ends in (line - 1, line) else ""
            above_ends = 0  # It belongs to this token alone.
            tokens.append(Token(kind, piece, line, comment))
        line = last_line
    tokens.append(Token("end", "end of file", line, ""))
    return tokens


def parse(path, text):
    """The File of a .proto text; raises ParseError."""
    return _Parser(path, text).file()


class _Parser:
    """Recursive descent; each method begins at its first token and ends past its last."""

    def __init__(self, path, text):
        self.result = File(path)
        self.tokens = tokenize(path, text)
        self.at = 0

    # Tokens.

    def peek(self):
        return self.tokens[self.at]

    def next(self):
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def fail(self, token, wanted):
        raise ParseError(f"{self.result.path}:{token.line}: {wanted} expected, found {token.text}")

    def expect(self, text):
        token = self.next()
        if token.text != text:
            self.fail(token, repr(text))
        return token

    def accept(self, text):
        if self.peek().text == text and self.peek().kind != "string":
            return self.next()
        return None

    def take(self, kind):
        token = self.next()
        if token.kind != kind:
            self.fail(token, kind)
        return token

    def string(self):
        text = self.take("string").text[1:-1]
        while self.peek().kind == "string":
            text += self.next().text[1:-1]
        return text

    def integer(self):
        negative = self.accept("-") is not None
        token = self.take("number")
        try:
            value = int(token.text, 0)
        except ValueError:
            self.fail(token, "integer")
        return -value if negative else value

    # The file.

    def file(self):
        self.result.comment = self.peek().comment
        handlers = {
            "syntax": self.syntax, "package": self.package, "import": self.import_,
            "option": lambda: self.option(self.result.options),
            "message": lambda: self.message(self.result.package),
            "enum": lambda: self.enum(self.result.package), "service": self.service,
        }
        while self.peek().kind != "end":
            if self.accept(";"):
                continue
            handler = handlers.get(self.peek().text)
            if not handler:
                self.fail(self.peek(), "declaration")
            handler()
        return self.result

    def syntax(self):
        self.expect("syntax")
        self.expect("=")
        self.result.syntax = self.string()
        self.expect(";")

    def package(self):
        self.expect("package")
        self.result.package = self.take("word").text
        self.expect(";")

    def import_(self):
        line = self.expect("import").line
        kind = self.next().text if self.peek().kind == "word" else ""
        self.result.imports.append(Import(self.string(), kind, line))
        self.expect(";")

    def option(self, options):
        """`option name = value;` The value is kept as text."""
        self.expect("option")
        name = self.until("=")
        options[name] = self.until(";")

    def until(self, end):
        """The text of the tokens up to `end`, which is skipped; brackets are balanced."""
        texts, depth = [], 0
        while True:
            token = self.next()
            if token.kind == "end":
                self.fail(token, repr(end))
            if depth == 0 and token.text == end:
                return "".join(texts)
            depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(token.text, 0)
            texts.append(token.text)

    # Messages.

    def message(self, scope):
        comment = self.expect("message").comment
        name = self.take("word")
        message = Message(name.text, name.line, comment, f"{scope}.{name.text}")
        self.result.messages.append(message)
        self.expect("{")
        while not self.accept("}"):
            self.message_item(message)

    def message_item(self, message):
        start = self.peek()
        after = self.tokens[self.at + 1].kind if start.kind != "end" else "end"
        if self.accept(";"):
            return
        if start.text == "option":
            self.option({})
        elif start.text == "reserved":
            self.reserved(message.reserved, NUMBER_MAX)
        elif start.text == "message" and after == "word":
            self.message(message.full_name)
        elif start.text == "enum" and after == "word":
            self.enum(message.full_name)
        elif start.text == "oneof":
            self.oneof(message)
        else:
            message.fields.append(self.field(""))

    def oneof(self, message):
        comment = self.expect("oneof").comment
        name = self.take("word")
        message.oneofs.append(Oneof(name.text, name.line, comment))
        self.expect("{")
        while not self.accept("}"):
            if self.peek().text == "option":
                self.option({})
            elif not self.accept(";"):
                message.fields.append(self.field(name.text))

    def field(self, oneof):
        start = self.take("word")
        label, type_ = "", start.text
        if type_ == "map" and self.accept("<"):
            key = self.take("word").text
            self.expect(",")
            label, type_ = "map", f"map<{key}, {self.take('word').text}>"
            self.expect(">")
        elif type_ in ("optional", "repeated", "required"):
            label, type_ = type_, self.take("word").text
        name = self.take("word")
        self.expect("=")
        number = self.integer()
        self.bracket_options()
        self.expect(";")
        return Field(name.text, start.line, start.comment, type_, number, label, oneof)

    def bracket_options(self):
        if self.accept("["):
            self.until("]")

    def reserved(self, reserved, maximum):
        self.expect("reserved")
        while True:
            if self.peek().kind == "string":
                reserved.names.append(self.string())
            else:
                first = last = self.integer()
                if self.accept("to"):
                    last = maximum if self.accept("max") else self.integer()
                reserved.ranges.append((first, last))
            if not self.accept(","):
                break
        self.expect(";")

    # Enums and services.

    def enum(self, scope):
        comment = self.expect("enum").comment
        name = self.take("word")
        enum = Enum(name.text, name.line, comment, f"{scope}.{name.text}")
        self.result.enums.append(enum)
        self.expect("{")
        while not self.accept("}"):
            if self.accept(";"):
                continue
            if self.peek().text == "option":
                self.option({})
            elif self.peek().text == "reserved":
                self.reserved(enum.reserved, 2**31 - 1)
            else:
                value = self.take("word")
                self.expect("=")
                enum.values.append(
                    EnumValue(value.text, value.line, value.comment, self.integer()))
                self.bracket_options()
                self.expect(";")

    def service(self):
        comment = self.expect("service").comment
        name = self.take("word")
        full_name = f"{self.result.package}.{name.text}"
        service = Service(name.text, name.line, comment, full_name)
        self.result.services.append(service)
        self.expect("{")
        while not self.accept("}"):
            if self.accept(";"):
                continue
            if self.peek().text == "option":
                self.option({})
            else:
                service.rpcs.append(self.rpc())

    def rpc(self):
        comment = self.expect("rpc").comment
        name = self.take("word")
        client_streaming, request = self.rpc_type()
        self.expect("returns")
        server_streaming, response = self.rpc_type()
        if self.accept("{"):
            self.until("}")
        else:
            self.expect(";")
        return Rpc(name.text, name.line, comment, request, response, client_streaming,
                   server_streaming)

    def rpc_type(self):
        self.expect("(")
        streaming = self.accept("stream") is not None
        name = self.take("word").text
        self.expect(")")
        return streaming, name
