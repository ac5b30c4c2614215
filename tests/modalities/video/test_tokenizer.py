"""Videos to tubes: order, positions by time, boundaries, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hrt_mm import Hierarchy, HierarchyConfig
from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.grids import Sizes, nested_coords
from hrt_mm.data.registry import modalities
from hrt_modalities.video import Video, VideoConfig, VideoModality, VideoTokenizer
from hrt_modalities.video.stems import ConvTubeEmbedding, FrameEmbedding, VideoConvStem
from hrt_modalities.video.tokenizer import frames_together

BLOCKS: tuple[Sizes, ...] = ((1, 2, 2), (2, 4, 4))
SHAPES = [(6, 8, 8), (1, 1, 1), (5, 13, 6), (6, 8, 8), (9, 4, 20)]


def tokenizer(blocks: tuple[Sizes, ...] = BLOCKS, **options: object) -> VideoTokenizer:
    return VideoTokenizer(VideoConfig.model_validate({"type": "video", "patch": 4, **options}), blocks)


def videos(channels: int = 3) -> list[Video]:
    return [
        Video.of(torch.randint(0, 256, (frames, channels, *size), dtype=torch.uint8), 25.0) for frames, *size in SHAPES
    ]


def test_the_modality_is_installed() -> None:
    assert modalities()["video"] is VideoModality


@pytest.mark.parametrize("tube", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_restore_gives_the_videos_back(tube: int, channels: int) -> None:
    values = videos(channels)
    video = tokenizer(tube=tube, channels=channels, mean=0.3, std=0.4)
    tokens = video(values)
    assert sum(video.size(value.pixels_NCHW.shape) for value in values) == tokens.spans.total
    for value, back in zip(values, video.restore(tokens), strict=True):
        frames, _, height, width = value.pixels_NCHW.shape
        assert len(back) == -(-frames // tube) * tube
        same = back.pixels_NCHW[:frames, :, :height, :width]
        assert torch.allclose(same * 255, value.pixels_NCHW.float(), atol=1e-3)


def test_a_token_is_a_tube_at_its_coordinates() -> None:
    value = Video.of(torch.randint(0, 256, (4, 3, 8, 12), dtype=torch.uint8), 25.0)
    tokens = tokenizer(tube=2)([value])
    assert tokens.grids == ((2, 2, 3),)
    for x, (step, row, column) in zip(tokens.x, tokens.coords_TC.long().tolist(), strict=True):
        cell = value.pixels_NCHW[2 * step : 2 * step + 2, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.allclose(x.view(3, 2, 4, 4), (cell.transpose(0, 1) / 255 - 0.5) / 0.5, atol=1e-5)


def test_frames_are_brought_to_grey_or_colour_and_stay_as_they_are() -> None:
    grey = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    (back,) = tokenizer(tube=1).restore(tokenizer(tube=1)([Video.of(grey, 25.0)]))
    assert torch.allclose(back.pixels_NCHW * 255, grey.expand(-1, 3, -1, -1).float(), atol=1e-3)
    colour = torch.rand(3, 3, 8, 8)
    before = colour.clone()
    single = tokenizer(tube=1, channels=1)
    (back,) = single.restore(single([Video.of(colour, 25.0)]))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    assert torch.allclose(back.pixels_NCHW, (luma * colour).sum(1, keepdim=True), atol=1e-5)
    tokenizer(tube=1)([Video.of(colour, 25.0)])
    assert torch.equal(colour, before)


def test_frames_are_resized_or_cropped() -> None:
    value = Video.of(torch.rand(2, 3, 8, 16), 25.0)
    for fit, source in (("stretch", value.pixels_NCHW), ("crop", value.pixels_NCHW[..., 4:12])):
        video = tokenizer(tube=1, size=4, fit=fit)
        (back,) = video.restore(video([value]))
        small = torch.nn.functional.interpolate(source, (4, 4), mode="bilinear", antialias=True)
        assert torch.allclose(back.pixels_NCHW, small, atol=1e-5)
        assert video.size((2, 3, 8, 16)) == 2


def test_tokens_lie_in_hierarchical_order() -> None:
    tokens = tokenizer(tube=2)(videos())
    assert tokens.grids is not None
    for coords, grid in zip(tokens.spans.split(tokens.coords_TC), tokens.grids, strict=True):
        # The last tube may be of one frame, which lies before its middle.
        assert torch.equal(coords.round(), nested_coords(grid, BLOCKS))


def test_positions_go_by_time_and_not_by_count() -> None:
    pixels = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
    slow, fast = Video.of(pixels, 12.5), Video.of(pixels, 50.0)
    uneven = Video(pixels, torch.tensor([0.0, 0.04, 0.2, 1.0], dtype=torch.float64), 1.04)
    tokens = tokenizer(tube=1)([slow, fast, uneven])
    positions = [part[:, 0].tolist() for part in tokens.spans.split(tokens.coords_TC)]
    assert positions == [pytest.approx([0, 2, 4, 6]), pytest.approx([0, 0.5, 1, 1.5]), pytest.approx([0, 1, 5, 25])]


def test_positions_across_the_picture_can_be_the_same_at_every_resolution() -> None:
    small, large = (Video.of(torch.zeros(1, 3, side, 2 * side, dtype=torch.uint8), 25.0) for side in (8, 16))
    tokens = tokenizer(span=8)([small, large])
    first, second = tokens.spans.split(tokens.coords_TC)
    assert first[:, 2].unique().tolist() == [0, 2, 4, 6]
    assert second[:, 2].unique().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_boundaries_start_with_the_nearest_step() -> None:
    pixels = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
    shots = (0.0, 0.11, 0.13, 0.31, 0.399)
    video = tokenizer(((1, 2, 2),), tube=1)
    video = video.with_boundaries({"shots", "frames"})
    tokens = video([Video.of(pixels, 25.0, boundaries={"shots": shots})])
    cells = tokens.boundaries["shots"].view(10, 4)
    # 0.11 and 0.13 s both lie nearest to frame 3, and 0.399 s nearest to the end.
    assert cells[:, 0].nonzero().flatten().tolist() == [0, 3, 8] and int(cells.sum()) == 3
    assert tokens.boundaries["frames"].view(10, 4)[:, 0].all() and int(tokens.boundaries["frames"].sum()) == 10


@pytest.mark.parametrize(
    ("blocks", "grid", "unit"),
    [
        ((), (5, 4, 4), 1),
        (((1, 2, 2), (1, 4, 4)), (5, 8, 8), 1),
        (((2, 2, 2),), (5, 4, 4), 2),
        (((4, 4, 4),), (8, 4, 4), 1),
        (((4, 4, 4),), (8, 4, 5), 4),
        (((2, 2, 2), (4, 4, 4)), (8, 4, 4), 2),
    ],
)
def test_frames_together(blocks: tuple[Sizes, ...], grid: Sizes, unit: int) -> None:
    assert frames_together(grid, blocks) == unit
    # The claim itself: a run of the order holds whole steps, and no shorter run does.
    steps = nested_coords(grid, blocks)[:, 0].long()
    area = grid[1] * grid[2]

    def whole(size: int) -> bool:
        runs = [steps[first : first + size * area].unique() for first in range(0, len(steps), size * area)]
        expected = [torch.arange(first, min(first + size, grid[0])) for first in range(0, grid[0], size)]
        return all(torch.equal(run, item) for run, item in zip(runs, expected, strict=True))

    assert whole(unit) and not any(whole(size) for size in range(1, unit))


def test_boundaries_wait_for_a_whole_block() -> None:
    pixels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    video = tokenizer(((2, 2, 2),), tube=1)
    video = video.with_boundaries({"shots"})
    tokens = video([Video.of(pixels, 25.0, boundaries={"shots": (0.12, 0.2)})])
    # Frames 3 and 5 lie within blocks of 2 frames; the nearest blocks start at 2 or 4, and at 4 or 6.
    assert set((tokens.boundaries["shots"].nonzero().flatten() // 16).tolist()) <= {0, 2, 4, 6}
    video = video.with_boundaries({"frames"})
    with pytest.raises(ConfigError, match="cannot be grouped by frames: windows and strides of 2 steps of time"):
        video([Video.of(pixels, 25.0)])


STEMS = [
    {"type": "linear"},
    {"type": "conv"},
    {"type": "conv", "frames": 1},
    {"type": "conv", "differences": True, "gated": 2},
]


@pytest.mark.parametrize("stem", STEMS, ids=str)
def test_stems_treat_each_video_as_if_it_were_alone(stem: dict[str, Any]) -> None:
    video = tokenizer(tube=2, stem=stem)
    embedding = video.embedding(16)
    values = videos()
    together = embedding(video(values)).split()
    for value, item in zip(values, together, strict=True):
        assert torch.allclose(embedding(video([value])).x, item, atol=1e-5)


def test_half_of_the_channels_gate_the_others() -> None:
    stem = VideoConvStem(type="conv", width=8, gated=1).build(3, 1, 4, 16, ())
    assert isinstance(stem, ConvTubeEmbedding)
    first, second = (layer for layer in stem.convolutions if isinstance(layer, torch.nn.Conv2d))
    assert (first.out_channels, second.in_channels, second.out_channels) == (16, 8, 16)
    maps = torch.randn(2, 16, 3, 3)
    gate = stem.convolutions[2](maps)
    assert torch.allclose(gate, maps[:, :8] * maps[:, 8:] * torch.sigmoid(maps[:, 8:]))


@pytest.mark.parametrize("distances", [None, [2], [1, 3], [1, 9]], ids=str)
@pytest.mark.parametrize("differences", [False, True])
def test_a_conv_stem_reads_frames_and_their_neighbours(differences: bool, distances: list[int] | None) -> None:
    """Against convolutions over frames that are stacked one by one, forward and gradients; ends stand still."""
    after = distances or [1]
    stem = {"type": "conv", "frames": 2 * len(after) + 1, "differences": differences, "distances": distances}
    video = tokenizer((), tube=1, stem=stem)
    embedding = video.embedding(16)
    assert isinstance(embedding, ConvTubeEmbedding)
    pixels = torch.rand(5, 3, 8, 12)
    tokens = video([Video.of(pixels, 25.0)])
    scaled = (pixels - 0.5) / 0.5
    around = []
    for offset in (*(-distance for distance in reversed(after)), 0, *after):
        own = scaled[[min(4, max(0, number + offset)) for number in range(5)]]
        around.append(4 * (own - scaled) if differences and offset else own)
    features = embedding.convolutions(torch.cat(around, 1))
    expected = embedding.project(features.permute(0, 2, 3, 1).flatten(0, 2))
    weights = list(embedding.parameters())
    result = embedding(tokens).x
    assert torch.allclose(result, expected, atol=1e-4)
    probe = torch.randn_like(expected)
    ours = torch.autograd.grad((result * probe).sum(), weights)
    theirs = torch.autograd.grad((expected * probe).sum(), weights)
    assert all(torch.allclose(own, other, rtol=1e-3, atol=1e-3) for own, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        ([1], r"distances has 1 numbers, but frames: 5 has 2 on each side; set frames: 3"),
        ([4, 1], r"distances must rise, got \[4, 1\]"),
        ([2, 2], r"distances must rise, got \[2, 2\]"),
    ],
)
def test_distances_fit_the_frames(distances: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoConvStem.model_validate({"type": "conv", "frames": 5, "distances": distances})


def test_a_conv_stem_sees_as_far_as_it_says() -> None:
    video = tokenizer((), tube=1, stem={"type": "conv", "frames": 3})
    embedding = video.embedding(16)
    pixels = torch.rand(7, 3, 4, 4)
    changed = pixels.clone()
    changed[3] = 0
    differs = (embedding(video([Video.of(pixels, 25.0)])).x - embedding(video([Video.of(changed, 25.0)])).x).abs()
    assert (differs.amax(1) > 1e-6).nonzero().flatten().tolist() == [2, 3, 4] and video.lookahead == 1


def level(name: str, group: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"name": name, "dim": 24, "depth": 1, "heads": 2, **options, **({"group": group} if group else {})}


MODEL = {
    "levels": [
        level("tubes", {"type": "fixed", "stride": [1, 2, 2]}, window=[1, 2, 2]),
        level("areas", {"type": "given", "boundary": "frames", "typical": [1, 2, 2]}),
        level("frames", {"type": "given", "boundary": "shots"}, window=4, window_type="sliding"),
        level("shots"),
    ],
    "cross_scale": {"up": True, "down": True},
}


def test_levels_go_from_space_to_frames_to_shots() -> None:
    model = Hierarchy(HierarchyConfig.model_validate(MODEL), 3)
    video = VideoTokenizer(VideoConfig(type="video", patch=4, tube=1), model.blocks).with_boundaries(
        {"frames", "shots"}
    )
    values = [
        Video.of(torch.randint(0, 256, (frames, 3, *size), dtype=torch.uint8), 25.0, boundaries={"shots": shots})
        for frames, size, shots in ((9, (16, 24), (0.0, 0.16)), (4, (10, 9), (0.0,)))
    ]
    tokens = video(values)
    pyramid = model(video.embedding(24)(tokens))
    assert pyramid["frames"].spans.lengths.tolist() == [9, 4]
    assert pyramid["shots"].spans.lengths.tolist() == [2, 1]
    # A frame stands at its own time and in the middle of its picture.
    frames = pyramid["frames"].split()[0]
    assert len(frames) == 9
    assert pyramid["frames"].coords_TC[:9, 0].tolist() == pytest.approx(list(range(9)))
    maps = pyramid.maps("areas")
    assert [tuple(one.shape) for one in maps] == [(24, 9, 2, 3), (24, 4, 2, 2)]
    assert [tuple(one.shape) for one in pyramid.maps("frames")] == [(24, 9), (24, 4)]
    # Each video alone gives the same.
    alone = model(video.embedding(24)(video(values[1:])))
    assert alone["shots"].x.shape == (1, 24)


def test_intermediates_are_maps_in_space_and_time() -> None:
    levels = [level("tubes", {"type": "fixed", "stride": 2}, window=2), level("blocks", dim=32)]
    config = HierarchyConfig.model_validate({"levels": levels})
    model = Hierarchy(config, 3)
    video = VideoTokenizer(VideoConfig(type="video", patch=4, tube=2), model.blocks)
    tokens = video([Video.of(torch.rand(8, 3, 16, 24), 25.0)] * 2)
    embedded = video.embedding(24)(tokens)
    maps = model.forward_intermediates(embedded, intermediates_only=True)
    assert isinstance(maps, list)
    assert [tuple(one.shape) for one in maps] == [(2, 24, 4, 4, 6), (2, 32, 2, 2, 3)]
    # A cell of the map is the token at its coordinates.
    index = 17
    step, row, column = tokens.coords_TC[index].long().tolist()
    assert torch.equal(maps[0][0, :, step, row, column], model(embedded)["tubes"].x[index])


BAD: list[tuple[Any, str]] = [
    (torch.zeros(3, 4, 4), "is Tensor, not a video"),
    (Video.of(torch.zeros(0, 3, 4, 4), 25.0), "no empty side, got"),
    (Video.of(torch.zeros(2, 4, 4, 4), 25.0), "1 or 3 channels"),
    (Video.of(torch.full((2, 3, 4, 4), float("nan")), 25.0), "floats must lie in 0..1"),
    (Video.of(torch.full((2, 3, 4, 4), 255.0), 25.0), "floats must lie in 0..1, got 255 to 255"),
    (Video(torch.zeros(2, 3, 4, 4), torch.tensor([0.1, 0.1]), 1.0), "times do not ascend"),
    (Video(torch.zeros(2, 3, 4, 4), torch.tensor([0.0]), 1.0), "one finite time each"),
    (Video(torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 0.5]), 0.4), "its last frame begins at 0.5 s"),
    (Video.of(torch.zeros(2, 3, 4, 4), 25.0, boundaries={"shots": (0.05, 0.01)}), "sort the times"),
    (Video.of(torch.zeros(2, 3, 4, 4), 25.0, boundaries={"shots": (9.0,)}), "the times of another file"),
    (Video.of(torch.zeros(30, 3, 4, 4), 25.0), "more than modality.max_frames 20"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_videos_say_what_is_wrong(value: Any, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        tokenizer(max_frames=20)([value])


def test_missing_boundaries_and_settings_that_disagree() -> None:
    video = tokenizer()
    video = video.with_boundaries({"shots"})
    with pytest.raises(BadSample, match="carries no boundary 'shots'; it has words"):
        video([Video.of(torch.zeros(2, 3, 4, 4), 25.0, boundaries={"words": (0.0,)})])
    for options, message in (
        ({"fit": "crop"}, "no effect without size"),
        ({"carried": ["frames"]}, "comes from the video itself"),
        ({"stem": {"type": "conv", "frames": 2}}, "frames must be odd"),
        ({"stem": {"type": "conv", "frames": 1, "differences": True}}, "differences has no effect with frames: 1"),
    ):
        with pytest.raises(ValidationError, match=message):
            VideoConfig.model_validate({"type": "video", **options})


def test_each_frame_goes_through_an_image_encoder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, num_hidden_layers=2)).eval()
    model.save_pretrained(tmp_path)
    processor = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "image_processor_type": "ViTImageProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    stem = {"type": "transformers", "name": str(tmp_path), "freeze": True}
    video = tokenizer(patch=8, tube=2, stem=stem)
    assert video.lookahead == 0
    embed = video.embedding(32).eval()
    assert isinstance(embed, FrameEmbedding)
    embed.project.weight.data, embed.project.bias.data = torch.eye(32), torch.zeros(32)
    values = [Video.of(torch.randint(0, 256, (frames, 3, 16, 24), dtype=torch.uint8), 25.0) for frames in (4, 70)]
    tokens = video(values)
    with torch.no_grad():
        features = embed(tokens).split()
        for value, item, part in zip(values, features, tokens.split(), strict=True):
            mean, std = (torch.tensor(each).view(3, 1, 1) for each in video.config.statistics)
            pixels = (value.pixels_NCHW / 255 - mean) / std
            states = model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:].unflatten(0, (-1, 2))
            cells = nested_coords((len(value) // 2, 2, 3), BLOCKS).long()
            expected = states[cells[:, 0], :, cells[:, 1] * 3 + cells[:, 2]].flatten(1)
            assert torch.allclose(item, expected, atol=1e-5)
            assert torch.allclose(embed(video([value])).x, item, atol=1e-5)
            assert len(part) == len(item)
    assert [value.requires_grad for value in embed.backbone.parameters()].count(True) == 0
    trained = tokenizer(patch=8, stem=stem | {"freeze": 1}).embedding(8)
    trained(tokenizer(patch=8, stem=stem)(values[:1])).x.square().sum().backward()
    assert trained.get_parameter("backbone.encoder.model.layers.1.attention.q_proj.weight").grad is not None
