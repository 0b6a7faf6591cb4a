"""The special tokens, in their fixed order, and the chat format as other programs read it."""

from typing import Any

from picollm import _rustbpe

# Decision 7: the last ids of every vocabulary. The tuple lives in Rust, which refuses a file that says otherwise.
SPECIALS: tuple[str, ...] = tuple(_rustbpe.SPECIALS)
BOS = SPECIALS[0]
BYTES = 256
SMALLEST_VOCAB = BYTES + len(SPECIALS)
LARGEST_VOCAB = 2**16  # ids of shards are uint16

# For transformers and vLLM only; `conversation.render` is what we use, and a test compares the two.
CHAT_TEMPLATE = """\
{{- '<|bos|>' -}}
{%- set state = namespace(before='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' and loop.first -%}
{%- set state.before = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '<|user_start|>' + state.before + message['content'] + '<|user_end|>' -}}
{%- set state.before = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{- '<|assistant_start|>' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- '<|' + part['type'] + '_start|>' + part['text'] + '<|' + part['type'] + '_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|assistant_end|>' -}}
{%- else -%}
{{- raise_exception('unexpected role: ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant_start|>' -}}
{%- endif -%}
"""


def transformers_config(first_special: int) -> dict[str, Any]:
    """`tokenizer_config.json`. `first_special` is the id of `<|bos|>`."""
    shown = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "added_tokens_decoder": {str(first_special + i): {"content": name} | shown for i, name in enumerate(SPECIALS)},
        "additional_special_tokens": list(SPECIALS),
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|assistant_end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
