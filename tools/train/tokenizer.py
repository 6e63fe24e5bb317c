"""A byte-level BPE tokenizer of the family, learned from a text: the family's patterns and special tokens, an own
vocabulary.

Ids: 0 begin of sentence, 1 end of sentence, 2 pad, then the 256 bytes and what is learned, and the chat markers at the
end, as in the released tokenizer. engramd reads no other pre-tokenizer than this one.
"""
import json

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2
SYSTEM, USER, ASSISTANT = "<｜System｜>", "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK, MARKUP = "<think>", "</think>", "｜DSML｜"
FIRST = (BOS, EOS, PAD)
LAST = (SYSTEM, USER, ASSISTANT, THINK, END_THINK, MARKUP)
SMALLEST = len(FIRST) + 256 + len(LAST)  # ids, without a single merge

# How text is cut before merges: digits by three; Chinese and Japanese runs; then words, signs and white space.
PATTERNS = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^""" + "\r\n" + r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[""" + "\r\n" + r"""]*|\s*[""" + "\r\n" + r"""]+|\s+(?!\S)|\s+""",
)


def learn(texts, n_ids):
    """texts (an iterable of strings) -> Tokenizer of at most n_ids ids: fewer when the text has no more to merge."""
    if n_ids < SMALLEST:
        raise ValueError(f"a vocabulary needs at least {SMALLEST} ids, not {n_ids}")
    learner = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS]
    learner.pre_tokenizer = pre_tokenizers.Sequence(splits + [
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    learner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=n_ids - len(LAST), special_tokens=list(FIRST), min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return Tokenizer.from_str(json.dumps(_file(json.loads(learner.to_str()))))


def _file(learned):
    """The learned tokenizer.json in the family's form: the chat markers behind the vocabulary, ByteLevel at the end."""
    vocab = dict(sorted(learned["model"]["vocab"].items(), key=lambda entry: entry[1]))
    added = [_added(i, text, special=True) for i, text in enumerate(FIRST)]
    added += [_added(len(vocab) + i, text, special=False) for i, text in enumerate(LAST)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": learned["pre_tokenizer"],
        "post_processor": {**byte_level, "trim_offsets": False}, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": [m if isinstance(m, str) else " ".join(m) for m in learned["model"]["merges"]]}}


def _added(token_id, text, special):
    return {"id": token_id, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": not special, "special": special}


def config_file(max_len):
    """tokenizer_config.json: a text prompt gets a BOS in front, as in training."""
    def token(text):
        return {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": True, "rstrip": False,
                "single_word": False}
    return {"add_bos_token": True, "add_eos_token": False, "bos_token": token(BOS), "eos_token": token(EOS),
            "pad_token": token(PAD), "unk_token": None, "clean_up_tokenization_spaces": False,
            "model_max_length": max_len, "tokenizer_class": "PreTrainedTokenizerFast"}
