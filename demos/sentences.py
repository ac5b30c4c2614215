"""Speech, lips and text: a sound finds the silent video of its sentence and the words, and back.

``python -m demos.sentences`` trains, embeds the sentences of the test, indexes them and opens the search page. It reads
``HRT_MM_DATA/grid_s1``: GRID's first talker.
"""

from __future__ import annotations

from .command import Demo, Query, main

DEMO = Demo(
    name="sentences",
    title="Speech, lips and text",
    config="retrieval/grid",
    splits=("test",),
    queries=(
        Query("text", "bin blue at f two now", "audio"),
        Query("text", "place red by g nine again", "video"),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(DEMO, __doc__))
