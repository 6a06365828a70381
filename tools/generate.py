"""`python tools/generate.py`: generate texts about classes with a language model.

Sentences as in CuPL (Pratt et al. 2022, arXiv 2209.03320; LaFTer, arXiv 2305.18287,
does likewise): five questions per class, ten answers each, sampled at temperature 0.99,
at most 50 tokens, cut at the first full stop. Descriptors as in DCLIP (Menon and
Vondrick 2022, arXiv 2210.07183): one greedy answer of at most 100 tokens, a list that
continues two examples.

Deviations: any model that transformers loads replaces GPT-3; the two examples are our
own; a model with a chat template gets each question as the user's turn; answers are
sampled from the whole distribution, whatever the model's defaults.

Answers depend on (seed, class name, question) and not on the other classes. The file is
rewritten after every class, so that an interrupted run resumes.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from helpers import data
from helpers.files import replacing
from helpers.models.clip import resolve_device
from helpers.paths import from_here, here
from helpers.progress import track
from helpers.study.parameters import resolve
from helpers.words import composed, with_article

QUESTIONS = (
    "Describe what {a} looks like",
    "How can you identify {a}?",
    "What does {a} look like?",
    "Describe an image from the internet of {a}",
    "A caption of an image of {a}:",
)
EXAMPLES = {
    "zebra": (
        "four-legged animal with hooves",
        "black and white stripes",
        "upright mane",
        "tail with a dark tuft",
    ),
    "kettle": (
        "metal or plastic container",
        "spout for pouring",
        "handle on top or on one side",
        "lid",
    ),
}
LIST_QUESTION = (
    "Q: What are useful features for distinguishing {a} in a photo?\n"
    "A: There are several useful visual features to tell there is {a} in a photo:\n"
)
TEMPERATURE = 0.99
SENTENCE_TOKENS, LIST_TOKENS = 50, 100
LIST_ENDS = ("\n\n", "\nQ:")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` replace those of the process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = parser.add_mutually_exclusive_group(required=True)
    names.add_argument(
        "--classes",
        type=from_here,
        metavar="FILE",
        help="a file with a class name per line",
    )
    names.add_argument("--dataset", metavar="NAME", help="a data set's class names")
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="where the data set lies"
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_ID",
        help="a causal language model: a folder, or its name on the Hugging Face hub",
    )
    parser.add_argument("--out", type=from_here, required=True, metavar="FILE")
    parser.add_argument(
        "--answers", type=int, default=10, help="per question (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    given = parser.parse_args(arguments)
    model = resolve("model", given.model, here())
    data_root = given.data_root and str(from_here(given.data_root))
    if given.classes:
        class_names = given.classes.read_text(encoding="utf-8-sig").splitlines()
    else:
        class_names = data.read(given.dataset, data_root).class_names
    written = generate(
        class_names, model, given.out, given.answers, given.seed, given.device
    )
    for kind in ("sentences", "descriptors"):
        texts = written[kind]
        empty = [repr(name) for name, of_class in texts.items() if not of_class]
        print(f"{sum(map(len, texts.values()))} {kind} of {len(texts)} classes")
        if empty:
            print(f"  none of {', '.join(empty)}: write them by hand")
    print(given.out)
    return 0


def generate(
    class_names: Sequence[str],
    model: str,
    out: Path,
    answers: int = 10,
    seed: int = 0,
    device: str = "auto",
) -> dict:
    """Generate the texts of all classes, write them to `out`, and return its content.

    Args:
        class_names: of which white space and repetitions are removed.
        model: a folder, or a model's name on the Hugging Face hub.
        out: in the layout of `helpers.prompts.descriptions`. Classes that it already
            has are kept.
        answers: per question.
        seed: of the sampling.
        device: "auto" or a torch device.

    Raises:
        ValueError: no class names, no answers, or `out` has other settings.
        RuntimeError: the model cannot be loaded.
    """
    names = list(dict.fromkeys(filter(None, map(composed, class_names))))
    if not names:
        raise ValueError("no class names: give one per line")
    if answers < 1:
        raise ValueError(f"answers must be 1 or more, not {answers}")
    settings = {
        "model": Path(model).resolve().name if Path(model).is_dir() else model,
        "seed": seed,
        "answers": answers,
        "temperature": TEMPERATURE,
        "tokens": [SENTENCE_TOKENS, LIST_TOKENS],
        "questions": [*QUESTIONS, list_question("a {}")],
    }
    content = _begun(out, settings)
    missing = [name for name in names if name not in content["descriptors"]]
    if missing:
        language_model, tokenizer = _load(model, device)
        revision = getattr(language_model.config, "_commit_hash", None)
        content["provenance"] |= {
            "revision": revision,
            "transformers": transformers.__version__,
        }
    for name in track(missing, label="writing texts"):
        content["sentences"][name] = _sentences(
            name, language_model, tokenizer, answers, seed
        )
        content["descriptors"][name] = _descriptors(name, language_model, tokenizer)
        with replacing(out) as temporary:
            text = json.dumps(content, indent=1, ensure_ascii=False)
            temporary.write_text(f"{text}\n", encoding="utf-8")
    return content


def sentence(answer: str) -> str:
    """Cut an answer at its first full stop, on one line; "" if nothing precedes it.

    As in CuPL, an answer that was cut before a full stop gets one.
    """
    text = " ".join(answer.partition(".")[0].split())
    return f"{text}." if text else ""


def listed(answer: str, whole: bool) -> list[str]:
    """Return the entries of the list at the beginning of an answer, without "- ".

    The last line of an answer that is not `whole`, cut by the token limit, is left out.
    """
    lines = [line.strip() for line in answer.strip().splitlines()]
    entries = []
    for line in lines if whole else lines[:-1]:
        if not line.startswith("-"):
            break
        entries.append(line.lstrip("- "))
    return [entry for entry in entries if entry]


def list_question(a: str) -> str:
    """Return DCLIP's question about `a`, such as "a hen", after two examples."""
    answered = [
        LIST_QUESTION.format(a=with_article(name)) + "- " + "\n- ".join(features)
        for name, features in EXAMPLES.items()
    ]
    return "\n\n".join([*answered, LIST_QUESTION.format(a=a) + "-"])


def _sentences(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answers: int,
    seed: int,
) -> list[str]:
    """Sentences for all questions; a batch has all answers to one question."""
    config = GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        num_return_sequences=answers,
        max_new_tokens=SENTENCE_TOKENS,
    )
    found = []
    for question in QUESTIONS:
        digest = hashlib.sha256(f"{seed}|{name}|{question}".encode()).digest()
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(digest[:6]))
            texts, _ = _answers(
                question.format(a=with_article(name)),
                model,
                tokenizer,
                config,
                lambda text: "." in text.lstrip(),
            )
        found += [sentence(text) for text in texts]
    return [text for text in found if text]


def _descriptors(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    config = GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,
        max_new_tokens=LIST_TOKENS,
    )
    (text,), whole = _answers(
        list_question(with_article(name)),
        model,
        tokenizer,
        config,
        lambda text: any(end in text.lstrip() for end in LIST_ENDS),
    )
    # A completion continues after the prompt's dash; a chat model writes its own dash.
    answer = text.strip()
    return listed(answer if answer.startswith("-") else f"- {answer}", whole)


@torch.no_grad()
def _answers(
    question: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: GenerationConfig,
    is_done: Callable[[str], bool],
) -> tuple[list[str], bool]:
    """The model's answers, and whether they ended before the token limit."""
    chat = tokenizer.chat_template is not None
    if chat:
        question = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            tokenize=False,
        )
    asked = tokenizer(question, return_tensors="pt", add_special_tokens=not chat)
    ids = asked.input_ids.to(model.device)
    limit, start = config.max_new_tokens, ids.shape[1]
    context = getattr(model.config, "max_position_embeddings", None)
    if context and start + limit > context:
        raise ValueError(
            f"a question of {start} tokens and an answer of {limit} exceed the model's "
            f"context of {context}: choose a model with a longer one"
        )

    def decode(ids: Tensor) -> list[str]:
        return tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)

    def stop(ids: Tensor, scores: Tensor, **_) -> Tensor:
        return torch.tensor([is_done(text) for text in decode(ids)], device=ids.device)

    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    config.eos_token_id = ends
    config.pad_token_id = ends[0] if isinstance(ends, list) else ends
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([stop]),
    )
    return decode(output), output.shape[1] < start + limit


def _load(model: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer; only safetensors, and no code of the model."""
    where = resolve_device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        loaded = AutoModelForCausalLM.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False, dtype="auto"
        )
    except Exception as error:  # transformers raises nearly anything
        raise RuntimeError(
            f"cannot load the language model {model!r}: {str(error).rstrip('.')}. Give "
            "a folder with config.json, a tokenizer and weights as .safetensors, or "
            "the name of such a model on the Hugging Face hub"
        ) from error
    return loaded.to(where).eval(), tokenizer


def _begun(out: Path, settings: dict) -> dict:
    """The content of `out`, from a run with the same settings, or an empty one."""
    if not out.exists():
        return {"provenance": dict(settings), "sentences": {}, "descriptors": {}}
    try:
        content = json.loads(out.read_text(encoding="utf-8"))
        made_by = content["provenance"]
        content["sentences"], content["descriptors"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{out} is there already and not of our making: give another --out"
        ) from error
    for key, value in settings.items():
        if made_by.get(key) != value:
            raise ValueError(
                f"{out} was begun with {key} {made_by.get(key)!r}, not {value!r}: "
                "give another --out, or remove the file"
            )
    return content


if __name__ == "__main__":
    sys.exit(main())
