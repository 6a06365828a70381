"""Make an executed study small enough to commit: reduce its figures to 80 colours.

python tools/lean.py outputs/reference
"""

import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image

COLOURS = 80


def lean(folder: Path) -> None:
    """Convert every PNG below the folder and in its notebooks to a palette."""
    for path in folder.rglob("*.png"):
        path.write_bytes(palette(path.read_bytes()))
    for path in folder.rglob("*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            for output in cell.get("outputs", []):
                shown = output.get("data", {})
                if "image/png" in shown:
                    png = palette(base64.b64decode(shown["image/png"]))
                    shown["image/png"] = base64.b64encode(png).decode()
        text = json.dumps(content, indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")


def palette(png: bytes) -> bytes:
    """Convert a PNG to a palette of `COLOURS`, unless that makes it larger."""
    target = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(target, "PNG", optimize=True)
    return min(target.getvalue(), png, key=len)


if __name__ == "__main__":
    lean(Path(sys.argv[1]))
