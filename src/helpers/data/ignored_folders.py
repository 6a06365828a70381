"""Names of folders that are ignored in a user's data set.

Operating systems, network drives, sync clients and photo programs put trash, previews
and settings beside pictures. A picture in such a folder is at best a copy.
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
# Between class folders these may be class names: of waste, of hands.
INSIDE = {
    "thumbnails, trash or a cache": r"thumbs? | trash | _?cache | previews?",
}


@cache
def reason(folder: str, inside: bool = False) -> str:
    """Return why a folder of this name is ignored, or "".

    `inside` a class folder more names are ignored than beside it.
    """
    name = composed(folder).casefold()
    kinds = KINDS | INSIDE if inside else KINDS
    found = (k for k, names in kinds.items() if re.fullmatch(names, name, re.VERBOSE))
    return next(found, "")
