"""Train the demo model from scratch and write realm-demo.gguf: `python train.py [--steps N] [--out FILE]`.

Owns the tokenizer's and the model's training; the shape stands in model.py, the text in conversations.py, the
file format in export.py. Everything follows from SEED. judge.json is never read here.
"""

import argparse
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from conversations import SPECIAL_TOKENS, Conversations, Piece
from export import write_gguf
from model import Llama, Shape
from questions import read_facts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
SEED = 20
THREADS = 2
STEPS = 2400
WARMUP_STEPS = 100
TOKENS_PER_STEP = 1920
STEPS_PER_POOL = 96  # documents of so many steps are sorted by length together: batches need little padding
PEAK_RATE = 2.5e-3
TOKENIZER_DOCUMENTS = 60_000

Document = tuple[list[int], list[bool]]  # ids, and which of them the model is to learn to say


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    start, cpu_start = time.monotonic(), time.process_time()
    countries = read_facts(HERE / "facts.txt")
    tokenizer = train_tokenizer(Conversations(countries, SEED), Shape().vocab_size)
    model = Llama(Shape())
    train(model, encoded(tokenizer, Conversations(countries, SEED + 1)), arguments.steps)
    write_gguf(arguments.out, model, tokenizer)
    print(f"wrote {arguments.out}: {arguments.out.stat().st_size} bytes, "
          f"{time.monotonic() - start:.0f} s, {time.process_time() - cpu_start:.0f} CPU s")  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=HERE / "realm-demo.gguf")
    return parser.parse_args()


def train_tokenizer(conversations: Conversations, vocab_size: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting: any text can be encoded, and every runtime knows the scheme."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = islice(conversations.documents(), TOKENIZER_DOCUMENTS)
    texts = (piece.text for document in documents for piece in document if not piece.special)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encoded(tokenizer: Tokenizer, conversations: Conversations) -> Iterator[Document]:
    for pieces in conversations.documents():
        yield encode(tokenizer, pieces)


def encode(tokenizer: Tokenizer, pieces: list[Piece]) -> Document:
    ids: list[int] = []
    learned: list[bool] = []
    for piece in pieces:
        new = [tokenizer.token_to_id(piece.text)] if piece.special else tokenizer.encode(piece.text).ids
        ids += new
        learned += [piece.learned] * len(new)
    limit = Shape().context_length
    return ids[:limit], learned[:limit]


def train(model: Llama, documents: Iterator[Document], steps: int) -> None:
    matrices = [parameter for parameter in model.blk.parameters() if parameter.dim() == 2]
    others = [parameter for name, parameter in model.named_parameters() if "norm" in name or "embd" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    start = time.monotonic()
    for step, (ids, targets) in enumerate(islice(batches(documents), steps)):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * rate_factor(step, steps)
        loss = loss_of(model, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            seconds = time.monotonic() - start
            print(f"step {step} of {steps}: loss {loss.item():.4f}, {seconds:.0f} s", flush=True)


def rate_factor(step: int, steps: int) -> float:
    """Warm up, hold, then fall to zero over the last two thirds."""
    fall = (steps - step) / (steps * 2 / 3)
    return min((step + 1) / WARMUP_STEPS, 1.0, 0.5 - 0.5 * math.cos(math.pi * min(fall, 1.0)))


def loss_of(model: Llama, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    wanted = targets >= 0
    return F.cross_entropy(model.logits(model(ids)[wanted]), targets[wanted])


def batches(documents: Iterator[Document]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, targets), both (batch, length): documents of like length; a target of -1 is not learned."""
    random = Random(SEED)
    while True:
        pool: list[Document] = []
        size = 0
        while size < TOKENS_PER_STEP * STEPS_PER_POOL:
            pool.append(next(documents))
            size += len(pool[-1][0])
        pool.sort(key=lambda document: len(document[0]))
        groups = list(grouped(pool))
        random.shuffle(groups)
        yield from (padded(group) for group in groups)


def grouped(pool: list[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    for document in pool:
        if group and (len(group) + 1) * len(document[0]) > TOKENS_PER_STEP:
            yield group
            group = []
        group.append(document)
    yield group


def padded(group: list[Document]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(ids) for ids, _ in group) - 1
    ids = torch.zeros(len(group), length, dtype=torch.long)
    targets = torch.full((len(group), length), -1)
    for row, (tokens, learned) in enumerate(group):
        ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        wanted = [token if learn else -1 for token, learn in zip(tokens[1:], learned[1:], strict=True)]
        targets[row, : len(wanted)] = torch.tensor(wanted)
    return ids, targets


if __name__ == "__main__":
    main()
