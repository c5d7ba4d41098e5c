"""vLLM for the CPU loads one of our folders and completes the prompts of its documentation; `gptqpipe run` of the same folder agrees wherever the margin allows.

    vllm_run.py PROGRAM CHECKPOINT       (run with the vllm environment's Python). Prints TAP.

vLLM computes in bf16 (scales cast too), so ids are compared up to the first step at which our own margin between the two best tokens is below 0.25; up to there the
log-probabilities of the tokens taken differ by less than 0.25 each and by less than 0.05 in the mean of a prompt.
"""
import json
import os
import subprocess
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
PROMPTS = ["Hello, my name is", "The president of the United States is", "The capital of France is", "The future of AI is"]
MARGIN, MEAN = 0.25, 0.05


def main():
    from vllm import LLM, SamplingParams
    program, checkpoint = sys.argv[1:3]
    ours = []
    for p in PROMPTS:
        out = subprocess.run([program, "run", checkpoint, "--prompt", p, "--max-tokens", "32", "--logprobs", "2", "--json", "-q"], check=True, capture_output=True, text=True)
        ours.append(json.loads(out.stdout.splitlines()[0]))
    llm = LLM(model=checkpoint, max_model_len=512, dtype="bfloat16", enforce_eager=True)
    theirs = llm.generate([{"prompt_token_ids": o["prompt_ids"]} for o in ours], SamplingParams(temperature=0, max_tokens=32, logprobs=1))
    failed = 0
    print(f"1..{len(PROMPTS)}")
    for i, (o, t) in enumerate(zip(ours, theirs)):
        ids, apart, why = list(t.outputs[0].token_ids), [], "all ids agree"
        for step, (a, b) in enumerate(zip(o["ids"], ids)):
            top = o["logprobs"][step]["top"]
            margin = top[0]["logprob"] - top[1]["logprob"]
            if a != b:
                why = f"first difference at step {step}, margin {margin:.3f}"
                good = margin < MARGIN
                break
            apart.append(abs(o["logprobs"][step]["logprob"] - t.outputs[0].logprobs[step][a].logprob))
        else:
            good = True
        mean = sum(apart) / max(len(apart), 1)
        good = good and max(apart, default=0) < MARGIN and mean < MEAN
        failed += not good
        print(f"# ours  {o['prompt']!r} -> {o['text']!r}")
        print(f"# vLLM  {o['prompt']!r} -> {t.outputs[0].text!r}")
        print(f"{'ok' if good else 'not ok'} {i + 1} - {len(apart)} ids alike, log-probabilities apart by {max(apart, default=0):.4f} at most, {mean:.4f} in the mean; {why}", flush=True)
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
