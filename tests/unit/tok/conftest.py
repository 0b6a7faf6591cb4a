import pytest

from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts

TEXT = (
    "The quick brown fox jumps over the lazy dog; it's 1999, isn't it? "
    "Größe, naïve café, 日本語のテキスト, 🙂🙂 — “quoted”\n\n\tdef f(x):\n        return x ** 2\r\n"
    "aaaaaaaa bbbbbb abababab <|user_start|> <|bos|> 12345 1 000 000 "
)


@pytest.fixture(scope="session")
def tiny() -> Tokenizer:
    """400 tokens learned from a few sentences in several scripts."""
    return train_on_texts([TEXT, TEXT[::-1]], 400)
