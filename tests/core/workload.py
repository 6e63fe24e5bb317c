"""Mixed requests drawn from a seed: what users send, in every combination that the engine treats differently."""
import random

WORDS = ("the capital of France is a city where people and water one two three count list colour blue king river "
         "mountain once upon time there was small house and cat said that he would go to market for bread").split()
FIRST_ID, IDS = 300, 5500  # ordinary tokens
FAMILY_LENGTHS = [130, 420, 900, 2400]


def some_ids(rng, n):
    return [FIRST_ID + rng.randrange(IDS) for _ in range(n)]


class Workload:
    """count requests; a few are long, many share the beginning of a family."""

    def __init__(self, seed, count, longest=3000):
        self.rng = random.Random(seed)
        self.longest = longest
        self.families = [some_ids(self.rng, min(n, longest)) for n in FAMILY_LENGTHS]
        self.bodies = [self.body(i, count) for i in range(count)]

    def length(self, i, count):
        if i == 0:
            return 1
        if i == 1 or i % 67 == 66:
            return self.longest - self.rng.randrange(self.longest // 10 + 1) if i > 1 else self.longest
        band = self.rng.random()
        top = 48 if band < 0.62 else 300 if band < 0.92 else 1100
        return min(self.longest, self.rng.randint(1, top))

    def ids(self, n):
        """n ids; every second time they begin as others do, somewhere behind a block boundary or on it."""
        if n < 20 or self.rng.random() < 0.5:
            return some_ids(self.rng, n)
        family = self.rng.choice([f for f in self.families if len(f) <= max(n, len(self.families[0]))])
        shared = min(n - 1, self.rng.choice([len(family), len(family) // 2, 64, 128]))
        shared = min(shared, len(family))
        return family[:shared] + some_ids(self.rng, n - shared)

    def prompt(self, n):
        kind = self.rng.random()
        if n <= 48 and kind < 0.4:
            return " ".join(self.rng.choice(WORDS) for _ in range(max(1, n // 2)))
        if n <= 48 and kind < 0.55:
            return [self.ids(self.rng.randint(1, n)) for _ in range(self.rng.randint(2, 4))]
        return self.ids(n)

    def body(self, i, count):
        rng, n = self.rng, self.length(i, count)
        body = {"prompt": self.prompt(n), "max_tokens": rng.choice([0, 1, 2, 5, 8, 12, 16, 24]), "return_token_ids": True}
        if i % 20 == 7:
            body["max_tokens"] = 64
        if n + body["max_tokens"] > self.longest + 64:
            body["max_tokens"] = 8
        self.sampling(body)
        self.extras(body, n)
        return body

    def sampling(self, body):
        rng = self.rng
        if rng.random() < 0.4:
            body["temperature"] = 0
        else:
            body.update(temperature=rng.choice([0.6, 1.0, 1.5]), seed=rng.randrange(-2 ** 63, 2 ** 63))
            body.update(rng.choice([{}, {"top_p": 0.9}, {"top_k": 20}, {"top_p": 0.8, "top_k": 50}]))
        if rng.random() < 0.25:
            body["n"] = rng.randint(2, 4)
        if rng.random() < 0.7:
            body["ignore_eos"] = True

    def extras(self, body, n):
        rng = self.rng
        if rng.random() < 0.35:
            body["logprobs"] = rng.choice([0, 1, 5])
        if rng.random() < (0.25 if n < 400 else 0.1):
            body["echo"] = True
        if rng.random() < 0.3:
            body["stop"] = rng.choice([[" the"], ["."], ["e", " is a"], [" zebra", "\n\n"], "and"])
        if rng.random() < 0.35:
            body.update(stream=True, stream_options={"include_usage": True})


def prompt_tokens(body):
    """About how many tokens a request has the server compute before its first answer."""
    prompt = body["prompt"]
    if isinstance(prompt, str):
        return 2 * len(prompt.split()) + 1
    if isinstance(prompt[0], list):
        return sum(len(p) for p in prompt)
    return len(prompt)
