"""The entry-point groups of plug-ins."""

MODALITIES = "hrt_mm.modalities"
"""Of modalities: ``vision = "package:Vision"``."""
DATASETS = "hrt_mm.datasets"
"""Of datasets of several modalities: ``glyphs = "package:GlyphsConfig"``. Datasets that are added to one modality are
in a group with its name: ``hrt_mm.datasets.audio``."""
MODELS = "hrt_mm.models"
"""Of models that ``hrt_mm.create_model`` makes by name: ``hrt_tiny = "package.module:hrt_tiny"``, a function of
``pretrained`` and of options."""
COMMANDS = "hrt_mm.commands"
"""Of commands of ``hrt-mm``, by their words: ``transcribe = "package:TRANSCRIBE"``, ``"text.subwords" =
"package:SUBWORDS"``."""
PRETRAINED = "hrt_mm.pretrained"
"""Of pretrained models of a library whose towers can be compared: ``open_clip = "package.module:open_clip_towers"``, a
function of the model's name."""
