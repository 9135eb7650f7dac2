"""What to do with one file: read it, hash it, compress it.

penstock map examples/digest.py:digest *.py
"""

import hashlib
import zlib
from pathlib import Path

from penstock import current_context


def digest(path: str) -> dict[str, object]:
    """The size of the file *path*, its hash, and its size when compressed. A plain call works as well."""
    content = Path(path).read_bytes()
    current_context().check()  # the deadline may have passed while the disk was slow: then stop here
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "compressed": len(zlib.compress(content, level=9)),
    }
