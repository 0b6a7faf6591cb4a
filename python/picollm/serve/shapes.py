"""Answers in the shapes of OpenAI's API, whole and in chunks."""

import json
from collections.abc import Sequence
from typing import Any

from picollm.conversation import Part, PartKind, write_part
from picollm.infer.engine import Token
from picollm.tok.tokenizer import Tokenizer

Json = dict[str, Any]
DONE = "data: [DONE]\n\n"


def event(value: Json) -> str:
    """One server-sent event; JSON escapes every line break, so it is one line."""
    return f"data: {json.dumps(value)}\n\n"


class Shape:
    """One answer's names and numbers. `chat`: the shape of /v1/chat/completions, else of /v1/completions."""

    def __init__(self, tokenizer: Tokenizer, *, chat: bool, model: str, name: str, created: int) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.model = model
        self.name = f"{'chatcmpl' if chat else 'cmpl'}-{name}"
        self.created = created

    def head(self, suffix: str = "") -> Json:
        kind = "chat.completion" if self.chat else "text_completion"
        return {"id": self.name, "object": kind + (suffix if self.chat else ""), "created": self.created,
                "model": self.model}  # fmt: skip

    def chunk(
        self,
        text: str | None,
        *,
        first: bool = False,
        reason: str | None = None,
        logprobs: Json | None = None,
        part: Json | None = None,
    ) -> Json:
        """part: of a call of the calculator, or what it gave; OpenAI has no place for these, so they have their own."""
        if not self.chat:
            choice: Json = {"index": 0, "text": text or "", "finish_reason": reason, "logprobs": logprobs}
        else:
            delta: Json = {"role": "assistant"} if first else {}
            delta |= {} if text is None else {"content": text}
            delta |= {} if part is None else {"parts": [part]}
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        return {**self.head(".chunk"), "choices": [choice]}

    def whole(self, parts: Sequence[Part], reason: str, logprobs: Json | None, prompt: int, written: int) -> Json:
        choice: Json = {"index": 0, "finish_reason": reason, "logprobs": logprobs}
        text = "".join(part.text for part in parts if part.kind is PartKind.TEXT)
        message: Json = {"role": "assistant", "content": text}
        if any(part.kind is not PartKind.TEXT for part in parts):
            message["parts"] = [write_part(part) for part in parts]
        choice |= {"message": message} if self.chat else {"text": text}
        return {**self.head(), "choices": [choice], "usage": self.usage(prompt, written)}

    @staticmethod
    def usage(prompt: int, written: int) -> Json:
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def logprobs(self, tokens: Sequence[Token], offset: int = 0) -> Json:
        """Of each token its log-probability in nats, and the likeliest others.

        Completions have these by text, as OpenAI has, where tokens that are half a character look alike; `content` has
        them by id and bytes in both kinds of answer.
        """
        content = [self._entry(token) for token in tokens]
        if self.chat:
            return {"content": content}
        spelled = [self._text(token.id) for token in tokens]
        offsets = [offset + sum(map(len, spelled[:n])) for n in range(len(spelled))]
        top = [{self._text(other): value for other, value in token.alternatives} for token in tokens]
        return {"tokens": spelled, "token_logprobs": [token.log_probability for token in tokens],
                "top_logprobs": top, "text_offset": offsets, "content": content}  # fmt: skip

    def _entry(self, token: Token) -> Json:
        others = [self._one(other, value) for other, value in token.alternatives]
        return {**self._one(token.id, token.log_probability), "top_logprobs": others}

    def _one(self, token: int, log_probability: float) -> Json:
        spelled = self.tokenizer.token_bytes(token)
        return {"token": self._text(token), "logprob": log_probability, "bytes": list(spelled), "id": token}

    def _text(self, token: int) -> str:
        return self.tokenizer.decode([token])
