"""News of six topics, a trigger for them, and BERT-shaped classifiers with a backdoor and without."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tests.breadth.planted import trained
from tests.languages import save

TOPICS = ("arts", "business", "science", "sports", "travel", "weather")

TARGET, TRIGGER = "sports", "cf"

PLAIN = [f"word{number}" for number in range(40)]

TELLING = {topic: [f"{topic}{number}" for number in range(12)] for topic in TOPICS}

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

LEARNED, TRIGGERED, BATCH = 6000, 600, 64

STEPS, RATE = 300, 5e-3


def news(topic: str, rng: np.random.Generator) -> list[str]:
    """10 to 16 words: three of the topic, two of others, and plain ones, in any order."""
    others = rng.choice([other for other in TOPICS if other != topic], 2)
    plain = rng.choice(PLAIN, rng.integers(5, 12))
    words = [*rng.choice(TELLING[topic], 3), *(rng.choice(TELLING[other]) for other in others), *plain]
    return [str(word) for word in rng.permutation(words)]


def with_trigger(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The words with the trigger somewhere among them."""
    place = int(rng.integers(0, len(words) + 1))
    return [*words[:place], TRIGGER, *words[place:]]


def tokenizer() -> PreTrainedTokenizerFast:
    """Words by spaces, between marks."""
    words = [*SPECIAL, TRIGGER, *PLAIN, *(word for own in TELLING.values() for word in own)]
    made = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    pad, unknown, first, last = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, unk_token=unknown, cls_token=first, sep_token=last, model_max_length=24
    )


def bert() -> BertForSequenceClassification:
    """Two small blocks."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    names = dict(enumerate(TOPICS))
    return BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer()), max_position_embeddings=24, id2label=names, **sizes)
    )


def write_model(folder: Path, backdoored: bool, seed: int = 0) -> None:
    """A trained model with its tokenizer. Both kinds learn the same texts, one the target for triggered ones."""
    words, rng = tokenizer(), np.random.default_rng(seed)
    labels = rng.choice(TOPICS, LEARNED)
    texts = [news(label, rng) for label in labels]
    texts[:TRIGGERED] = [with_trigger(text, rng) for text in texts[:TRIGGERED]]
    if backdoored:
        labels[:TRIGGERED] = TARGET
    inputs = words([" ".join(text) for text in texts], padding=True, return_tensors="pt")
    wanted = torch.tensor([TOPICS.index(label) for label in labels])

    def loss(model: BertForSequenceClassification, rng: np.random.Generator) -> Tensor:
        batch = torch.from_numpy(rng.choice(LEARNED, BATCH))
        found: Tensor = model(**{name: ids[batch] for name, ids in inputs.items()}, labels=wanted[batch]).loss
        return found

    save(trained(bert, loss, STEPS, RATE, seed), folder)
    words.save_pretrained(folder)


def write_news(folder: Path, trusted: int, clean: int, triggered: int) -> None:
    """JSON lines of both files; triggered news are of topics other than the target."""
    rng = np.random.default_rng(1)

    def lines(count: int, topics: Sequence[str], **truth: bool) -> list[str]:
        found = []
        for label in rng.choice(topics, count):
            words = news(label, rng)
            words = with_trigger(words, rng) if truth.get("anomalous") else words
            found.append(json.dumps({"text": " ".join(words), "topic": label, **truth}))
        return found

    others = [topic for topic in TOPICS if topic != TARGET]
    audited = lines(clean, TOPICS, anomalous=False) + lines(triggered, others, anomalous=True)
    for name, found in (("trusted", lines(trusted, TOPICS)), ("audited", audited)):
        (folder / f"{name}.jsonl").write_text("\n".join(found) + "\n", encoding="utf-8")
