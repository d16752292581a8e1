"""Makes the thumbnails of the demo, and its list, from photographs of scikit-image and of Debian packages.

    python tools/gallery.py FOLDER

FOLDER holds the packages lomiri-wallpapers-16.04 and -20.04, unpacked by `dpkg -x` (Debian 12). Photographs are reduced
to 1200 pixels on their longer side; none of them is kept. Only thumbnails and a list are.
"""

import io
import json
import sys
from pathlib import Path

from PIL import Image

from faitheir import FaithEIRPipeline

DEMO = Path(__file__).parents[1] / "demo"
LONGER = 1200
#: Of the JPEGs that the thumbnails are compared with, made by Pillow.
QUALITY = 85

BY, BY_SA4, BY_SA3, CC0 = "CC BY 4.0", "CC BY-SA 4.0", "CC BY-SA 3.0", "CC0 1.0"
PUBLIC = "public domain"

#: File, name, what it shows, whose it is, licence.
SKIMAGE = (
    ("coffee.png", "coffee", "A cup of coffee", "Rachel Michetti, Pikolo Espresso Bar", CC0),
    ("chelsea.png", "chelsea", "Chelsea the cat", "Stefan van der Walt", CC0),
    ("rocket.jpg", "rocket", "A Falcon 9 before its launch", "SpaceX", PUBLIC),
    ("astronaut.png", "astronaut", "Eileen Collins", "NASA", PUBLIC),
    ("hubble_deep_field.jpg", "hubble", "The Hubble eXtreme Deep Field", "NASA", PUBLIC),
    ("retina.jpg", "retina", "The back of an eye", "Mikael Häggström", CC0),
)
DEBIAN = (
    ("picosdeeuropa_by_Aitzol_Berasategi.jpg", "picos", "A path in the Picos de Europa", "Aitzol Berasategi", BY),
    ("seeding_by_Clements_Engelhardt.jpg", "dandelion", "Dandelions in seed", "Clemens Engelhardt", CC0),
    ("life_by_Aitzol_Berasategi.jpg", "stream", "A stream in a wood", "Aitzol Berasategi", BY),
    ("Picture_0B_by_freespace.jpg", "fig", "Half a fig in a bowl", "Trevor “Freespace”", BY),
    ("Picture_1A_by_freespace.jpg", "brushes", "Paint brushes", "Trevor “Freespace”", BY),
    ("friends_by_Aitzol_Berasategi.jpg", "dogs", "Two dogs at a window", "Aitzol Berasategi", BY),
    ("aitzgorri_by_Aitzol_Berasategi.jpg", "aitzgorri", "The Aitzgorri in autumn", "Aitzol Berasategi", BY),
    ("sunset_by_Aitzol_Berasategi.jpg", "sunset", "The sun over mountains", "Aitzol Berasategi", BY),
    ("free_by_Peter_Nerlich.jpg", "bird", "A bird beneath a lamp", "Peter Nerlich", BY_SA4),
    ("greentock_by_Peter_Nerlich.jpg", "clock", "A clock", "Peter Nerlich", BY_SA4),
    ("Wine_by_Jakkub_Mede.jpg", "wine", "A drum and wine", "Jakub Mede", BY),
    ("Bridge_by_Sander_Klootwijk.jpg", "bridge", "Cables of a bridge", "Sander Klootwijk", BY_SA4),
    ("Dragonfly_by_Bolly.jpg", "dragonfly", "A dragonfly among leaves", "“Bolly”", BY_SA4),
    ("Kleiber_by_Lukas_Baubkus.jpg", "nuthatch", "A nuthatch on a trunk", "Lukas Baubkus", BY_SA3),
)


def main(folder: Path) -> None:
    """Write demo/thumbnails/ and demo/pictures.json."""
    import skimage.data

    own = Path(skimage.data.__file__).parent
    pipeline = FaithEIRPipeline.from_pretrained("nano-x16")
    found = [(own / file, *about, "scikit-image") for file, *about in SKIMAGE]
    for file, *about in DEBIAN:
        path = next(folder.rglob(file))
        package = next(p for p in path.relative_to(folder).parts if "lomiri-wallpapers" in p)
        found.append((path, *about, f"Debian, {package[package.index('lomiri') :]}"))
    pictures = []
    for path, name, title, author, licence, source in found:
        image = Image.open(path).convert("RGB")
        image.thumbnail((LONGER, LONGER), Image.Resampling.LANCZOS)
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=QUALITY)
        file = DEMO / "thumbnails" / f"{name}.thumb.avif"
        pipeline.downscale(image).save(file)
        pictures.append(
            {
                "file": file.name,
                "title": title,
                "author": author,
                "licence": licence,
                "source": source,
                "width": image.width,
                "height": image.height,
                "bytes": file.stat().st_size,
                "jpeg": len(jpeg.getvalue()),
            }
        )
    text = json.dumps(pictures, indent=1, ensure_ascii=False)
    (DEMO / "pictures.json").write_text(text + "\n", encoding="utf-8")
    small, large = (sum(int(str(p[key])) for p in pictures) for key in ("bytes", "jpeg"))
    print(f"{len(pictures)} pictures: thumbnails {small:,} bytes, JPEGs of quality {QUALITY} {large:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
