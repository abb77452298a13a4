"""Prompts -> tokens that a text encoder can read."""

import re
import warnings

DEFAULT_TEMPLATE = "a photo of a {}."


def default_template(tokenizer):
    """The prompt template that a model was made for.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Its ``tokenizer_config.json`` may have a ``prompt_template``.

    Returns
    -------
    template : str
        "a photo of a {}." where it says nothing, as in CLIP's paper.
    """
    return tokenizer.init_kwargs.get("prompt_template", DEFAULT_TEMPLATE)


def tokenizer_of(part):
    """The tokenizer of a pipeline's part, which may be a processor with images.

    Parameters
    ----------
    part : PreTrainedTokenizerBase or ProcessorMixin

    Returns
    -------
    tokenizer : PreTrainedTokenizerBase
    """
    return part if hasattr(part, "get_vocab") else part.tokenizer


def chat_around(tokenizer, enable_thinking):
    """What the chat template of a text encoder puts around what a user says.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a chat template.
    enable_thinking : bool
        As in the pipeline.

    Returns
    -------
    text : str
    """
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )


def check_prompts(prompts, tokenizer, length, instead, around=""):
    """Raise if a prompt has unknown words; warn if it is cut.

    Parameters
    ----------
    prompts : list of str
        One that is longer than the text encoder reads is cut, with a warning that
        says what was lost.
    tokenizer : PreTrainedTokenizerBase
        Its ``tokenizer_config.json`` may list ``known_words``: all that the model has
        been trained on.
    length : int
        Tokens that the text encoder reads.
    instead : str
        Hub id of a model that knows more words, for the error.
    around : str
        Text that the pipeline puts around every prompt, such as a system prompt. Its
        tokens count towards the length.

    Raises
    ------
    ValueError
        If a prompt has words that the model never saw.
    """
    _check_words(prompts, tokenizer, instead)
    if around:
        length -= len(tokenizer(around).input_ids) - len(tokenizer("").input_ids)
    for prompt in prompts:
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        excess = len(ids) - length
        if excess > 0:
            # An end token stays; what goes are the words before it.
            end = len(ids) - (ids[-1] in tokenizer.all_special_ids)
            lost = tokenizer.decode(ids[end - excess : end])
            warnings.warn(
                f"The prompt {prompt!r} has {len(ids)} tokens, the model reads "
                f"{length}: {lost!r} was cut. Shorten the class name or the "
                "prompt_template.",
                UserWarning,
                stacklevel=3,
            )


def _check_words(prompts, tokenizer, instead):
    vocabulary = tokenizer.init_kwargs.get("known_words")
    if vocabulary is None:
        return
    words = re.findall(r"\w+|[^\w\s]", " ".join(prompts).lower())
    unknown = [word for word in dict.fromkeys(words) if word not in vocabulary]
    if unknown:
        prompt = next(p for p in prompts if unknown[0] in p.lower())
        words = " ".join(sorted(vocabulary))
        raise ValueError(
            f"The words {unknown!r} are unknown to this small model (the first of them "
            f"in the prompt {prompt!r}); it knows only {words}. Name "
            "the classes and the prompt_template in these words, or pass a model that "
            f"knows more, such as model={instead!r}."
        )
