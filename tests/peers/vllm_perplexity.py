"""Perplexity of one of our folders in vLLM for the CPU, which computes in bf16 and casts scales to it: the text and windows of smollm2.yaml's validate.

    vllm_perplexity.py PROGRAM CHECKPOINT wiki.test.raw       (run with the vllm environment's Python). Prints one JSON line.
"""
import json
import math
import os
import subprocess
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
WINDOW, WINDOWS = 512, 32


def main():
    from vllm import LLM, SamplingParams
    program, checkpoint, text = sys.argv[1:4]
    with open(text, encoding="utf-8") as f:
        line = json.dumps({"text": f.read()[:200000]}) + "\n"  # more than enough for the windows
    ids = json.loads(subprocess.run([program, "tokenize", checkpoint], input=line, check=True, capture_output=True, text=True).stdout)["ids"]
    llm = LLM(model=checkpoint, max_model_len=WINDOW + 8, dtype="bfloat16", enforce_eager=True)
    prompts = [{"prompt_token_ids": ids[i * WINDOW:(i + 1) * WINDOW]} for i in range(WINDOWS)]
    nll, tokens = 0.0, 0
    for prompt, out in zip(prompts, llm.generate(prompts, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))):
        for token, row in zip(prompt["prompt_token_ids"][1:], out.prompt_logprobs[1:]):
            nll -= row[token].logprob
            tokens += 1
    print(json.dumps({"perplexity": round(math.exp(nll / tokens), 4), "tokens": tokens}), flush=True)
    os._exit(0)


main()
