"""Names of folders that are ignored in a user's data set.

Operating systems, network drives, sync clients and photo programs put trash, previews
and settings beside pictures. A picture in such a folder is at best a copy.
"""

import re
from functools import cache

from helpers.words import composed

KINDS = {
    "hidden": r"\..*|__.*",  # .git, .Trash-1000, .thumbnails, __MACOSX, __pycache__
    "a network drive's own (thumbnails, trash, snapshots)": (
        r"@(eadir|tmp|recycle|recently-snapshot|(share|syno|__thumb|transcode).*)"
        r"|#(synorecycle|recycle|snapshot)|network (trash folder|recycle bin)"
        r"|temporary items"
    ),
    "the system's own (trash, settings, lost files)": (
        r"\$(recycle\.bin|extend|windows\.~.*)|recycler|found\.\d{3}|lost\+found"
        r"|system volume information"
    ),
    "a sync client's or a program's own": (
        r"onedrivetemp|dropbox\.cache|~sync.*|node_modules|cvs"
    ),
    "a photo program's own (library, previews, thumbnails)": (
        r".*\.(\w*library|lr(cat-)?data|cocatalog(db)?|fcpbundle)|captureone"
        r"|_?thumbnails?|_thumbs?"
    ),
}
# Between class folders these may be class names: of waste, of hands.
INSIDE = {"thumbnails, trash or a cache": r"thumbs?|trash|_?cache|previews?"}


@cache
def reason(folder: str, inside: bool = False) -> str:
    """Return why a folder of this name is ignored, or "".

    `inside` a class folder more names are ignored than beside it.
    """
    name = composed(folder).casefold()
    kinds = KINDS | INSIDE if inside else KINDS
    return next((kind for kind, p in kinds.items() if re.fullmatch(p, name)), "")
