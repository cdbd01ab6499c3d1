"""Programs with the interfaces of llama-server and llama-quantize, for machines without llama.cpp.

The server answers with transformers; the quantiser copies. The variable LLAMA_FAULT makes them err.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

FAULT = os.environ.get("LLAMA_FAULT", "")


def serve(file: Path, port: int) -> None:
    """Answer as llama-server does to /health, /props, /apply-template, /tokenize and /completion."""
    if FAULT == "cannot load":
        sys.exit("llama_model_load: error loading model: unknown pre-tokenizer type: 'new'")
    if FAULT == "cannot start":
        sys.exit("ggml_cuda_init: no CUDA-capable device is detected")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")}

    def answer(path: str, asked: Any) -> dict[str, Any]:
        if path == "/props":
            return {"build_info": "b9999-fake"}
        if path == "/apply-template":
            text = tokenizer.apply_chat_template(
                asked["messages"], tokenize=False, add_generation_prompt=True
            )
            return {"prompt": text + " " * (FAULT == "another template")}
        if path == "/tokenize":
            adds = asked["add_special"] and asked["parse_special"]
            ids = tokenizer(asked["content"], add_special_tokens=adds)["input_ids"]
            return {"tokens": ids}
        assert asked["n_predict"] == 1
        with torch.no_grad():
            logits = model(torch.tensor([asked["prompt"]])).logits[0, -1]
        token = int(logits.argmin() if FAULT == "other answers" else logits.argmax())
        does_end = token in ends and FAULT != "no end"
        return {"tokens": [token], "stop_type": "eos" if does_end else "limit"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(b"{}")

        def do_POST(self) -> None:
            self.reply(self.rfile.read(int(self.headers["Content-Length"])))

        def reply(self, body: bytes) -> None:
            is_bad = FAULT == "cannot render" and self.path == "/apply-template"
            found = answer(self.path, json.loads(body)) if self.path != "/health" else {}
            self.send_response(500 if is_bad else 200)
            self.end_headers()
            self.wfile.write(b"unknown filter" if is_bad else json.dumps(found).encode())

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def quantize(source: Path, target: Path, dtype: str) -> None:
    """Write what llama-quantize would, without rounding."""
    assert dtype in ("Q4_K_M", "Q6_K"), dtype
    if FAULT == "cannot quantise":
        sys.exit("main: error: failed to quantize model: unsupported tensor")
    print("[   1/   9] token_embd.weight", flush=True)
    shutil.copy(source, target)
    if FAULT == "another tensor":
        import gguf

        weights = gguf.GGUFReader(target, "r+")
        found = next(one for one in weights.tensors if one.name == "blk.1.ffn_down.weight")
        found.data[:] = found.data[::-1].copy()
        weights.data.flush()
    if FAULT == "slow":
        time.sleep(60)


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    if name == "llama-server":
        given = dict(zip(rest[::2], rest[1::2], strict=False))
        serve(Path(given["--model"]), int(given["--port"]))
    else:
        quantize(Path(rest[0]), Path(rest[1]), rest[2])
