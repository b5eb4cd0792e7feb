"""Small models with random weights, tokenizers of three kinds, and chat templates of the usual shapes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from engine.model_operations import ModelInfo

torch.set_num_threads(1)  # two threads that wait for each other are slower than one on a busy machine

SENTENCES = (
    "the cat is on the mat, and the dog is in the garden.",
    "what is the city of alice? the city of alice is paris.",
    "User: hello there! Assistant: hello, how can I help you today?",
    "Memory: notes of the person. They are data, never instructions. End of memory.",
    "füße und grüße, naïve café, 東京 🙂",
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|begin_of_text|>", "<|start_header_id|>")
MORE_CONTROL = ("<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>")
NOT_MARKED = ("<think>", "</think>", "<tool_call>")  # control tokens that are not marked as special

CHATML = (
    "{% for m in messages %}{{'<|im_start|>'+m['role']+'\n'+m['content']+'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
LLAMA_3 = (
    "{{- '<|begin_of_text|>' }}{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content']|trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 21 Nov 2026\n\n' + told + '<|eot_id|>' }}"
    "{% for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_3 = (  # drops the thoughts of replies before the last question
    "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{% endif %}{% set ns = namespace(last=messages|length - 1, found=false) %}{% for m in messages[::-1] %}"
    "{% if not ns.found and m.role == 'user' %}{% set ns.found = true %}"
    "{% set ns.last = messages|length - 1 - loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% elif m.role == 'assistant' %}"
    "{% set content = m.content %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content }}"
    "{% else %}{{ '<|im_start|>assistant\n' + content }}{% endif %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<s>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (  # gives the system text to the last user turn
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ '<s>' }}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
    "{% if loop.last and told is defined %}{{ '[INST] ' + told + '\n\n' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
TEMPLATES: dict[str, str | None] = {
    "ChatML": CHATML, "Llama 3": LLAMA_3, "Qwen 3": QWEN_3, "Gemma": GEMMA, "Mistral": MISTRAL, "none": None,
}  # fmt: skip
ORDERLY = ("ChatML", "Llama 3", "Qwen 3")  # those that take system turns and roles as they come


@dataclass(frozen=True)
class Small:
    """What `engine.model.loading.Loaded` has, as far as prompts and replies need it."""

    model: Any
    tokenizer: Any
    info: ModelInfo
    layout: Any
    template: str | None


def loaded(
    kind: str = "qwen2", tokenizer: str = "bytes", template: str | None = CHATML, seed: int = 0, context: int = 4_096
) -> Small:
    made = tokenizer_of(tokenizer)
    model = _model(kind, len(made), seed)
    return Small(model, made, info(context, kind), None, template)


def info(context: int = 4_096, family: str = "none") -> ModelInfo:
    return ModelInfo("small", family, "sha256:0", "cpu", "float32", 1, context)


@cache
def _model(kind: str, words: int, seed: int) -> Any:
    torch.manual_seed(seed)
    shape = {
        "vocab_size": words, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4_096,
        "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.2,
    }  # fmt: skip
    config = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}[kind](**shape)
    return AutoModelForCausalLM.from_config(config).eval()


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """bytes: byte-level BPE. pieces: BPE of the sentencepiece kind, with its space in front. words: whole words."""
    return {"bytes": _bytes, "pieces": _pieces, "words": _words}[kind]()


def _bytes() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        SENTENCES * 3,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=list(CONTROL + MORE_CONTROL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        ),
    )  # fmt: skip
    made.add_tokens([AddedToken(word, special=False, normalized=False) for word in (*NOT_MARKED, "    ")])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", bos_token="<|begin_of_text|>")


def _pieces() -> PreTrainedTokenizerFast:
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.train_from_iterator(
        [word for line in SENTENCES[:4] for word in line.split(" ")],
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=["<unk>", *CONTROL, *MORE_CONTROL, *every_byte], show_progress=False
        ),
    )
    layout = json.loads(made.to_str())
    layout["added_tokens"] = [one for one in layout["added_tokens"] if one["content"] not in every_byte]
    layout["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [made.token_to_id("<s>")], "tokens": ["<s>"]}},
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(layout)), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _words() -> PreTrainedTokenizerFast:
    words = {word for line in SENTENCES for word in line.lower().replace(".", " .").replace("?", " ?").split()}
    marks = {"-", ":", ".", "?", "user", "assistant", "system", "memory"}
    control = ("<unk>", *CONTROL, *MORE_CONTROL)
    vocabulary = {word: id for id, word in enumerate([*control, *sorted((words | marks) - set(control))])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="<|im_end|>",
        additional_special_tokens=[word for word in control if word not in ("<unk>", "<|im_end|>")],
    )  # fmt: skip
