"""The official OpenAI client for the tests beside this file. Where the package is missing, ENGRAMD_CLIENT_PYTHON names an
interpreter that has it: the script is run again there, or it ends with exit code 77 (skipped)."""
import os
import sys

try:
    import openai
except ImportError:
    other = os.environ.get("ENGRAMD_CLIENT_PYTHON")
    if not other or os.environ.get("ENGRAMD_CLIENT_TRIED"):
        print("the package openai is not installed; ENGRAMD_CLIENT_PYTHON may name a Python that has it")
        sys.exit(77)
    os.environ["ENGRAMD_CLIENT_TRIED"] = "1"
    os.execv(other, [other, *sys.argv])

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))


def client_of(server, **options):
    """A client that tries once, unless it is told to retry."""
    return openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % server.port,
                         **{"api_key": "unused", "max_retries": 0, **options})
