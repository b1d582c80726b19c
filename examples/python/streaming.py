"""Streaming: text as it comes, from plain code and from asyncio with several requests at once."""

import asyncio
import sys

from realm import Realm

QUESTIONS = [
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is the capital of Peru?",
]


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def stream_one(realm: Realm) -> None:
    with realm.chat_stream(ask(QUESTIONS[0]), max_tokens=48, temperature=0) as stream:
        for piece in stream:
            print(piece, end="", flush=True)
    usage = stream.result.usage
    print(f"\n({usage.prompt_tokens} tokens in, {usage.completion_tokens} out)")


async def stream_several(realm: Realm) -> None:
    """The requests are computed together, in one batch a step."""

    async def collect(question: str) -> str:
        pieces = [piece async for piece in realm.achat_stream(ask(question), max_tokens=48, temperature=0)]
        return "".join(pieces)

    for question, answer in zip(QUESTIONS, await asyncio.gather(*map(collect, QUESTIONS)), strict=True):
        print(f"{question} {answer}")


def main() -> None:
    with Realm(*sys.argv[1:2]) as realm:
        stream_one(realm)
        asyncio.run(stream_several(realm))


if __name__ == "__main__":
    main()
