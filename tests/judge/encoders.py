"""Published networks with random weights, in files and folders as they are read."""

import json

import torch

from cascade.judge.lpips import layers_of
from data.files import file_sha256

from . import oracle


def write_clip(folder, *, seed=0):
    """A CLIP of one layer for pictures of 32 px, whose tokenizer knows letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder.mkdir()
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({name: k for k, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=16).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = layers | {"vocab_size": len(names), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(
        text_config=text | {"pad_token_id": 1},
        vision_config=layers | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(torch.randn_like(each) * 0.5)
    model.save_pretrained(folder)
    return folder


def write_lpips(folder, backbone):
    """Files of a backbone and its heads, and their hashes."""
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in layers_of(backbone).state_dict().items()}
    paths = [folder / f"{backbone.name}.pth", folder / f"{backbone.name}-heads.pth"]
    torch.save(oracle.weights(shapes), paths[0])
    torch.save(oracle.heads(backbone.channels), paths[1])
    return paths, [file_sha256(path) for path in paths]
