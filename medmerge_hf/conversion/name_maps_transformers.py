"""The names of transformers' own networks -> timm's, as regular expressions over names in memory and in files."""

from typing import Any


_BLOCK = {
    r"attention\.(?:q_proj|(?:attention|self)\.query)\.": r"attn.qkv.0.",
    r"attention\.(?:k_proj|(?:attention|self)\.key)\.": r"attn.qkv.1.",
    r"attention\.(?:v_proj|(?:attention|self)\.value)\.": r"attn.qkv.2.",
    r"attention\.(?:o_proj|output\.dense)\.": r"attn.proj.",
    r"attention\.(?:self\.)?(?:relative_position_bias\.)?relative_position_bias_table": (
        r"attn.relative_position_bias_table"
    ),
    r"layernorm_before\.": r"norm1.",
    r"layernorm_after\.": r"norm2.",
    r"(?:intermediate\.dense|mlp\.fc1)\.": r"mlp.fc1.",
    r"(?:output\.dense|mlp\.fc2)\.": r"mlp.fc2.",
}

NATIVE: dict[str, dict[str, Any]] = {
    "resnet": {
        r"^embedder\.embedder\.convolution\.": r"conv1.",
        r"^embedder\.embedder\.normalization\.": r"bn1.",
        r"^encoder\.stages\.(\d+)\.layers\.": lambda found: f"layer{int(found[1]) + 1}.",
        r"shortcut\.convolution\.": r"downsample.0.",
        r"shortcut\.normalization\.": r"downsample.1.",
        r"layer\.(\d+)\.convolution\.": lambda found: f"conv{int(found[1]) + 1}.",
        r"layer\.(\d+)\.normalization\.": lambda found: f"bn{int(found[1]) + 1}.",
    },
    "vit": {
        r"^embeddings\.cls_token": r"cls_token",
        r"^embeddings\.position_embeddings": r"pos_embed",
        r"^embeddings\.patch_embeddings\.projection\.": r"patch_embed.proj.",
        r"^(?:encoder\.layer|layers)\.(\d+)\.": r"blocks.\1.",
        r"^layernorm\.": r"norm.",
        **_BLOCK,
    },
    "convnext": {
        r"^embeddings\.patch_embeddings\.": r"stem.0.",
        r"^embeddings\.layernorm\.": r"stem.1.",
        r"^encoder\.stages\.(\d+)\.downsampling_layer\.": r"stages.\1.downsample.",
        r"^encoder\.stages\.(\d+)\.layers\.": r"stages.\1.blocks.",
        r"^layernorm\.": r"head.norm.",
        r"layer_scale_parameter": r"gamma",
        r"dwconv\.": r"conv_dw.",
        r"layernorm\.": r"norm.",
        r"pwconv(\d)\.": r"mlp.fc\1.",
    },
    "swin": {
        r"^embeddings\.patch_embeddings\.projection\.": r"patch_embed.proj.",
        r"^embeddings\.norm\.": r"patch_embed.norm.",
        r"^encoder\.layers\.(\d+)\.downsample\.": lambda found: f"layers.{int(found[1]) + 1}.downsample.",
        r"^encoder\.layers\.": r"layers.",
        r"^layernorm\.": r"norm.",
        **_BLOCK,
    },
}
