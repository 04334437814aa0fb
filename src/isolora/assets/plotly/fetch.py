"""Fetch plotly's basic bundle and its licence from the npm registry, and refuse what is not the pinned text.

python fetch.py            to move to another version, change VERSION, run `python fetch.py --pin`, and read what changed
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

VERSION = "4.1.1"
PACKAGE = "plotly.js-basic-dist-min"
ADDRESS = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
FILES = ("LICENSE", "plotly-basic.min.js")
HERE = Path(__file__).parent


def main(pin: bool) -> None:
    with urllib.request.urlopen(ADDRESS) as answer, tarfile.open(fileobj=io.BytesIO(answer.read())) as package:
        texts = {name: package.extractfile(f"package/{name}").read() for name in FILES}
    found = "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in texts.items())
    sums = HERE / "SHA256SUMS"
    if not pin and found != sums.read_text(encoding="utf-8"):
        raise SystemExit(f"{ADDRESS} is not what {sums} pins:\n{found}")
    sums.write_text(found, encoding="utf-8")
    for name, text in texts.items():
        (HERE / name).write_bytes(text)


if __name__ == "__main__":
    main(pin="--pin" in sys.argv)
