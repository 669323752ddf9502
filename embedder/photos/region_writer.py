"""Write the faces of a photo as regions of a sidecar, as MWG defines them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from facegallery.embedder.photos.orientation import Box

SIGN = "facegallery"
NO_XML = re.compile("[\ufffe\uffff]")  # characters that a name may have and XML may not
# the toolkit, which every other program replaces by its own when it changes the file, and the creator
MARKS = f'x:xmptk="{SIGN}"', f'xmp:CreatorTool="{SIGN}"'

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" {toolkit}>
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"
    xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#"
    xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"
    {creator}>
   <mwg-rs:Regions rdf:parseType="Resource">
    <mwg-rs:AppliedToDimensions stDim:w="{width}" stDim:h="{height}" stDim:unit="pixel"/>
    <mwg-rs:RegionList>
     <rdf:Bag>
{regions}     </rdf:Bag>
    </mwg-rs:RegionList>
   </mwg-rs:Regions>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
REGION = """      <rdf:li rdf:parseType="Resource">
       <mwg-rs:Name>{name}</mwg-rs:Name>
       <mwg-rs:Type>Face</mwg-rs:Type>
       <mwg-rs:Area stArea:x="{x:.6f}" stArea:y="{y:.6f}" stArea:w="{w:.6f}" stArea:h="{h:.6f}"
        stArea:unit="normalized"/>
      </rdf:li>
"""


@dataclass(frozen=True)
class NamedBox:
    """A face of a photo: its person, and x0, y0, x1, y1 as shares of the sides of the stored picture."""

    name: str
    box: Box


def to_packet(faces: Sequence[NamedBox], width: int, height: int) -> bytes:
    """Return a sidecar's bytes. width, height: of the stored picture, in pixels."""
    regions = "".join(_region(face) for face in faces)
    return PACKET.format(toolkit=MARKS[0], creator=MARKS[1], width=width, height=height, regions=regions).encode()


def _region(face: NamedBox) -> str:
    x0, y0, x1, y1 = face.box
    name = escape(NO_XML.sub("\ufffd", face.name))
    return REGION.format(name=name, x=(x0 + x1) / 2, y=(y0 + y1) / 2, w=x1 - x0, h=y1 - y0)
