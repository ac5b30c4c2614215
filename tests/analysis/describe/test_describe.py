from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.analysis import describe as package
from hrt_mm.analysis.control import flat_control, num_parameters
from hrt_mm.analysis.describe import describe, describe_model, describe_run
from hrt_mm.analysis.describe.layout import on_meta, sample_of
from hrt_mm.analysis.describe.table import flops, size
from hrt_mm.cli.main import main
from hrt_mm.config import RunConfig
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups, Level
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.tokenizer import SINGLE
from hrt_mm.tasks import ClassificationConfig
from hrt_mm.train.config import TrainConfig
from hrt_mm.train.run_config import TowerConfig
from hrt_modalities.vision.files import ImageFolderConfig
from hrt_modalities.vision.memory import DigitsConfig
from hrt_modalities.vision.tokenizer import VisionConfig


def hierarchy(window: int | None = 4, top: int | None = None, **options: Any) -> HierarchyConfig:
    fine = Level(name="patches", dim=32, depth=2, heads=2, window=window, group=FixedGroups(stride=2), pool="conv")
    return HierarchyConfig(levels=(fine, Level(name="image", dim=64, depth=2, heads=2, window=top)), **options)


def run(data: Any = None, **options: Any) -> RunConfig:
    return RunConfig(
        towers={
            SINGLE: TowerConfig(modality=VisionConfig(type="vision", channels=1, patch=1), model=hierarchy(**options))
        },
        task=ClassificationConfig(type="classification"),
        data=data or DigitsConfig(type="digits"),
        train=TrainConfig(steps=1, batch_size=4),
    )


def test_rows_of_a_grid() -> None:
    result = describe_run(run())
    assert [(row.name, row.tokens, row.dim, row.depth) for row in result.rows] == [
        ("patches", 64, 32, 2),
        ("image", 16, 64, 2),
    ]
    assert [(row.window, row.groups) for row in result.rows] == [("block 4x4", "2x2, conv"), ("global", "-")]
    assert result.total.parameters == num_parameters(hierarchy(), 2)
    assert result.flat is not None
    assert result.flat.parameters == num_parameters(flat_control(hierarchy(), 2), 2)
    assert result.flat.forward_flops > 2 * result.total.forward_flops
    assert result.warnings == ()


def test_text_has_levels_flat_control_and_ratios() -> None:
    lines = describe(run()).splitlines()
    columns = lines[0].split()
    assert columns[:3] == ["level", "tokens", "width"]
    starts = [line.split()[0] for line in lines if line.split()]
    assert [name for name in starts if name in ("patches", "image", "total", "flat")] == [
        "patches",
        "image",
        "total",
        "flat",
        "flat",
    ]
    assert max(map(len, lines)) <= 120


def test_given_shape_replaces_the_data() -> None:
    missing = ImageFolderConfig(type="image_folder", root=Path("nowhere"))
    assert [row.tokens for row in describe_run(run(missing), (9, 7)).rows] == [63, 20]


def test_unreadable_data_says_how_to_go_without(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shape"):
        describe(run(ImageFolderConfig(type="image_folder", root=tmp_path / "none")))


@pytest.mark.parametrize("shape", [(9,), (9, 9, 9), (0, 4)])
def test_shape_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="2 axes; give 2 sizes"):
        describe(run(), shape)


def test_full_attention_everywhere_is_warned_about() -> None:
    (warning,) = describe_run(run(window=None)).warnings
    assert "every level attends globally" in warning
    assert "set window on level 'patches'" in warning
    assert f"warning: {warning}" in describe(run(window=None))


def test_global_finest_level_is_warned_about() -> None:
    (warning,) = describe_run(run(window=None, top=2)).warnings
    assert "level 'patches', the finest, attends globally" in warning


def test_flat_transformer_is_not_warned_about() -> None:
    one = HierarchyConfig(levels=(Level(name="all", dim=32, heads=2),))
    result = describe_model(one, sample_of((64,), on_meta(one, 1)))
    assert result.warnings == ()
    assert result.flat is None


def test_cost_of_windows_grows_with_the_tokens_and_of_flat_with_their_square() -> None:
    config = hierarchy(window=16, top=16)
    small, large = (describe_model(config, sample_of((size,), on_meta(config, 1))) for size in (4096, 16384))
    assert large.total.forward_flops == pytest.approx(4 * small.total.forward_flops, rel=1e-9)
    assert small.flat is not None
    assert large.flat is not None
    assert large.flat.forward_flops > 10 * small.flat.forward_flops


def test_training_step_with_checkpointing_computes_blocks_once_more() -> None:
    plain, saving = describe_run(run()), describe_run(run(activation_checkpointing=True))
    assert plain.total.step_flops == 3 * plain.total.forward_flops
    assert 3.5 * saving.total.forward_flops < saving.total.step_flops < 4 * saving.total.forward_flops


def test_learned_and_given_groups_in_words() -> None:
    levels = (
        Level(name="frames", dim=32, heads=2, window=8, group=LearnedGroups(type="learned", target=4, max=9)),
        Level(name="phones", dim=32, heads=2, group=GivenGroups(type="given", boundary="words", typical=2.0)),
        Level(name="words", dim=32, heads=2),
    )
    config = HierarchyConfig(levels=levels)
    result = describe_model(config, sample_of((64,), on_meta(config, 1)))
    assert [row.tokens for row in result.rows] == [64, 16, 8]
    assert [row.groups for row in result.rows] == ["learned ~4, mean", "words, mean", "-"]


def test_given_boundaries_of_the_sample_are_used() -> None:
    levels = (
        Level(name="letters", dim=32, heads=2, group=GivenGroups(type="given", boundary="words")),
        Level(name="words", dim=32, heads=2),
    )
    starts = torch.tensor([True, False, False, True, False])
    tokens = Tokens.pack([torch.empty(5, 0)], boundaries={"words": [starts]})
    assert [row.tokens for row in describe_model(HierarchyConfig(levels=levels), tokens).rows] == [5, 2]


def test_typical_sample_leaves_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert package.describe(run())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (7_770_000, "7.77M"), (39_300_000_000, "39.3G"), (999_600, "1.00M")],
)
def test_flops_in_words(number: int, text: str) -> None:
    assert flops(number) == text


@pytest.mark.parametrize(("number", "text"), [(12, "12 B"), (393216, "384 KiB"), (5 * 2**30, "5.00 GiB")])
def test_bytes_in_words(number: int, text: str) -> None:
    assert size(number) == text


def test_command_takes_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "vision/digits", "--shape", "16x12"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["pixels", "192"]


@pytest.mark.parametrize(
    ("shape", "message"), [("16xx2", "'16xx2' is not a shape; write 4096 or 32x32"), ("16", "2 axes; give 2 sizes")]
)
def test_command_refuses_other_shapes(shape: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = main(["describe", "vision/digits", "--shape", shape])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err
