"""From token ids to the rows of the Engram tables, exactly as the server does it.

A token id belongs to a class (ids whose texts differ in case, accents or white space alone share one). The classes of
the last 2, 3, ... tokens are multiplied, combined and divided by primes; the remainders are row numbers. All of it
follows from the tokenizer and five numbers of the configuration, and is fixed when training starts: a checkpoint
addressed in another way is another model.
"""
import numpy as np
from tokenizers import Regex, normalizers

REPLACEMENT = "\ufffd"  # what a lone part of a character decodes to
KEPT_SPACE = "\ue000"   # stands for a text of one blank while the ends are stripped


def _normal_form():
    return normalizers.Sequence([
        normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[ \t\r\n]+"), " "), normalizers.Replace(Regex(r"^ $"), KEPT_SPACE),
        normalizers.Strip(), normalizers.Replace(KEPT_SPACE, " ")])


def token_classes(tokenizer):
    """tokenizer (of the library tokenizers) -> class of each id, int64 [ids]. Classes are numbered by first use."""
    form = _normal_form()
    classes, of_key = [], {}
    for token_id in range(tokenizer.get_vocab_size(with_added_tokens=True)):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        if REPLACEMENT in text:
            key = tokenizer.id_to_token(token_id)
        else:
            key = form.normalize_str(text) or text
        classes.append(of_key.setdefault(key, len(of_key)))
    return np.array(classes, np.int64)


def _is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))


def bucket_primes(n_layers, start, max_order, n_heads):
    """primes[layer][order - 2][head]. Each (layer, order) counts up from `start`; no prime is used twice."""
    used, layers = set(), []
    for _ in range(n_layers):
        orders = []
        for _ in range(2, max_order + 1):
            heads, candidate = [], start - 1
            for _ in range(n_heads):
                candidate += 1
                while candidate in used or not _is_prime(candidate):
                    candidate += 1
                used.add(candidate)
                heads.append(candidate)
            orders.append(heads)
        layers.append(orders)
    return layers


def multipliers(layer_id, n_classes, max_order):
    """The odd factors of layer `layer_id` for look-backs 0 .. max_order - 1; no product leaves 63 bits."""
    bound = max(1, (2 ** 63 - 1) // n_classes // 2)
    draws = np.random.default_rng(10007 * layer_id).integers(0, bound, size=max_order, dtype=np.int64)
    return [2 * int(d) + 1 for d in draws]


class Addresser:
    """Row numbers for one tokenizer and configuration (the text fields of config.json)."""

    def __init__(self, classes, config):
        self.classes = classes
        self.n_classes = int(classes.max()) + 1
        self.layer_ids = config["engram_layer_ids"]
        self.max_order = config["engram_max_ngram_size"]
        self.pad_class = int(classes[config["engram_pad_token_id"]])
        self.primes = bucket_primes(len(self.layer_ids), config["engram_vocab_size"], self.max_order,
                                    config["engram_n_heads"])
        self.multipliers = [multipliers(layer, self.n_classes, self.max_order) for layer in self.layer_ids]

    def n_rows(self):
        """Rows of each table."""
        return [sum(map(sum, orders)) for orders in self.primes]

    def rows(self, ids, positions):
        """ids, positions (inside its document) int64 [..., T] -> per Engram layer int64 [..., T, orders * heads].
        A look-back beyond the start of the document meets the class of the pad token."""
        seen = self._look_back(self.classes[ids], positions)
        return [self._layer_rows(seen, layer) for layer in range(len(self.layer_ids))]

    def _look_back(self, classes, positions):
        seen = []
        for back in range(self.max_order):
            shifted = np.full_like(classes, self.pad_class)
            if back < classes.shape[-1]:
                shifted[..., back:] = classes[..., :classes.shape[-1] - back]
            seen.append(np.where(positions >= back, shifted, self.pad_class))
        return seen

    def _layer_rows(self, seen, layer):
        factors = [np.int64(m) for m in self.multipliers[layer]]
        columns, first_row = [], 0
        mixed = seen[0] * factors[0]
        for order in range(2, self.max_order + 1):
            mixed = mixed ^ (seen[order - 1] * factors[order - 1])
            for prime in self.primes[layer][order - 2]:
                columns.append(mixed % prime + first_row)
                first_row += prime
        return np.stack(columns, -1)
