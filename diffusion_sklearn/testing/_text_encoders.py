"""Tiny tokenizers and text encoders with random weights; every letter is a token."""

from functools import cache
from tempfile import TemporaryDirectory

import tokenizers
import torch
import transformers

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.-,"


def number(words):
    """A vocabulary: words by their place."""
    return {word: k for k, word in enumerate(words)}


def varied(module):
    """Random weights everywhere: networks that end in zeros ignore their input."""
    for p in module.parameters():
        if p.ndim > 1:  # all but biases and norms
            torch.nn.init.normal_(p, std=0.3)
    return module.eval()


def clip_tokenizer():
    """A tokenizer of CLIP for which every letter is a token."""
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(number(words), merges=[], model_max_length=40)


def clip(n_pooled=None, length=40, width=8):
    """A tokenizer and a text encoder of CLIP, projected if `n_pooled`."""
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=length,
        projection_dim=n_pooled or width, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    projected = "WithProjection" if n_pooled else ""
    cls = getattr(transformers, "CLIPTextModel" + projected)
    return tokenizer, varied(cls(config))


def t5(kind="T5"):
    """A tokenizer and a text encoder of T5 or UMT5."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    pieces += [(letter, -2.0) for letter in LETTERS]
    tokenizer = transformers.T5Tokenizer(pieces, extra_ids=0, model_max_length=512)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=16, num_layers=1,
        num_heads=2,
    )  # fmt: skip
    encoder = getattr(transformers, f"{kind}EncoderModel")(config)
    return tokenizer, varied(encoder)


def gemma(n_layers=1):
    """A tokenizer and a text encoder of Gemma 2."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *LETTERS, "▁"]
    tokenizer = transformers.GemmaTokenizer(number(words), merges=[])
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, head_dim=4,
        num_attention_heads=2, num_hidden_layers=n_layers, num_key_value_heads=2,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return tokenizer, varied(transformers.Gemma2Model(config))


def qwen_tokenizer():
    """A tokenizer of Qwen for which every letter is a token."""
    special = ["<|im_start|>", "<|im_end|>"]
    words = ["<|endoftext|>", *LETTERS, *"DĠĊ:", *special]
    tokenizer = transformers.Qwen2Tokenizer(
        number(words), merges=[], additional_special_tokens=special
    )
    tokenizer.chat_template = (
        r"{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + "
        r"message.content + '<|im_end|>\n' }}{% endfor %}"
        r"{{ '<|im_start|>assistant\n' }}"
    )
    return tokenizer


def qwen3(n_layers=2, cls="Qwen3Model"):
    """A tokenizer and a text encoder of Qwen 3."""
    tokenizer = qwen_tokenizer()
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, head_dim=8,
        num_hidden_layers=n_layers, num_attention_heads=2, num_key_value_heads=2,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return tokenizer, varied(getattr(transformers, cls)(config))


def llama():
    """A tokenizer and a text encoder of Llama 3."""
    words = ["<unk>", "<s>", "</s>", *LETTERS, "▁"]
    tokenizer = transformers.LlamaTokenizer(
        number(words), merges=[], model_max_length=128, padding_side="right"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        attn_implementation="eager",  # the pipeline wants the attention weights
    )  # fmt: skip
    return tokenizer, varied(transformers.LlamaForCausalLM(config))


def mistral3():
    """A tokenizer and a text encoder of Mistral 3, with the layers FLUX.2 reads."""
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    special = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    words = ["<unk>", "<s>", "</s>", "<pad>", *special, *LETTERS, "▁"]
    tokenizer = transformers.LlamaTokenizer(
        number(words), merges=[], pad_token="<pad>",
        additional_special_tokens=[*special, SYSTEM_MESSAGE],  # as one token
    )  # fmt: skip
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'system' %}"
        "[SYSTEM_PROMPT]{{ message.content[0].text }}[/SYSTEM_PROMPT]"
        "{% else %}[INST]{{ message.content[0].text }}[/INST]{% endif %}{% endfor %}"
    )
    sizes = dict(hidden_size=16, intermediate_size=16, num_attention_heads=2)
    config = transformers.Mistral3Config(
        text_config=dict(
            model_type="mistral", vocab_size=len(tokenizer), num_hidden_layers=30,
            num_key_value_heads=2, head_dim=8, pad_token_id=3, **sizes,
        ),
        vision_config=dict(
            model_type="pixtral", num_hidden_layers=1, image_size=16, patch_size=8,
            **sizes,
        ),
    )  # fmt: skip
    return tokenizer, varied(transformers.Mistral3ForConditionalGeneration(config))


def qwen2_vl():
    """A tokenizer and a text encoder of Qwen 2.5-VL."""
    tokenizer = qwen_tokenizer()
    config = transformers.Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
            num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]},
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
        ),
        vision_config=dict(
            depth=1, hidden_size=16, intermediate_size=16, num_heads=2,
            out_hidden_size=16, fullatt_block_indexes=[0],
        ),
    )  # fmt: skip
    return tokenizer, varied(transformers.Qwen2_5_VLForConditionalGeneration(config))


@cache
def _chatglm_vocabulary():
    """A folder with a vocabulary of sentencepiece, until the end of the process."""
    import sentencepiece

    folder = TemporaryDirectory()
    with open(f"{folder.name}/tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LETTERS), model_writer=file, model_type="char",
            vocab_size=len(LETTERS) + 4, minloglevel=2,
            normalization_rule_name="identity",
        )  # fmt: skip
    return folder


def chatglm():
    """A tokenizer and a text encoder of ChatGLM 3."""
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    tokenizer = ChatGLMTokenizer(f"{_chatglm_vocabulary().name}/tokenizer.model")
    config = ChatGLMConfig(
        num_layers=1, padded_vocab_size=tokenizer.vocab_size, hidden_size=16,
        ffn_hidden_size=16, kv_channels=4, num_attention_heads=4, seq_length=256,
        original_rope=True,
    )  # fmt: skip
    encoder = ChatGLMModel(config)
    for p in encoder.parameters():
        torch.nn.init.ones_(p)  # norms come without values
    return tokenizer, varied(encoder)


def glm():
    """A tokenizer and a text encoder of GLM 4."""
    words = ["<|endoftext|>", "[UNK]", "[gMASK]", "<sop>", *LETTERS, " "]
    model = tokenizers.models.WordLevel(number(words), "[UNK]")
    letters = tokenizers.Tokenizer(model)
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    letters.post_processor = tokenizers.processors.TemplateProcessing(
        "[gMASK] <sop> $A", special_tokens=[("[gMASK]", 2), ("<sop>", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token=words[0], unk_token=words[1],
        padding_side="left",
    )  # fmt: skip
    config = transformers.GlmConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, head_dim=4,
        num_attention_heads=2, num_hidden_layers=2, num_key_value_heads=2,
        pad_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return tokenizer, varied(transformers.GlmModel(config))


def bert():
    """A tokenizer and a text encoder of BERT."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    words += [f"##{letter}" for letter in LETTERS]
    tokenizer = transformers.BertTokenizer(number(words))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=77,
    )  # fmt: skip
    return tokenizer, varied(transformers.BertModel(config))
