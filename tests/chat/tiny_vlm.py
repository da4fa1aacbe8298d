"""A vision-language model of transformers with random weights, in a folder like any other."""

from __future__ import annotations

from pathlib import Path

ANSWERS = ("Score:", "0", "0.5", "1")
WORDS = ("push", "reach", "the", "red", "moon", "blue", "cube", "to", "green", "star", "Picture")
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<answer> {% endif %}"
)


def write_tiny_vlm(folder: Path, seed: int = 0) -> str:
    """Write a Llava of two layers that can say nothing but `ANSWERS`.

    Args:
        folder: where to.
        seed: of the weights.

    Returns:
        The folder.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    names = ["<unk>", "<pad>", "<s>", "</s>", "<image>", "<answer>", *ANSWERS, *WORDS]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", bos_token="<s>",
        eos_token="</s>", additional_special_tokens=["<image>", "<answer>"],
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=16, patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(names), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
        ),
        image_token_index=names.index("<image>"),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LlavaForConditionalGeneration(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    network.generation_config = GenerationConfig(
        suppress_tokens=[i for i, name in enumerate(names) if name not in ANSWERS],
        pad_token_id=1, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
