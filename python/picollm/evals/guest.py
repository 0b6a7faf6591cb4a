"""What runs inside the sandbox: on one side a model's function, on the other the test that calls it. No picollm here.

The two sides are processes of their own and share nothing but lines of JSON, so a function cannot touch the test that
judges it: what it returns arrives as plain values, and what it raises as a name.
"""

import builtins
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

LONGEST_LINE = 1 << 24
KINDS: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def to_plain(value: Any) -> Any:
    """Numbers, strings and None as they are, containers by name. Raises TypeError for anything else."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for name, kind in KINDS.items():
        if type(value) is kind:
            return {name: [to_plain(one) for one in value]}
    if type(value) is dict:
        return {"dict": [[to_plain(key), to_plain(one)] for key, one in value.items()]}
    if type(value) is bytes:
        return {"bytes": value.hex()}
    if type(value) is complex:
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"a {type(value).__name__} cannot leave the sandbox")


def from_plain(value: Any) -> Any:
    """The inverse of `to_plain`."""
    if not isinstance(value, dict):
        return value
    [(name, inner)] = value.items()
    if name == "dict":
        return {from_plain(key): from_plain(one) for key, one in inner}
    if name == "bytes":
        return bytes.fromhex(inner)
    if name == "complex":
        return complex(*inner)
    return KINDS[name](from_plain(one) for one in inner)


def limit(said: dict[str, int]) -> None:
    """Lower limits that nothing in here can raise again."""
    for name, most in said.items():
        resource.setrlimit(getattr(resource, name), (most, most))
    sys.set_int_max_str_digits(0)


def answer(said: dict[str, Any], calls: int, replies: int) -> None:
    """Load the model's program, then call its function for as long as somebody asks."""
    names: dict[str, Any] = {"__name__": "answer"}
    for part in said["program"]:
        exec(compile(part, "<model>", "exec"), names)  # noqa: S102  what the sandbox is for
    function = names[said["entry_point"]]
    with open(calls, "rb") as asked, open(replies, "wb", buffering=0) as told:
        for line in asked:
            try:
                arguments, keywords = from_plain(json.loads(line))
                reply = {"value": to_plain(function(*arguments, **keywords))}
            except Exception as error:  # noqa: BLE001  whatever the model's function raises, the test is told
                reply = {"error": type(error).__name__}
            told.write(json.dumps(reply).encode() + b"\n")


def judge(said: dict[str, Any], calls: int, replies: int) -> None:
    """Run the test against the function of the other side; write whether it passed."""
    with open(calls, "wb", buffering=0) as asking, open(replies, "rb") as told:

        def candidate(*arguments: Any, **keywords: Any) -> Any:
            try:
                asking.write(json.dumps(to_plain([list(arguments), keywords])).encode() + b"\n")
                reply = json.loads(told.readline(LONGEST_LINE))
            except (OSError, ValueError):  # the other side has ended, or says what it should not
                tell(passed=False, why="ended")
                os._exit(0)
            if "error" in reply:
                kind = getattr(builtins, str(reply["error"]), RuntimeError)
                raise kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError
            return from_plain(reply["value"])

        try:
            names: dict[str, Any] = {"__name__": "judge"}
            for part in (said["prompt"], said["test"]):
                exec(compile(part, "<test>", "exec"), names)  # noqa: S102
                names[said["entry_point"]] = candidate
            names["check"](candidate)
        except Exception as error:  # noqa: BLE001  a test that raises has failed
            tell(passed=False, why=type(error).__name__)
        else:
            tell(passed=True, why="")


def tell(*, passed: bool, why: str) -> None:
    os.write(1, json.dumps({"passed": passed, "why": why}).encode() + b"\n")


def main() -> None:
    side, calls, replies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    said = json.loads(sys.stdin.buffer.readline())
    limit(said["limits"])
    {"answer": answer, "judge": judge}[side](said, calls, replies)


if __name__ == "__main__":
    main()
