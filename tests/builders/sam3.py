"""A SAM 3 of a few thousand random weights, with all files of a published checkpoint."""

from __future__ import annotations

from pathlib import Path

SIDE = 112
QUERIES = 12


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def tiny_sam3(folder: Path, seed: int = 0) -> Path:
    """Write a random SAM 3 and its processor to ``folder``; its tokens are single letters."""
    import torch
    from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

    letters = byte_alphabet()
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    end = vocab["<|endoftext|>"]
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                **size,
                "num_hidden_layers": 2,
                "image_size": SIDE,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={
            "model_type": "clip_text_model",
            **size,
            "vocab_size": len(vocab),
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "max_position_embeddings": 32,
            "bos_token_id": vocab["<|startoftext|>"],
            "eos_token_id": end,
            "pad_token_id": end,
        },
        geometry_encoder_config={**size, "num_layers": 1},
        detr_encoder_config={**size, "num_layers": 1},
        detr_decoder_config={**size, "num_layers": 2, "num_queries": QUERIES},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )
    torch.manual_seed(seed)
    model = Sam3Model(config)
    # Wide enough that boxes differ, and that scores depend on pixels and on prompts.
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(weight, std=0.2)
    torch.nn.init.normal_(model.detr_decoder.reference_points.weight, std=1.5)
    model.save_pretrained(folder)
    processor = Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    Sam3Processor(processor, CLIPTokenizer(vocab=vocab, merges=[])).save_pretrained(folder)
    return folder
