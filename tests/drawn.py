"""XMP as photo programs write it, and collages of faces that somebody drew boxes around."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.odd import turned

Box = tuple[float, float, float, float]
SPACES = " ".join(
    f'xmlns:{prefix}="{uri}"'
    for prefix, uri in {
        "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
        "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
        "stArea": "http://ns.adobe.com/xmp/sType/Area#",
        "MP": "http://ns.microsoft.com/photo/1.2/",
        "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
        "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
        "acdsee-rs": "http://ns.acdsee.com/regions/",
        "acdsee-stDim": "http://ns.acdsee.com/sType/Dimensions#",
        "acdsee-stArea": "http://ns.acdsee.com/sType/Area#",
        "xmpNote": "http://ns.adobe.com/xmp/note/",
    }.items()
)


def packet(inside: str, more: str = "") -> bytes:
    """XMP with these properties, as elements and, in `more`, as attributes."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP '
        'Core 4.4.0-Exiv2">\n <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n  <rdf:Description '
        f'rdf:about="" {SPACES} {more}>{inside}</rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n'
        + 20 * (99 * " " + "\n")
        + '<?xpacket end="w"?>'
    ).encode()


def area(box: Sequence[object]) -> tuple[object, ...]:
    """x, y of the centre, and width and height, of x0, y0, x1, y1; anything but four numbers as it is."""
    if not all(isinstance(side, int | float) for side in box):
        return tuple(box)
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


def digikam(faces: Mapping[str, Sequence[object]], size: tuple[int, int] = (840, 700), unit: str = "normalized") -> str:
    """MWG's regions as digiKam writes them by Exiv2: attributes, and a Description in each item."""
    regions = ""
    for name, box in faces.items():
        x, y, w, h = area(box)
        regions += (
            f'<rdf:li><rdf:Description mwg-rs:Name="{name}" mwg-rs:Type="Face"><mwg-rs:Area stArea:x="{x}" '
            f'stArea:y="{y}" stArea:w="{w}" stArea:h="{h}" stArea:unit="{unit}"/></rdf:Description></rdf:li>'
        )
    return (
        f'<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions stDim:w="{size[0]}" '
        f'stDim:h="{size[1]}" stDim:unit="pixel"/><mwg-rs:RegionList><rdf:Bag>{regions}</rdf:Bag>'
        "</mwg-rs:RegionList></mwg-rs:Regions>"
    )


def exiftool(faces: Mapping[str, Sequence[object]], size: tuple[int, int] = (840, 700)) -> str:
    """The same as exiftool writes it: elements with parseType."""
    regions = ""
    for name, box in faces.items():
        sides = "".join(
            f"<stArea:{side}>{value}</stArea:{side}>" for side, value in zip("xywh", area(box), strict=True)
        )
        regions += (
            '<rdf:li rdf:parseType="Resource">\n<mwg-rs:Area rdf:parseType="Resource">\n'
            f"{sides}<stArea:unit>normalized</stArea:unit></mwg-rs:Area>\n<mwg-rs:Name>{name}</mwg-rs:Name>\n"
            "<mwg-rs:Type>Face</mwg-rs:Type></rdf:li>\n"
        )
    return (
        '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions rdf:parseType="Resource"><stDim:h>'
        f"{size[1]}</stDim:h><stDim:unit>pixel</stDim:unit><stDim:w>{size[0]}</stDim:w></mwg-rs:AppliedToDimensions>"
        f"<mwg-rs:RegionList><rdf:Bag>{regions}</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
    )


def microsoft(faces: Mapping[str, Sequence[object]]) -> str:
    """Microsoft's regions as digiKam writes them: attributes of the items."""
    items = ""
    for name, (x0, y0, x1, y1) in faces.items():
        items += (
            f'<rdf:li MPReg:PersonDisplayName="{name}" MPReg:Rectangle="{x0:g}, {y0:g}, {x1 - x0:.6g}, {y1 - y0:.6g}"/>'
        )
    listed = f"<MPRI:Regions><rdf:Bag>{items}</rdf:Bag></MPRI:Regions>"
    return f'<MP:RegionInfo rdf:parseType="Resource">{listed}</MP:RegionInfo>'


def acdsee(faces: Mapping[str, Sequence[object]], assigned: str = "manual") -> str:
    """ACDSee's regions."""
    items = ""
    for name, box in faces.items():
        x, y, w, h = area(box)
        items += (
            f'<rdf:li><rdf:Description acdsee-rs:Type="Face" acdsee-rs:Name="{name}" acdsee-rs:NameAssignType='
            f'"{assigned}"><acdsee-rs:DLYArea acdsee-stArea:x="{x}" acdsee-stArea:y="{y}" acdsee-stArea:w="{w}" '
            f'acdsee-stArea:h="{h}"/></rdf:Description></rdf:li>'
        )
    return (
        '<acdsee-rs:Regions rdf:parseType="Resource"><acdsee-rs:AppliedToDimensions acdsee-stDim:w="840" '
        f'acdsee-stDim:h="700"/><acdsee-rs:RegionList><rdf:Bag>{items}</rdf:Bag></acdsee-rs:RegionList>'
        "</acdsee-rs:Regions>"
    )


# collages -----------------------------------------------------------------------

PLACES = {"s1": (40, 30), "s5": (330, 110), "s7": (610, 20)}  # of the corner at the top left
WIDTH, HEIGHT, FACE = 840, 400, (184, 224)  # a wide picture that is unlike itself however it is turned


def boxes() -> dict[str, Box]:
    """Where the faces of a collage lie, in pixels of the upright picture."""
    return {name: (x, y, x + FACE[0], y + FACE[1]) for name, (x, y) in PLACES.items()}


def collage(att: Path, number: int) -> Image.Image:
    """Three people's photos of that number on one grey picture."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), (120, 120, 120))
    for name, place in PLACES.items():
        with Image.open(att / name / f"{number}.pgm") as photo:
            canvas.paste(photo.convert("RGB").resize(FACE, Image.Resampling.BICUBIC), place)
    return canvas


def saved(image: Image.Image, orientation: int, form: str = "JPEG", xmp: bytes | None = None) -> bytes:
    """A file of the picture as a camera stores it that was held in that way."""
    exif = Image.Exif()
    exif[274] = orientation
    out = io.BytesIO()
    more = {} if xmp is None else {"xmp": xmp}
    turned(image, orientation).save(out, form, exif=exif.tobytes(), quality=92, **more)
    return out.getvalue()


def stored(box: Box, orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Box:
    """Where a box of the upright picture lies in the stored one, as shares of its sides: by turning a picture of it."""
    mask = np.zeros(size[::-1], np.uint8)
    x0, y0, x1, y1 = map(round, box)
    mask[y0:y1, x0:x1] = 255
    picture = turned(Image.fromarray(mask), orientation)
    left, top, right, bottom = picture.getbbox()
    return left / picture.width, top / picture.height, right / picture.width, bottom / picture.height


def stored_size(orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> tuple[int, int]:
    return size if orientation < 5 else size[::-1]
