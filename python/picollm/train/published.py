"""Conversations that the Hub has, for fine-tuning."""

from pathlib import Path

from picollm.corpus.hub import Asked, Hub, Shelf, cache_folder
from picollm.loader.chats import read_chats
from picollm.train.sft import Chats, split_chats


def hub_chats(asked: Asked, cache: Path) -> Chats:
    """The conversations of a data set of the Hub, at the commit it has now, a twentieth held out.

    Raises UsageError (no such configuration or split, no column of turns), MissingError, DownloadError.
    """
    hub = Hub.connect()
    dataset = hub.dataset(asked)
    shelf = Shelf(hub, dataset.repo, dataset.commit)
    root = cache_folder(cache, dataset.repo) / dataset.commit
    root.mkdir(parents=True, exist_ok=True)
    paths = [shelf.bring(file, root) for file in dataset.files]
    return split_chats(asked.name, [chat for path in paths for chat in read_chats(path)])
