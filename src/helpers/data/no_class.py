"""Folders that lie among one's pictures and hold none of them.

Systems, network drives, sync clients and photo programs leave trash, previews and
settings beside pictures. Their folders are known by name: a picture in one of them is
a copy at best.
"""

import re
from functools import cache

from helpers.words import composed

KINDS = {
    "hidden": r"\..* | __.*",  # .git, .Trash-1000, .thumbnails, __MACOSX, __pycache__
    "a network drive's own (thumbnails, trash, snapshots)": r"""
        @eadir | @tmp | @sharebin | @sharesnap | @database | @appstore | @docker
        | @syno.* | [#](?:recycle|snapshot|synorecycle)                    # Synology
        | @__thumb | @recycle | @recently-snapshot | @transcode            # QNAP
        | network\ trash\ folder | network\ recycle\ bin | temporary\ items
        | thevolumesettingsfolder                                          # AFP
    """,
    "the system's own (trash, settings, lost files)": r"""
        \$recycle\.bin | recycler | system\ volume\ information | \$windows\.~.*
        | \$extend | \$av_.* | config\.msi | found\.\d{3} | lost\+found
    """,
    "a sync client's own": r"onedrivetemp | dropbox\.cache | ~sync.*",
    "a program's own (packages)": r"node_modules | cvs",
    "a photo program's own (library, previews, thumbnails)": r"""
        .*\.(?:photoslibrary|photolibrary|migratedphotolibrary|aplibrary|lrdata
            |lrcat-data|cocatalog|cocatalogdb|imovielibrary|fcpbundle)
        | captureone | _?thumbnails? | _thumbs?
    """,
}
# Names that are classes of their own elsewhere: of waste, of hands.
INSIDE = {
    "thumbnails, trash or a cache": r"thumbs? | trash | _?cache | previews?",
}


@cache
def reason(folder: str, inside: bool = False) -> str:
    """Why no picture is taken from a folder of this name, or "".

    `inside` a class more names tell so than among classes.
    """
    name = composed(folder).casefold()
    kinds = KINDS | INSIDE if inside else KINDS
    found = (k for k, names in kinds.items() if re.fullmatch(names, name, re.VERBOSE))
    return next(found, "")
