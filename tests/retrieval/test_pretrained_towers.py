"""Embedding, indexing, searching and serving with a pretrained CLIP, on small ones with random weights."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hrt_mm.cli.main import main
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.retrieval import Collection, Query, Searcher, load_embedder
from hrt_mm.retrieval.embed import PretrainedEmbedder

Image = pytest.importorskip("PIL.Image")
open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 60), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def index(open_clip_folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    model = f"open_clip:{open_clip_folder}"
    assert main(["embed", "--model", model, str(pictures), "--media", "--out", str(folder / "vectors")]) == 0
    assert main(["index", "build", str(folder / "index"), str(folder / "vectors")]) == 0
    return folder / "index"


def theirs(folder: Path, pictures: list[Path], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors by open_clip alone, with its own preprocessing."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([preprocess(Image.open(path)) for path in pictures]), True)
        return images.numpy(), model.encode_text(tokenizer(texts), True).numpy()


def test_vectors_are_those_of_open_clip(open_clip_folder: Path, pictures: Path) -> None:
    embedder = load_embedder(f"open_clip:{open_clip_folder}")
    assert embedder.towers == ("image", "text") and embedder.model.dim == 8
    paths = sorted(pictures.iterdir())
    images, texts = theirs(open_clip_folder, paths, ["a red square", "night"])
    pickle.dumps([embedder.tokenizer(tower) for tower in embedder.towers])
    mixed = embedder.embed([*paths, "a red square", "night"])
    assert np.allclose(mixed[:4], images, atol=1e-5) and np.allclose(mixed[4:], texts, atol=1e-5)
    again = embedder.embed([Image.open(path) for path in paths])
    assert np.allclose(again, images, atol=1e-5)


def test_a_folder_of_pictures_is_searched_by_text_and_by_picture(
    index: Path, open_clip_folder: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, texts = theirs(open_clip_folder, sorted(pictures.iterdir()), ["a red square"])
    expected = [sorted(COLOURS)[number] for number in np.argsort(-(images @ texts[0]))]
    capsys.readouterr()
    assert main(["search", str(index), "--text", "a red square", "--json", "-k", "4"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [Path(row["id"]).stem for row in results] == expected
    searcher = Searcher.of(index)
    assert isinstance(searcher.embedder, PretrainedEmbedder)
    (first, *_) = searcher.search(Query.of("image", pictures / "blue.png"), find="image")
    assert Path(first.row.id).stem == "blue" and first.score == pytest.approx(1, abs=1e-4)


def test_texts_of_a_table(open_clip_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("id,caption\na,a red square\nb,night\n")
    model = f"open_clip:{open_clip_folder}"
    options = ["--manifest", str(table), "--column", "caption", "--tower", "text", "--out", str(tmp_path / "texts")]
    assert main(["embed", "--model", model, *options]) == 0
    collection = Collection(tmp_path / "texts")
    assert collection.model.run == model
    embedder = load_embedder(model)
    expected = embedder.embed(["a red square", "night"])
    assert np.allclose(embedder.vectors("text", [b"a red square", b"night"]), expected)


def test_the_server(index: Path) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from hrt_mm.retrieval.server import create_app

    with TestClient(create_app(Searcher.of(index)), base_url="http://localhost") as client:
        answer = client.post("/search", json={"text": "a red square"})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["results"]) == 4


def test_other_weights_are_refused(index: Path, open_clip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(open_clip_folder / "open_clip_model.safetensors")
    weights["visual.proj"] += 1
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((open_clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="weights"):
        Searcher.of(index, f"open_clip:{tmp_path}")


def small_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<unk>", "a", "red", "square", "night"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<pad>"
    )
    fast.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_models_of_transformers(kind: str, tmp_path: Path, pictures: Path) -> None:
    common = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    vision = common | {"image_size": 32, "patch_size": 8}
    text = common | {"vocab_size": 6, "max_position_embeddings": 8, "eos_token_id": 0, "projection_size": 16}
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(tmp_path)
    processor = getattr(transformers, f"{kind}ImageProcessor")(size={"height": 32, "width": 32}, do_center_crop=False)
    processor.save_pretrained(tmp_path)
    small_tokenizer(tmp_path)
    embedder = load_embedder(f"transformers:{tmp_path}")
    path = pictures / "red.png"
    ours = embedder.embed([path, "a red square"])
    for tower in embedder.towers:
        # Workers that are not forked get it so.
        assert len(pickle.loads(pickle.dumps(embedder.tokenizer(tower))).levels) == 1
    pixels = processor(images=Image.open(path), return_tensors="pt")["pixel_values"]
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        ["a red square"], padding="max_length", max_length=8, return_tensors="pt"
    )
    mask = {"attention_mask": ids["attention_mask"]} if kind == "CLIP" else {}
    with torch.no_grad():
        output = model(pixel_values=pixels, input_ids=ids["input_ids"], **mask)
    assert np.allclose(ours, torch.cat([output.image_embeds, output.text_embeds]).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "open_clip:ViT-B-33/openai", "."], "open_clip has no model 'ViT-B-33'; did you mean ViT-B-32"),
        (["--model", "open_clip:ViT-B-32", "."], "give --model: ViT-B-32/TAG with a tag of openai"),
        (["--model", "open_clip:./no such", "."], "--model './no such': there is no such folder"),
        (
            ["--model", "open_clop:x", "."],
            "there are no models of 'open_clop'; give open_clip:NAME or transformers:NAME",
        ),
        (["--model", "FOLDER", "."], "give open_clip:NAME or transformers:NAME"),
        ([], "give a run folder, or a pretrained model by --model"),
        (["--model", "open_clip:FOLDER"], "is a pretrained model and has no data; give files, folders or --manifest"),
        (["--model", "open_clip:FOLDER", "--dim", "4", "."], "has vectors of width 8, and not 4"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    open_clip_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word.replace("FOLDER", str(open_clip_folder)) for word in arguments]
    assert main(["embed", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_of_texts_alone(tmp_path: Path) -> None:
    config: Any = transformers.BertConfig(vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="bert has no tower of images beside one of texts"):
        load_embedder(f"transformers:{tmp_path}")
