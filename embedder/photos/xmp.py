"""Read an XMP packet, in a photo or beside it, as plain dictionaries, lists and texts.

A packet is untrusted: it has at most MOST_BYTES, no DTD, no entities of its own and no deep nesting. Names are written
as `namespace name`, whatever prefix the packet gives to the namespace. RDF has several forms for the same thing, such
as attributes, elements and `rdf:parseType="Resource"`; all give the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

MOST_BYTES = 1 << 20
MOST_DEPTH = 64
MOST_ELEMENTS = 50_000
TWO_BYTES = b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<"  # how UTF-16 begins, in which zeros are no padding
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
XML = "http://www.w3.org/XML/1998/namespace "
ROOT, DESCRIPTION, ITEM, VALUE = RDF + "RDF", RDF + "Description", RDF + "li", RDF + "value"
LISTS = frozenset([RDF + "Bag", RDF + "Seq", RDF + "Alt"])
NOTE = "http://ns.adobe.com/xmp/note/ "
EXTENDED = NOTE + "HasExtendedXMP"  # names the parts of a packet that is too long for one segment of a JPEG
GUID, PART_HEAD = 32, 40  # bytes: of a part's name; of its name, the length of the whole and the part's place in it

Value = Any  # a text, a list of values, or a dictionary of values by their names


class XmpRefused(Exception):
    """A packet is not read; the message is the reason."""


@dataclass(slots=True)
class _Element:
    """An XML element. text: the pieces of its text."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[_Element] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


def read_xmp(packet: bytes) -> dict[str, Value]:
    """Return the properties of a packet by their names, each a text, a list or a dictionary of the same.

    Raise XmpRefused for a packet that is too long, too deep, no XML, or has a DTD.
    """
    fields: dict[str, Value] = {}
    for child in _root(_parsed(packet)).children:
        if child.name == DESCRIPTION:
            fields = _fields(child) | fields
    return fields


def joined(guid: Value, parts: Sequence[bytes]) -> bytes:
    """Return the packet whose parts are called `guid`; b"" where there are none.

    parts: each with its head, without the segment's. Raise XmpRefused where the whole is too long, or a part is missing
    or stands twice.
    """
    name = guid.encode("utf-8", "replace") if isinstance(guid, str) else b""
    mine = [part for part in parts if len(name) == GUID and part.startswith(name) and len(part) > PART_HEAD]
    if not mine:
        return b""
    if any(int.from_bytes(part[GUID : GUID + 4], "big") > MOST_BYTES for part in mine):
        raise XmpRefused(f"XMP of more than {MOST_BYTES:,} bytes")
    mine.sort(key=lambda part: part[GUID + 4 : PART_HEAD])
    at = 0
    for part in mine:
        if int.from_bytes(part[GUID + 4 : PART_HEAD], "big") != at:
            raise XmpRefused("extended XMP whose parts are not all there")
        at += len(part) - PART_HEAD
    if at != int.from_bytes(mine[0][GUID : GUID + 4], "big"):
        raise XmpRefused("extended XMP whose parts are not all there")
    return b"".join(part[PART_HEAD:] for part in mine)


def _parsed(packet: bytes) -> _Element:
    """Return the root element."""
    if len(packet) > MOST_BYTES:
        raise XmpRefused(f"XMP of more than {MOST_BYTES:,} bytes")
    top = _Element("")
    open_elements, count = [top], 0
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(open_elements) > MOST_DEPTH or count > MOST_ELEMENTS:
            raise XmpRefused(f"XMP of more than {MOST_DEPTH} levels or {MOST_ELEMENTS:,} elements")
        element = _Element(name, attributes)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def refuse(*_: object) -> int:
        raise XmpRefused("XMP with a DTD, which XMP never has")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: open_elements.pop()
    parser.CharacterDataHandler = lambda text: open_elements[-1].text.append(text)
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(packet if packet.startswith(TWO_BYTES) else packet.strip(b"\0\t\n\r "), True)  # noqa: FBT003
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise XmpRefused(f"XMP that is no XML: {error}") from None
    return top.children[0]


def _root(element: _Element) -> _Element:
    """Return the element `rdf:RDF`, which may be the root or stand in it."""
    found = (one for one in (element, *element.children) if one.name == ROOT)
    return next(found, _Element(ROOT))


def _value(element: _Element) -> Value:
    items = next((child for child in element.children if child.name in LISTS), None)
    if items is not None:
        return [_value(child) for child in items.children if child.name == ITEM]
    fields = _fields(element)
    return fields.get(VALUE, fields) if fields else "".join(element.text).strip()


def _fields(element: _Element) -> dict[str, Value]:
    """Return the properties of a resource; of two with one name the first."""
    fields: dict[str, Value] = {
        name: text for name, text in element.attributes.items() if " " in name and not name.startswith((RDF, XML))
    }
    for child in element.children:
        if child.name == DESCRIPTION:
            fields = _fields(child) | fields
        elif child.name not in fields:
            fields[child.name] = _value(child)
    return fields
