#!/usr/bin/env python3
"""lm-evaluation-harness (local-completions) against the program: its numbers are those of `engramd score` and of our own
sums over echoed log-probabilities, its tokenizer the server's. `test_lm_eval.py ENGRAMD`.

Needs the package `lm-eval`; ENGRAMD_LM_EVAL_PYTHON names an interpreter that has it. Exit code 77 (skipped) without one."""
import math
import os
import subprocess
import sys
import tempfile

CACHE = tempfile.TemporaryDirectory(prefix="engramd-lm-eval-")
os.environ.update(HF_HOME=CACHE.name, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
try:
    import lm_eval
    import yaml
    from lm_eval.api.instance import Instance
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
import harness  # noqa: E402
from harness import Case, Server, json, main  # noqa: E402

BOS_ID, EOS_ID = 0, 1


def task(name):
    with open(os.path.join(HERE, "lm_eval", name + ".yaml"), encoding="utf-8") as f:
        config = yaml.safe_load(f)
    config["dataset_kwargs"] = {"data_files": {"test": os.path.join(HERE, "lm_eval", "capitals.jsonl")}}
    return config


class LmEval(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--log-level", "warning")
        cls.model = cls.client()
        with open(os.path.join(HERE, "lm_eval", "capitals.jsonl"), encoding="utf-8") as f:
            cls.docs = [json.loads(line) for line in f]

    @classmethod
    def client(cls, **options):
        """lm-eval finds /tokenizer_info by itself and takes the server's tokenizer."""
        model = LocalCompletionsAPI(base_url="http://127.0.0.1:%d/v1/completions" % cls.server.port, model="engram-pocket",
                                    num_concurrent=4, max_length=4095, **options)
        assert model.tokenizer_backend == "remote", model.tokenizer_backend
        return model

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.text()
        CACHE.cleanup()

    def evaluate(self, name):
        config = task(name)
        out = lm_eval.simple_evaluate(self.model, tasks=[config], task_manager=TaskManager(), log_samples=True, bootstrap_iters=0)
        return out["results"][config["task"]], sorted(out["samples"][config["task"]], key=lambda s: s["doc_id"])

    def ids(self, text):
        return self.server.request("POST", "/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]

    def engramd_score(self, path, *options):
        out = subprocess.run([harness.exe, "score", "--json", *options, path], capture_output=True, check=True, timeout=120)
        return json.loads(out.stdout)

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


    def test_numbers_of_engramd_score(self):
        """A text that fits into one window, behind BOS in both; then in windows as score cuts them, where the first token of
        each is not scored."""
        with open(os.path.join(HERE, "..", "..", "LICENSE"), encoding="utf-8") as f:
            text = f.read()[:5000].strip()
        model, ids = self.client(custom_prefix_token_id=BOS_ID), self.ids(text)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as f:
            f.write(text)
            f.flush()
            whole, parts = self.engramd_score(f.name), self.engramd_score(f.name, "--max-model-len", "257")
        rolling = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
        theirs = model.loglikelihood_rolling([rolling], disable_tqdm=True)[0]
        self.assertEqual((len(ids), 1), (whole["tokens"], whole["windows"]))
        self.assertAlmostEqual(1, theirs / whole["sum_logprob"], places=6)
        self.assertAlmostEqual(1, math.exp(-theirs / len(ids)) / whole["perplexity"], places=5)
        behind_bos = [BOS_ID, *ids]
        windows = [behind_bos[at:at + 256] for at in range(0, len(behind_bos), 256)]
        theirs = sum(s for s, _ in model._loglikelihood_tokens([(("", ""), w[:1], w[1:]) for w in windows], disable_tqdm=True))
        self.assertEqual((sum(len(w) - 1 for w in windows), len(windows)), (parts["tokens"], parts["windows"]))
        self.assertGreater(len(windows), 3)
        self.assertAlmostEqual(1, theirs / parts["sum_logprob"], places=6)


if __name__ == "__main__":
    main()
