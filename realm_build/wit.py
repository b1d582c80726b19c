"""Reads guest_src/realm.wit: a parser for the subset of WIT that Realm's interface uses.

The subset: one package; interfaces of records, enums, functions and `use`; one world of imports and
exports; scalars, bool, string, list<T> and result<T, E>; `//` and `/* */` comments, `///` doc comments.
All else is an error with a line number, so that the emitters (wit_*.py) never meet a case they do not
know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

SCALARS = ("bool", "u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64")
KEYWORDS = frozenset(
    "as async bool borrow char constructor enum export f32 f64 flags from func future import include "
    "interface list option own package record resource result s16 s32 s64 s8 static stream string tuple "
    "type u16 u32 u64 u8 use variant with world".split()
)


class WitError(Exception):
    """The source does not follow the subset; the message says where."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


# ---- what a source file says ----


@dataclass(frozen=True)
class Scalar:
    name: str


@dataclass(frozen=True)
class String:
    pass


@dataclass(frozen=True)
class List:
    item: Type


@dataclass(frozen=True)
class Result:
    ok: Type | None
    error: Type | None


@dataclass(frozen=True)
class Field:
    name: str
    type: Type
    docs: str


@dataclass(frozen=True)
class Record:
    name: str
    fields: tuple[Field, ...]
    docs: str


@dataclass(frozen=True)
class Case:
    name: str
    docs: str


@dataclass(frozen=True)
class Enum:
    name: str
    cases: tuple[Case, ...]
    docs: str


Type = Scalar | String | List | Result | Record | Enum
Named = Record | Enum


@dataclass(frozen=True)
class Function:
    name: str
    params: tuple[Field, ...]
    result: Type | None
    docs: str


@dataclass
class Interface:
    name: str
    docs: str
    types: dict[str, Named] = field(default_factory=dict)  # declared here
    uses: dict[str, tuple[str, Named]] = field(default_factory=dict)  # name -> (its interface, type)
    functions: dict[str, Function] = field(default_factory=dict)

    def find(self, name: str) -> Named | None:
        if name in self.uses:
            return self.uses[name][1]
        return self.types.get(name)


@dataclass(frozen=True)
class World:
    name: str
    imports: tuple[Interface, ...]
    exports: tuple[Interface, ...]


@dataclass
class Package:
    namespace: str
    name: str
    version: str
    interfaces: dict[str, Interface] = field(default_factory=dict)
    worlds: dict[str, World] = field(default_factory=dict)

    def path(self, interface: Interface) -> str:
        """The interface's full name, which is also the module name of its core imports."""
        return f"{self.namespace}:{self.name}/{interface.name}@{self.version}"

    @property
    def types(self) -> tuple[Named, ...]:
        return tuple(item for interface in self.interfaces.values() for item in interface.types.values())

    @property
    def world(self) -> World:
        (world,) = self.worlds.values()
        return world


# ---- tokens ----


@dataclass(frozen=True)
class Token:
    kind: str  # "name", "version", "end", or the punctuation itself
    text: str
    line: int
    docs: str = ""


def tokenize(source: str) -> Iterator[Token]:
    """Tokens with the doc comment that stands before each."""
    position, line, docs = 0, 1, list[str]()
    while position < len(source):
        char = source[position]
        if char.isspace():
            line += char == "\n"
            position += 1
        elif source.startswith("//", position):
            end = line_end(source, position)
            if source.startswith("///", position):
                docs.append(source[position + 3 : end].strip())
            position = end
        elif source.startswith("/*", position):
            end = source.find("*/", position + 2)
            if end < 0:
                raise WitError(line, "comment without end")
            line += source.count("\n", position, end)
            position = end + 2
        else:
            token = read_token(source, position, line, "\n".join(docs))
            docs.clear()
            position += len(token.text)
            yield token
    yield Token("end", "", line)


def line_end(source: str, position: int) -> int:
    end = source.find("\n", position)
    return len(source) if end < 0 else end


def read_token(source: str, position: int, line: int, docs: str) -> Token:
    if source.startswith("->", position):
        return Token("->", "->", line, docs)
    char = source[position]
    if char in "{}()<>,:;=./@":
        return Token(char, char, line, docs)
    end = position
    while end < len(source) and is_word(source, end):
        end += 1
    text = source[position:end]
    if not text:
        raise WitError(line, f"unexpected character {char!r}")
    if text[0].isdigit():
        return Token("version", read_version(source, position), line, docs)
    check_name(text, line)
    return Token("name", text, line, docs)


def is_word(source: str, position: int) -> bool:
    char = source[position]
    return char.isascii() and (char.isalnum() or (char == "-" and not source.startswith("->", position)))


def read_version(source: str, position: int) -> str:
    end = position
    while end < len(source) and (source[end].isdigit() or source[end] == "."):
        end += 1
    return source[position:end]


def check_name(text: str, line: int) -> None:
    for word in text.split("-"):
        if not word or not word[0].isalpha() or not (word.islower() or word.isupper()):
            raise WitError(line, f"{text!r} is not a kebab-case name")


# ---- the parser ----


def parse(source: str) -> Package:
    """The package a source text declares. Raises WitError."""
    return Parser(source).package()


class Parser:
    """Recursive descent over the tokens; names must be declared before they are used."""

    def __init__(self, source: str) -> None:
        self.tokens = list(tokenize(source))
        self.position = 0

    # -- the cursor --

    @property
    def current(self) -> Token:
        return self.tokens[self.position]

    def fail(self, message: str) -> NoReturn:
        raise WitError(self.current.line, message)

    def take(self, kind: str) -> Token:
        token = self.current
        if token.kind != kind:
            self.fail(f"expected {kind!r}, found {token.text or 'the end of the file'!r}")
        self.position += 1
        return token

    def accept(self, text: str) -> bool:
        if self.current.text != text:
            return False
        self.position += 1
        return True

    def keyword(self, text: str) -> Token:
        if self.current.text != text:
            self.fail(f"expected {text!r}, found {self.current.text!r}")
        return self.take("name")

    def new_name(self, *taken: dict[str, object]) -> Token:
        """A name that is being declared: no keyword, and not in use in the same scope."""
        if self.current.text in KEYWORDS:
            self.fail(f"{self.current.text!r} is a keyword of WIT")
        if any(self.current.text in names for names in taken):
            self.fail(f"{self.current.text!r} is declared twice (types and functions share one name space)")
        return self.take("name")

    # -- declarations --

    def package(self) -> Package:
        self.keyword("package")
        namespace = self.take("name").text
        self.take(":")
        name = self.take("name").text
        self.take("@")
        package = Package(namespace, name, self.take("version").text)
        self.take(";")
        while self.current.kind != "end":
            match self.current.text:
                case "interface":
                    self.interface(package)
                case "world":
                    self.world(package)
                case other:
                    self.fail(f"expected 'interface' or 'world', found {other!r}")
        if len(package.worlds) != 1:
            self.fail(f"expected one world, found {len(package.worlds)}")
        return package

    def interface(self, package: Package) -> None:
        docs = self.keyword("interface").docs
        interface = Interface(self.new_name({**package.interfaces}).text, docs)
        package.interfaces[interface.name] = interface
        self.take("{")
        while not self.accept("}"):
            match self.current.text:
                case "use":
                    self.use(package, interface)
                case "record":
                    self.record(interface)
                case "enum":
                    self.enum(interface)
                case _:
                    self.function(interface)

    def use(self, package: Package, interface: Interface) -> None:
        self.keyword("use")
        source = self.known_interface(package)
        self.take(".")
        self.take("{")
        while True:
            item = source.types.get(self.current.text)
            if item is None:
                self.fail(f"interface {source.name!r} declares no type {self.current.text!r}")
            interface.uses[self.new_name(*self.scope(interface)).text] = (source.name, item)
            if not self.more("}"):
                break
        self.take(";")

    def known_interface(self, package: Package) -> Interface:
        interface = package.interfaces.get(self.current.text)
        if interface is None:
            self.fail(f"no interface {self.current.text!r}")
        self.take("name")
        return interface

    @staticmethod
    def scope(interface: Interface) -> tuple[dict[str, object], ...]:
        return {**interface.types}, {**interface.uses}, {**interface.functions}

    def more(self, end: str) -> bool:
        """After an item of a comma-separated list: is there another? Takes the closing token."""
        if self.accept(","):
            return not self.accept(end)
        self.take(end)
        return False

    def record(self, interface: Interface) -> None:
        docs = self.keyword("record").docs
        name = self.new_name(*self.scope(interface)).text
        self.take("{")
        fields = self.fields(interface, "}")
        if not fields:
            self.fail(f"record {name!r} has no field")
        interface.types[name] = Record(name, fields, docs)

    def fields(self, interface: Interface, end: str) -> tuple[Field, ...]:
        """`name: type, ...` up to and with the closing token: a record's fields, a function's parameters."""
        fields: dict[str, Field] = {}
        open_list = not self.accept(end)
        while open_list:
            name = self.new_name({**fields})
            self.take(":")
            fields[name.text] = Field(name.text, self.type(interface), name.docs)
            open_list = self.more(end)
        return tuple(fields.values())

    def enum(self, interface: Interface) -> None:
        docs = self.keyword("enum").docs
        name = self.new_name(*self.scope(interface)).text
        cases: dict[str, Case] = {}
        self.take("{")
        open_list = True
        while open_list:
            case = self.new_name({**cases})
            cases[case.text] = Case(case.text, case.docs)
            open_list = self.more("}")
        if len(cases) > 256:
            self.fail(f"enum {name!r} has more than 256 cases")
        interface.types[name] = Enum(name, tuple(cases.values()), docs)

    def function(self, interface: Interface) -> None:
        name = self.new_name(*self.scope(interface))
        self.take(":")
        self.keyword("func")
        self.take("(")
        params = self.fields(interface, ")")
        result = self.type(interface, in_result=True) if self.accept("->") else None
        self.take(";")
        interface.functions[name.text] = Function(name.text, params, result, name.docs)

    def world(self, package: Package) -> None:
        self.keyword("world")
        name = self.new_name({**package.worlds}).text
        self.take("{")
        imports: list[Interface] = []
        exports: list[Interface] = []
        while not self.accept("}"):
            target = exports if self.current.text == "export" else imports
            self.keyword("export" if target is exports else "import")
            target.append(self.known_interface(package))
            self.take(";")
        package.worlds[name] = World(name, tuple(imports), tuple(exports))

    # -- types --

    def type(self, interface: Interface, in_result: bool = False) -> Type:
        line, name = self.current.line, self.take("name").text
        if name in SCALARS:
            return Scalar(name)
        if name == "string":
            return String()
        if name == "list":
            return self.list_type(interface)
        if name == "result":
            if not in_result:
                raise WitError(line, "a result may only be what a function returns")
            return self.result_type(interface)
        found = interface.find(name)
        if found is None:
            raise WitError(line, f"no type {name!r} here")
        return found

    def list_type(self, interface: Interface) -> List:
        self.take("<")
        line, item = self.current.line, self.type(interface)
        self.take(">")
        if has_pointer(item):
            raise WitError(line, "lists hold scalars, enums or records of these")
        return List(item)

    def result_type(self, interface: Interface) -> Result:
        self.take("<")
        ok = self.type(interface)
        self.take(",")
        line, error = self.current.line, self.type(interface)
        self.take(">")
        if not isinstance(error, Enum):
            raise WitError(line, "the error of a result is an enum")
        return Result(ok, error)


def has_pointer(item: Type) -> bool:
    """Whether a value of this type refers to memory outside its own bytes."""
    if isinstance(item, Record):
        return any(has_pointer(entry.type) for entry in item.fields)
    if isinstance(item, Result):
        return any(has_pointer(part) for part in (item.ok, item.error) if part is not None)
    return isinstance(item, String | List)
