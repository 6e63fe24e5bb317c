#!/usr/bin/env python3
"""lm-evaluation-harness (local-completions) against the program: its numbers are those of our own sums over echoed
log-probabilities, its tokenizer the server's. `test_lm_eval.py ENGRAMD`.

Needs the package `lm-eval`; ENGRAMD_LM_EVAL_PYTHON names an interpreter that has it. Exit code 77 (skipped) without one."""
import math
import os
import sys
import tempfile

CACHE = tempfile.TemporaryDirectory(prefix="engramd-lm-eval-")
os.environ.update(HF_HOME=CACHE.name, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
try:
    import lm_eval
    import yaml
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.tasks import TaskManager
except ImportError as error:
    other = os.environ.get("ENGRAMD_LM_EVAL_PYTHON")
    if not other or os.environ.get("ENGRAMD_LM_EVAL_TRIED"):
        print("the package lm-eval is not installed (%s); ENGRAMD_LM_EVAL_PYTHON may name a Python that has it" % error)
        sys.exit(77)
    os.environ["ENGRAMD_LM_EVAL_TRIED"] = "1"
    CACHE.cleanup()
    os.execv(other, [other, *sys.argv])

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "server"))
from harness import Case, Server, json, main  # noqa: E402

EOS_ID = 1


class ServerTokenizer:
    """Ids from the server itself, for one without /tokenizer_info."""
    bos_token_id, eos_token_id = 0, EOS_ID

    def __init__(self, server):
        self.server = server

    def encode(self, text, add_special_tokens=False):
        return self.server.request("POST", "/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]


def task(name):
    with open(os.path.join(HERE, "lm_eval", name + ".yaml"), encoding="utf-8") as f:
        config = yaml.safe_load(f)
    config["dataset_kwargs"] = {"data_files": {"test": os.path.join(HERE, "lm_eval", "capitals.jsonl")}}
    return config


class LmEval(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--log-level", "warning")
        url = "http://127.0.0.1:%d/v1/completions" % cls.server.port
        remote = cls.server.request("GET", "/tokenizer_info").status == 200
        print("tokenizer: %s" % ("the server's, as lm-eval finds it" if remote else "the server's, without /tokenizer_info"))
        cls.model = LocalCompletionsAPI(base_url=url, model="engram-pocket", tokenizer_backend="remote" if remote else "None",
                                        num_concurrent=4, max_length=4095)
        if not remote:
            cls.model.tokenizer, cls.model.tokenizer_backend = ServerTokenizer(cls.server), "remote"
            cls.model.tokenized_requests = True
        with open(os.path.join(HERE, "lm_eval", "capitals.jsonl"), encoding="utf-8") as f:
            cls.docs = [json.loads(line) for line in f]

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()
        CACHE.cleanup()

    def evaluate(self, name):
        config = task(name)
        out = lm_eval.simple_evaluate(self.model, tasks=[config], task_manager=TaskManager(), log_samples=True, bootstrap_iters=0)
        return out["results"][config["task"]], sorted(out["samples"][config["task"]], key=lambda s: s["doc_id"])

    def ids(self, text):
        return ServerTokenizer(self.server).encode(text)

    def score(self, context, continuation):
        """Our own sum: (log-probability of the continuation's ids behind the context's, whether each was the most likely)."""
        body = {"prompt": [context + continuation], "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        lists = self.server.complete(body).json()["choices"][0]["logprobs"]
        scores, tops = lists["token_logprobs"][len(context):], lists["top_logprobs"][len(context):]
        return math.fsum(scores), all(s == max(t.values()) for s, t in zip(scores, tops))

    def test_multiple_choice(self):
        results, samples = self.evaluate("capitals")
        right = 0
        for doc, sample in zip(self.docs, samples):
            context, ours = self.ids(doc["question"]), []
            for choice in doc["choices"]:
                whole = self.ids(doc["question"] + choice)
                ours.append(self.score(context, whole[len(context):]))
            theirs = [(float(r[0][0]), str(r[0][1]) == "True") for r in sample["resps"]]
            for a, b in zip(ours, theirs):
                self.assertAlmostEqual(a[0], b[0], places=4)
                self.assertEqual(a[1], b[1])
            right += max(range(len(ours)), key=lambda i: ours[i][0]) == doc["answer"]
        self.assertEqual(len(self.docs), len(samples))
        self.assertAlmostEqual(right / len(self.docs), results["acc,none"], places=9)
        self.assertGreaterEqual(right, 4)  # the model knows most of them

    def test_perplexity(self):
        results, samples = self.evaluate("texts")
        total, n_bytes = 0.0, 0
        for doc, sample in zip(self.docs, samples):
            text = doc["question"] + doc["choices"][doc["answer"]]
            ours = self.score([EOS_ID], self.ids(text))[0]
            theirs = sample["resps"][0][0]
            self.assertAlmostEqual(ours, float(theirs[0] if isinstance(theirs, (list, tuple)) else theirs), places=4)
            total += ours
            n_bytes += len(text.encode())
        self.assertAlmostEqual(math.exp(-total / n_bytes), results["byte_perplexity,none"], places=5)


if __name__ == "__main__":
    main()
