"""Spoken and written digits: a spoken digit finds pictures of it, and a written one the sounds.

``python -m demos.digits`` trains without one of the speakers, embeds what that speaker says, indexes it and opens the
search page. It reads ``HRT_MM_DATA/fsdd`` and ``HRT_MM_DATA/MNIST``.
"""

from __future__ import annotations

from .command import Demo, main

DEMO = Demo(name="digits", title="Spoken and written digits", config="retrieval/digits", splits=("test",))

if __name__ == "__main__":
    raise SystemExit(main(DEMO, __doc__))
